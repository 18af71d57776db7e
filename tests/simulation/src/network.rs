//! The network between coordinator and participants, and what participants answer.

use crate::plan::Kind;
use crate::world::{Event, World, tell};
use amends::coordinator::{Call, CallId, Input, Transaction};
use amends::{Millis, Outcome, Purpose, TransType};

/// A branch call on its way.
#[derive(Clone, Debug)]
pub(crate) struct CallState {
    pub(crate) tx: usize,
    pub(crate) id: CallId,
    pub(crate) purpose: Purpose,
    /// Branch and operation; `None` for check-backs and callbacks.
    pub(crate) target: Option<(usize, Kind)>,
    pub(crate) life: u32,
    driver: u64,
    host: String,
    pub(crate) gives_up: Millis,
    /// Copies still under way to the participant.
    pub(crate) pending: u32,
    pub(crate) ended: bool,
    pub(crate) answered: bool,
}

impl World {
    /// Sends a branch call.
    pub(crate) fn send(&mut self, tx: usize, t: &Transaction, driver: u64, call: Call) {
        let timeout = self.policy.call_timeout(&t.definition().options);
        let target = match call.purpose {
            Purpose::Branch => self.plans[tx]
                .branch(&call.branch_id)
                .zip(Kind::of(call.op.as_str())),
            _ => None,
        };
        tell!(
            self,
            "send {} {} {}",
            self.plans[tx].gid,
            call.branch_id,
            call.op
        );
        self.check_send(tx, &call, target);
        let n = self.calls.len();
        let host = amends::wire::url::host(&call.url).to_owned();
        let state = CallState {
            tx,
            id: call.id,
            purpose: call.purpose,
            target,
            life: self.life,
            driver,
            host,
            gives_up: self.now + timeout,
            pending: 0,
            ended: false,
            answered: false,
        };
        self.calls.push(state);
        if let Some((branch, kind)) = target {
            self.ledgers[tx].sent(branch, kind, n);
        }
        let lost = self.fault(self.weather.lost);
        if !lost {
            // Within the timeout: what participants without a barrier cannot survive is not asked of them.
            let delay = self.travel().min(timeout - 1);
            self.deliver_later(n, delay);
            if self.plans[tx].barrier && self.fault(self.weather.doubled) {
                let delay = self.rng.range(1, 3 * timeout);
                self.deliver_later(n, delay);
            }
        }
        self.after(timeout, Event::Timeout { call: n });
    }

    fn deliver_later(&mut self, call: usize, delay: Millis) {
        self.calls[call].pending += 1;
        self.after(delay, Event::Deliver { call });
    }

    /// A call reaches its participant.
    pub(crate) fn deliver(&mut self, call: usize) {
        self.calls[call].pending -= 1;
        let c = self.calls[call].clone();
        if !self.plans[c.tx].barrier && self.now >= c.gives_up {
            return;
        }
        if self
            .hosts_down
            .get(&c.host)
            .is_some_and(|until| *until > self.now)
        {
            return self.answer_call(call, Outcome::Error("connection refused".to_owned()));
        }
        if self.fault(self.weather.host_down) {
            let until = self.now + self.rng.range(500, 15_000);
            self.hosts_down.insert(c.host.clone(), until);
        }
        let outcome = match c.purpose {
            Purpose::Branch => match c.target {
                Some((branch, kind)) => self.branch(c.tx, branch, kind),
                None => Outcome::Error("unknown branch".to_owned()),
            },
            Purpose::CheckBack if self.fault(self.weather.error) => {
                Outcome::Error("500".to_owned())
            }
            Purpose::CheckBack if self.fault(self.weather.ongoing) => Outcome::Ongoing,
            Purpose::CheckBack => self.sites[c.tx].check_back(),
            Purpose::Callback => {
                self.start_runner(c.tx);
                if self.fault(self.weather.error) {
                    Outcome::Error("500".to_owned())
                } else {
                    Outcome::Success
                }
            }
        };
        tell!(
            self,
            "deliver {} {:?} -> {outcome:?}",
            self.plans[c.tx].gid,
            c.target
        );
        self.answer_call(call, outcome);
    }

    fn answer_call(&mut self, call: usize, outcome: Outcome) {
        if std::mem::replace(&mut self.calls[call].answered, true) || self.fault(self.weather.lost)
        {
            return;
        }
        let delay = self.travel();
        self.after(delay, Event::Reply { call, outcome });
    }

    /// What a participant does and answers.
    pub(crate) fn branch(&mut self, tx: usize, branch: usize, kind: Kind) -> Outcome {
        if self.fault(self.weather.error) {
            return Outcome::Error("500".to_owned());
        }
        if self.fault(self.weather.ongoing) {
            return Outcome::Ongoing;
        }
        let forward =
            matches!(kind, Kind::Action | Kind::Try) && self.plans[tx].trans_type != TransType::Msg;
        let refuse = forward && self.rng.permille(self.plans[tx].refuses[branch]);
        if !forward && self.fault(self.weather.error / 2) {
            return Outcome::Failure("a failure that is not allowed here".to_owned());
        }
        let now = self.now;
        let site = &mut self.sites[tx];
        let outcome = match (self.plans[tx].trans_type, kind) {
            (TransType::Xa, Kind::Commit | Kind::Rollback) => site.phase2(branch, kind, now),
            _ if self.plans[tx].barrier => site.guarded(branch, kind, refuse, now),
            _ => {
                let first = site.bare(branch, kind, refuse, now);
                // A call that comes twice before its answer leaves takes effect twice.
                if !refuse && self.fault(self.weather.doubled) {
                    self.sites[tx].bare(branch, kind, false, now)
                } else {
                    first
                }
            }
        };
        // It did its work and dies before it answers.
        if outcome == Outcome::Success && self.fault(self.weather.error / 2) {
            return Outcome::Error("died".to_owned());
        }
        outcome
    }

    /// The answer of a call, or its timeout, reaches the process.
    pub(crate) fn reply(&mut self, call: usize, outcome: Outcome) {
        if std::mem::replace(&mut self.calls[call].ended, true) {
            return;
        }
        let c = self.calls[call].clone();
        if c.life != self.life {
            return;
        }
        if let Some(target) = c.target {
            self.ledger_outcome(c.tx, target, &outcome);
        }
        self.result(c.tx, c.driver, Input::Result(c.id, outcome));
    }
}
