//! A thread that looks after the store: about once a second how much room the disk has, and that the next bucket is there in time; more
//! often for memory to free.

use super::memtables;
use super::shared::Shared;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// Shorter than a memtable is written to, so that each is held before fjall lets go of it.
const TICK: Duration = Duration::from_millis(200);
/// Ticks between two looks at the disk.
const EVERY: u32 = 5;

/// Runs until the other end of `stop` is gone, or the store failed.
pub(super) fn run(shared: &Shared, stop: &Receiver<()>) {
    if catch_unwind(AssertUnwindSafe(|| keep(shared, stop))).is_err() {
        shared.fail("the keeper panicked");
    }
}

fn keep(shared: &Shared, stop: &Receiver<()>) {
    let (mut memtables, mut ticks) = (Vec::new(), 0);
    while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        memtables::hold(&mut memtables, memtables::active(shared));
        ticks = (ticks + 1) % EVERY;
        if ticks > 0 {
            continue;
        }
        look_for_room(shared);
        if shared.full.load(Ordering::Relaxed) {
            // Nothing is written, so no bucket is needed, and creating one could fail.
            continue;
        }
        if let Err(error) = shared.buckets.ensure(shared.now()) {
            shared.fail(format!("a bucket could not be created: {error}"));
            return;
        }
    }
}

/// Notes whether the disk has room for writes.
pub(super) fn look_for_room(shared: &Shared) {
    let full = is_full(&shared.path, shared.reserve);
    if shared.full.swap(full, Ordering::Relaxed) != full {
        let reserve_mib = shared.reserve >> 20;
        if full {
            tracing::error!(
                reserve_mib,
                "disk_full: writes are refused until there is room again"
            );
        } else {
            tracing::info!(reserve_mib, "there is room again: writes are taken");
        }
    }
}

/// Whether less than `reserve` bytes are free where `path` is.
pub(super) fn is_full(path: &Path, reserve: u64) -> bool {
    match free_bytes(path) {
        Ok(free) => free < reserve,
        Err(error) => {
            tracing::warn!(%error, "cannot tell how much space is free; writes go on");
            false
        }
    }
}

fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::super::{DEFAULT_RESERVE_BYTES, EmbeddedOptions, EmbeddedStore};
    use fjall::AbstractTree;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    #[test]
    fn it_holds_what_is_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = EmbeddedStore::open(EmbeddedOptions {
            path: folder.path().join("data"),
            data_expire_ms: 60_000,
            reserve_bytes: DEFAULT_RESERVE_BYTES,
            clock: Arc::new(|| 0),
        })
        .expect("opened");
        let shared = store.shared.clone();
        let bucket = shared.bucket_list()[0].keyspace.clone();
        for keyspace in [&shared.live, &shared.kv, &shared.meta, &bucket] {
            let memtable = keyspace.tree.active_memtable();
            let deadline = Instant::now() + Duration::from_secs(60);
            // fjall, this test, and the keeper.
            while Arc::strong_count(&memtable) < 3 {
                assert!(Instant::now() < deadline, "{} is not held", keyspace.name());
                std::thread::yield_now();
            }
        }
    }
}
