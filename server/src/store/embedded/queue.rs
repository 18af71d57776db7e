//! What waits for the writer: a queue in the order of the calls, and the saves that follow a conflict nobody has seen yet.

use super::super::{Append, Appended, Result, Saved, locked};
use amends::Gid;
use amends::coordinator::record::Save;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Where an answer goes.
pub(super) type Done<T> = oneshot::Sender<Result<T>>;

/// Answer of a save; a conflict keeps what was queued behind it from being written until the caller has seen it.
pub(super) enum SaveAnswer {
    Done,
    Conflict(Unseen),
}

impl SaveAnswer {
    /// Tells the caller; from here on a conflict counts as seen.
    pub(super) fn seen(self) -> Saved {
        match self {
            SaveAnswer::Done => Saved::Done,
            SaveAnswer::Conflict(unseen) => {
                drop(unseen);
                Saved::Conflict
            }
        }
    }
}

/// Answer of a create; who finds the gid taken reads the record by itself, and has what it wanted to store back.
pub(super) enum CreateAnswer {
    New,
    Exists(Box<Save>),
}

/// An answer to give when the group is durable.
pub(super) enum Answer {
    Create(Done<CreateAnswer>, CreateAnswer),
    Save(Done<SaveAnswer>, SaveAnswer),
    Append(Done<Appended>, Appended),
    Flag(Done<bool>, bool),
    Unit(Done<()>),
}

impl Answer {
    /// A caller that is gone does not mind.
    pub(super) fn send(self) {
        match self {
            Answer::Create(done, answer) => drop(done.send(Ok(answer))),
            Answer::Save(done, answer) => drop(done.send(Ok(answer))),
            Answer::Append(done, answer) => drop(done.send(Ok(answer))),
            Answer::Flag(done, answer) => drop(done.send(Ok(answer))),
            Answer::Unit(done) => drop(done.send(Ok(()))),
        }
    }
}

/// One write.
pub(super) enum Command {
    Create {
        gid: Gid,
        save: Save,
        done: Done<CreateAnswer>,
    },
    Save {
        gid: Gid,
        save: Save,
        done: Done<SaveAnswer>,
    },
    Append {
        append: Append,
        done: Done<Appended>,
    },
    KvPut {
        cat: String,
        key: String,
        value: String,
        base: u64,
        done: Done<bool>,
    },
    KvDelete {
        cat: String,
        key: String,
        done: Done<bool>,
    },
    Ping {
        done: Done<()>,
    },
    /// Copies records from one bucket to another.
    Carry {
        gids: Vec<Gid>,
        from: u32,
        to: u32,
        done: Done<()>,
    },
}

impl Command {
    /// About how many bytes it writes.
    fn size(&self) -> usize {
        let save_size = |save: &Save| {
            save.parts
                .iter()
                .fold(save.state.len(), |sum, part| sum + part.bytes.len())
        };
        match self {
            Command::Create { save, .. } | Command::Save { save, .. } => save_size(save),
            Command::Append { append, .. } => append.part.bytes.len(),
            Command::KvPut { value, .. } => value.len(),
            Command::KvDelete { .. } | Command::Ping { .. } | Command::Carry { .. } => 0,
        }
    }
}

/// A command with its place in the order of all calls.
pub(super) struct Queued {
    pub(super) ticket: u64,
    /// Where its caller waits, if it is in a runtime.
    pub(super) runtime: Option<Handle>,
    pub(super) command: Command,
}

/// A group holds at most about this much, so that one commit does not take too long.
const GROUP_BYTES: usize = 32 << 20;
const GROUP_COMMANDS: usize = 4_096;

/// The queue between callers and the writer thread.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    next_ticket: AtomicU64,
}

struct State {
    waiting: VecDeque<Queued>,
    /// The writer sleeps until this many wait; 0 while it is awake.
    wanted: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new() -> Queue {
        let state = State {
            waiting: VecDeque::new(),
            wanted: 0,
            closed: false,
        };
        Queue {
            state: Mutex::new(state),
            changed: Condvar::new(),
            next_ticket: AtomicU64::new(0),
        }
    }

    /// Puts a command at the end; `false` if the store is closed.
    pub(super) fn push(&self, command: Command) -> bool {
        let runtime = Handle::try_current().ok();
        let mut state = locked(&self.state);
        if state.closed {
            return false;
        }
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        state.waiting.push_back(Queued {
            ticket,
            runtime,
            command,
        });
        if state.wanted > 0 && state.waiting.len() >= state.wanted {
            state.wanted = 0;
            self.changed.notify_one();
        }
        true
    }

    /// Sleeps until this many wait or the queue is closed, at most this long.
    pub(super) fn gather(&self, count: usize, most: Duration) {
        let mut state = locked(&self.state);
        if state.waiting.len() < count && !state.closed {
            state.wanted = count;
            let asleep = |state: &mut State| state.wanted > 0 && !state.closed;
            let waited = self.changed.wait_timeout_while(state, most, asleep);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.wanted = 0;
        }
    }

    /// Takes what waits as the next group, once there is something; `false` when the queue is closed and empty.
    pub(super) fn take(&self, group: &mut Vec<Queued>) -> bool {
        let mut state = locked(&self.state);
        while state.waiting.is_empty() {
            if state.closed {
                return false;
            }
            state.wanted = 1;
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.wanted = 0;
        let mut bytes = 0;
        while bytes < GROUP_BYTES && group.len() < GROUP_COMMANDS {
            let Some(queued) = state.waiting.pop_front() else {
                break;
            };
            bytes += queued.command.size();
            group.push(queued);
        }
        true
    }

    /// Refuses further commands; the writer ends when it has done those that wait.
    pub(super) fn close(&self) {
        locked(&self.state).closed = true;
        self.changed.notify_one();
    }

    /// Drops what waits: the callers learn that the store failed.
    pub(super) fn abandon(&self) {
        self.close();
        let waiting = std::mem::take(&mut locked(&self.state).waiting);
        drop(waiting);
    }
}

/// The saves that must not be written because one before them, of the same gid, was a conflict and its caller did not know it yet.
pub(super) struct Behind {
    queue: Arc<Queue>,
    gids: Mutex<HashMap<Gid, Barred>>,
    /// Keeps the lock off the path of a store without conflicts.
    count: AtomicUsize,
}

struct Barred {
    /// Conflicts that were not seen yet.
    unseen: usize,
    /// What was called before this ticket was called in ignorance.
    until: u64,
}

/// Lives until the caller has seen the conflict.
pub(super) struct Unseen {
    gid: Gid,
    behind: Arc<Behind>,
}

impl Drop for Unseen {
    fn drop(&mut self) {
        let next = self.behind.queue.next_ticket.load(Ordering::Relaxed);
        if let Some(barred) = locked(&self.behind.gids).get_mut(&self.gid) {
            barred.unseen -= 1;
            barred.until = next;
        }
    }
}

impl Behind {
    pub(super) fn new(queue: Arc<Queue>) -> Behind {
        Behind {
            queue,
            gids: Mutex::new(HashMap::new()),
            count: AtomicUsize::new(0),
        }
    }

    /// Bars what is queued behind a conflict.
    pub(super) fn bar(self: &Arc<Self>, gid: &Gid) -> Unseen {
        let mut gids = locked(&self.gids);
        gids.entry(gid.clone())
            .or_insert(Barred {
                unseen: 0,
                until: 0,
            })
            .unseen += 1;
        self.count.store(gids.len(), Ordering::Relaxed);
        Unseen {
            gid: gid.clone(),
            behind: self.clone(),
        }
    }

    /// Whether a save with this ticket was called before its caller knew of a conflict before it.
    pub(super) fn bars(&self, gid: &Gid, ticket: u64) -> bool {
        self.count.load(Ordering::Relaxed) > 0
            && locked(&self.gids)
                .get(gid)
                .is_some_and(|barred| barred.unseen > 0 || ticket < barred.until)
    }

    /// Forgets what no queued command can be behind any more; `oldest` is the first ticket that is not written yet.
    pub(super) fn prune(&self, oldest: u64) {
        if self.count.load(Ordering::Relaxed) > 0 {
            let mut gids = locked(&self.gids);
            gids.retain(|_, barred| barred.unseen > 0 || oldest < barred.until);
            self.count.store(gids.len(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Longer than any of this takes.
    const LONG: Duration = Duration::from_secs(60);

    fn ping(queue: &Queue) -> bool {
        queue.push(Command::Ping {
            done: oneshot::channel().0,
        })
    }

    /// Runs `then` once the writer sleeps; says how long it slept.
    fn slept(queue: &Queue, count: usize, most: Duration, then: impl FnOnce()) -> Duration {
        std::thread::scope(|scope| {
            let began = Instant::now();
            let writer = scope.spawn(|| queue.gather(count, most));
            while locked(&queue.state).wanted == 0 && !writer.is_finished() {
                std::thread::yield_now();
            }
            then();
            writer.join().expect("it ends");
            began.elapsed()
        })
    }

    #[test]
    fn the_writer_gathers_until_enough_wait() {
        let queue = Queue::new();
        assert!(ping(&queue));
        let mut seen = false;
        let took = slept(&queue, 3, LONG, || {
            assert!(ping(&queue));
            seen = locked(&queue.state).wanted == 3;
            assert!(ping(&queue));
        });
        assert!(seen, "two are not enough");
        assert!(took < LONG);
        queue.gather(3, LONG);
        let mut group = Vec::new();
        assert!(queue.take(&mut group));
        assert_eq!(group.len(), 3);
    }

    #[test]
    fn it_does_not_gather_for_ever_or_once_the_queue_is_closed() {
        let queue = Queue::new();
        let most = Duration::from_millis(20);
        assert!(slept(&queue, 2, most, || assert!(ping(&queue))) >= most);
        assert!(slept(&queue, 5, LONG, || queue.close()) < LONG);
        queue.gather(5, LONG);
        assert!(!ping(&queue));
        let mut group = Vec::new();
        assert!(queue.take(&mut group), "what waited is still written");
        assert!(!queue.take(&mut group));
    }
}
