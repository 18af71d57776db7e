//! `check` of a data folder that no server holds: every value is read and every rule between them verified.
//!
//! fjall can open nothing without writing (it cuts journals and removes what it no longer needs), so it opens a look-alike in a temporary
//! folder: journals and small files are copied, tables, which never change once written, are linked to. The folder itself is only read.

use super::super::{branch_ids, index_is_sound};
use super::OpenError;
use super::buckets::{Bucket, Buckets, by_id};
use super::codec::{self, Head};
use super::journal::{self, Journal};
use super::lock::FolderLock;
use super::open::{self, DATA, FORMAT, Use};
use amends::coordinator::record::RowKey;
use amends::{Gid, Status, TransType};
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// What [`check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records by (type, status), finished ones included.
    pub records: Vec<((TransType, Status), u64)>,
    /// Parts of all records.
    pub parts: u64,
    /// Registered rows of all records.
    pub rows: u64,
    /// Values of topics.
    pub values: u64,
    /// Buckets by creation time.
    pub buckets: u64,
    /// Whether the log ends in a write that was torn; opening cuts it off, it was never acknowledged.
    pub torn_tail: bool,
    /// What is wrong, one sentence each; at most [`Report::PROBLEMS_MAX`].
    pub problems: Vec<String>,
    /// How many more problems there are.
    pub more_problems: u64,
}

impl Report {
    /// More problems than this are only counted.
    pub const PROBLEMS_MAX: usize = 100;

    /// Whether the folder is as it should be.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, what: String) {
        if self.problems.len() < Self::PROBLEMS_MAX {
            self.problems.push(what);
        } else {
            self.more_problems += 1;
        }
    }
}

/// Verifies a data folder. Nothing in it is opened for writing.
///
/// # Errors
/// If the folder is not one of ours, is in use, or cannot be read; damage is in the report.
pub fn check(path: &Path) -> Result<Report, OpenError> {
    match look(path) {
        Err(OpenError::Damaged { detail, .. }) => {
            let mut report = Report::default();
            report.problem(detail);
            Ok(report)
        }
        looked => looked,
    }
}

fn look(path: &Path) -> Result<Report, OpenError> {
    let _lock = FolderLock::take_to_read(path)?;
    if !path.join(FORMAT).exists() {
        return Err(OpenError::NoData(path.to_owned()));
    }
    let data = path.join(DATA);
    let mut report = Report::default();
    if open::folder_use(path)? == Use::Data {
        open::has_data(path, &data)?;
    } else if !data.exists() {
        return Ok(report);
    }
    check_journals(&data, &mut report).map_err(|source| OpenError::io(&data, source))?;
    if !report.is_clean() {
        // What follows the damage would be missing everywhere.
        return Ok(report);
    }
    let (_look_alike, copy) = look_alike(&data).map_err(|source| OpenError::io(&data, source))?;
    journal::repair(&copy)
        .map_err(|source| OpenError::io(&data, source))?
        .map_err(|detail| OpenError::damaged(path, detail))?;
    let db = open::open_fjall(path, &copy, 0)?;
    let buckets = open::guarded(path, || Buckets::open(db.clone(), 0))?
        .map_err(|detail| OpenError::damaged(path, detail))?;
    open::guarded(path, || check_values(&db, &buckets.list(), &mut report))?;
    Ok(report)
}

fn check_journals(data: &Path, report: &mut Report) -> io::Result<()> {
    let journals = journal::journals(data)?;
    for (number, path) in journals.iter().enumerate() {
        match journal::verify(&std::fs::read(path)?) {
            Journal::Sound => {}
            Journal::Torn(_) if number + 1 == journals.len() => report.torn_tail = true,
            Journal::Torn(at) | Journal::Damaged(at) => report.problem(journal::damage(path, at)),
        }
    }
    Ok(())
}

/// A temporary folder with what fjall needs; it is removed when the first value is dropped.
fn look_alike(data: &Path) -> io::Result<(TemporaryFolder, PathBuf)> {
    let folder = TemporaryFolder::new()?;
    let copy = folder.0.join(DATA);
    copy_tree(&std::fs::canonicalize(data)?, &copy, false)?;
    Ok((folder, copy))
}

fn copy_tree(from: &Path, to: &Path, immutable: bool) -> io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            let immutable = entry.file_name() == "tables" || entry.file_name() == "blobs";
            copy_tree(&source, &target, immutable)?;
        } else if immutable {
            std::os::unix::fs::symlink(&source, &target)?;
        } else if source
            .extension()
            .is_some_and(|extension| extension == "jnl")
        {
            // fjall syncs it, so the zeros at its end would go to the disk.
            std::fs::write(&target, journal::without_zeros(&std::fs::read(&source)?))?;
        } else {
            std::fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new() -> io::Result<TemporaryFolder> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let name = format!("amends-check-{:016x}", u64::from_be_bytes(random));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        Ok(TemporaryFolder(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "a temporary folder could not be removed");
        }
    }
}

fn check_values(db: &Database, buckets: &[Bucket], report: &mut Report) -> fjall::Result<()> {
    report.buckets = buckets.len() as u64;
    let mut counts = BTreeMap::new();
    if db.keyspace_exists("live") {
        let live = db.keyspace("live", KeyspaceCreateOptions::default)?;
        for_each_state(&live, "live", report, |report, gid, head| {
            *counts
                .entry((head.index.trans_type, head.index.status))
                .or_default() += 1;
            if head.index.status.is_final() {
                report.problem(format!("{gid} ended, but is kept as unfinished"));
            }
            if by_id(buckets, head.bucket).is_none() {
                report.problem(format!(
                    "{gid} has its parts in bucket {}, which is missing",
                    head.bucket
                ));
            }
            if contains(buckets.iter().map(|bucket| &bucket.keyspace), gid)? {
                report.problem(format!("{gid} is kept as unfinished and as ended"));
            }
            check_parts(buckets, gid, head, report)
        })?;
        for bucket in buckets {
            for_each_state(&bucket.keyspace, "bucket", report, |report, gid, head| {
                *counts
                    .entry((head.index.trans_type, head.index.status))
                    .or_default() += 1;
                if !head.index.status.is_final() {
                    report.problem(format!("{gid} is unfinished, but is kept as ended"));
                }
                if head.bucket != bucket.id {
                    report.problem(format!(
                        "{gid} is in bucket {} and says {}",
                        bucket.id, head.bucket
                    ));
                }
                check_parts(buckets, gid, head, report)
            })?;
            check_bucket(bucket, buckets, &live, report)?;
        }
    }
    if db.keyspace_exists("kv") {
        for item in db.keyspace("kv", KeyspaceCreateOptions::default)?.iter() {
            let (key, value) = item.into_inner()?;
            report.values += 1;
            if let Err(corrupt) = codec::decode_kv(&value) {
                report.problem(format!(
                    "the topic {:?}: {corrupt}",
                    String::from_utf8_lossy(&key)
                ));
            }
        }
    }
    report.records = counts.into_iter().collect();
    Ok(())
}

fn contains<'a>(
    mut keyspaces: impl Iterator<Item = &'a Keyspace>,
    gid: &Gid,
) -> fjall::Result<bool> {
    let key = codec::state_key(gid);
    keyspaces.try_fold(false, |found, keyspace| {
        Ok(found || keyspace.contains_key(&key)?)
    })
}

fn for_each_state(
    keyspace: &Keyspace,
    place: &str,
    report: &mut Report,
    mut each: impl FnMut(&mut Report, &Gid, &Head) -> fjall::Result<()>,
) -> fjall::Result<()> {
    for item in keyspace.prefix([codec::STATES]) {
        let (key, value) = item.into_inner()?;
        let Some(gid) = codec::gid_of_state(&key) else {
            report.problem(format!(
                "{place} has a key that is no gid: {:?}",
                String::from_utf8_lossy(&key)
            ));
            continue;
        };
        match codec::decode_state(&value) {
            Err(corrupt) => report.problem(format!("the state of {gid}: {corrupt}")),
            Ok((head, state)) => {
                if !index_is_sound(&head.index) {
                    let (status, due) = (head.index.status, head.index.due);
                    report.problem(format!("{gid} is {status} and has the due time {due:?}"));
                }
                if serde_json::from_slice::<serde::de::IgnoredAny>(state).is_err() {
                    report.problem(format!("the state of {gid} is not JSON"));
                }
                each(report, &gid, &head)?;
            }
        }
    }
    Ok(())
}

/// Every part that a state counts is there, whole, and its rows lead to it; branches and bytes are as many as the index says.
fn check_parts(
    buckets: &[Bucket],
    gid: &Gid,
    head: &Head,
    report: &mut Report,
) -> fjall::Result<()> {
    let Some(bucket) = by_id(buckets, head.bucket) else {
        return Ok(());
    };
    let (mut bytes, mut branches) = (0, BTreeSet::new());
    for number in 0..head.parts {
        let Some(value) = bucket.keyspace.get(codec::part_key(gid, number))? else {
            report.problem(format!("part {number} of {gid} is missing"));
            continue;
        };
        report.parts += 1;
        match codec::decode_part(&value) {
            Err(corrupt) => report.problem(format!("part {number} of {gid}: {corrupt}")),
            Ok(part) => {
                bytes += part.bytes.len() as u64;
                branches.extend(branch_ids(&part.keys).into_iter().map(str::to_owned));
                for row in &part.keys {
                    report.rows += 1;
                    check_row(bucket, gid, row, number, report)?;
                }
            }
        }
    }
    let index = &head.index;
    if bytes != index.bytes {
        report.problem(format!(
            "{gid} has {bytes} bytes of content and counts {}",
            index.bytes
        ));
    }
    // The branches of the others are in their first part, which only core reads.
    let registers = !matches!(index.trans_type, TransType::Saga | TransType::Msg);
    if registers && branches.len() != index.branches as usize {
        report.problem(format!(
            "{gid} has {} branches and counts {}",
            branches.len(),
            index.branches
        ));
    }
    Ok(())
}

fn check_row(
    bucket: &Bucket,
    gid: &Gid,
    row: &RowKey,
    number: u32,
    report: &mut Report,
) -> fjall::Result<()> {
    let stored = bucket.keyspace.get(codec::row_key(gid, row))?;
    if stored.is_none_or(|stored| *stored != number.to_be_bytes()) {
        let (branch_id, op) = row;
        report.problem(format!(
            "the row {branch_id} {op} of {gid} does not lead to its part {number}"
        ));
    }
    Ok(())
}

/// Parts and rows belong to a record, and to no part past those it counts.
fn check_bucket(
    bucket: &Bucket,
    buckets: &[Bucket],
    live: &Keyspace,
    report: &mut Report,
) -> fjall::Result<()> {
    for prefix in [codec::PARTS, codec::ROWS] {
        let mut last: Option<(Gid, u32)> = None;
        for item in bucket.keyspace.prefix([prefix]) {
            let (key, value) = item.into_inner()?;
            let Some((gid, rest)) = codec::gid_and_rest(&key) else {
                report.problem(format!(
                    "bucket {} has an unreadable key: {key:?}",
                    bucket.id
                ));
                continue;
            };
            if last.as_ref().is_none_or(|(last, _)| *last != gid) {
                let parts = counted(buckets, live, &gid)?;
                if parts.is_none() {
                    report.problem(format!(
                        "bucket {} has parts of {gid}, which is not there",
                        bucket.id
                    ));
                }
                last = Some((gid.clone(), parts.unwrap_or(u32::MAX)));
            }
            let number = if prefix == codec::PARTS {
                rest
            } else {
                &value[..]
            };
            let number = <[u8; 4]>::try_from(number).map(u32::from_be_bytes);
            if number.is_err()
                || number
                    .is_ok_and(|number| last.as_ref().is_some_and(|(_, parts)| number >= *parts))
            {
                report.problem(format!(
                    "bucket {} has a part of {gid} that its state does not count",
                    bucket.id
                ));
            }
        }
    }
    Ok(())
}

/// How many parts the state of a gid counts. Any bucket may hold it: retention that was interrupted leaves parts behind that it has
/// copied forward.
fn counted(buckets: &[Bucket], live: &Keyspace, gid: &Gid) -> fjall::Result<Option<u32>> {
    let key = codec::state_key(gid);
    let places = std::iter::once(live).chain(buckets.iter().map(|bucket| &bucket.keyspace));
    for keyspace in places {
        if let Some(value) = keyspace.get(&key)? {
            return Ok(codec::decode_state(&value).ok().map(|(head, _)| head.parts));
        }
    }
    Ok(None)
}
