//! What the store tests share: a manual clock, stores in throw-away folders, and short ways to write records.

#![allow(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "each test file uses a part of it"
)]

use amends::coordinator::record::{Index, Part, RowKey, Save};
use amends::{Gid, Millis, Status, TransType};
use amends_server::store::embedded::{EmbeddedOptions, EmbeddedStore};
use amends_server::store::memory::{Clock, MemoryStore};
use amends_server::store::{Append, Created, Store};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The time at which every test begins.
pub(crate) const BEGIN: Millis = 1_800_000_000_000;
/// How long the stores under test keep what ended.
pub(crate) const EXPIRE: Millis = 80_000;

/// A clock that moves when told to.
#[derive(Clone)]
pub(crate) struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    pub(crate) fn new() -> Self {
        ManualClock(Arc::new(AtomicI64::new(BEGIN)))
    }

    pub(crate) fn now(&self) -> Millis {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn advance(&self, by: Millis) {
        self.0.fetch_add(by, Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let time = self.0.clone();
        Arc::new(move || time.load(Ordering::SeqCst))
    }
}

/// A store under test.
pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: ManualClock,
    // Dropped after the store.
    _folder: Option<tempfile::TempDir>,
}

pub(crate) fn memory() -> Fixture {
    let clock = ManualClock::new();
    Fixture {
        store: Arc::new(MemoryStore::new(clock.clock())),
        clock,
        _folder: None,
    }
}

pub(crate) fn embedded() -> Fixture {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    Fixture {
        store: Arc::new(open(folder.path(), &clock)),
        clock,
        _folder: Some(folder),
    }
}

pub(crate) fn options(path: &Path, clock: &ManualClock) -> EmbeddedOptions {
    EmbeddedOptions {
        path: path.to_owned(),
        data_expire_ms: EXPIRE,
        reserve_bytes: 0,
        clock: clock.clock(),
    }
}

pub(crate) fn open(path: &Path, clock: &ManualClock) -> EmbeddedStore {
    EmbeddedStore::open(options(path, clock)).expect("the store opens")
}

pub(crate) fn gid(text: &str) -> Gid {
    Gid::stored(text)
}

/// The index of an unfinished saga that waits for `due`.
pub(crate) fn waiting(due: Millis) -> Index {
    Index {
        status: Status::Submitted,
        trans_type: TransType::Saga,
        due: Some(due),
        quiet: None,
        created: BEGIN,
        finished: None,
        attempts: 0,
        failing_hosts: Vec::new(),
        attention: false,
        branches: 0,
        bytes: 0,
        driven: false,
    }
}

/// The index of an unfinished saga that its writer drives.
pub(crate) fn driven(due: Millis) -> Index {
    Index {
        driven: true,
        ..waiting(due)
    }
}

/// The index of a saga that ended.
pub(crate) fn ended(at: Millis) -> Index {
    Index {
        status: Status::Succeed,
        due: None,
        finished: Some(at),
        ..waiting(at)
    }
}

pub(crate) fn save(base: u64, index: Index, state: &str) -> Save {
    Save {
        base,
        index,
        state: Bytes::copy_from_slice(state.as_bytes()),
        parts: Vec::new(),
    }
}

/// The same with parts, counted.
pub(crate) fn with_parts(mut save: Save, parts: Vec<Part>) -> Save {
    save.index.bytes += parts
        .iter()
        .map(|part| part.bytes.len() as u64)
        .sum::<u64>();
    save.parts = parts;
    save
}

pub(crate) fn row(branch_id: &str, op: &str) -> RowKey {
    (branch_id.to_owned(), op.to_owned())
}

pub(crate) fn part(keys: &[RowKey], content: &str) -> Part {
    Part {
        keys: keys.to_vec(),
        created: BEGIN,
        bytes: Bytes::copy_from_slice(content.as_bytes()),
    }
}

/// A prepared TCC, to which branches are registered.
pub(crate) fn prepared(due: Millis) -> Index {
    Index {
        status: Status::Prepared,
        trans_type: TransType::Tcc,
        ..waiting(due)
    }
}

pub(crate) fn register(to: &Gid, branch_id: &str, content: &str) -> Append {
    Append {
        gid: to.clone(),
        required: (TransType::Tcc, Status::Prepared),
        forbidden: None,
        part: part(
            &[row(branch_id, "confirm"), row(branch_id, "cancel")],
            content,
        ),
        branches_max: u32::MAX,
        bytes_max: u64::MAX,
    }
}

/// Creates a record that must be new.
pub(crate) async fn create(store: &dyn Store, name: &str, index: Index) {
    assert_eq!(
        store
            .create(gid(name), save(0, index, "{}"))
            .await
            .expect("create"),
        Created::New,
        "{name}"
    );
}

/// The gids of what is due now, claimed.
pub(crate) async fn claimed(f: &Fixture, limit: usize) -> Vec<String> {
    let claimed = f
        .store
        .claim_due(f.clock.now(), limit, usize::MAX)
        .await
        .expect("claim");
    claimed
        .records
        .iter()
        .map(|record| record.gid.as_str().to_owned())
        .collect()
}

/// Runs each test against each store.
macro_rules! conformance {
    ($($test:ident),+ $(,)?) => {
        mod memory_store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::store_support::memory()).await;
            })+
        }
        mod embedded_store {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::store_support::embedded()).await;
            })+
        }
    };
}
pub(crate) use conformance;
