//! Two-phase message: delivered at least once if the local transaction committed, never otherwise (dtm-server.md 9.1).

use super::decision::{await_durable, call_root, call_row, change, decide, errored, well_again};
use super::event::{Effects, Env, When};
use super::retry;
use super::transaction::{CallId, Custom, Transaction};
use crate::branch::{BranchStatus, Op, Status};
use crate::outcome::{Outcome, Purpose};
use crate::time::seconds;
use bytes::Bytes;

pub(crate) fn advance(tx: &mut Transaction, env: &Env<'_>, fx: &mut Effects) {
    if tx.state.status == Status::Prepared {
        let limit = match tx.def.options.timeout_to_fail {
            0 => env.policy.timeout_to_fail,
            s => seconds(s),
        };
        let at = tx
            .state
            .created
            .saturating_add(limit)
            .max(tx.state.root.due);
        if tx.live.root_calling {
        } else if env.now < at {
            fx.wake(at);
        } else if tx.def.query_prepared.is_empty() {
            // Prepare refuses it; nobody can be asked, so nothing may be delivered.
            decide(tx, env, fx, Status::Failed, "no query_prepared to ask");
        } else {
            call_root(tx, fx, Purpose::CheckBack, Op::MSG, Bytes::new());
        }
        return;
    }
    let delay = match tx.def.custom {
        Custom::Msg { delay } => delay,
        _ => 0,
    };
    let at = tx
        .state
        .submitted
        .unwrap_or(tx.state.created)
        .saturating_add(delay);
    if env.now < at {
        return fx.wake(at);
    }
    let concurrent = tx.def.options.concurrent;
    for i in 0..tx.rows.len() {
        let row = &tx.rows[i];
        if row.state.status == BranchStatus::Succeed {
            continue;
        }
        if row.live.calling {
        } else if row.state.due > env.now {
            fx.wake(row.state.due);
        } else {
            if !concurrent && i >= 2 {
                await_durable(tx, fx, i - 2);
            }
            if call_row(tx, env, fx, i) {
                continue;
            }
        }
        if !concurrent {
            break;
        }
    }
    if tx
        .rows
        .iter()
        .all(|r| r.state.status == BranchStatus::Succeed)
    {
        decide(tx, env, fx, Status::Succeed, "");
    }
}

/// The check-back was answered.
pub(crate) fn answered(tx: &mut Transaction, outcome: Outcome, env: &Env<'_>, fx: &mut Effects) {
    if tx.state.status != Status::Prepared {
        return;
    }
    match outcome {
        Outcome::Success => {
            retry::cleared(&mut tx.state.root, env.now);
            well_again(tx, env);
            decide(tx, env, fx, Status::Submitted, "");
        }
        Outcome::Failure(text) => decide(
            tx,
            env,
            fx,
            Status::Failed,
            &format!("query_prepared answered FAILURE: {text}"),
        ),
        Outcome::Ongoing => {
            retry::ongoing(
                &mut tx.state.root,
                env.policy.base_interval(&tx.def.options),
                env,
            );
            change(tx, env, fx, When::Late);
        }
        Outcome::Error(text) => errored(tx, CallId::Root, text, env, fx),
    }
}
