/* A disk that fails on demand, for the tests of the embedded store. Loaded with LD_PRELOAD; touches only files under AMENDS_FAULT_DIR.
 *
 * It keeps an undo log (AMENDS_FAULT_LOG): what each write replaced, and which writes a sync made durable. After the process was
 * killed, the test takes back writes that were never synced, all or in part: what a power cut does to the page cache. Creating,
 * renaming and removing files counts as durable at once.
 *
 * The control file (AMENDS_FAULT_CONTROL, mapped) says what to do: byte 0 is 'n' nothing, 'f' writes find the disk full (after half of
 * one), 's' syncs fail; bytes 8 to 15 are the free space that statvfs reports, 0 for the real one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, TRUNCATE = 3 };

/* What a sync takes: long enough for a kill to fall into it. */
enum { SYNC_MICROSECONDS = 500 };

/* Fields are little-endian, as on the machines that run the tests; `data` follows. */
struct entry {
    uint32_t kind;
    uint32_t data_length;
    uint64_t inode;
    uint64_t offset;   /* of a write; for a sync: the log position up to which it covers */
    uint64_t length;   /* of a write; for a truncate: the new size */
    uint64_t old_size; /* before it */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[4096];
static int log_fd = -1;
static uint64_t log_position;
static volatile unsigned char *control;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static int (*real_ftruncate)(int, off64_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_statvfs)(const char *, struct statvfs *);

__attribute__((constructor)) static void begin(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_writev = dlsym(RTLD_NEXT, "writev");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_statvfs = dlsym(RTLD_NEXT, "statvfs");
    const char *dir = getenv("AMENDS_FAULT_DIR"), *log = getenv("AMENDS_FAULT_LOG"), *path = getenv("AMENDS_FAULT_CONTROL");
    if (!dir || !log || !path) return;
    snprintf(folder, sizeof folder, "%s/", dir);
    log_fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, 16, PROT_READ, MAP_SHARED, fd, 0);
    if (log_fd < 0 || mapped == MAP_FAILED) {
        fprintf(stderr, "shim: cannot open its log or its control file\n");
        abort();
    }
    control = mapped;
    close(fd);
}

/* Whether a descriptor is a regular file of the folder. */
static int watched(int fd, struct stat64 *stat) {
    if (!control || fd == log_fd) return 0;
    int saved = errno;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    int is = length > 0 && fstat64(fd, stat) == 0 && S_ISREG(stat->st_mode);
    if (is) {
        path[length] = 0;
        is = strncmp(path, folder, strlen(folder)) == 0;
    }
    errno = saved;
    return is;
}

static void append(const struct entry *entry, const void *data) {
    struct iovec parts[2] = {{(void *)entry, sizeof *entry}, {(void *)data, entry->data_length}};
    size_t want = sizeof *entry + entry->data_length;
    if (real_writev(log_fd, parts, 2) != (ssize_t)want) {
        fprintf(stderr, "shim: cannot write its log\n");
        abort();
    }
    log_position += want;
}

/* Notes what a change is about to replace: the bytes of the file from `from` to `to`. */
static void note(uint32_t kind, int fd, const struct stat64 *stat, uint64_t offset, uint64_t length, uint64_t from, uint64_t to) {
    uint64_t size = (uint64_t)stat->st_size;
    if (to > size) to = size;
    size_t want = from < to ? (size_t)(to - from) : 0, have = 0;
    char *data = want ? malloc(want) : NULL;
    if (want) {
        /* The descriptor may be write-only. */
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int reader = open(link, O_RDONLY | O_CLOEXEC);
        while (data && reader >= 0 && have < want) {
            ssize_t got = pread64(reader, data + have, want - have, (off64_t)(from + have));
            if (got <= 0) break;
            have += (size_t)got;
        }
        if (reader >= 0) close(reader);
    }
    /* Zeros at the end need not be kept: a preallocated journal is mostly that. */
    while (have > 0 && data[have - 1] == 0) have--;
    struct entry entry = {kind, (uint32_t)have, (uint64_t)stat->st_ino, offset, length, size};
    append(&entry, data);
    free(data);
}

static uint64_t position(int fd, const struct stat64 *stat) {
    if (fcntl(fd, F_GETFL) & O_APPEND) return (uint64_t)stat->st_size;
    off64_t at = lseek64(fd, 0, SEEK_CUR);
    return at < 0 ? 0 : (uint64_t)at;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    struct stat64 stat;
    if (!watched(fd, &stat)) return real_write(fd, bytes, length);
    pthread_mutex_lock(&lock);
    fstat64(fd, &stat);
    /* One write that fits by half, then none, as on a real disk. */
    static int was_full;
    int full = control[0] == 'f', refused = full && (was_full || length < 2);
    was_full = full;
    if (full) length /= 2;
    ssize_t written = -1;
    if (refused) {
        errno = ENOSPC;
    } else {
        uint64_t at = position(fd, &stat);
        note(WRITE, fd, &stat, at, length, at, at + length);
        written = real_write(fd, bytes, length);
    }
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    struct stat64 stat;
    if (!watched(fd, &stat)) return real_writev(fd, parts, count);
    /* A short write is allowed; the caller goes on with the rest. */
    for (int i = 0; i < count; i++)
        if (parts[i].iov_len > 0) return write(fd, parts[i].iov_base, parts[i].iov_len);
    return 0;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    struct stat64 stat;
    if (!watched(fd, &stat)) return real_pwrite(fd, bytes, length, at);
    if (control[0] == 'f') {
        errno = ENOSPC;
        return -1;
    }
    pthread_mutex_lock(&lock);
    fstat64(fd, &stat);
    note(WRITE, fd, &stat, (uint64_t)at, length, (uint64_t)at, (uint64_t)at + length);
    ssize_t written = real_pwrite(fd, bytes, length, at);
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return pwrite64(fd, bytes, length, at); }

int ftruncate64(int fd, off64_t size) {
    struct stat64 stat;
    if (!watched(fd, &stat)) return real_ftruncate(fd, size);
    pthread_mutex_lock(&lock);
    fstat64(fd, &stat);
    note(TRUNCATE, fd, &stat, 0, (uint64_t)size, (uint64_t)size, (uint64_t)stat.st_size);
    int result = real_ftruncate(fd, size);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int sync_with(int (*sync)(int), int fd) {
    struct stat64 stat;
    if (!watched(fd, &stat)) return sync(fd);
    if (control[0] == 's') {
        errno = EIO;
        return -1;
    }
    pthread_mutex_lock(&lock);
    uint64_t covers = log_position;
    pthread_mutex_unlock(&lock);
    /* The log alone decides what was durable, so the real disk, which others use, is not waited for. */
    usleep(SYNC_MICROSECONDS);
    pthread_mutex_lock(&lock);
    struct entry entry = {SYNC, 0, (uint64_t)stat.st_ino, covers, 0, 0};
    append(&entry, NULL);
    pthread_mutex_unlock(&lock);
    return 0;
}

int fsync(int fd) { return sync_with(real_fsync, fd); }

int fdatasync(int fd) { return sync_with(real_fdatasync, fd); }

static void report_free(struct statvfs *stat) {
    uint64_t free_bytes = 0;
    if (control) memcpy(&free_bytes, (const void *)(control + 8), sizeof free_bytes);
    if (free_bytes) stat->f_bavail = free_bytes / stat->f_frsize;
}

int statvfs(const char *path, struct statvfs *stat) {
    int result = real_statvfs(path, stat);
    if (result == 0) report_free(stat);
    return result;
}

/* The same structure on 64-bit machines. */
int statvfs64(const char *path, struct statvfs64 *stat) { return statvfs(path, (struct statvfs *)stat); }
