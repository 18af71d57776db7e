//! The one writer thread: takes what waits, checks and collects it as one batch, commits and syncs it, then wakes the callers.

use super::group::Group;
use super::queue::{Answer, Command, Queued};
use super::shared::Shared;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Who writes beside at least this many others may be kept waiting for more (rules.md 7.3).
const GATHER_FROM: usize = 8;
/// Longer pauses save no processor time worth having.
const GATHER_MAX: Duration = Duration::from_micros(500);

/// Runs until the queue is closed and empty, or the store failed.
pub(super) fn run(shared: &Arc<Shared>) {
    if catch_unwind(AssertUnwindSafe(|| write_groups(shared))).is_err() {
        shared.fail("the writer panicked");
    }
}

fn write_groups(shared: &Arc<Shared>) {
    let mut commands = Vec::new();
    let mut group = Group::new(shared.clone());
    while shared.queue.take(&mut commands) {
        let (count, mut took) = (commands.len(), Duration::ZERO);
        let mut waiting = commands.drain(..).peekable();
        if let Some(first) = waiting.peek() {
            shared.behind.prune(first.ticket);
        }
        while waiting.peek().is_some() {
            group.begin();
            // What a carry copies must have been committed before it.
            let alone = matches!(
                waiting.peek(),
                Some(Queued {
                    command: Command::Carry { .. },
                    ..
                })
            );
            let together =
                |queued: &Queued| !alone && !matches!(queued.command, Command::Carry { .. });
            let first = waiting.next();
            let rest = std::iter::from_fn(|| waiting.next_if(together));
            for queued in first.into_iter().chain(rest) {
                if let Err(error) = group.add(queued) {
                    // The group's answers are dropped with it, and those of what waits with the queue.
                    shared.note(error);
                    return;
                }
            }
            let began = Instant::now();
            if !commit(shared, &mut group) {
                return;
            }
            took = began.elapsed();
        }
        if let Some(pause) = pause(count, took) {
            std::thread::sleep(pause);
        }
    }
}

/// How long to gather after a group of `count` writes whose sync took this long: half the syncs, each of which costs the processor as
/// much as a saga does.
fn pause(count: usize, took: Duration) -> Option<Duration> {
    (count >= GATHER_FROM).then(|| took.min(GATHER_MAX))
}

/// Commits a group and wakes its callers; `false` if the store failed.
fn commit(shared: &Arc<Shared>, group: &mut Group) -> bool {
    let prepared = group.prepare();
    if !prepared.batch.is_empty() {
        // The batch is written and synced before readers can see it: nobody acts on what a power cut could take back.
        if let Err(error) = prepared.batch.commit() {
            shared.fail(format!("a write could not be made durable: {error}"));
            return false;
        }
        shared.syncs.fetch_add(1, Ordering::Relaxed);
        shared
            .bytes_written
            .fetch_add(prepared.bytes, Ordering::Relaxed);
        shared.synced_at.store(shared.now(), Ordering::Relaxed);
        shared.with_index(|index| {
            for write in &prepared.written {
                index.put(&write.gid, &write.index, write.holding, write.place);
            }
        });
    }
    prepared.answers.into_iter().for_each(Answer::send);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gathers_for_one_sync_time_and_only_while_many_write() {
        let sync = Duration::from_micros(200);
        assert_eq!(pause(1, sync), None);
        assert_eq!(pause(7, sync), None);
        assert_eq!(pause(8, sync), Some(sync));
        assert_eq!(pause(4_096, Duration::from_millis(20)), Some(GATHER_MAX));
    }
}
