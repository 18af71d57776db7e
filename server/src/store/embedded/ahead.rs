//! Room in fjall's journal, written ahead of what is appended to it.
//!
//! fjall makes a journal as long as it will be, but without blocks. To sync what is appended, a file system then has to write down which
//! blocks it was given as well: half as much again in time. Where something was written before, it has not.
//!
//! No byte of a journal changes by it: zeros are written where zeros were read just before, into the hole that it ends with, never beyond
//! its length, and by the one thread that appends to it.

use super::journal::{is_zero, journals};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is appended between two steps, about twenty groups. Bytes.
const STEP: u64 = 256 << 10;
/// What a step writes: a quarter more, for heads of entries are not counted. Where there is less of them it gets further and further
/// ahead, to the journal's end at most. Bytes.
const ROOM: u64 = STEP + STEP / 4;
/// What is looked at and written at a time, so that it stays in the processor's cache. Bytes.
const PIECE: usize = 32 << 10;
/// After a step that takes longer there is none until the next journal: on some file systems asking for holes waits for the disk.
const SLOW: Duration = Duration::from_millis(50);

pub(super) struct Ahead {
    folder: PathBuf,
    /// The journal that is appended to.
    journal: Option<(PathBuf, File)>,
    /// Up to where it has room, or nothing more is to be done for it.
    until: u64,
    /// Bytes appended since the last step.
    appended: u64,
    buffer: Box<[u8]>,
}

impl Ahead {
    /// For the newest journal of a folder, which whoever calls this appends to, and nobody else.
    pub(super) fn new(folder: &Path) -> Ahead {
        Ahead {
            folder: folder.to_owned(),
            journal: None,
            until: 0,
            appended: STEP,
            buffer: vec![0; PIECE].into(),
        }
    }

    /// Takes note of what was appended and synced. A step that fails costs nothing but the time that it would have saved.
    pub(super) fn appended(&mut self, bytes: u64) {
        self.appended += bytes;
        if self.appended < STEP {
            return;
        }
        self.appended = 0;
        let began = Instant::now();
        if let Err(error) = self.step() {
            tracing::debug!(%error, "no room was written ahead in the journal");
        }
        if began.elapsed() > SLOW {
            self.until = u64::MAX;
        }
    }

    fn step(&mut self) -> io::Result<()> {
        let Some(newest) = journals(&self.folder)?.pop() else {
            return Ok(());
        };
        if self
            .journal
            .as_ref()
            .is_none_or(|(path, _)| *path != newest)
        {
            let file = OpenOptions::new().read(true).write(true).open(&newest)?;
            // Read-ahead would take memory that was not used for long, which costs more than all the rest of a step.
            #[cfg(target_os = "linux")]
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
            self.journal = Some((newest, file));
            self.until = 0;
        }
        let Some((_, file)) = &self.journal else {
            return Ok(());
        };
        let end = file.metadata()?.len();
        if self.until >= end {
            return Ok(());
        }
        let from = last_hole(file, self.until)?;
        // One that was there at the start is appended to at its end: it must not become longer.
        let until = end.min(from + ROOM);
        let made = make_room(file, from..until, &mut self.buffer)?;
        // A file system that takes data for a hole is not to be trusted again, for this journal.
        self.until = if made { until } else { u64::MAX };
        Ok(())
    }
}

/// Writes zeros where there are zeros; `false` if there is something else.
fn make_room(file: &File, room: Range<u64>, buffer: &mut [u8]) -> io::Result<bool> {
    let mut at = room.start;
    while at < room.end {
        let left = usize::try_from(room.end - at).unwrap_or(usize::MAX);
        let piece = left.min(buffer.len());
        let piece = &mut buffer[..piece];
        file.read_exact_at(piece, at)?;
        if !is_zero(piece) {
            return Ok(false);
        }
        file.write_all_at(piece, at)?;
        at += piece.len() as u64;
    }
    Ok(true)
}

/// Where the hole begins that a file ends with, or where the file ends; nothing before `from` is looked at.
fn last_hole(file: &File, from: u64) -> io::Result<u64> {
    let mut hole = from;
    loop {
        match rustix::fs::seek(file, SeekFrom::Data(hole)) {
            Ok(data) => hole = rustix::fs::seek(file, SeekFrom::Hole(data))?,
            Err(Errno::NXIO) => return Ok(hole),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u64 = 2 << 20;

    /// A journal as fjall makes it, with something written.
    fn journal(folder: &Path, number: u32, written: &[u8]) -> File {
        let path = folder.join(format!("{number}.jnl"));
        let file = File::create(&path).expect("created");
        file.set_len(LENGTH).expect("made long");
        file.write_all_at(written, 0).expect("written");
        file.sync_all().expect("synced");
        File::open(path).expect("opened")
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().expect("there").len() as usize];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    }

    #[test]
    fn it_makes_room_behind_what_is_written_and_changes_no_byte() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = journal(folder.path(), 7, &[1; 5_000]);
        let before = bytes(&file);
        let room = |file: &File| last_hole(file, 0).expect("asked");
        assert!(room(&file) < 10_000, "the file system knows holes");
        let mut ahead = Ahead::new(folder.path());
        ahead.appended(5_000);
        let first = room(&file);
        assert!((ROOM..ROOM + 10_000).contains(&first), "{first}");
        ahead.appended(STEP - 1);
        assert_eq!(room(&file), first, "not again for a while");
        ahead.appended(1);
        assert_eq!(room(&file), first + ROOM);
        for _ in 0..20 {
            ahead.appended(STEP / 2);
        }
        assert_eq!(room(&file), LENGTH, "no further than it is long");
        assert!(bytes(&file) == before);

        let newer = journal(folder.path(), 10, &[2; 100]);
        ahead.appended(STEP);
        assert!(room(&newer) >= ROOM, "the newest counts");
        assert!(bytes(&newer)[..100] == [2; 100]);
    }

    #[test]
    fn what_was_appended_beyond_its_room_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = journal(folder.path(), 0, &[1; 100]);
        let mut ahead = Ahead::new(folder.path());
        ahead.appended(100);
        let writer = OpenOptions::new()
            .write(true)
            .open(folder.path().join("0.jnl"));
        writer
            .expect("opened")
            .write_all_at(&[3; 1 << 20], 100)
            .expect("written");
        let before = bytes(&file);
        ahead.appended(1 << 20);
        assert!(bytes(&file) == before);
        assert!(last_hole(&file, 0).expect("asked") > (1 << 20) + ROOM);
    }

    #[test]
    fn it_keeps_its_hands_off_a_journal_that_ends_with_data_or_that_cannot_be_trusted() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = journal(folder.path(), 0, &[1; LENGTH as usize]);
        let mut ahead = Ahead::new(folder.path());
        ahead.appended(STEP);
        assert_eq!(file.metadata().expect("there").len(), LENGTH);
        assert!(bytes(&file) == [1; LENGTH as usize]);

        // There is data where the file system said that there is none.
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .open(folder.path().join("0.jnl"));
        let open = open.expect("opened");
        let made = |room| make_room(&open, room, &mut [0; PIECE]).expect("read");
        assert!(!made(0..ROOM));
        assert!(bytes(&file) == [1; LENGTH as usize]);

        // Or only further on.
        open.write_all_at(&[0; PIECE], 0).expect("written");
        let before = bytes(&file);
        assert!(made(0..PIECE as u64));
        assert!(!made(0..ROOM));
        assert!(bytes(&file) == before);
    }
}
