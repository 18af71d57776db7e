//! The lock that keeps a second process out of a data folder.

use super::OpenError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;

/// The locked file; it holds the pid of the process that has the folder.
pub(super) const FILE: &str = "amends.lock";

/// A folder that this process has for itself until this is dropped.
pub(super) struct FolderLock(File);

impl FolderLock {
    /// Takes a folder to write to.
    pub(super) fn take(path: &Path) -> Result<FolderLock, OpenError> {
        let file = path.join(FILE);
        let io = |source| OpenError::io(&file, source);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&file);
        let mut lock = Self::lock(path, opened.map_err(io)?)?;
        lock.write_pid().map_err(io)?;
        Ok(lock)
    }

    /// Takes a folder that is only read; `None` if nobody ever locked it.
    pub(super) fn take_to_read(path: &Path) -> Result<Option<FolderLock>, OpenError> {
        let file = path.join(FILE);
        match File::open(&file) {
            Ok(opened) => Self::lock(path, opened).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound && path.is_dir() => Ok(None),
            Err(source) => Err(OpenError::io(&file, source)),
        }
    }

    fn lock(path: &Path, mut file: File) -> Result<FolderLock, OpenError> {
        match file.try_lock() {
            Ok(()) => Ok(FolderLock(file)),
            Err(TryLockError::WouldBlock) => Err(OpenError::Held {
                path: path.to_owned(),
                pid: holder(&mut file),
            }),
            Err(TryLockError::Error(source)) => Err(OpenError::io(&path.join(FILE), source)),
        }
    }

    fn write_pid(&mut self) -> std::io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()?;
        writeln!(self.0, "{}", std::process::id())
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing is not enough: a process that is being forked off just now has the descriptor until it executes its program.
        let _ = self.0.unlock();
    }
}

/// The pid in a file that somebody else has locked.
fn holder(file: &mut File) -> String {
    let mut pid = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut pid));
    let pid = pid.trim();
    if read.is_ok() && !pid.is_empty() {
        pid.to_owned()
    } else {
        "unknown".to_owned()
    }
}
