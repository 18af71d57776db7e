//! The network and the participants behind it: every call is answered as the test says, and what the participants did is kept.

use amends::Outcome;
use amends::options::Compat;
use amends::wire::call::{BranchCall, HttpCall};
use amends::wire::url::{host, unescape};
use amends_server::dispatch::{Reply, Transport};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A call as a participant sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// When it was made, ms since the net was made.
    pub(crate) at: u64,
    pub(crate) host: String,
    pub(crate) gid: String,
    pub(crate) branch: String,
    pub(crate) op: String,
    /// How many calls of this branch and operation came before it.
    pub(crate) nth: usize,
    pub(crate) body: Bytes,
    pub(crate) post: bool,
}

impl Seen {
    /// Branch and operation.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.branch, self.op)
    }

    fn key(&self) -> Key {
        (self.gid.clone(), self.branch.clone(), self.op.clone())
    }
}

type Key = (String, String, String);

/// How a call goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Act {
    /// After how many ms the participant does its work, if it does; even after the caller gave up.
    pub(crate) runs: Option<u64>,
    /// Whether it gets the request twice.
    pub(crate) twice: bool,
    pub(crate) end: End,
}

/// What the caller sees.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// This status after so many ms.
    Status(u16, u64),
    /// Nothing until the call's timeout.
    Silence,
    /// No connection.
    Unreachable,
    /// The transport panics when it is called.
    PanicAtOnce,
    /// The transport panics after so many ms.
    Panic(u64),
}

/// Works, and says so after so many ms.
pub(crate) fn ok(ms: u64) -> Act {
    Act {
        runs: Some(ms / 2),
        twice: false,
        end: End::Status(200, ms),
    }
}

/// Does nothing, and answers this after so many ms.
pub(crate) fn status(status: u16, ms: u64) -> Act {
    Act {
        runs: None,
        twice: false,
        end: End::Status(status, ms),
    }
}

/// Does nothing, and ends so.
pub(crate) fn end(end: End) -> Act {
    Act {
        runs: None,
        twice: false,
        end,
    }
}

/// What a participant's database holds for one branch: what its barrier let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) forward: bool,
    pub(crate) back: bool,
    /// Undone before it was done: whatever comes forward now is shut out.
    pub(crate) shut: bool,
}

impl Effect {
    fn apply(&mut self, op: &str) {
        match op {
            "compensate" | "cancel" | "rollback" => {
                self.shut |= !self.forward;
                self.back = true;
            }
            _ => self.forward |= !self.shut,
        }
    }

    /// Whether something is left of it.
    pub(crate) fn stays(&self) -> bool {
        self.forward && !self.back
    }
}

type Behaviour = Box<dyn Fn(&Seen) -> Act + Send + Sync>;

/// The transport of the tests.
pub(crate) struct Net {
    start: Instant,
    behaviour: Mutex<Arc<Behaviour>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    log: Vec<Seen>,
    counts: HashMap<Key, usize>,
    /// Calls on the wire by (gid, branch).
    flying: HashMap<(String, String), usize>,
    by_host: HashMap<String, (usize, usize)>,
    effects: HashMap<(String, String), Effect>,
    wrong: Vec<String>,
}

/// A call on the wire.
struct Flying {
    state: Arc<Mutex<State>>,
    key: (String, String),
    host: String,
}

impl Drop for Flying {
    fn drop(&mut self) {
        let mut state = locked(&self.state);
        if let Some(n) = state.flying.get_mut(&self.key) {
            *n -= 1;
        }
        if let Some((now, _)) = state.by_host.get_mut(&self.host) {
            *now -= 1;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Net {
    /// A net on which every call goes as `behaviour` says.
    pub(crate) fn new(behaviour: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Arc<Net> {
        Arc::new(Net {
            start: Instant::now(),
            behaviour: Mutex::new(Arc::new(Box::new(behaviour))),
            state: Arc::default(),
        })
    }

    /// A net that remembers what participants did for another one, in the runtime after a crash.
    pub(crate) fn after(
        old: &Net,
        behaviour: impl Fn(&Seen) -> Act + Send + Sync + 'static,
    ) -> Arc<Net> {
        Arc::new(Net {
            start: Instant::now(),
            behaviour: Mutex::new(Arc::new(Box::new(behaviour))),
            state: old.state.clone(),
        })
    }

    /// From now on calls go like this.
    pub(crate) fn behave(&self, behaviour: impl Fn(&Seen) -> Act + Send + Sync + 'static) {
        *locked(&self.behaviour) = Arc::new(Box::new(behaviour));
    }

    /// All calls in order.
    pub(crate) fn log(&self) -> Vec<Seen> {
        locked(&self.state).log.clone()
    }

    /// The calls of a transaction: `01 action, 02 action`.
    pub(crate) fn calls(&self, gid: &str) -> String {
        let state = locked(&self.state);
        let names: Vec<String> = state
            .log
            .iter()
            .filter(|c| c.gid == gid)
            .map(Seen::name)
            .collect();
        names.join(", ")
    }

    /// When the calls of a branch and operation were made, ms.
    pub(crate) fn times(&self, gid: &str, name: &str) -> Vec<u64> {
        let state = locked(&self.state);
        let of = |c: &&Seen| c.gid == gid && c.name() == name;
        state.log.iter().filter(of).map(|c| c.at).collect()
    }

    /// Calls on the wire, and the most there ever were, of this host.
    pub(crate) fn on_host(&self, host: &str) -> (usize, usize) {
        locked(&self.state)
            .by_host
            .get(host)
            .copied()
            .unwrap_or_default()
    }

    /// What is left at a participant.
    pub(crate) fn effect(&self, gid: &str, branch: &str) -> Effect {
        let key = (gid.to_owned(), branch.to_owned());
        locked(&self.state)
            .effects
            .get(&key)
            .copied()
            .unwrap_or_default()
    }

    /// What must never happen and did.
    pub(crate) fn wrong(&self) -> Vec<String> {
        locked(&self.state).wrong.clone()
    }

    fn see(&self, call: &HttpCall) -> (Seen, Flying) {
        let mut seen = Seen {
            at: self.start.elapsed().as_millis() as u64,
            host: host(&call.url).to_owned(),
            gid: String::new(),
            branch: String::new(),
            op: String::new(),
            nth: 0,
            body: call.body.clone(),
            post: call.post,
        };
        let query = call.url.split_once('?').map_or("", |(_, q)| q);
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "gid" => seen.gid = unescape(value),
                "branch_id" => seen.branch = unescape(value),
                "op" => seen.op = unescape(value),
                _ => {}
            }
        }
        let key = (seen.gid.clone(), seen.branch.clone());
        let mut state = locked(&self.state);
        let n = state.counts.entry(seen.key()).or_default();
        seen.nth = *n;
        *n += 1;
        let flying = state.flying.entry(key.clone()).or_default();
        *flying += 1;
        if *flying > 1 {
            let text = format!(
                "{} of {} overlaps a call of that branch",
                seen.name(),
                seen.gid
            );
            state.wrong.push(text);
        }
        let (now, most) = state.by_host.entry(seen.host.clone()).or_default();
        *now += 1;
        *most = (*most).max(*now);
        state.log.push(seen.clone());
        let guard = Flying {
            state: self.state.clone(),
            key,
            host: seen.host.clone(),
        };
        (seen, guard)
    }

    /// Lets the participant work, now or later, whatever becomes of the caller.
    fn work(&self, seen: &Seen, act: &Act) {
        let Some(after) = act.runs else { return };
        let state = self.state.clone();
        let (key, op) = ((seen.gid.clone(), seen.branch.clone()), seen.op.clone());
        let times = if act.twice { 2 } else { 1 };
        tokio::spawn(async move {
            for _ in 0..times {
                sleep(Duration::from_millis(after)).await;
                locked(&state)
                    .effects
                    .entry(key.clone())
                    .or_default()
                    .apply(&op);
            }
        });
    }
}

fn unreachable(text: &str) -> Reply {
    Reply {
        outcome: Outcome::Error(text.to_owned()),
        unreachable: true,
    }
}

impl Transport for Net {
    fn call(&self, call: BranchCall) -> BoxFuture<'static, Reply> {
        let BranchCall::Http(call) = call else {
            panic!("these tests call over HTTP only");
        };
        let (seen, flying) = self.see(&call);
        let behaviour = locked(&self.behaviour).clone();
        let act = behaviour(&seen);
        self.work(&seen, &act);
        if matches!(act.end, End::PanicAtOnce) {
            panic!("the transport breaks on purpose");
        }
        let timeout = call.timeout as u64;
        async move {
            let reply = match act.end {
                End::Status(status, after) if after <= timeout => {
                    sleep(Duration::from_millis(after)).await;
                    Reply {
                        outcome: call.classify(status, b"", &Compat::default()),
                        unreachable: false,
                    }
                }
                End::Status(..) | End::Silence => {
                    sleep(Duration::from_millis(timeout)).await;
                    unreachable("no answer in time")
                }
                End::Unreachable => unreachable("no connection"),
                End::Panic(after) => {
                    sleep(Duration::from_millis(after)).await;
                    panic!("the transport breaks on purpose");
                }
                End::PanicAtOnce => unreachable("it broke"),
            };
            drop(flying);
            reply
        }
        .boxed()
    }
}
