//! Saga: actions forward in their order; once one is refused, compensations backward in reverse (dtm-server.md 9.2, rules.md 1).

use super::decision::{call_row, decide, await_durable};
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
    /// Per step, those that must have succeeded before it starts, in step order or by `orders`.
    before: Vec<Vec<usize>>,
    /// Per step, those that must be undone before it is.
    after: Vec<Vec<usize>>,
}

impl Orders {
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
            return Err(Error::invalid(format!("custom_data: orders hold a cycle through step {k}: such a step could never start")));
        }
        Ok(Orders { concurrent, before: all, after })
    }

    /// Steps that step `k` waits for.
    pub fn before(&self, k: usize) -> &[usize] {
        self.before.get(k).map_or(&[], Vec::as_slice)
    }

    /// Steps that wait for step `k`.
    pub fn after(&self, k: usize) -> &[usize] {
        self.after.get(k).map_or(&[], Vec::as_slice)
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
/// runnable ones had succeeded (rules.md 1.2).
pub(crate) fn mark_unsure(tx: &mut Transaction) {
    if tx.def.trans_type != TransType::Saga || tx.state.status == Status::Prepared {
        return;
    }
    let orders = orders(tx);
    let steps = tx.rows.len() / 2;
    let done = |s: &Vec<bool>, k: usize| orders.before(k).iter().all(|b| s[*b]);
    let mut succeeded: Vec<bool> = (0..steps).map(|k| status(tx, k) == BranchStatus::Succeed).collect();
    let mut may = vec![false; steps];
    for _level in 0..2 {
        let runnable: Vec<usize> = (0..steps).filter(|k| status(tx, *k) == BranchStatus::Prepared && done(&succeeded, *k)).collect();
        for k in runnable {
            may[k] = true;
        }
        for k in 0..steps {
            succeeded[k] |= may[k];
        }
    }
    for k in 0..steps {
        let row = &mut tx.rows[action_row(k)];
        if row.state.status == BranchStatus::Prepared && (may[k] || row.state.started) {
            row.state.started = true;
            row.live.unsure = true;
        }
    }
    // What it learned is stored with the next save.
    tx.live.dirty |= tx.rows.iter().any(|r| r.live.unsure);
}

/// For the simulation, which must catch this fault: forgets what is two levels ahead, as DTM does.
#[doc(hidden)]
pub fn forget_second_level(tx: &mut Transaction) {
    let orders = orders(tx);
    for k in 0..tx.rows.len() / 2 {
        let runnable = orders.before(k).iter().all(|b| status(tx, *b) == BranchStatus::Succeed);
        let row = &mut tx.rows[action_row(k)];
        if row.live.unsure && !runnable {
            row.live.unsure = false;
            row.state.started = false;
        }
    }
}

/// Whether a success of this step's action is awaited, durably, by a level after the next one.
pub(crate) fn awaited_later(tx: &Transaction, step: usize) -> bool {
    let Custom::Saga(o) = &tx.def.custom else { return false };
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
            if !orders.before(k).iter().all(|b| status(tx, *b) == BranchStatus::Succeed) {
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
            again |= call_row(tx, env, fx, i);
            tx.rows[i].state.started = true;
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
                due = due.max(tx.live.unsure_until);
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
