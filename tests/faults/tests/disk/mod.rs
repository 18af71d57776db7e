//! A folder on a disk that fails on demand: the shim, the process that writes through it, and what a power cut does.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What the disk does to the process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    None,
    Full,
    SyncFails,
}

/// What a power cut leaves of the writes that were not synced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// Nothing.
    Lost,
    /// The first ones, the last of them in part.
    Torn,
    /// Any of their sectors, whatever their order.
    Scattered,
}

impl Cut {
    pub(crate) const ALL: [Cut; 3] = [Cut::Lost, Cut::Torn, Cut::Scattered];
}

/// Numbers from a seed (splitmix64).
pub(crate) struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// From `AMENDS_SEED`, to repeat a run, or from the system.
    pub(crate) fn from_entropy() -> Random {
        let given = std::env::var("AMENDS_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            use std::hash::{BuildHasher, Hasher, RandomState};
            RandomState::new().build_hasher().finish()
        });
        Random { seed, state: seed }
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A data folder with its shim.
pub(crate) struct Disk {
    pub(crate) folder: PathBuf,
    base: tempfile::TempDir,
}

impl Disk {
    /// Builds the shim. `None`, said aloud, where there is no C compiler.
    pub(crate) fn new() -> Option<Disk> {
        // In memory where there is such a place: the undo log says what was durable, no disk has to.
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let base = base.expect("a folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim.c");
        let cc = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut build = Command::new(&cc);
        build.args([
            "-std=gnu11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-O1",
            "-shared",
            "-fPIC",
            "-o",
        ]);
        build
            .arg(base.path().join("shim.so"))
            .arg(source)
            .args(["-ldl", "-lpthread"]);
        match build.status() {
            Ok(status) => assert!(status.success(), "the shim does not compile"),
            Err(error) => {
                eprintln!("SKIPPED: no C compiler ({cc}: {error}), so no disk can be made to fail");
                return None;
            }
        }
        fs::write(base.path().join("control"), [0; 16]).expect("the control file");
        Some(Disk {
            folder: base.path().join("data"),
            base,
        })
    }

    fn control(&self, at: u64, bytes: &[u8]) {
        let control = OpenOptions::new()
            .write(true)
            .open(self.base.path().join("control"));
        control
            .and_then(|file| file.write_all_at(bytes, at))
            .expect("the control file");
    }

    /// Lets the disk fail from now on.
    pub(crate) fn set(&self, trouble: Trouble) {
        let byte = match trouble {
            Trouble::None => b'n',
            Trouble::Full => b'f',
            Trouble::SyncFails => b's',
        };
        self.control(0, &[byte]);
    }

    /// Lets the disk report so much free space.
    pub(crate) fn report_free(&self, bytes: u64) {
        self.control(8, &bytes.to_le_bytes());
    }

    /// Starts a process that writes to the folder.
    pub(crate) fn start(&self, clock: i64, run: &str) -> Running {
        let mut child = Command::new(env!("CARGO_BIN_EXE_store-under-load"))
            .arg(&self.folder)
            .args([&clock.to_string(), run])
            .env("LD_PRELOAD", self.base.path().join("shim.so"))
            .env("AMENDS_FAULT_DIR", &self.folder)
            .env("AMENDS_FAULT_LOG", self.base.path().join("undo"))
            .env("AMENDS_FAULT_CONTROL", self.base.path().join("control"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        // Ends with the child, whose output it reads.
        std::thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Running { child, lines }
    }

    /// Waits until the process has written so much that the undo log has this length.
    pub(crate) fn wait_for_undo_log(&self, length: u64) {
        let path = self.base.path().join("undo");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !fs::metadata(&path).is_ok_and(|metadata| metadata.len() > length) {
            assert!(Instant::now() < deadline, "the child never wrote so much");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Takes back writes that were not synced; returns whether there were any.
    pub(crate) fn power_cut(&self, cut: Cut, random: &mut Random) -> bool {
        let log = fs::read(self.base.path().join("undo")).expect("the undo log");
        let mut files = HashMap::new();
        if self.folder.exists() {
            walk(&self.folder, &mut files);
        }
        let mut unsynced: HashMap<u64, Vec<Entry>> = HashMap::new();
        let mut at = 0;
        while let Some(entry) = Entry::read(&log, at) {
            at = entry.end;
            if entry.kind == SYNC {
                unsynced
                    .entry(entry.inode)
                    .or_default()
                    .retain(|write| write.end as u64 > entry.offset);
            } else {
                unsynced.entry(entry.inode).or_default().push(entry);
            }
        }
        let mut took_back = false;
        for (inode, entries) in unsynced {
            let Some(path) = files.get(&inode).filter(|_| !entries.is_empty()) else {
                continue;
            };
            took_back = true;
            take_back(path, &entries, cut, random);
        }
        took_back
    }
}

/// The folder's files by inode, for the shim knows them by that.
fn walk(folder: &Path, files: &mut HashMap<u64, PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let metadata = path.metadata().expect("metadata");
        if metadata.is_dir() {
            walk(&path, files);
        } else {
            files.insert(metadata.ino(), path);
        }
    }
}

const WRITE: u32 = 1;
const SYNC: u32 = 2;
const SECTOR: u64 = 512;

/// An entry of the shim's undo log.
struct Entry {
    kind: u32,
    inode: u64,
    offset: u64,
    length: u64,
    old_size: u64,
    /// What the change replaced, without zeros at its end.
    old: Vec<u8>,
    /// Where the next entry begins.
    end: usize,
}

impl Entry {
    fn read(log: &[u8], at: usize) -> Option<Entry> {
        const HEAD: usize = 40;
        let head = log.get(at..at + HEAD)?;
        let u32_at =
            |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let u64_at =
            |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let end = at + HEAD + u32_at(4) as usize;
        let old = log.get(at + HEAD..end)?.to_vec();
        Some(Entry {
            kind: u32_at(0),
            inode: u64_at(8),
            offset: u64_at(16),
            length: u64_at(24),
            old_size: u64_at(32),
            old,
            end,
        })
    }

    /// Where what it replaced begins and ends.
    fn range(&self) -> (u64, u64) {
        if self.kind == WRITE {
            (self.offset, self.offset + self.length)
        } else {
            (self.length.min(self.old_size), self.old_size)
        }
    }
}

fn take_back(path: &Path, entries: &[Entry], cut: Cut, random: &mut Random) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("a file of the folder");
    let kept = match cut {
        Cut::Lost => 0,
        Cut::Torn => random.below(entries.len() + 1),
        Cut::Scattered => entries.len(),
    };
    for (number, entry) in entries.iter().enumerate().rev() {
        let (from, to) = entry.range();
        match cut {
            Cut::Scattered => {
                // A grown file keeps its size, with zeros where a sector was lost.
                let sectors: HashSet<u64> = (from / SECTOR..to.div_ceil(SECTOR))
                    .filter(|_| random.below(2) == 0)
                    .collect();
                for sector in sectors {
                    restore(
                        &file,
                        entry,
                        from.max(sector * SECTOR),
                        to.min((sector + 1) * SECTOR),
                    );
                }
            }
            Cut::Torn if number + 1 == kept && entry.kind == WRITE => {
                let torn = from + random.below((to - from).max(1) as usize) as u64;
                restore(&file, entry, torn, to);
            }
            Cut::Lost | Cut::Torn if number >= kept => {
                restore(&file, entry, from, to);
                file.set_len(entry.old_size).expect("set the size back");
            }
            Cut::Lost | Cut::Torn => {}
        }
    }
}

/// Puts back what an entry replaced between two offsets; what was not there before becomes zeros.
fn restore(file: &File, entry: &Entry, from: u64, to: u64) {
    let (begin, _) = entry.range();
    let mut old = entry.old.clone();
    old.resize(old.len().max((to - begin) as usize), 0);
    let bytes = &old[(from - begin) as usize..(to - begin) as usize];
    file.write_all_at(bytes, from).expect("put back");
}

/// The process that writes.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// The next line it says.
    pub(crate) fn line(&mut self) -> String {
        self.lines
            .recv_timeout(Duration::from_secs(30))
            .expect("the child says something within 30 s")
    }

    /// Ends it as a power cut would; returns what it said that was not read yet.
    pub(crate) fn kill(&mut self) -> Vec<String> {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
        self.lines.iter().collect()
    }

    /// How it ended.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().expect("wait").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
