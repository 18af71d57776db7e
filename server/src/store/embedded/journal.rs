//! Verifies fjall's journals before fjall opens them, and cuts off a torn tail.
//!
//! fjall ends its recovery at the first entry that it cannot read and cuts the journal there. That is right for the tail a power cut
//! tore, for each group is synced before the next one is written: nothing behind it was acknowledged. It is wrong for damage in the
//! middle, where acknowledged writes would vanish silently. And where the disk kept a later page of the last group but not an earlier
//! one, fjall refuses to open. So: what lies behind the last sound batch is cut off if no sound batch follows, else it is damage.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// Ends every batch.
const TRAILER: &[u8] = b"FJL\x03";
/// Value type, compression, keyspace, key length, value length, and length on the disk, after the tag.
const ITEM_HEAD: usize = 1 + 1 + 8 + 2 + 4 + 4;

/// What a journal holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Journal {
    /// Sound batches to the end, then nothing but the zeros it was preallocated with.
    Sound,
    /// Sound batches up to this offset, then part of one that was never synced.
    Torn(usize),
    /// An unreadable batch at this offset, with sound ones after it.
    Damaged(usize),
}

/// The journals of a fjall folder, oldest first.
pub(super) fn journals(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse::<u64>().ok());
        if let Some(number) =
            number.filter(|_| path.extension().is_some_and(|extension| extension == "jnl"))
        {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Verifies every journal and cuts off a torn tail of the last. `Ok(Err(…))` says what is damaged.
pub(super) fn repair(folder: &Path) -> io::Result<Result<(), String>> {
    let journals = journals(folder)?;
    for (number, path) in journals.iter().enumerate() {
        match verify(&std::fs::read(path)?) {
            Journal::Sound => {}
            // Only the last can be torn: the others were synced as a whole before the next one was begun.
            Journal::Torn(at) if number + 1 == journals.len() => cut(path, at)?,
            Journal::Torn(at) | Journal::Damaged(at) => return Ok(Err(damage(path, at))),
        }
    }
    Ok(Ok(()))
}

/// The sentence about a damaged journal.
pub(super) fn damage(path: &Path, at: usize) -> String {
    format!(
        "the journal {} is damaged at byte {at}, and acknowledged writes follow there",
        path.display()
    )
}

fn cut(path: &Path, at: usize) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(at as u64)?;
    file.sync_all()?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    tracing::warn!(journal = %path.display(), at, "cut off a write that was torn when the machine stopped; it was never acknowledged");
    Ok(())
}

/// Reads a journal to its end.
pub(super) fn verify(journal: &[u8]) -> Journal {
    let (mut at, mut last) = (0, None);
    // The checksum leaves the sequence number out; it only ever grows.
    while let Some((length, seqno)) = batch(&journal[at..]).filter(|(_, seqno)| last < Some(*seqno))
    {
        at += length;
        last = Some(seqno);
    }
    let tail = &journal[at..];
    if is_zero(tail) {
        return Journal::Sound;
    }
    let begins_sound_batch = |from: usize| tail[from] == START && batch(&tail[from..]).is_some();
    match (1..tail.len()).any(begins_sound_batch) {
        true => Journal::Damaged(at),
        false => Journal::Torn(at),
    }
}

/// A journal without the zeros it was preallocated with. No batch ends in zeros.
pub(super) fn without_zeros(journal: &[u8]) -> &[u8] {
    let pages = journal.chunks(PAGE).rposition(|page| !is_zero(page));
    let used = &journal[..pages.map_or(0, |last| journal.len().min((last + 1) * PAGE))];
    let end = used.iter().rposition(|byte| *byte != 0);
    &used[..end.map_or(0, |last| last + 1)]
}

const PAGE: usize = 4_096;

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4_096] = [0; 4_096];
    bytes
        .chunks(ZEROS.len())
        .all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// Length and sequence number of the batch these bytes begin with, if it is complete and its checksum matches.
fn batch(bytes: &[u8]) -> Option<(usize, u64)> {
    let (start, mut rest) = bytes.split_at_checked(1 + 4 + 8)?;
    if start[0] != START {
        return None;
    }
    let count = u32::from_le_bytes(start[1..5].try_into().ok()?);
    let seqno = u64::from_le_bytes(start[5..].try_into().ok()?);
    let items = rest;
    for _ in 0..count {
        rest = rest.get(item_length(rest)?..)?;
    }
    let items = &items[..items.len() - rest.len()];
    let (end, after) = rest.split_at_checked(1 + 8 + TRAILER.len())?;
    let mut hasher = Xxh3::new();
    hasher.update(items);
    let sound = end[0] == END && end[1..9] == hasher.digest().to_le_bytes() && &end[9..] == TRAILER;
    sound.then_some((bytes.len() - after.len(), seqno))
}

/// The length of the item these bytes begin with.
fn item_length(bytes: &[u8]) -> Option<usize> {
    match *bytes.first()? {
        CLEAR => Some(1 + 8),
        ITEM => {
            let head = bytes.get(1..1 + ITEM_HEAD)?;
            let key = u16::from_le_bytes(head[10..12].try_into().ok()?);
            let on_disk = u32::from_le_bytes(head[16..20].try_into().ok()?);
            (1 + ITEM_HEAD + usize::from(key)).checked_add(usize::try_from(on_disk).ok()?)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fjall::{Database, KeyspaceCreateOptions, PersistMode};

    /// A journal as fjall writes it: three batches of two items, one of them compressed.
    fn written() -> (Vec<u8>, usize) {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Database::builder(folder.path()).open().expect("open");
        let keyspace = db
            .keyspace("k", KeyspaceCreateOptions::default)
            .expect("keyspace");
        for round in 0u8..3 {
            let mut batch = db.batch().durability(Some(PersistMode::SyncData));
            batch.insert(&keyspace, [b'a', round], vec![round; 10_000]);
            batch.insert(
                &keyspace,
                [b'b', round],
                vec![0xff; 5_000 + usize::from(round)]
                    .iter()
                    .map(|b| b ^ round)
                    .collect::<Vec<_>>(),
            );
            batch.commit().expect("commit");
        }
        let journal = std::fs::read(&journals(folder.path()).expect("list")[0]).expect("read");
        let mut end = 0;
        while let Some((length, _)) = batch(&journal[end..]) {
            end += length;
        }
        (journal, end)
    }

    #[test]
    fn every_cut_is_a_torn_tail_and_damage_before_the_last_batch_is_told_apart() {
        let (journal, end) = written();
        assert_eq!(verify(&journal), Journal::Sound);
        let first = batch(&journal).expect("first batch").0;
        let second = first + batch(&journal[first..]).expect("second batch").0;
        assert_eq!(
            second + batch(&journal[second..]).expect("third batch").0,
            end
        );

        for cut in second + 1..end {
            let mut torn = journal[..end].to_vec();
            torn[cut..].fill(0);
            assert_eq!(verify(&torn), Journal::Torn(second), "zeros from {cut}");
            assert_eq!(
                verify(&journal[..cut]),
                Journal::Torn(second),
                "end of file at {cut}"
            );
        }
        let mut hole = journal.clone();
        hole[second + 20..second + 30].fill(0);
        assert_eq!(
            verify(&hole),
            Journal::Torn(second),
            "a hole in the last batch"
        );
        for (damaged, begin) in [(3, 0), (7, first), (first + 40, first), (second - 1, first)] {
            let mut flipped = journal.clone();
            flipped[damaged] ^= 0x10;
            assert_eq!(
                verify(&flipped),
                Journal::Damaged(begin),
                "flip at {damaged}"
            );
        }
    }
}
