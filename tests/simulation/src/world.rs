//! One run: a virtual clock, a queue of events, and everything that lives in it. No threads, no real time.

use crate::Broken;
use crate::client::{Answer, Client, Verb};
use crate::ledger::Ledger;
use crate::network::CallState;
use crate::participant::Site;
use crate::plan::{Kind, Plan, Weather};
use crate::process::Process;
use crate::rng::Rng;
use crate::store::{Queued, Store, Wrote};
use amends::{Millis, Outcome, Policy, TransType};
use std::collections::BTreeMap;

/// What happens at a moment.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A client's request reaches the coordinator's address.
    Arrive { client: usize, op: u64, verb: Verb },
    /// The coordinator's answer reaches the client.
    Answered {
        client: usize,
        op: u64,
        answer: Answer,
    },
    /// A client does its next step, or gives up waiting for an answer.
    Client { client: usize, op: u64 },
    /// A client's own call reaches a participant.
    Direct {
        client: usize,
        op: u64,
        branch: usize,
        kind: Kind,
    },
    /// The store applies what is queued.
    Commit,
    /// The store's answers reach the process.
    Replies {
        life: u32,
        replies: Vec<(Queued, Wrote)>,
    },
    /// The process looks for a record that is due.
    Due { life: u32, tx: usize },
    /// A driver's timer.
    Timer { life: u32, tx: usize },
    /// A branch call reaches its participant.
    Deliver { call: usize },
    /// A branch call's answer reaches the process.
    Reply { call: usize, outcome: Outcome },
    /// A branch call has taken too long.
    Timeout { call: usize },
    /// The process starts.
    Start,
}

/// Everything of one run.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) now: Millis,
    /// How far the store's clock is ahead of the participants'.
    pub(crate) skew: Millis,
    pub(crate) rng: Rng,
    pub(crate) weather: Weather,
    pub(crate) calm_at: Millis,
    pub(crate) policy: Policy,
    pub(crate) broken: Option<Broken>,
    pub(crate) plans: Vec<Plan>,
    pub(crate) sites: Vec<Site>,
    pub(crate) ledgers: Vec<Ledger>,
    pub(crate) store: Store,
    pub(crate) committing: bool,
    pub(crate) process: Option<Process>,
    pub(crate) life: u32,
    pub(crate) calls: Vec<CallState>,
    pub(crate) clients: Vec<Client>,
    pub(crate) hosts_down: BTreeMap<String, Millis>,
    pub(crate) violation: Option<String>,
    pub(crate) trace: bool,
    pub(crate) steps: u64,
    pub(crate) crashes: u32,
    order: u64,
    /// What is to happen, by its moment and the order in which it was arranged.
    pub(crate) queue: BTreeMap<(Millis, u64), Event>,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Events.
    pub events: u64,
    /// Steps of the coordinator.
    pub steps: u64,
    /// Crashes of the coordinator.
    pub crashes: u32,
    /// The invariant that was broken.
    pub violation: Option<String>,
}

/// Prints a line of the trace, where it is wanted.
macro_rules! tell {
    ($world:expr, $($arg:tt)*) => {
        if $world.trace {
            println!("{:>9} {}", $world.now, format_args!($($arg)*));
        }
    };
}
pub(crate) use tell;

/// Virtual time in which everything ends once the weather is calm, ms: twenty rounds of the longest backoff.
const PATIENCE: Millis = 20 * 660_000;
/// Events after which a run is taken for one that never ends.
const MOST_EVENTS: u64 = 60_000;
/// Start of virtual time.
const EPOCH: Millis = 1_000_000;

impl World {
    /// The world of a seed.
    pub(crate) fn new(
        seed: u64,
        only: Option<TransType>,
        broken: Option<Broken>,
        trace: bool,
    ) -> World {
        let mut rng = Rng::new(seed);
        let weather = Weather::draw(&mut rng);
        let count = rng.pick(&[(2, 1usize), (2, 2), (1, 4)]);
        let plans = (0..count).map(|n| Plan::draw(&mut rng, n, only)).collect();
        let mut world = World::of(plans, weather, rng, broken);
        world.trace = trace;
        world.start_clients();
        world
    }

    /// A world of these transactions in which nobody has begun.
    pub(crate) fn of(
        plans: Vec<Plan>,
        weather: Weather,
        rng: Rng,
        broken: Option<Broken>,
    ) -> World {
        let store = Store {
            accepts_stale: broken == Some(Broken::StaleVersion),
            ..Store::default()
        };
        World {
            now: EPOCH,
            skew: 0,
            calm_at: EPOCH + weather.lasts,
            weather,
            policy: Policy::default(),
            broken,
            sites: plans.iter().map(|_| Site::default()).collect(),
            ledgers: plans.iter().map(Ledger::new).collect(),
            plans,
            store,
            committing: false,
            process: Some(Process::default()),
            life: 1,
            calls: Vec::new(),
            clients: Vec::new(),
            hosts_down: BTreeMap::new(),
            violation: None,
            trace: false,
            steps: 0,
            crashes: 0,
            order: 0,
            queue: BTreeMap::new(),
            rng,
        }
    }

    /// The store's clock.
    pub(crate) fn clock(&self) -> Millis {
        self.now + self.skew
    }

    /// Whether faults are over.
    pub(crate) fn calm(&self) -> bool {
        self.now >= self.calm_at
    }

    /// Chance, in a thousand, of a fault while the weather is bad.
    pub(crate) fn fault(&mut self, permille: u64) -> bool {
        !self.calm() && self.rng.permille(permille)
    }

    /// Has something happen after this many ms.
    pub(crate) fn after(&mut self, delay: Millis, event: Event) {
        self.order += 1;
        self.queue
            .insert((self.now + delay.max(0), self.order), event);
    }

    /// Notes that an invariant is broken; the first one ends the run.
    pub(crate) fn fail(&mut self, tx: usize, what: impl std::fmt::Display) {
        if self.violation.is_none() {
            self.violation = Some(format!(
                "{} {}: {what}",
                self.plans[tx].trans_type, self.plans[tx].gid
            ));
        }
    }

    /// How long a message travels, ms.
    pub(crate) fn travel(&mut self) -> Millis {
        if self.fault(self.weather.slow) {
            self.rng.range(50, 2_500)
        } else {
            self.rng.range(1, 9)
        }
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Report {
        let mut events = 0;
        while self.violation.is_none() {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                break;
            };
            events += 1;
            self.now = self.now.max(at);
            let over = self.now > self.calm_at + PATIENCE || events > MOST_EVENTS;
            if over || (self.calm() && self.all_ended() && self.quiet()) {
                break;
            }
            let harmless = matches!(
                event,
                Event::Timer { .. } | Event::Due { .. } | Event::Start
            );
            self.handle(event);
            if self.fault(self.weather.panics) {
                self.step_panicked();
            }
            let chance = self.weather.crash / if harmless { 4 } else { 1 };
            if self.process.is_some() && self.crashes < self.weather.crashes && self.fault(chance) {
                let kept = self.rng.below(self.store.queue.len() as u64 + 1) as usize;
                let down = self.rng.pick(&[(3, 5), (2, 300), (1, 8_000)]);
                if self.rng.permille(100) {
                    self.skew += self.rng.range(1_000, 4_000_000);
                }
                self.crash(kept, down);
            }
        }
        if self.violation.is_none() {
            self.check_end();
        }
        Report {
            events,
            steps: self.steps,
            crashes: self.crashes,
            violation: self.violation,
        }
    }

    pub(crate) fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive { client, op, verb } => self.arrive(client, op, verb),
            Event::Answered { client, op, answer } => self.client_answered(client, op, answer),
            Event::Client { client, op } => self.client_timer(client, op),
            Event::Direct {
                client,
                op,
                branch,
                kind,
            } => self.direct(client, op, branch, kind),
            Event::Commit => self.commit(),
            Event::Replies { life, replies } => {
                if life == self.life {
                    for (queued, wrote) in replies {
                        self.wrote(queued, wrote);
                    }
                }
            }
            Event::Due { life, tx } => {
                if life == self.life {
                    self.look(tx);
                }
            }
            Event::Timer { life, tx } => {
                if life == self.life {
                    self.pump(tx);
                }
            }
            Event::Deliver { call } => self.deliver(call),
            Event::Reply { call, outcome } => self.reply(call, outcome),
            Event::Timeout { call } => self.reply(call, Outcome::Error("timeout".to_owned())),
            Event::Start => self.start(),
        }
    }

    /// Whether no branch call is on its way.
    pub(crate) fn quiet(&self) -> bool {
        self.store.queue.is_empty()
            && self.process.as_ref().is_some_and(|p| p.drivers.is_empty())
            && self.calls.iter().all(|c| c.pending == 0)
    }

    /// Queues a write.
    pub(crate) fn write(&mut self, queued: Queued) {
        self.store.queue.push_back(queued);
        if !self.committing {
            self.committing = true;
            let delay = if self.fault(self.weather.slow_commit) {
                self.rng.range(20, 400)
            } else {
                self.rng.range(1, 6)
            };
            self.after(delay, Event::Commit);
        }
    }

    fn commit(&mut self) {
        self.committing = false;
        let mut replies = Vec::new();
        while let Some(queued) = self.store.queue.pop_front() {
            let wrote = self.apply(&queued);
            replies.push((queued, wrote));
        }
        let delay = self.rng.range(0, 1);
        let life = self.life;
        self.after(delay, Event::Replies { life, replies });
    }

    fn apply(&mut self, queued: &Queued) -> Wrote {
        let wrote = self.store.apply(queued.tx, &queued.write);
        tell!(
            self,
            "store {}: {} -> {wrote:?}",
            self.plans[queued.tx].gid,
            self.show_write(queued)
        );
        if wrote == Wrote::Done {
            self.check_stored(queued.tx);
            let stored = &self.store.records[&queued.tx];
            if let (false, Some(due)) = (stored.held, stored.index.due) {
                let (life, delay) = (self.life, due - self.clock());
                self.after(
                    delay,
                    Event::Due {
                        life,
                        tx: queued.tx,
                    },
                );
            }
        }
        wrote
    }

    fn show_write(&self, queued: &Queued) -> String {
        use crate::store::Write;
        match &queued.write {
            Write::Create(s) => format!("create {}", String::from_utf8_lossy(&s.state)),
            Write::Save(n, _, s) => {
                format!(
                    "save {n} base {} driven {} due {:?} {}",
                    s.base,
                    s.index.driven,
                    s.index.due,
                    String::from_utf8_lossy(&s.state)
                )
            }
            Write::Append(a) => format!("append {:?} {:?}", a.part.keys, a.registration.status),
        }
    }

    /// The coordinator dies: any prefix of what is queued is durable, nobody hears of it.
    pub(crate) fn crash(&mut self, kept: usize, down: Millis) {
        self.crashes += 1;
        for _ in 0..kept {
            if let Some(queued) = self.store.queue.pop_front() {
                self.apply(&queued);
            }
        }
        self.store.queue.clear();
        tell!(self, "CRASH, {kept} queued writes are durable");
        self.process = None;
        self.life += 1;
        for ledger in &mut self.ledgers {
            ledger.crashed(self.now);
        }
        self.after(down, Event::Start);
    }

    fn start(&mut self) {
        tell!(self, "START, life {}", self.life);
        self.process = Some(Process::default());
        self.store.restart();
        for (tx, stored) in self.store.records.clone() {
            if let Some(due) = stored.index.due {
                let delay = if stored.index.driven {
                    0
                } else {
                    due - self.clock()
                };
                self.after(
                    delay,
                    Event::Due {
                        life: self.life,
                        tx,
                    },
                );
            }
        }
    }
}
