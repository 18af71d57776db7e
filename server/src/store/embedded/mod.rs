//! The embedded store: fjall behind one group-commit writer thread, with the due times of unfinished records in memory (rules.md 7).
//!
//! Read on in this order: `codec` (what is stored), `shared` (what there is at run time), `queue`, `group` and `writer` (how a write
//! becomes durable), `read`, `buckets` and `retention` (how old records go), `open` and `journal` (how a folder is opened and repaired),
//! `ahead` (room in the journal), `keeper` and `memtables` (room on the disk, and memory that is freed), `check`.

mod ahead;
mod buckets;
mod check;
mod codec;
mod group;
mod journal;
mod keeper;
mod lock;
mod memtables;
mod open;
mod queue;
mod read;
mod retention;
mod shared;
mod writer;

pub use check::{Report, check};

use super::memory::Clock;
use super::{
    Append, Appended, Claimed, Created, Filter, Kv, Page, Result, Saved, Stats, Store, StoreError,
    locked,
};
use amends::coordinator::record::{Record, Save};
use amends::{Gid, Millis};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use queue::{Command, CreateAnswer, SaveAnswer};
use shared::Shared;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};

/// What the free space of the data folder is kept above, unless configured otherwise. Bytes.
pub const DEFAULT_RESERVE_BYTES: u64 = 256 << 20;

/// How to open an [`EmbeddedStore`].
pub struct EmbeddedOptions {
    /// The data folder; created if it is not there.
    pub path: PathBuf,
    /// How long finished transactions are kept. Milliseconds.
    pub data_expire_ms: Millis,
    /// With less free space than this, writes answer [`StoreError::Full`]. Bytes.
    pub reserve_bytes: u64,
    /// The store's clock.
    pub clock: Clock,
}

/// Why a data folder cannot be opened. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the data folder {} is in use by process {pid}: stop that process, or choose another folder", path.display())]
    Held {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        pid: String,
    },
    /// It holds other files.
    #[error("{} is not an Amends data folder (it holds {found:?}): choose an empty folder", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// A file in it.
        found: String,
    },
    /// There is nothing to look at.
    #[error("{} holds no Amends data: it has no file named `format`", .0.display())]
    NoData(PathBuf),
    /// Another version wrote it.
    #[error("the data folder {} has the format {found:?}, which this build does not read: use the version that wrote it", path.display())]
    Format {
        /// The folder.
        path: PathBuf,
        /// Its format line.
        found: String,
    },
    /// It cannot be trusted.
    #[error("the data folder {} is damaged: {detail}. Run `amends check` on it, or restore it from a backup", path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// It is a file.
    #[error("{} is a file, not a folder: choose a folder, or a name that is free", .0.display())]
    NotAFolder(PathBuf),
    /// It is not there and cannot be made.
    #[error("cannot create the data folder {}: {source}", path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl OpenError {
    fn io(path: &Path, source: std::io::Error) -> OpenError {
        OpenError::Io {
            path: path.to_owned(),
            source,
        }
    }

    fn damaged(path: &Path, detail: impl Into<String>) -> OpenError {
        OpenError::Damaged {
            path: path.to_owned(),
            detail: detail.into(),
        }
    }

    fn fjall(path: &Path, error: &fjall::Error) -> OpenError {
        let detail = match error {
            fjall::Error::Io(error) => error.to_string(),
            fjall::Error::Storage(error) => {
                let cause = format!("{error:?}");
                let what = match cause.split([' ', '(', '{']).next() {
                    Some("ChecksumMismatch") => "a checksum does not match",
                    Some("Unrecoverable") => "one is missing or unreadable",
                    _ => "one cannot be read",
                };
                format!("its tables in fjall/keyspaces: {what} ({cause})")
            }
            fjall::Error::JournalRecovery(error) => format!("its log, fjall/*.jnl: {error:?}"),
            fjall::Error::InvalidVersion(_) => {
                "the file fjall/version is not one that this build reads".to_owned()
            }
            fjall::Error::Locked => "something else has it open".to_owned(),
            other => format!("{other:?}"),
        };
        OpenError::damaged(path, detail)
    }
}

/// The default store: a folder of this machine, held by one process.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    threads: Mutex<Threads>,
}

struct Threads {
    running: Vec<JoinHandle<()>>,
    /// Dropped to stop the keeper.
    stop_keeper: Option<mpsc::Sender<()>>,
}

impl EmbeddedStore {
    /// Opens a data folder or creates it. A torn tail of the log is repaired; what is unfinished in it is due as it says, or at once if
    /// a driver held it.
    ///
    /// Where several calls of a tokio runtime are answered at a time, a task of that runtime does it, which must be running then.
    pub fn open(options: EmbeddedOptions) -> std::result::Result<EmbeddedStore, OpenError> {
        let path = options.path.clone();
        let shared = Arc::new(open::open(options)?);
        keeper::look_for_room(&shared);
        let (stop_keeper, stop) = mpsc::channel();
        let (for_writer, for_keeper) = (shared.clone(), shared.clone());
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(run)
        };
        let writer = spawn("store-writer", Box::new(move || writer::run(&for_writer)))
            .map_err(|source| OpenError::io(&path, source))?;
        let keeper = spawn(
            "store-keeper",
            Box::new(move || keeper::run(&for_keeper, &stop)),
        )
        .map_err(|source| OpenError::io(&path, source))?;
        let threads = Threads {
            running: vec![writer, keeper],
            stop_keeper: Some(stop_keeper),
        };
        Ok(EmbeddedStore {
            shared,
            threads: Mutex::new(threads),
        })
    }

    /// Writes what waits and ends the store's threads; later writes answer [`StoreError::Unavailable`]. Dropping does the same.
    pub fn close(&self) {
        self.shared.queue.close();
        let mut threads = locked(&self.threads);
        threads.stop_keeper = None;
        for thread in threads.running.drain(..) {
            // A panic of the writer has been reported as fatal.
            let _ = thread.join();
        }
    }

    /// A failed read means a broken disk or damaged data: nothing can be trusted after it.
    fn noted<T>(shared: &Shared, result: Result<T>) -> Result<T> {
        result.map_err(|error| shared.note(error))
    }

    /// Runs what reads many records on a thread that may block.
    fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Arc<Shared>) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T>> {
        let shared = self.shared.clone();
        async move {
            let on = shared.clone();
            let result = tokio::task::spawn_blocking(move || read(&on)).await;
            let result = result.unwrap_or_else(|failed| match failed.is_panic() {
                true => Err(StoreError::Fatal(format!("a read panicked: {failed}"))),
                false => Err(StoreError::Unavailable(
                    "the runtime is shutting down".to_owned(),
                )),
            });
            Self::noted(&shared, result)
        }
        .boxed()
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for EmbeddedStore {
    fn create(&self, gid: Gid, save: Save) -> BoxFuture<'_, Result<Created>> {
        let first = self.shared.queue(|done| Command::Create {
            gid: gid.clone(),
            save,
            done,
        });
        async move {
            let mut answer = first.await?;
            while let CreateAnswer::Exists(save) = answer {
                if let Some(record) = self.load(&gid).await? {
                    return Ok(Created::Exists(Box::new(record)));
                }
                // Retention removed it between our two looks.
                answer = self
                    .shared
                    .queue(|done| Command::Create {
                        gid: gid.clone(),
                        save: *save,
                        done,
                    })
                    .await?;
            }
            Ok(Created::New)
        }
        .boxed()
    }

    fn load(&self, gid: &Gid) -> BoxFuture<'_, Result<Option<Record>>> {
        // One record is a few lookups, mostly in memory: cheaper here than on another thread.
        let gid = gid.clone();
        async move { Self::noted(&self.shared, read::load(&self.shared, &gid)) }.boxed()
    }

    fn save(&self, gid: Gid, save: Save) -> BoxFuture<'_, Result<Saved>> {
        self.shared
            .queue(|done| Command::Save { gid, save, done })
            .map(|answer| answer.map(SaveAnswer::seen))
            .boxed()
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>> {
        self.shared
            .queue(|done| Command::Append { append, done })
            .boxed()
    }

    fn now(&self) -> Millis {
        self.shared.now()
    }

    fn claim_due(&self, now: Millis, limit: usize, bytes: usize) -> BoxFuture<'_, Result<Claimed>> {
        self.blocking(move |shared| read::claim_due(shared, now, limit, bytes))
            .map(|claims| claims.map(read::Claims::take))
            .boxed()
    }

    fn claim(&self, gid: &Gid) -> BoxFuture<'_, Result<Option<Record>>> {
        let gid = gid.clone();
        async move {
            let exact = self.shared.with_index(|index| index.claim(&gid));
            let record = Self::noted(&self.shared, read::load(&self.shared, &gid))?;
            Ok(record.map(|record| Record { exact, ..record }))
        }
        .boxed()
    }

    fn unclaim(&self, gid: &Gid) {
        self.shared.with_index(|index| index.unclaim(gid));
    }

    fn due_later(&self, after: Millis, limit: usize) -> BoxFuture<'_, Result<(Vec<Gid>, bool)>> {
        async move {
            Ok(self
                .shared
                .with_index(|index| index.due_later(after, limit)))
        }
        .boxed()
    }

    fn failing(&self, host: &str, limit: usize) -> BoxFuture<'_, Result<Vec<Gid>>> {
        let host = host.to_owned();
        async move { Ok(self.shared.with_index(|index| index.failing(&host, limit))) }.boxed()
    }

    fn list(
        &self,
        filter: Filter,
        position: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Page>> {
        self.blocking(move |shared| read::list(shared, &filter, position.as_deref(), limit))
    }

    fn kv_get(&self, cat: &str, key: &str) -> BoxFuture<'_, Result<Option<Kv>>> {
        let (cat, key) = (cat.to_owned(), key.to_owned());
        async move { Self::noted(&self.shared, read::kv_get(&self.shared, &cat, &key)) }.boxed()
    }

    fn kv_put(
        &self,
        cat: &str,
        key: &str,
        value: String,
        base: u64,
    ) -> BoxFuture<'_, Result<bool>> {
        let (cat, key) = (cat.to_owned(), key.to_owned());
        self.shared
            .queue(move |done| Command::KvPut {
                cat,
                key,
                value,
                base,
                done,
            })
            .boxed()
    }

    fn kv_delete(&self, cat: &str, key: &str) -> BoxFuture<'_, Result<bool>> {
        let (cat, key) = (cat.to_owned(), key.to_owned());
        self.shared
            .queue(|done| Command::KvDelete { cat, key, done })
            .boxed()
    }

    fn kv_list(
        &self,
        cat: &str,
        position: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<(Vec<Kv>, Option<String>)>> {
        let cat = cat.to_owned();
        self.blocking(move |shared| read::kv_list(shared, &cat, position.as_deref(), limit))
    }

    fn heartbeat(&self) -> BoxFuture<'_, Result<u64>> {
        // One process holds the folder, so there is one epoch for its life.
        async move { Ok(1) }.boxed()
    }

    fn release(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            self.shared.with_index(|index| index.release());
            Ok(())
        }
        .boxed()
    }

    /// One bucket per call whatever `limit`; a bucket is dropped whole.
    fn purge_finished(&self, before: Millis, _limit: usize) -> BoxFuture<'_, Result<u64>> {
        self.blocking(move |shared| retention::purge(shared, before))
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        const FRESH: Millis = 1_000;
        let room = self
            .shared
            .check_alive()
            .and_then(|()| self.shared.check_room());
        let age = self
            .now()
            .saturating_sub(self.shared.synced_at.load(Ordering::Relaxed));
        if room.is_err() || (0..FRESH).contains(&age) {
            return async move { room }.boxed();
        }
        self.shared.queue(|done| Command::Ping { done }).boxed()
    }

    fn stats(&self) -> Stats {
        Stats {
            syncs: self.shared.syncs.load(Ordering::Relaxed),
            bytes_written: self.shared.bytes_written.load(Ordering::Relaxed),
            ..self.shared.with_index(|index| index.stats())
        }
    }

    fn fatal(&self) -> BoxFuture<'_, StoreError> {
        async move { self.shared.failed().await }.boxed()
    }
}
