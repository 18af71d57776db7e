//! The step: one input into one transaction, and what to do about it (architecture, rule 2). Pure and total.

use super::event::{Alert, Call, Effects, Env, Input, Rejected, When};
use super::request::ask;
use super::retry;
use super::transaction::{CallId, RowState, Transaction};
use super::{msg, phase2, saga, workflow};
use crate::branch::{BranchStatus, Op, ROOT_BRANCH, Status, TransType};
use crate::limits::cut;
use crate::outcome::{Outcome, Purpose};
use bytes::Bytes;

/// What is kept, in bytes, of the errors of branches other than the one that failed last.
const ERROR_KEPT: usize = 200;

/// Applies an input. A refused request changes nothing; every other input is accepted.
pub fn step(tx: &mut Transaction, input: Input, env: &Env<'_>) -> Result<Effects, Rejected> {
    let mut fx = Effects::default();
    match input {
        Input::Wake => {}
        Input::Result(id, outcome) => record(tx, id, outcome, env, &mut fx),
        Input::Request(request) => ask(tx, request, env, &mut fx)?,
        Input::Panicked => {
            tx.live.paused_until = env
                .now
                .saturating_add(env.policy.base_interval(&tx.def.options));
            tx.state.attention = !tx.state.status.is_final();
            change(tx, env, &mut fx, When::Now);
        }
    }
    if tx.state.status.is_final() {
    } else if env.now < tx.live.paused_until {
        // After a panic nothing is tried before its pause is over, whatever else comes in.
        fx.wake(tx.live.paused_until);
    } else {
        match tx.def.trans_type {
            TransType::Saga => saga::advance(tx, env, &mut fx),
            TransType::Msg => msg::advance(tx, env, &mut fx),
            TransType::Tcc | TransType::Xa => phase2::advance(tx, env, &mut fx),
            TransType::Workflow => workflow::advance(tx, env, &mut fx),
        }
    }
    if tx.state.status.is_final() {
        fx.wake_at = None;
    }
    tx.live.wake_at = fx.wake_at;
    if tx.live.dirty {
        fx.save(When::Late);
    }
    // Nothing overtakes a decision that is not durable yet (architecture, rule 3).
    fx.after = fx.after.max(tx.live.decision);
    fx.ended = tx.state.status.is_final();
    Ok(fx)
}

/// Notes that something changed, and when it is to be written.
pub(super) fn change(tx: &mut Transaction, env: &Env<'_>, fx: &mut Effects, when: When) {
    tx.live.dirty = true;
    tx.state.updated = env.now;
    fx.save(when);
}

/// Changes the status for good: nothing that follows from it happens before it is durable (rules.md 1.3). A reason that is there stays.
pub(super) fn decide(
    tx: &mut Transaction,
    env: &Env<'_>,
    fx: &mut Effects,
    status: Status,
    reason: &str,
) {
    tx.state.status = status;
    if tx.state.reason.is_empty() {
        tx.state.reason = cut(reason, env.policy.limits.reason);
    }
    if status == Status::Submitted {
        tx.state.submitted = Some(env.now);
        // Nobody is asked any more: errors of the check-back count for nothing.
        tx.state.root = RowState::default();
    }
    if status.is_final() {
        tx.state.finished = Some(env.now);
        tx.state.attention = false;
    }
    change(tx, env, fx, When::Now);
    tx.live.decision = tx.next_seq();
}

/// Calls and answers of this step wait until the success of this row is durable.
pub(super) fn await_durable(tx: &Transaction, fx: &mut Effects, row: usize) {
    let seq = tx.rows[row].live.seq;
    fx.after = fx.after.max(seq);
    if seq > tx.live.built {
        fx.save(When::Now);
    }
}

/// Calls a row, or, where its URL is empty, records its success at once and says `true`.
pub(super) fn call_row(tx: &mut Transaction, env: &Env<'_>, fx: &mut Effects, i: usize) -> bool {
    let seq = tx.next_seq();
    let row = &mut tx.rows[i];
    if row.url.is_empty() {
        retry::succeeded(&mut row.state, env.now);
        row.live.seq = seq;
        change(tx, env, fx, When::Late);
        return true;
    }
    row.live.calling = true;
    fx.calls.push(Call {
        id: CallId::Row(i),
        purpose: Purpose::Branch,
        branch_id: row.branch_id.clone(),
        op: row.op.clone(),
        url: row.url.clone(),
        payload: row.payload.clone(),
    });
    false
}

/// Calls the check-back or callback, unless a call of it is on its way.
pub(super) fn call_root(
    tx: &mut Transaction,
    fx: &mut Effects,
    purpose: Purpose,
    op: Op,
    payload: Bytes,
) {
    tx.live.root_calling = true;
    let url = tx.def.query_prepared.as_str().into();
    fx.calls.push(Call {
        id: CallId::Root,
        purpose,
        branch_id: ROOT_BRANCH.into(),
        op,
        url,
        payload,
    });
}

fn record(tx: &mut Transaction, id: CallId, outcome: Outcome, env: &Env<'_>, fx: &mut Effects) {
    note(tx, id, outcome, env, fx);
    // Who reset it while the call was on its way wanted a call from then on, not the answer of one before.
    match id {
        CallId::Root if !tx.live.root_calling && std::mem::take(&mut tx.live.root_again) => {
            tx.state.root.due = 0
        }
        CallId::Row(i) => {
            if let Some(row) = tx.rows.get_mut(i)
                && !row.live.calling
                && std::mem::take(&mut row.live.again)
            {
                row.state.due = 0;
            }
        }
        CallId::Root => {}
    }
}

fn note(tx: &mut Transaction, id: CallId, outcome: Outcome, env: &Env<'_>, fx: &mut Effects) {
    let base = env.policy.base_interval(&tx.def.options);
    let ended = tx.state.status.is_final();
    match id {
        // A result of no call says nothing, whatever it says: what follows relies on who may be called, and when.
        CallId::Root if !tx.live.root_calling => {}
        CallId::Root => {
            match tx.live.root_replays.checked_sub(1) {
                Some(left) => tx.live.root_replays = left,
                None => tx.live.root_calling = false,
            }
            if !ended {
                match tx.def.trans_type {
                    TransType::Workflow => workflow::answered(tx, outcome, env, fx),
                    _ => msg::answered(tx, outcome, env, fx),
                }
            }
        }
        CallId::Row(i) => {
            let Some(row) = tx.rows.get_mut(i).filter(|r| r.live.calling) else {
                return;
            };
            match row.live.replays.checked_sub(1) {
                Some(left) => row.live.replays = left,
                None => row.live.calling = false,
            }
            if row.state.status != BranchStatus::Prepared {
                return;
            }
            let action = tx.def.trans_type == TransType::Saga && row.op == Op::ACTION;
            match outcome {
                Outcome::Success => {
                    retry::succeeded(&mut row.state, env.now);
                    row.live.seq = tx.live.built + 1;
                    well_again(tx, env);
                    let awaited = match tx.def.trans_type {
                        TransType::Saga => action && saga::awaited_later(tx, i / 2),
                        TransType::Msg => !tx.def.options.concurrent && i + 2 < tx.rows.len(),
                        _ => false,
                    };
                    change(tx, env, fx, if awaited { When::Now } else { When::Late });
                }
                Outcome::Failure(text) if action => {
                    row.state.status = BranchStatus::Failed;
                    row.state.updated = env.now;
                    let url = row.url.clone();
                    change(tx, env, fx, When::Late);
                    if tx.state.status == Status::Submitted {
                        let reason = format!(
                            "url:{url} return failed: {}",
                            with_failure(
                                &text,
                                env.policy.limits.reason.saturating_sub(url.len() + 64)
                            )
                        );
                        decide(tx, env, fx, Status::Aborting, &reason);
                    }
                }
                // Only a failure that was recorded stays after the end: what else a late call says changes nothing.
                _ if ended => {}
                Outcome::Ongoing => {
                    retry::ongoing(&mut row.state, base, env);
                    change(tx, env, fx, When::Late);
                }
                Outcome::Failure(text) => {
                    let text = format!(
                        "{} answered FAILURE, which only a saga's action may: it is called again. {text}",
                        row.op
                    );
                    errored(tx, id, text, env, fx);
                }
                Outcome::Error(text) => {
                    errored(tx, id, text, env, fx);
                    if action && tx.state.status == Status::Submitted {
                        limit_retries(tx, i, env, fx);
                    }
                }
            }
        }
    }
}

/// A call was answered: nobody need look any more, unless another one still fails (rules.md 4.3).
pub(super) fn well_again(tx: &mut Transaction, env: &Env<'_>) {
    let limit = env.policy.alert_retry_limit;
    tx.state.attention = limit > 0 && tx.called().any(|(r, _)| r.errors >= limit);
}

/// Counts the error of a call, backs off, and alerts where it is time to.
pub(super) fn errored(
    tx: &mut Transaction,
    id: CallId,
    text: String,
    env: &Env<'_>,
    fx: &mut Effects,
) {
    let base = env.policy.base_interval(&tx.def.options);
    // JSON makes six bytes of a control character: a thousand of such texts would pass the limit of the state.
    let text = cut(
        &text.replace(char::is_control, " "),
        env.policy.limits.reason,
    );
    // One long text is enough: the state stays small whatever number of branches fails.
    tx.rows
        .iter_mut()
        .filter(|r| r.state.error.len() > ERROR_KEPT)
        .for_each(|r| r.state.error = cut(&r.state.error, ERROR_KEPT));
    let (row, url): (&mut RowState, &str) = match id {
        CallId::Root => (&mut tx.state.root, &tx.def.query_prepared),
        CallId::Row(i) => {
            let row = &mut tx.rows[i];
            (&mut row.state, &row.url)
        }
    };
    retry::failed(row, text.clone(), base, env);
    if retry::alerts_at(row.errors, env.policy.alert_retry_limit) {
        fx.alerts.push(Alert {
            branch: url.to_owned(),
            error: text,
            retry_count: row.errors,
            status: tx.state.status,
        });
        tx.state.attention = true;
    }
    change(tx, env, fx, When::Late);
}

/// retry_limit: a few quick retries, then the saga rolls back (rules.md 4.2).
fn limit_retries(tx: &mut Transaction, i: usize, env: &Env<'_>, fx: &mut Effects) {
    let limit = tx.def.options.retry_limit;
    if limit == 0 {
        return;
    }
    let row = &mut tx.rows[i].state;
    if u64::from(row.retries) < limit {
        row.retries += 1;
        row.due = env.now + retry::quick(env.policy.base_interval(&tx.def.options), row.retries);
    } else {
        decide(
            tx,
            env,
            fx,
            Status::Aborting,
            &format!("RetryCount is greater than RetryLimit, RetryLimit: {limit}"),
        );
    }
}

/// A failure's text, ending in ` FAILURE` once, within the limit.
fn with_failure(text: &str, max: usize) -> String {
    let text = text.trim_end();
    let text = text.strip_suffix("FAILURE").map_or(text, str::trim_end);
    if text.is_empty() {
        "FAILURE".to_owned()
    } else {
        format!("{} FAILURE", cut(text, max.saturating_sub(8)))
    }
}
