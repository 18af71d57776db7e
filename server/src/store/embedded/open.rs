//! Opening a data folder: who holds it, whether it is ours, whether it is whole; then the index in memory.
//!
//! Layout: `amends.lock` (locked while a process has the folder open, holds its pid) · `format` (what wrote it) · `fjall/` (the data).

use super::super::due::{DueIndex, Holding};
use super::buckets::{self, Buckets, by_id};
use super::codec;
use super::journal;
use super::keeper;
use super::lock::{self, FolderLock};
use super::shared::{Place, Shared};
use super::{EmbeddedOptions, OpenError};
use fjall::Database;
use std::any::Any;
use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

pub(super) const FORMAT: &str = "format";
pub(super) const DATA: &str = "fjall";
/// The first line of the file `format`.
const FORMAT_LINE: &str = "amends data folder, format 1";
/// Its second line once there is data: from then on an empty folder is no new one.
const IN_USE: &str = "in use";
/// It before it is whole.
const NEW_FORMAT: &str = "format.new";
/// What a folder may hold before it is ours: what an interrupted creation left, and what a mount point has.
const BEFORE: [&str; 3] = [lock::FILE, NEW_FORMAT, "lost+found"];

/// What fjall 3 has in its version marker.
const MARKER: &[u8] = b"FJL\x03";
const CACHE_BYTES: u64 = 64 << 20;
const JOURNALS_BYTES: u64 = 256 << 20;
/// With more than one, fjall's first worker spins for as long as another one compacts.
const WORKERS: usize = 1;

/// Opens or creates a folder.
pub(super) fn open(options: EmbeddedOptions) -> Result<Shared, OpenError> {
    let EmbeddedOptions {
        path,
        data_expire_ms,
        reserve_bytes,
        clock,
    } = options;
    create_folder(&path)?;
    let lock = FolderLock::take(&path)?;
    let use_before = folder_use(&path)?;
    if use_before == Use::None {
        write_format(&path, "").map_err(|source| OpenError::io(&path, source))?;
    }
    let data = path.join(DATA);
    let in_use = use_before == Use::Data;
    if in_use {
        has_data(&path, &data)?;
    } else {
        finish_creation(&data).map_err(|source| OpenError::io(&data, source))?;
    }
    if data.exists() {
        journal::repair(&data)
            .map_err(|source| OpenError::io(&data, source))?
            .map_err(|detail| OpenError::damaged(&path, detail))?;
    }
    let db = open_fjall(&path, &data, WORKERS)?;
    let keyspace = |name| {
        db.keyspace(name, buckets::keyspace_options)
            .map_err(|error| OpenError::fjall(&path, &error))
    };
    let keyspaces = [keyspace("live")?, keyspace("kv")?, keyspace("meta")?];
    let buckets = Buckets::open(db.clone(), data_expire_ms)
        .map_err(|error| OpenError::fjall(&path, &error))?;
    let buckets = buckets.map_err(|detail| OpenError::damaged(&path, detail))?;
    if buckets.list().is_empty() || !keeper::is_full(&path, reserve_bytes) {
        buckets
            .ensure(clock())
            .map_err(|error| OpenError::fjall(&path, &error))?;
    }
    let index = rebuild(&path, &keyspaces[0], &buckets)?;
    if !in_use {
        write_format(&path, IN_USE).map_err(|source| OpenError::io(&path, source))?;
    }
    Ok(Shared::new(
        path,
        clock,
        reserve_bytes,
        db,
        keyspaces,
        buckets,
        index,
        lock,
    ))
}

fn create_folder(path: &Path) -> Result<(), OpenError> {
    match std::fs::create_dir_all(path) {
        Ok(()) => Ok(()),
        Err(_) if path.is_file() => Err(OpenError::NotAFolder(path.to_owned())),
        Err(source) => Err(OpenError::Create {
            path: path.to_owned(),
            source,
        }),
    }
}

/// What a folder that may be ours is used for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// It is new.
    None,
    /// Its format was written, and perhaps more of its creation.
    Begun,
    /// It has held data.
    Data,
}

/// Reads the format of a folder.
pub(super) fn folder_use(path: &Path) -> Result<Use, OpenError> {
    let file = path.join(FORMAT);
    match std::fs::read_to_string(&file) {
        Ok(format) if format.lines().next() == Some(FORMAT_LINE) => {
            return Ok(match format.lines().nth(1) {
                Some(IN_USE) => Use::Data,
                _ => Use::Begun,
            });
        }
        Ok(format) => {
            let found = format.lines().next().unwrap_or_default().to_owned();
            return Err(OpenError::Format {
                path: path.to_owned(),
                found,
            });
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(OpenError::io(&file, source)),
    }
    let entries = std::fs::read_dir(path).map_err(|source| OpenError::io(path, source))?;
    for entry in entries {
        let name = entry
            .map_err(|source| OpenError::io(path, source))?
            .file_name();
        if !BEFORE.iter().any(|before| name == *before) {
            return Err(OpenError::NotOurs {
                path: path.to_owned(),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(Use::None)
}

/// A folder in use whose data or log is gone is not a new one.
pub(super) fn has_data(path: &Path, data: &Path) -> Result<(), OpenError> {
    let gone = |what: &str| OpenError::damaged(path, format!("{what} is missing"));
    if !data.exists() {
        return Err(gone("the folder fjall, which holds the data,"));
    }
    let journals = journal::journals(data).map_err(|source| OpenError::io(data, source))?;
    if journals.is_empty() {
        return Err(gone("the log, fjall/*.jnl,"));
    }
    Ok(())
}

/// By a rename, so that a power cut leaves all of it or what was there before.
fn write_format(path: &Path, in_use: &str) -> std::io::Result<()> {
    let new = path.join(NEW_FORMAT);
    let mut format = File::create(&new)?;
    writeln!(format, "{FORMAT_LINE}\n{in_use}")?;
    format.sync_all()?;
    std::fs::rename(new, path.join(FORMAT))?;
    File::open(path)?.sync_all()
}

/// When fjall creates a folder it writes its version marker before it puts anything in. A folder without whole marker, keyspaces and
/// anything in its journal was never used: a crash interrupted its creation, and it is created again.
fn finish_creation(data: &Path) -> std::io::Result<()> {
    let is_whole = std::fs::read(data.join("version")).is_ok_and(|marker| marker == MARKER);
    if !data.exists() || is_whole {
        return Ok(());
    }
    let keyspaces = data.join("keyspaces");
    let mut used = keyspaces.exists() && std::fs::read_dir(keyspaces)?.next().is_some();
    for journal in journal::journals(data)? {
        used |= std::fs::read(journal)?.iter().any(|byte| *byte != 0);
    }
    if used {
        Ok(())
    } else {
        std::fs::remove_dir_all(data)
    }
}

/// Opens what is in a folder.
pub(super) fn open_fjall(path: &Path, data: &Path, workers: usize) -> Result<Database, OpenError> {
    let builder = Database::builder(data)
        .cache_size(CACHE_BYTES)
        .max_journaling_size(JOURNALS_BYTES)
        .worker_threads_unchecked(workers);
    guarded(path, || builder.open())
}

/// Runs what reads a folder's files. fjall panics on some damage; to whoever starts the server that is the same as an error.
pub(super) fn guarded<T>(
    path: &Path,
    read: impl FnOnce() -> fjall::Result<T>,
) -> Result<T, OpenError> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|error| OpenError::fjall(path, &error)),
        Err(panic) => Err(OpenError::damaged(path, panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("its files contradict each other").to_owned()
}

/// Reads the heads of all unfinished records.
fn rebuild(
    path: &Path,
    live: &fjall::Keyspace,
    buckets: &Buckets,
) -> Result<DueIndex<Place>, OpenError> {
    let mut index = DueIndex::new();
    let list = buckets.list();
    for item in live.iter() {
        let (key, value) = item
            .into_inner()
            .map_err(|error| OpenError::fjall(path, &error))?;
        let gid = codec::gid_of_state(&key).ok_or_else(|| {
            OpenError::damaged(path, "a key of an unfinished transaction is unreadable")
        })?;
        let (head, _) = codec::decode_state(&value).map_err(|corrupt| {
            OpenError::damaged(path, format!("the state of {gid}: {corrupt}"))
        })?;
        if by_id(&list, head.bucket).is_none() {
            return Err(OpenError::damaged(
                path,
                format!("the bucket {} of {gid} is missing", head.bucket),
            ));
        }
        let place = Place {
            version: head.version,
            bucket: head.bucket,
            parts: head.parts,
        };
        index.put(&gid, &head.index, Holding::Recovered, place);
    }
    Ok(index)
}
