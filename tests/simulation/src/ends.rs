//! What must hold at the end of a run: everything ended, and what took effect is what was decided.

use crate::client::Role;
use crate::plan::Kind;
use crate::world::World;
use amends::{Status, TransType};

impl World {
    /// Whether every transaction ended and every initiator is through.
    pub(crate) fn all_ended(&self) -> bool {
        let busy = self.clients.iter().any(|c| match &c.role {
            Role::Script(acts, _) | Role::Chaos(acts) => !c.dead && c.at <= acts.len(),
            Role::Runner(_) => !c.dead,
        });
        !busy && (0..self.plans.len()).all(|tx| self.ended(tx))
    }

    fn ended(&self, tx: usize) -> bool {
        let Some(status) = self.store.records.get(&tx).map(|s| s.index.status) else {
            return true;
        };
        // A saga that is only prepared waits for its submit, without end if nothing limits it (rules.md 2.6).
        let waits = self.plans[tx].trans_type == TransType::Saga
            && status == Status::Prepared
            && self.plans[tx].def.options.timeout_to_fail == 0;
        status.is_final() || waits
    }

    /// The end of a run: everything ended, and what took effect is what was decided.
    pub(crate) fn check_end(&mut self) {
        for tx in 0..self.plans.len() {
            let status = self.store.records.get(&tx).map(|s| s.index.status);
            if !self.ended(tx) {
                self.fail(tx, format_args!("never ends: it is {status:?}"));
            }
            let (Some(status), false) = (status, self.ledgers[tx].forced) else {
                continue;
            };
            if !status.is_final() {
                continue;
            }
            match self.plans[tx].trans_type {
                TransType::Saga => self.end_saga(tx, status),
                TransType::Msg => self.end_message(tx, status),
                TransType::Tcc => {
                    self.end_branches(tx, status, Kind::Try, Some(Kind::Confirm), Kind::Cancel)
                }
                TransType::Workflow if self.plans[tx].rogue && self.plans[tx].chaos => {}
                TransType::Workflow => {
                    self.end_branches(tx, status, Kind::Action, None, Kind::Rollback)
                }
                TransType::Xa => self.end_xa(tx, status),
            }
        }
    }

    fn end_saga(&mut self, tx: usize, status: Status) {
        let barrier = self.plans[tx].barrier;
        for k in 0..self.plans[tx].before.len() {
            let effect = |kind| {
                self.sites[tx]
                    .effects
                    .get(&(k, kind))
                    .copied()
                    .unwrap_or_default()
            };
            let (done, undone) = (effect(Kind::Action), effect(Kind::Compensate));
            let called = !self.no_call(tx, k);
            let wrong = match status {
                Status::Succeed => {
                    undone.count > 0 || (called && done.count == 0) || (barrier && done.count > 1)
                }
                _ if !self.plans[tx].undoable[k] || !called => false,
                _ if barrier => done.count != undone.count,
                _ => done.count > 0 && (undone.count == 0 || undone.last < done.last),
            };
            if wrong {
                self.fail(
                    tx,
                    format_args!(
                        "ends as {status}, and step {k} has the effects {done:?}, undone {undone:?}"
                    ),
                );
            }
        }
    }

    fn end_message(&mut self, tx: usize, status: Status) {
        let local = self.sites[tx].local;
        let committed = local == Some(true);
        if self.plans[tx].prepares && committed != (status == Status::Succeed) {
            self.fail(
                tx,
                format_args!("ends as {status}, its local transaction as {local:?}"),
            );
        }
        for b in 0..self.plans[tx].branches.len() {
            let count = self.sites[tx].count(b, Kind::Action);
            let right = if status == Status::Succeed {
                count >= 1 && (count == 1 || !self.plans[tx].barrier)
            } else {
                count == 0
            };
            if !right {
                self.fail(
                    tx,
                    format_args!("ends as {status}, and branch {b} took effect {count} times"),
                );
            }
        }
    }

    fn end_branches(
        &mut self,
        tx: usize,
        status: Status,
        first: Kind,
        forward: Option<Kind>,
        backward: Kind,
    ) {
        for b in 0..self.plans[tx].branches.len() {
            let registered = self.registered(tx).contains(&b);
            let count = |kind| self.sites[tx].count(b, kind);
            let (done, confirmed, undone) =
                (count(first), forward.map_or(0, count), count(backward));
            let right = match status {
                Status::Succeed if !registered => done == 0 && confirmed == 0,
                Status::Succeed => {
                    done == 1 && undone == 0 && (forward.is_none() || confirmed == 1)
                }
                _ => done == undone && done <= 1 && confirmed == 0,
            };
            if !right {
                self.fail(tx, format_args!("ends as {status}, and branch {b} ran {done} times, was confirmed {confirmed}, undone {undone}"));
            }
        }
    }

    fn end_xa(&mut self, tx: usize, status: Status) {
        use crate::participant::Xa;
        for (b, xa) in self.sites[tx].xa.clone() {
            let right = match status {
                Status::Succeed => xa == Xa::Committed,
                _ => xa == Xa::RolledBack,
            };
            if !right && self.registered(tx).contains(&b) {
                self.fail(
                    tx,
                    format_args!("ends as {status}, and branch {b} is {xa:?}"),
                );
            }
        }
    }
}
