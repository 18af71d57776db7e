//! Workflow: the client runs the steps; the coordinator keeps its progress and calls it back when it was not heard of
//! (dtm-server.md 9.6, rules.md 2.7).

use super::decision::{call_root, change, errored, well_again};
use super::event::{Effects, Env, When};
use super::retry;
use super::transaction::{CallId, Custom, Transaction};
use crate::branch::Op;
use crate::outcome::{Outcome, Purpose};
use crate::time::Millis;

/// When the callback is due after the client was heard of.
pub(crate) fn next_callback(tx: &Transaction, env: &Env<'_>) -> Millis {
    env.now + env.policy.quiet(&tx.def.options)
}

pub(crate) fn advance(tx: &mut Transaction, env: &Env<'_>, fx: &mut Effects) {
    tx.live.quiet = Some(env.policy.quiet(&tx.def.options));
    if tx.live.callback_due == 0 {
        tx.live.callback_due = next_callback(tx, env);
    }
    if tx.live.root_calling {
        return;
    }
    let at = tx.live.callback_due.max(tx.state.root.due);
    if env.now < at {
        return fx.wake(at);
    }
    if tx.def.query_prepared.is_empty() {
        return fx.wake(env.now + env.policy.idle_look);
    }
    let Custom::Workflow { name, data } = &tx.def.custom else {
        return fx.wake(env.now + env.policy.idle_look);
    };
    let (op, data) = (Op::new(name), data.clone());
    call_root(tx, fx, Purpose::Callback, op, data);
}

/// The callback was answered: that changes nothing but its next due time.
pub(crate) fn answered(tx: &mut Transaction, outcome: Outcome, env: &Env<'_>, fx: &mut Effects) {
    match outcome {
        Outcome::Success | Outcome::Ongoing => {
            retry::cleared(&mut tx.state.root, env.now);
            retry::ongoing(
                &mut tx.state.root,
                env.policy.base_interval(&tx.def.options),
                env,
            );
            well_again(tx, env);
            change(tx, env, fx, When::Late);
        }
        Outcome::Failure(text) => errored(
            tx,
            CallId::Root,
            format!("the callback answered FAILURE: {text}"),
            env,
            fx,
        ),
        Outcome::Error(text) => errored(tx, CallId::Root, text, env, fx),
    }
}
