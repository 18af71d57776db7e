//! The one writer thread: takes what waits, checks and collects it as one batch, commits and syncs it, then wakes the callers.

use super::ahead::Ahead;
use super::group::Group;
use super::open::DATA;
use super::queue::{Answer, Command, Queued};
use super::shared::Shared;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Writes of a group that make it a large one: who is among so many may be kept waiting for more (rules.md 7.3).
const MANY: usize = 8;
/// Answers in one runtime that are given more cheaply by a task there.
const SEVERAL: usize = 4;
/// Longer pauses save no processor time worth having.
const GATHER_MAX: Duration = Duration::from_micros(500);

/// How much less urgent the writer is than those that fill its queue. Where processors are scarce, what it waits for then joins its
/// group, and it interrupts nobody in the middle of a transaction.
const NICE: i32 = 3;

/// Runs until the queue is closed and empty, or the store failed.
pub(super) fn run(shared: &Arc<Shared>) {
    // Only Linux means the thread by it, not the process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "the store's writer runs at the usual priority");
    }
    let mut writer = Writer {
        group: Group::new(shared.clone()),
        ahead: Ahead::new(&shared.path.join(DATA)),
        shared,
    };
    if catch_unwind(AssertUnwindSafe(|| writer.write_groups())).is_err() {
        shared.fail("the writer panicked");
    }
}

/// Answers that are given when they are dropped.
struct Answers(Vec<Answer>);

impl Drop for Answers {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Answer::send);
    }
}

struct Writer<'s> {
    shared: &'s Arc<Shared>,
    group: Group,
    ahead: Ahead,
}

impl Writer<'_> {
    fn write_groups(&mut self) {
        let shared = self.shared;
        let mut commands = Vec::new();
        while shared.queue.take(&mut commands) {
            let (count, mut took) = (commands.len(), Duration::ZERO);
            let mut waiting = commands.drain(..).peekable();
            if let Some(first) = waiting.peek() {
                shared.behind.prune(first.ticket);
            }
            while waiting.peek().is_some() {
                self.group.begin();
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
                    if let Err(error) = self.group.add(queued) {
                        // The group's answers are dropped with it, and those of what waits with the queue.
                        shared.note(error);
                        return;
                    }
                }
                let began = Instant::now();
                let Some(bytes) = self.commit() else {
                    return;
                };
                took = began.elapsed();
                self.ahead.appended(bytes);
            }
            if let Some((count, most)) = gather(count, took) {
                shared.queue.gather(count, most);
            }
        }
    }

    /// Commits a group, wakes its callers and says how many bytes it had; `None` if the store failed.
    fn commit(&mut self) -> Option<u64> {
        let shared = self.shared;
        let prepared = self.group.prepare();
        if !prepared.batch.is_empty() {
            // The batch is written and synced before readers can see it: nobody acts on what a power cut could take back.
            if let Err(error) = prepared.batch.commit() {
                shared.fail(format!("a write could not be made durable: {error}"));
                return None;
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
        answer(prepared.answers);
        Some(prepared.bytes)
    }
}

/// Answers the callers. Each answer wakes a task, which from another thread means a lock and perhaps a system call: where several wait
/// in one runtime, a task there gives them.
fn answer(answers: Vec<(Option<Handle>, Answer)>) {
    let mut runtimes: Vec<(Handle, Answers)> = Vec::new();
    for (runtime, answer) in answers {
        let Some(runtime) = runtime else {
            answer.send();
            continue;
        };
        match runtimes
            .iter_mut()
            .find(|(known, _)| known.id() == runtime.id())
        {
            Some((_, answers)) => answers.0.push(answer),
            None => runtimes.push((runtime, Answers(vec![answer]))),
        }
    }
    for (runtime, answers) in runtimes {
        // Fewer are given here, by being dropped; so are those whose task is dropped because its runtime ends.
        if answers.0.len() >= SEVERAL {
            runtime.spawn(async move { drop(answers) });
        }
    }
}

/// How many writes to wait for, and how long at most, after a group of `count` that took this long: a sync costs the processor as much
/// as a saga does. Half of them are there soon, while the other half is being worked on; who waits for more waits for idle callers.
fn gather(count: usize, took: Duration) -> Option<(usize, Duration)> {
    (count >= MANY).then(|| (count / 2, took.min(GATHER_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gathers_for_one_sync_time_and_only_while_many_write() {
        let sync = Duration::from_micros(200);
        assert_eq!(gather(1, sync), None);
        assert_eq!(gather(7, sync), None);
        assert_eq!(gather(8, sync), Some((4, sync)));
        let long = Duration::from_millis(20);
        assert_eq!(gather(4_096, long), Some((2_048, GATHER_MAX)));
    }
}
