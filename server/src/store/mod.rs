//! The store trait (architecture 5): batch-first and small. Each implementation turns concurrent calls into group commits by itself.

mod due;
pub mod embedded;
pub mod memory;

use crate::clock::ManualClock;
use amends::branch::ROOT_BRANCH;
use amends::coordinator::record::{Index, Part, Record, RowKey, Save};
use amends::{Gid, Millis, Status, TransType};
use futures_util::future::BoxFuture;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Why a store did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No room for writes; nothing was stored. Answered as 503 `disk_full`.
    #[error("disk_full: {0}")]
    Full(String),
    /// The store cannot be reached; nothing is known to be stored.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// A commit or sync failed, or the data is damaged: the process must end (rules.md 7.1).
    #[error("store failed: {0}")]
    Fatal(String),
}

/// Answer of [`Store::create`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// Stored, durable, at version 1.
    New,
    /// The gid was there already; nothing was written.
    Exists(Box<Record>),
}

/// Answer of [`Store::save`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// Durable; the version is the base plus one.
    Done,
    /// The stored version is another one (or the record is gone); nothing was written.
    Conflict,
}

/// registerBranch as one atomic check and write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Whose rows.
    pub gid: Gid,
    /// The status (and type) the record must have.
    pub required: (TransType, Status),
    /// A row whose presence forbids this one (a workflow's decision row).
    pub forbidden: Option<RowKey>,
    /// The rows. Unique on (branch id, op).
    pub part: Part,
    /// How many branch ids the record may have with these rows (rules.md 5).
    pub branches_max: u32,
    /// How many bytes of content its parts may have with this one.
    pub bytes_max: u64,
}

/// Answer of [`Store::append`]; the checks are made in the order of the variants from the last to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Durable; the record's version grew by one, and it is due `index.quiet` after the part was created, where that is set.
    Done,
    /// The record would have more content than `bytes_max`.
    TooLarge,
    /// The record would have more branch ids than `branches_max`.
    TooManyBranches,
    /// All of its rows are there already with the same content; nothing was written.
    Same,
    /// One of its rows is there with other content.
    Differs,
    /// The forbidden row is there.
    Forbidden,
    /// The record has this status, or type.
    WrongStatus(TransType, Status),
    /// No record of this gid.
    Unknown,
}

/// Which records [`Store::list`] returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this status.
    pub status: Option<Status>,
    /// Only this type.
    pub trans_type: Option<TransType>,
    /// Created at or after.
    pub created_from: Option<Millis>,
    /// Created at or before.
    pub created_to: Option<Millis>,
}

/// One page of records; `next` is the position of the next page, `None` at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The records, ordered by gid.
    pub records: Vec<Record>,
    /// Opaque position to go on from.
    pub next: Option<String>,
}

/// What [`Store::claim_due`] found.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// Due records, earliest first, now held by this process until a save with `driven: false` (or a final one).
    pub records: Vec<Record>,
    /// The earliest due time among those that were not claimed.
    pub next_due: Option<Millis>,
}

/// A value of the small key-value area (topics).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    /// Category, `topics`.
    pub cat: String,
    /// Key, the topic's name.
    pub key: String,
    /// Value, JSON.
    pub value: String,
    /// 1 when created, +1 per update.
    pub version: u64,
    /// When it was created.
    pub created: Millis,
    /// When it was last written.
    pub updated: Millis,
}

/// Counts by status and type, oldest unfinished and how far the due queue lags: what gauges show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Unfinished records by (type, status).
    pub unfinished: Vec<((TransType, Status), u64)>,
    /// Unfinished records that want attention.
    pub attention: u64,
    /// Creation time of the oldest unfinished record.
    pub oldest_created: Option<Millis>,
    /// The earliest due time of a record nobody holds.
    pub earliest_due: Option<Millis>,
    /// How often the store synced its log to the disk.
    pub syncs: u64,
    /// Bytes written to the log, where the store knows.
    pub bytes_written: u64,
}

/// A result of a store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Content of a page of [`Store::list`] in bytes, at most.
pub const PAGE_BYTES: u64 = 64 << 20;

/// Where transactions live. Every write is durable when its future resolves with success.
///
/// Later stores are shared by several processes: a claim then names the owner, and every write carries the owner's epoch from
/// [`Store::heartbeat`]. A store of one process has one epoch for its life.
pub trait Store: Send + Sync + 'static {
    /// Stores a new record (`save.base` is 0), unless the gid exists, finished ones included. With `index.driven` it is held by this
    /// process at once, else it waits for its due time.
    fn create(&self, gid: Gid, save: Save) -> BoxFuture<'_, Result<Created>>;
    /// The record with all its parts.
    fn load(&self, gid: &Gid) -> BoxFuture<'_, Result<Option<Record>>>;
    /// Writes state and new parts, if the stored version is `save.base`. Saves of one gid may be queued without waiting for each
    /// other; they are applied in the order of the calls, and what was called before the future of a conflict resolved is a conflict too.
    fn save(&self, gid: Gid, save: Save) -> BoxFuture<'_, Result<Saved>>;
    /// registerBranch.
    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>>;
    /// The store's clock.
    fn now(&self) -> Millis;
    /// The same, if it is one that only tests move.
    fn manual_clock(&self) -> Option<Arc<ManualClock>> {
        None
    }
    /// Takes up to `limit` unfinished records that are due and that nobody holds, with at most about `bytes` of content in all.
    fn claim_due(&self, now: Millis, limit: usize, bytes: usize) -> BoxFuture<'_, Result<Claimed>>;
    /// Takes one record for driving whatever its due time; `None` if it is unknown. A record that is held already is returned as it is.
    fn claim(&self, gid: &Gid) -> BoxFuture<'_, Result<Option<Record>>>;
    /// Gives a claimed record back without a write: it is due again at the time it has in the store.
    fn unclaim(&self, gid: &Gid);
    /// Up to `limit` gids of unfinished records that are due later than `after`, and whether there are more.
    fn due_later(&self, after: Millis, limit: usize) -> BoxFuture<'_, Result<(Vec<Gid>, bool)>>;
    /// Up to `limit` gids of unfinished records that nobody holds and whose `index.failing_hosts` hold `host`: what is due again when a
    /// host recovers.
    fn failing(&self, host: &str, limit: usize) -> BoxFuture<'_, Result<Vec<Gid>>>;
    /// Records by gid from after `position`, at most `limit` and, but for the first, [`PAGE_BYTES`] of content.
    fn list(
        &self,
        filter: Filter,
        position: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Page>>;
    /// One value.
    fn kv_get(&self, cat: &str, key: &str) -> BoxFuture<'_, Result<Option<Kv>>>;
    /// Writes a value if its stored version is `base` (0: it must not exist). `false` if it is another one.
    fn kv_put(&self, cat: &str, key: &str, value: String, base: u64)
    -> BoxFuture<'_, Result<bool>>;
    /// Deletes a value; `false` if there was none.
    fn kv_delete(&self, cat: &str, key: &str) -> BoxFuture<'_, Result<bool>>;
    /// Values of a category (all if empty) in order, from after `position`.
    fn kv_list(
        &self,
        cat: &str,
        position: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<(Vec<Kv>, Option<String>)>>;
    /// Renews this node's lease and returns its epoch.
    fn heartbeat(&self) -> BoxFuture<'_, Result<u64>>;
    /// Gives up the lease: what this node still holds may be claimed by others.
    fn release(&self) -> BoxFuture<'_, Result<()>>;
    /// Removes records that ended before `before`, at most about `limit` at a time; returns how many (a store that drops whole buckets
    /// counts what it knows).
    fn purge_finished(&self, before: Millis, limit: usize) -> BoxFuture<'_, Result<u64>>;
    /// Whether a write would be taken now; writes and syncs something small if that is the only way to know.
    fn ping(&self) -> BoxFuture<'_, Result<()>>;
    /// What gauges show. Cheap.
    fn stats(&self) -> Stats;
    /// Resolves with the error when the store failed for good; the process must end then.
    fn fatal(&self) -> BoxFuture<'_, StoreError>;
}

/// The index of a record that ended has no due time, that of every other one has (architecture, rule 6).
pub fn index_is_sound(index: &Index) -> bool {
    index.status.is_final() == index.due.is_none()
}

impl Filter {
    fn matches(&self, index: &Index) -> bool {
        self.status.is_none_or(|status| status == index.status)
            && self
                .trans_type
                .is_none_or(|trans_type| trans_type == index.trans_type)
            && self.created_from.is_none_or(|from| from <= index.created)
            && self.created_to.is_none_or(|to| index.created <= to)
    }
}

/// The branch ids of rows that count (rules.md 5): rows of the root belong to the transaction itself.
fn branch_ids(keys: &[RowKey]) -> BTreeSet<&str> {
    let ids = keys.iter().map(|(branch_id, _)| branch_id.as_str());
    ids.filter(|id| *id != ROOT_BRANCH).collect()
}

/// The index with a registration in it, of whose branch ids `new` had no row; the answer if that is beyond a limit.
fn registered(index: Index, append: &Append, new: usize) -> std::result::Result<Index, Appended> {
    let new = u32::try_from(new).unwrap_or(u32::MAX);
    let branches = index.branches.saturating_add(new);
    // A further row of a branch that is there is no further branch, even where the limit was lowered since.
    if new > 0 && branches > append.branches_max {
        return Err(Appended::TooManyBranches);
    }
    let bytes = index.bytes.saturating_add(append.part.bytes.len() as u64);
    if bytes > append.bytes_max {
        return Err(Appended::TooLarge);
    }
    let moved = index.quiet.map(|quiet| append.part.created + quiet);
    Ok(Index {
        due: moved.or(index.due),
        branches,
        bytes,
        ..index
    })
}

/// What a record weighs against the byte bound of [`Store::claim_due`].
fn content_bytes(record: &Record) -> usize {
    record
        .parts
        .iter()
        .fold(record.state.len(), |sum, part| sum + part.bytes.len())
}

/// The position after a value in [`Store::kv_list`]: a category may hold any character, so its length stands first.
fn kv_position(cat: &str, key: &str) -> String {
    format!("{}:{cat}{key}", cat.len())
}

fn parse_kv_position(position: &str) -> Option<(&str, &str)> {
    let (length, rest) = position.split_once(':')?;
    rest.split_at_checked(length.parse().ok()?)
}

/// A mutex whose holder panicked is still used: every change under these locks is complete or the store has failed for good.
fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A store's error as a caller sees it (rules.md 2.1).
pub fn store_error(error: StoreError) -> amends::Error {
    let kind = match error {
        StoreError::Full(_) | StoreError::Unavailable(_) => amends::ErrorKind::Unavailable,
        StoreError::Fatal(_) => amends::ErrorKind::Internal,
    };
    amends::Error::new(kind, error.to_string())
}
