//! Saga: actions forward in their order; once one is refused, compensations backward in reverse (dtm-server.md 9.2, rules.md 1).

use super::decision::{await_durable, call_row, decide};
use super::event::{Effects, Env};
use super::transaction::{Custom, Transaction};
use crate::branch::{BranchStatus, Status, TransType};
use crate::error::Error;
use crate::time::{Millis, seconds};
use std::sync::Arc;

/// Which steps wait for which. Steps are counted from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    concurrent: bool,
    waits: Waits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Waits {
    /// Each step for the one before it. The numbers of all steps, to lend.
    InARow(Vec<usize>),
    Named {
        /// Per step, those that must have succeeded before it starts, in step order or by `orders`.
        before: Vec<Vec<usize>>,
        /// Per step, those that must be undone before it is.
        after: Vec<Vec<usize>>,
    },
}

impl Default for Waits {
    fn default() -> Waits {
        Waits::InARow(Vec::new())
    }
}

impl Orders {
    /// Orders of a saga that names none: one step after the other.
    pub(crate) fn in_a_row(steps: usize) -> Orders {
        Orders {
            concurrent: false,
            waits: Waits::InARow((0..steps).collect()),
        }
    }

    /// Orders of a saga; `before[k]` names the steps that step k waits for, all of which exist. A cycle is refused.
    pub(crate) fn new(concurrent: bool, before: &[Vec<usize>]) -> Result<Orders, Error> {
        let mut all = before.to_vec();
        for (k, b) in all.iter_mut().enumerate() {
            if !concurrent && k > 0 {
                b.push(k - 1);
            }
            b.sort_unstable();
            b.dedup();
        }
        let mut after = vec![Vec::new(); all.len()];
        for (k, b) in all.iter().enumerate() {
            for p in b {
                after[*p].push(k);
            }
        }
        // Kahn: what cannot be put into a sequence waits for itself.
        let mut missing: Vec<usize> = all.iter().map(Vec::len).collect();
        let mut free: Vec<usize> = (0..all.len()).filter(|k| missing[*k] == 0).collect();
        let mut done = 0;
        while let Some(k) = free.pop() {
            done += 1;
            for n in &after[k] {
                missing[*n] -= 1;
                if missing[*n] == 0 {
                    free.push(*n);
                }
            }
        }
        if done < all.len() {
            let k = missing.iter().position(|m| *m > 0).unwrap_or(0);
            return Err(Error::invalid(format!(
                "custom_data: orders hold a cycle through step {k}: such a step could never start"
            )));
        }
        Ok(Orders {
            concurrent,
            waits: Waits::Named { before: all, after },
        })
    }

    /// Steps that step `k` waits for.
    pub fn before(&self, k: usize) -> &[usize] {
        match &self.waits {
            Waits::InARow(all) if k > 0 && k < all.len() => &all[k - 1..k],
            Waits::InARow(_) => &[],
            Waits::Named { before, .. } => before.get(k).map_or(&[], Vec::as_slice),
        }
    }

    /// Steps that wait for step `k`.
    pub fn after(&self, k: usize) -> &[usize] {
        match &self.waits {
            Waits::InARow(all) => all.get(k + 1..k + 2).unwrap_or_default(),
            Waits::Named { after, .. } => after.get(k).map_or(&[], Vec::as_slice),
        }
    }
}

/// Row of a step's compensation.
pub(crate) fn compensate_row(step: usize) -> usize {
    2 * step
}

/// Row of a step's action.
pub(crate) fn action_row(step: usize) -> usize {
    2 * step + 1
}

fn orders(tx: &Transaction) -> Arc<Orders> {
    match &tx.def.custom {
        Custom::Saga(o) => o.clone(),
        _ => Arc::default(),
    }
}

fn status(tx: &Transaction, step: usize) -> BranchStatus {
    tx.rows[action_row(step)].state.status
}

/// Whether the action of a step may have had an effect.
fn may_have_run(tx: &Transaction, step: usize) -> bool {
    let s = &tx.rows[action_row(step)].state;
    s.started || s.status != BranchStatus::Prepared
}

fn rolled_back(tx: &Transaction, step: usize) -> bool {
    !may_have_run(tx, step) || tx.rows[compensate_row(step)].state.status == BranchStatus::Succeed
}

/// Marks what a driver that ended without letting go may have started: every prepared action that is runnable, or would be if all
/// runnable ones had succeeded (rules.md 1.2). Once `aborting` is durable nothing more is started, and the set that its save holds is
/// complete.
pub(crate) fn mark_started(tx: &mut Transaction) {
    if tx.def.trans_type != TransType::Saga || tx.state.status != Status::Submitted {
        return;
    }
    let orders = orders(tx);
    let steps = tx.rows.len() / 2;
    let done = |s: &Vec<bool>, k: usize| orders.before(k).iter().all(|b| s[*b]);
    let mut succeeded: Vec<bool> = (0..steps)
        .map(|k| status(tx, k) == BranchStatus::Succeed)
        .collect();
    for _level in 0..2 {
        let runnable: Vec<usize> = (0..steps)
            .filter(|k| status(tx, *k) == BranchStatus::Prepared && done(&succeeded, *k))
            .collect();
        for k in runnable {
            tx.rows[action_row(k)].state.started = true;
            succeeded[k] = true;
        }
    }
}

/// Until then calls of an earlier driver may be on their way: to every action that may have run, for one that is known to have
/// succeeded may have been called by two drivers, one after the other. What it marks is stored with the next save.
pub(crate) fn mark_unsure(tx: &mut Transaction, until: Millis) {
    if tx.def.trans_type != TransType::Saga {
        return;
    }
    for k in 0..tx.rows.len() / 2 {
        if may_have_run(tx, k) {
            tx.rows[action_row(k)].live.unsure = true;
            tx.live.dirty |= tx.state.unsure_until != until;
        }
    }
    tx.state.unsure_until = until;
}

/// For the simulation, which must catch this fault: forgets what is two levels ahead, as DTM does.
#[doc(hidden)]
pub fn forget_second_level(tx: &mut Transaction) {
    let orders = orders(tx);
    for k in 0..tx.rows.len() / 2 {
        let runnable = orders
            .before(k)
            .iter()
            .all(|b| status(tx, *b) == BranchStatus::Succeed);
        let row = &mut tx.rows[action_row(k)];
        if row.live.unsure && !runnable {
            row.live.unsure = false;
            row.state.started = false;
        }
    }
}

/// Whether a success of this step's action is awaited, durably, by a level after the next one.
pub(crate) fn awaited_later(tx: &Transaction, step: usize) -> bool {
    let Custom::Saga(o) = &tx.def.custom else {
        return false;
    };
    o.after(step).iter().any(|n| !o.after(*n).is_empty())
}

/// The timeout's moment, if there is one.
fn timeout(tx: &Transaction) -> Option<Millis> {
    let limit = seconds(tx.def.options.timeout_to_fail);
    let from = tx.state.submitted.unwrap_or(tx.state.created);
    (limit > 0).then(|| from.saturating_add(limit))
}

pub(crate) fn advance(tx: &mut Transaction, env: &Env<'_>, fx: &mut Effects) {
    if tx.state.status == Status::Prepared {
        // Nothing has run (rules.md 2.6).
        match timeout(tx) {
            Some(at) if env.now >= at => decide(tx, env, fx, Status::Failed, &timeout_text(tx)),
            Some(at) => fx.wake(at),
            None => fx.wake(env.now + env.policy.idle_look),
        }
        return;
    }
    if tx.state.status == Status::Submitted {
        forward(tx, env, fx);
    }
    if tx.state.status == Status::Aborting {
        backward(tx, env, fx);
    }
}

fn timeout_text(tx: &Transaction) -> String {
    format!("Timeout after {} seconds", tx.def.options.timeout_to_fail)
}

fn forward(tx: &mut Transaction, env: &Env<'_>, fx: &mut Effects) {
    if let Some(at) = timeout(tx) {
        if env.now >= at {
            return decide(tx, env, fx, Status::Aborting, &timeout_text(tx));
        }
        fx.wake(at);
    }
    let orders = orders(tx);
    let steps = tx.rows.len() / 2;
    // An empty URL succeeds at once, which may make earlier-numbered steps runnable: look until nothing changes.
    let mut again = true;
    while again {
        again = false;
        for k in 0..steps {
            let i = action_row(k);
            if status(tx, k) != BranchStatus::Prepared || tx.rows[i].live.calling {
                continue;
            }
            if !orders
                .before(k)
                .iter()
                .all(|b| status(tx, *b) == BranchStatus::Succeed)
            {
                continue;
            }
            if tx.rows[i].state.due > env.now {
                fx.wake(tx.rows[i].state.due);
                continue;
            }
            // Every success two levels back is durable first (rules.md 1.2).
            for b in orders.before(k) {
                for bb in orders.before(*b) {
                    await_durable(tx, fx, action_row(*bb));
                }
            }
            if call_row(tx, env, fx, i) {
                again = true;
            } else {
                let row = &mut tx.rows[i];
                row.live.first = !row.state.started;
                row.state.started = true;
            }
        }
    }
    if (0..steps).all(|k| status(tx, k) == BranchStatus::Succeed) {
        decide(tx, env, fx, Status::Succeed, "");
    }
}

fn backward(tx: &mut Transaction, env: &Env<'_>, fx: &mut Effects) {
    let orders = orders(tx);
    let steps = tx.rows.len() / 2;
    let mut again = true;
    while again {
        again = false;
        for k in (0..steps).rev() {
            let i = compensate_row(k);
            if rolled_back(tx, k) || tx.rows[i].live.calling {
                continue;
            }
            // A compensation is sent only after the call of its action has ended (rules.md 1.4).
            let action = &tx.rows[action_row(k)];
            if action.live.calling || !orders.after(k).iter().all(|n| rolled_back(tx, *n)) {
                continue;
            }
            let mut due = tx.rows[i].state.due;
            if action.live.unsure {
                due = due.max(tx.state.unsure_until);
            }
            if due > env.now {
                fx.wake(due);
                continue;
            }
            again |= call_row(tx, env, fx, i);
        }
    }
    let ended = tx.rows.iter().all(|r| !r.live.calling);
    if ended && (0..steps).all(|k| rolled_back(tx, k)) {
        decide(tx, env, fx, Status::Failed, "");
    }
}

impl Orders {
    /// Whether steps run at the same time where `orders` allow it.
    pub fn concurrent(&self) -> bool {
        self.concurrent
    }
}

#[cfg(test)]
mod tests {
    use crate::branch::Status;
    use crate::coordinator::record::{Record, Save};
    use crate::coordinator::{CallId, Env, Input, Transaction, admit, step};
    use crate::options::Policy;
    use crate::outcome::Outcome;
    use crate::time::Millis;
    use crate::wire::request::GlobalRequest;
    use crate::wire::step::Step;
    use bytes::Bytes;
    use std::collections::BTreeMap;

    fn saga_of_two(concurrent: bool) -> Transaction {
        let step = |n: u8| {
            Step::from([
                ("action", &*format!("http://p/a{n}")),
                ("compensate", &format!("http://p/c{n}")),
            ])
        };
        let mut request = GlobalRequest {
            gid: "g".into(),
            trans_type: "saga".into(),
            steps: vec![step(1), step(2)],
            payloads: vec![Bytes::from_static(b"{}"); 2],
            custom_data: format!("{{\"concurrent\":{concurrent}}}"),
            ..GlobalRequest::default()
        };
        let policy = Policy::default();
        Transaction::new(
            admit::define(&mut request, &BTreeMap::new(), &policy.limits).expect("legal"),
            Status::Submitted,
            0,
        )
    }

    fn record(tx: &Transaction, first: &Save, save: Save, exact: bool) -> Record {
        let parts = if first.base == save.base {
            save.parts
        } else {
            first.parts.clone()
        };
        Record {
            gid: tx.gid().clone(),
            version: save.base + 1,
            index: save.index,
            exact,
            state: save.state,
            parts,
        }
    }

    fn calls(tx: &mut Transaction, now: Millis, input: Input) -> Vec<CallId> {
        let policy = Policy::default();
        step(
            tx,
            input,
            &Env {
                now,
                policy: &policy,
                random: 0,
            },
        )
        .expect("accepted")
        .calls
        .iter()
        .map(|c| c.id)
        .collect()
    }

    /// Seeds 796 and 2774 of the simulation.
    #[test]
    fn a_lost_drivers_call_is_reckoned_with_after_its_successor_let_go() {
        let policy = Policy::default();
        let mut tx = saga_of_two(false);
        assert_eq!(calls(&mut tx, 0, Input::Wake), [CallId::Row(1)]);
        let (_, first) = tx.take_save(true);
        // The driver is lost with its call on the way; the next one calls again, and hears of the second step's refusal at once.
        let mut tx = Transaction::load(&record(&tx, &first, first.clone(), false), 100, &policy)
            .expect("sound");
        assert_eq!(calls(&mut tx, 100, Input::Wake), [CallId::Row(1)]);
        assert_eq!(
            calls(
                &mut tx,
                110,
                Input::Result(CallId::Row(1), Outcome::Success)
            ),
            [CallId::Row(3)]
        );
        assert_eq!(
            calls(
                &mut tx,
                120,
                Input::Result(CallId::Row(3), Outcome::Failure("no".into()))
            ),
            []
        );
        assert_eq!(tx.due(), Some(3_100));
        // It lets go, and is claimed again before the first driver's call must have ended.
        let (_, save) = tx.take_save(false);
        let mut tx =
            Transaction::load(&record(&tx, &first, save, true), 200, &policy).expect("sound");
        assert_eq!(calls(&mut tx, 200, Input::Wake), []);
        assert_eq!(calls(&mut tx, 3_100, Input::Wake), [CallId::Row(2)]);
    }

    #[test]
    fn an_action_known_to_have_succeeded_may_still_be_under_way_from_an_earlier_driver() {
        let policy = Policy::default();
        let mut tx = saga_of_two(true);
        assert_eq!(
            calls(&mut tx, 0, Input::Wake),
            [CallId::Row(1), CallId::Row(3)]
        );
        let (_, first) = tx.take_save(true);
        let mut tx = Transaction::load(&record(&tx, &first, first.clone(), false), 100, &policy)
            .expect("sound");
        calls(&mut tx, 100, Input::Wake);
        calls(
            &mut tx,
            110,
            Input::Result(CallId::Row(1), Outcome::Success),
        );
        let (_, save) = tx.take_save(true);
        // This one is lost too; the third knows that the first step succeeded, not how many calls of it there were.
        let mut tx =
            Transaction::load(&record(&tx, &first, save, false), 200, &policy).expect("sound");
        assert_eq!(calls(&mut tx, 200, Input::Wake), [CallId::Row(3)]);
        assert_eq!(
            calls(
                &mut tx,
                210,
                Input::Result(CallId::Row(3), Outcome::Failure("no".into()))
            ),
            []
        );
        assert_eq!(
            calls(&mut tx, 3_200, Input::Wake),
            [CallId::Row(2), CallId::Row(0)]
        );
    }
}
