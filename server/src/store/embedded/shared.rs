//! What callers, the writer and the keeper of an embedded store share.

use super::super::due::DueIndex;
use super::super::memory::Clock;
use super::super::{Result, StoreError, locked};
use super::buckets::{Bucket, Buckets};
use super::lock::FolderLock;
use super::queue::{Behind, Command, Done, Queue};
use amends::Millis;
use fjall::{Database, Keyspace};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{oneshot, watch};

/// Where an unfinished record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) version: u64,
    pub(super) bucket: u32,
    pub(super) parts: u32,
}

/// What resolves with the answer of a write.
pub(super) trait Answered<T>: Future<Output = Result<T>> + Send + 'static {}
impl<T, F: Future<Output = Result<T>> + Send + 'static> Answered<T> for F {}

pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) clock: Clock,
    pub(super) db: Database,
    /// States of unfinished records.
    pub(super) live: Keyspace,
    pub(super) kv: Keyspace,
    /// Format, and the value a ping writes.
    pub(super) meta: Keyspace,
    pub(super) buckets: Buckets,
    pub(super) index: Mutex<DueIndex<Place>>,
    pub(super) queue: Arc<Queue>,
    pub(super) behind: Arc<Behind>,
    /// Below this much free space no write is taken. Bytes.
    pub(super) reserve: u64,
    pub(super) full: AtomicBool,
    fatal: watch::Sender<Option<StoreError>>,
    pub(super) syncs: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    /// When the last commit was synced, by the clock.
    pub(super) synced_at: AtomicI64,
    /// Purges one at a time.
    pub(super) purging: Mutex<()>,
    /// Given up last, when the data is closed.
    pub(super) _lock: FolderLock,
}

impl Shared {
    pub(super) fn now(&self) -> Millis {
        (self.clock)()
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the one place where an opened folder becomes a store"
    )]
    pub(super) fn new(
        path: PathBuf,
        clock: Clock,
        reserve: u64,
        db: Database,
        keyspaces: [Keyspace; 3],
        buckets: Buckets,
        index: DueIndex<Place>,
        lock: FolderLock,
    ) -> Shared {
        let [live, kv, meta] = keyspaces;
        let queue = Arc::new(Queue::new());
        let behind = Arc::new(Behind::new(queue.clone()));
        Shared {
            path,
            clock,
            db,
            live,
            kv,
            meta,
            buckets,
            index: Mutex::new(index),
            queue,
            behind,
            reserve,
            full: AtomicBool::new(false),
            fatal: watch::Sender::new(None),
            syncs: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            synced_at: AtomicI64::new(Millis::MIN),
            purging: Mutex::new(()),
            _lock: lock,
        }
    }

    /// [`Shared::fail`] for an error that says so itself; others pass.
    pub(super) fn note(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Fatal(what) => self.fail(what),
            other => other,
        }
    }

    /// The store failed for good: everybody who waits learns it, and nothing more is written (rules.md 7.1).
    pub(super) fn fail(&self, what: impl std::fmt::Display) -> StoreError {
        let error = StoreError::Fatal(format!("{what} (data folder {})", self.path.display()));
        self.fatal.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                tracing::error!(%error, "the store failed; the process must end");
                *first = Some(error.clone());
            }
            is_first
        });
        self.queue.abandon();
        error
    }

    /// The error of a store that failed, or of one that was closed.
    pub(super) fn lost(&self) -> StoreError {
        let closed = || StoreError::Unavailable("the store is closed".to_owned());
        self.fatal.borrow().clone().unwrap_or_else(closed)
    }

    pub(super) async fn failed(&self) -> StoreError {
        let mut fatal = self.fatal.subscribe();
        let failed = fatal
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|error| error.clone());
        failed.unwrap_or_else(|| self.lost())
    }

    /// Whether the store has not failed.
    pub(super) fn check_alive(&self) -> Result<()> {
        self.fatal.borrow().clone().map_or(Ok(()), Err)
    }

    /// Refuses writes while the disk is full.
    pub(super) fn check_room(&self) -> Result<()> {
        if !self.full.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (path, reserve) = (self.path.display(), self.reserve >> 20);
        Err(StoreError::Full(format!(
            "less than {reserve} MiB are free where {path} is: free some space, then writes resume by themselves"
        )))
    }

    /// Queues a write now, and returns what resolves with its answer.
    pub(super) fn queue<T, C>(self: &Arc<Self>, command: C) -> impl Answered<T> + use<T, C>
    where
        T: Send + 'static,
        C: FnOnce(Done<T>) -> Command,
    {
        let queued = self.check_room().map(|()| self.queue_anyway(command));
        async move {
            match queued {
                Ok(answer) => answer.await,
                Err(full) => Err(full),
            }
        }
    }

    /// [`Shared::queue`] for what makes room.
    pub(super) fn queue_anyway<T, C>(self: &Arc<Self>, command: C) -> impl Answered<T> + use<T, C>
    where
        T: Send + 'static,
        C: FnOnce(Done<T>) -> Command,
    {
        let (done, receiver) = oneshot::channel();
        // A closed queue drops the sender, which is how the receiver learns of it.
        self.queue.push(command(done));
        let shared = self.clone();
        async move { receiver.await.unwrap_or_else(|_| Err(shared.lost())) }
    }

    pub(super) fn with_index<T>(&self, read: impl FnOnce(&mut DueIndex<Place>) -> T) -> T {
        read(&mut locked(&self.index))
    }

    pub(super) fn bucket_list(&self) -> Arc<[Bucket]> {
        self.buckets.list()
    }
}
