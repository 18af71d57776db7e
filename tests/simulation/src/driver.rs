//! Drives one transaction through the real `amends::coordinator`: saves before calls and answers, lets go of what waits, reads again
//! after a conflict.

use crate::Broken;
use crate::client::Verb;
use crate::process::{Ask, Item, Process, submit_input};
use crate::store::{Queued, Write, Wrote};
use crate::world::{Event, World, tell};
use amends::coordinator::record::Save;
use amends::coordinator::{Call, Effects, Env, Input, Transaction, Wait, When, event, step};
use amends::{ErrorKind, Millis, Status};
use std::collections::VecDeque;

/// A driver waits this long, ms, for its next wake before it lets go.
const LINGER: Millis = 1_000;

/// Calls and an answer that wait for a save.
#[derive(Clone, Debug)]
struct Held {
    after: u64,
    calls: Vec<Call>,
    answer: Option<(Ask, Verb, Result<(), event::Rejected>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Creating,
    Running,
    LettingGo(u64),
}

/// Drives one transaction.
#[derive(Clone, Debug)]
pub(crate) struct Driver {
    pub(crate) id: u64,
    pub(crate) tx: Transaction,
    phase: Phase,
    pub(crate) inbox: VecDeque<Item>,
    held: Option<Held>,
    /// Inputs that no durable save holds, and the save that will.
    journal: Vec<(u64, Item)>,
    built: u64,
    acked: u64,
    /// Grows with each reload: answers to saves of an older view mean nothing.
    generation: u64,
    late_at: Option<Millis>,
    timer: Option<Millis>,
    watchers: Vec<(Wait, Ask)>,
    /// Whether the store must hear that the record is let go.
    pub(crate) driven: bool,
    woken: (Millis, u32),
}

impl Driver {
    /// What matters later of what it knows, for the exhaustive search.
    pub(crate) fn remember(&self, now: Millis, f: &mut impl std::fmt::Write) {
        let timer = self.timer.filter(|at| *at > now);
        let _ = write!(
            f,
            "{:?} {:?} {:?} {:?} {:?}",
            self.phase, self.inbox, self.held, self.journal, self.watchers
        );
        let _ = write!(
            f,
            "{} {} {:?} {timer:?} {}",
            self.built, self.acked, self.late_at, self.driven
        );
        let t = &self.tx;
        let _ = write!(
            f,
            "{:?} {:?} {} {} {:?}",
            t.state(),
            t.due(),
            t.in_flight(),
            t.is_dirty(),
            t.definition().options
        );
        for row in t.rows() {
            let _ = write!(f, "{:?} {:?}", row.state, row.live);
        }
    }
}

impl World {
    pub(crate) fn new_driver(&mut self, tx: Transaction, phase: Phase) -> Driver {
        let id = self.process.as_mut().map_or(0, Process::number);
        Driver {
            id,
            tx,
            phase,
            inbox: VecDeque::new(),
            held: None,
            journal: Vec::new(),
            built: 0,
            acked: 0,
            generation: 0,
            late_at: None,
            timer: None,
            watchers: Vec::new(),
            driven: false,
            woken: (0, 0),
        }
    }

    pub(crate) fn one_step(
        &mut self,
        t: &mut Transaction,
        input: Input,
    ) -> Result<Effects, event::Rejected> {
        self.steps += 1;
        let random = self.rng.bits();
        let env = Env {
            now: self.clock(),
            policy: &self.policy,
            random,
        };
        step(t, input, &env)
    }

    /// Stores a new transaction and drives it.
    pub(crate) fn create_submitted(&mut self, tx: usize, ask: Ask, verb: Verb) {
        let mut t = Transaction::new(self.plans[tx].def.clone(), Status::Submitted, self.clock());
        let Ok(fx) = self.one_step(&mut t, Input::Wake) else {
            return;
        };
        let mut d = self.new_driver(t, Phase::Creating);
        let item = Item {
            input: submit_input(&self.plans[tx]),
            ask: Some((ask, verb.clone())),
        };
        d.journal.push((1, item));
        let (seq, save) = d.tx.take_save(true);
        d.built = seq;
        d.driven = true;
        d.held = Some(Held {
            after: fx.after,
            calls: fx.calls,
            answer: Some((ask, verb, Ok(()))),
        });
        self.write(Queued {
            tx,
            waiter: d.id,
            write: Write::Create(save),
        });
        if let Some(p) = &mut self.process {
            p.drivers.insert(tx, d);
        }
        self.pump(tx);
    }

    /// A write was answered.
    pub(crate) fn wrote(&mut self, queued: Queued, wrote: Wrote) {
        let tx = queued.tx;
        let Some(p) = &mut self.process else { return };
        match queued.write {
            Write::Create(_) if p.drivers.get(&tx).is_some_and(|d| d.id == queued.waiter) => {
                self.created(tx, &wrote)
            }
            Write::Create(_) => {
                let Some((ask, verb)) = p.asks.remove(&queued.waiter) else {
                    return;
                };
                if wrote == Wrote::Done {
                    self.answer(tx, ask, &verb, Ok(()))
                } else {
                    self.route(tx, ask, verb)
                }
            }
            Write::Append(_) => {
                let Some((ask, verb)) = p.asks.remove(&queued.waiter) else {
                    return;
                };
                let result = match wrote {
                    Wrote::Done | Wrote::Same => Ok(()),
                    Wrote::WrongStatus(s) => Err(amends::Error::refused(Some(s), "wrong state")),
                    Wrote::Unknown => Err(amends::Error::refused(None, "unknown")),
                    _ => Err(amends::Error::new(ErrorKind::RowRefused, "refused")),
                };
                self.answer(tx, ask, &verb, result);
            }
            Write::Save(seq, generation, _) => {
                let Some(d) = p
                    .drivers
                    .get_mut(&tx)
                    .filter(|d| d.id == queued.waiter && d.generation == generation)
                else {
                    return;
                };
                if wrote == Wrote::Conflict {
                    return self.conflict(tx);
                }
                d.acked = seq;
                d.journal.retain(|(covered, _)| *covered > seq);
                if d.phase == Phase::LettingGo(seq) {
                    return self.end_driver(tx);
                }
                d.inbox.push_back(Item {
                    input: Input::Wake,
                    ask: None,
                });
                self.pump(tx);
            }
        }
    }

    fn created(&mut self, tx: usize, wrote: &Wrote) {
        let loaded = if *wrote == Wrote::Done {
            None
        } else {
            self.load(tx)
        };
        let Some(d) = self.process.as_mut().and_then(|p| p.drivers.get_mut(&tx)) else {
            return;
        };
        d.phase = Phase::Running;
        if let Some((t, driven)) = loaded {
            (d.tx, d.driven, d.built, d.held) = (t, driven, 0, None);
            for (_, item) in std::mem::take(&mut d.journal).into_iter().rev() {
                d.inbox.push_front(item);
            }
        } else {
            d.acked = 1;
            d.journal.clear();
            d.inbox.push_back(Item {
                input: Input::Wake,
                ask: None,
            });
        }
        self.pump(tx);
    }

    /// A save was based on a version that is stored no more: read again, and apply again what no durable save holds.
    fn conflict(&mut self, tx: usize) {
        let Some(record) = self
            .store
            .records
            .get(&tx)
            .map(|s| s.record(&self.plans[tx].gid))
        else {
            return;
        };
        let Some(d) = self.process.as_mut().and_then(|p| p.drivers.get_mut(&tx)) else {
            return;
        };
        for call in d.held.take().map(|h| h.calls).unwrap_or_default() {
            d.tx.withdraw(call.id);
        }
        let unsaved = d.journal.iter().filter_map(|(_, item)| match item.input {
            Input::Result(id, _) => Some(id),
            _ => None,
        });
        match d.tx.reload(&record, &self.policy, unsaved) {
            Ok(t) => d.tx = t,
            Err(e) => return self.fail(tx, format_args!("its record cannot be read again: {e}")),
        }
        d.generation += 1;
        d.acked = d.built;
        d.phase = Phase::Running;
        d.driven = true;
        d.late_at = None;
        for (_, item) in std::mem::take(&mut d.journal).into_iter().rev() {
            d.inbox.push_front(item);
        }
        d.inbox.push_back(Item {
            input: Input::Wake,
            ask: None,
        });
        tell!(self, "conflict {}", self.plans[tx].gid);
        self.pump(tx);
    }

    fn end_driver(&mut self, tx: usize) {
        let Some(d) = self.process.as_mut().and_then(|p| p.drivers.remove(&tx)) else {
            return;
        };
        tell!(self, "driver of {} ends", self.plans[tx].gid);
        for item in d.inbox {
            if item.ask.is_some() || matches!(item.input, Input::Request(_)) {
                self.hand(tx, item);
            }
        }
    }

    /// Does all that a driver can do now.
    pub(crate) fn pump(&mut self, tx: usize) {
        let Some(mut d) = self.process.as_mut().and_then(|p| p.drivers.remove(&tx)) else {
            return;
        };
        while self.violation.is_none() {
            if let Some(held) = d.held.take() {
                if held.after > d.acked && !self.overtakes(&held) {
                    d.held = Some(held);
                    break;
                }
                self.release(tx, &mut d, held);
                continue;
            }
            if d.phase != Phase::Running {
                break;
            }
            let clock = self.clock();
            let item = match d.inbox.pop_front() {
                Some(item) => item,
                None if d.tx.due().is_some_and(|at| at <= clock) => {
                    d.woken = if d.woken.0 == clock {
                        (clock, d.woken.1 + 1)
                    } else {
                        (clock, 1)
                    };
                    if d.woken.1 > 5 {
                        self.fail(tx, "it wakes again and again at one moment");
                    }
                    Item {
                        input: Input::Wake,
                        ask: None,
                    }
                }
                None => break,
            };
            self.step(tx, &mut d, item);
        }
        let ended = self.settle(tx, &mut d);
        if let Some(p) = &mut self.process {
            p.drivers.insert(tx, d);
        }
        if ended {
            self.end_driver(tx);
        }
    }

    fn overtakes(&self, held: &Held) -> bool {
        let any = |word: &[&str]| held.calls.iter().any(|c| word.contains(&c.op.as_str()));
        match self.broken {
            Some(Broken::UndoBeforeAborting) => any(&["compensate", "cancel", "rollback"]),
            Some(Broken::ConfirmBeforeSubmitted) => any(&["confirm", "commit"]),
            Some(Broken::AnswerBeforeSubmit) => {
                matches!(held.answer, Some((_, Verb::Submit { .. }, Ok(()))))
            }
            Some(Broken::RefuseBeforeDurable) => matches!(held.answer, Some((_, _, Err(_)))),
            Some(Broken::ActionBeforeDurable) => any(&["action"]) && held.answer.is_none(),
            _ => false,
        }
    }

    fn release(&mut self, tx: usize, d: &mut Driver, held: Held) {
        for call in held.calls {
            self.send(tx, &d.tx, d.id, call);
        }
        let Some((ask, verb, result)) = held.answer else {
            return;
        };
        d.journal
            .retain(|(_, item)| item.ask.as_ref().is_none_or(|(a, _)| *a != ask));
        match (ask.wait, &result) {
            (Some(abort), Ok(())) => {
                let wait = Wait::new(abort, &d.tx, self.clock(), &self.policy);
                d.watchers.push((wait, ask));
            }
            _ => self.answer(tx, ask, &verb, result),
        }
    }

    fn step(&mut self, tx: usize, d: &mut Driver, item: Item) {
        let covered = d.built + 1;
        self.ledger_input(tx, &item.input);
        let done = self.one_step(&mut d.tx, item.input.clone());
        tell!(
            self,
            "step {} {:?} -> {} {done:?}",
            self.plans[tx].gid,
            item.input,
            d.tx.status()
        );
        match done {
            Ok(fx) => {
                if matches!(item.input, Input::Request(_) | Input::Result(..)) {
                    d.journal.push((covered, item.clone()));
                }
                match fx.save {
                    Some(When::Now) => self.save(tx, d, true),
                    Some(When::Late) => {
                        let at = self.clock() + self.policy.late_write;
                        d.late_at.get_or_insert(at);
                    }
                    None => {}
                }
                let answer = item.ask.map(|(ask, verb)| (ask, verb, Ok(())));
                if !fx.calls.is_empty() || answer.is_some() {
                    d.held = Some(Held {
                        after: fx.after,
                        calls: fx.calls,
                        answer,
                    });
                }
            }
            // What a refusal tells must be durable too.
            Err(e) => {
                d.held = item.ask.map(|(ask, verb)| Held {
                    after: d.built,
                    calls: Vec::new(),
                    answer: Some((ask, verb, Err(e))),
                })
            }
        }
    }

    fn save(&mut self, tx: usize, d: &mut Driver, driven: bool) {
        let (seq, mut save): (u64, Save) = d.tx.take_save(driven);
        if !driven && self.broken == Some(Broken::ForgetDue) {
            save.index.due = None;
        }
        d.built = seq;
        d.driven = driven;
        d.late_at = None;
        self.write(Queued {
            tx,
            waiter: d.id,
            write: Write::Save(seq, d.generation, save),
        });
    }

    /// Writes what is late, answers who waits, lets go where nothing is to be done; says whether the driver has ended.
    fn settle(&mut self, tx: usize, d: &mut Driver) -> bool {
        let clock = self.clock();
        if d.phase == Phase::Running && d.tx.is_dirty() && d.late_at.is_some_and(|at| at <= clock) {
            self.save(tx, d, true);
        }
        if d.phase == Phase::Running && d.held.is_none() && d.inbox.is_empty() {
            if d.acked == d.built {
                let due: Vec<(Wait, Ask)> = std::mem::take(&mut d.watchers);
                for (wait, ask) in due {
                    match wait.answer(&d.tx, clock, &self.policy) {
                        Some(result) => self.answer_wait(tx, ask, wait.abort, result),
                        None => d.watchers.push((wait, ask)),
                    }
                }
            }
            let idle = !d.tx.in_flight() && d.watchers.is_empty();
            if d.tx.status().is_final() {
                if idle && d.tx.is_dirty() {
                    self.save(tx, d, false);
                }
                if idle && d.acked == d.built {
                    self.unclaim(tx);
                    return true;
                }
            } else if idle && d.tx.due().is_some_and(|at| at > clock + LINGER) {
                let stored = self.store.records.get(&tx).and_then(|s| s.index.due);
                if d.tx.is_dirty() || d.driven || stored != d.tx.due() {
                    self.save(tx, d, false);
                    d.phase = Phase::LettingGo(d.built);
                } else if d.acked == d.built {
                    self.unclaim(tx);
                    return true;
                }
            }
        }
        let times = [
            d.tx.due(),
            d.late_at,
            d.watchers.iter().map(|(w, _)| w.until).min(),
        ];
        if let Some(next) = times.into_iter().flatten().filter(|at| *at > clock).min()
            && d.timer.is_none_or(|t| t <= clock || next < t)
        {
            d.timer = Some(next);
            let life = self.life;
            self.after(next - clock, Event::Timer { life, tx });
        }
        false
    }

    fn unclaim(&mut self, tx: usize) {
        let clock = self.clock();
        let Some(stored) = self.store.records.get_mut(&tx) else {
            return;
        };
        stored.held = false;
        if let Some(due) = stored.index.due {
            self.after(
                due - clock,
                Event::Due {
                    life: self.life,
                    tx,
                },
            );
        }
    }
}
