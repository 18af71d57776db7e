//! What clients and operators ask of a stored transaction, and what is refused (dtm-server.md 9.5, rules.md 2).

use super::decision::{change, decide};
use super::event::{Effects, Env, Rejected, Request, When};
use super::transaction::{Forced, RowState, Transaction};
use super::{admit, workflow};
use crate::branch::{BranchStatus, Status, TransType};
use crate::error::{Error, ErrorKind};
use crate::gid::Gid;
use crate::limits::cut;
use crate::options::Options;
use crate::wire::url::host;

fn wrong_state(tx: &Transaction, message: String) -> Rejected {
    Error::refused(Some(tx.state.status), message)
}

/// The refusal of a workflow's write (rules.md 2.1): without the word that clients take for a rollback.
pub fn refused(gid: &Gid, status: Option<Status>) -> Error {
    Error::new(
        ErrorKind::RowRefused,
        format!("no trans with gid: {gid} status: prepared found"),
    )
    .with_status(status)
}

pub(super) fn ask(
    tx: &mut Transaction,
    request: Request,
    env: &Env<'_>,
    fx: &mut Effects,
) -> Result<(), Rejected> {
    let status = tx.state.status;
    let ty = tx.def.trans_type;
    match request {
        Request::Prepare => match status {
            Status::Prepared => Ok(()),
            _ => Err(wrong_state(
                tx,
                format!("current status '{status}', cannot prepare. FAILURE"),
            )),
        },
        Request::PrepareWorkflow => {
            if ty != TransType::Workflow {
                return Err(wrong_state(
                    tx,
                    format!("gid {} is a {ty}, not a workflow. FAILURE", tx.def.gid),
                ));
            }
            if status == Status::Prepared {
                tx.live.callback_due = workflow::next_callback(tx, env);
                change(tx, env, fx, When::Now);
                fx.after = tx.next_seq();
            }
            Ok(())
        }
        Request::Submit {
            trans_type,
            options,
            custom_data,
        } => {
            if trans_type != ty {
                return Err(wrong_state(
                    tx,
                    format!(
                        "gid {} is a {ty}, not a {trans_type}: cannot sumbmit. FAILURE",
                        tx.def.gid
                    ),
                ));
            }
            if ty == TransType::Workflow {
                return Err(Error::invalid(
                    "a workflow is not submitted to be driven: its submit names the status it ended in",
                ));
            }
            match status {
                Status::Submitted => Ok(()),
                Status::Prepared => {
                    amend(tx, *options, custom_data, env)?;
                    decide(tx, env, fx, Status::Submitted, "");
                    Ok(())
                }
                _ => Err(wrong_state(
                    tx,
                    format!("current status '{status}', cannot sumbmit. FAILURE"),
                )),
            }
        }
        Request::End {
            status: end,
            reason,
            result,
        } => {
            if ty != TransType::Workflow {
                return Err(wrong_state(
                    tx,
                    format!("gid {} is a {ty}, not a workflow. FAILURE", tx.def.gid),
                ));
            }
            if !end.is_final() {
                return Err(Error::invalid(format!(
                    "status is {:?}: a workflow ends as succeed or failed",
                    end.as_str()
                )));
            }
            if status == end && tx.state.forced.is_none() {
                return Ok(());
            }
            let decided = tx.decision_row().map(|r| {
                if r.state.status == BranchStatus::Succeed {
                    Status::Succeed
                } else {
                    Status::Failed
                }
            });
            if status != Status::Prepared || decided.is_some_and(|d| d != end) {
                return Err(refused(&tx.def.gid, Some(status)));
            }
            admit::within("result", result.len(), env.policy.limits.result)?;
            tx.set_result(result, env.now);
            decide(tx, env, fx, end, &reason);
            Ok(())
        }
        Request::Abort { reason } => match (ty, status) {
            (TransType::Msg, Status::Prepared) => {
                decide(tx, env, fx, Status::Failed, &reason);
                Ok(())
            }
            (TransType::Tcc | TransType::Xa, Status::Prepared) => {
                decide(tx, env, fx, Status::Aborting, &reason);
                Ok(())
            }
            (TransType::Tcc | TransType::Xa, Status::Aborting) => Ok(()),
            _ => Err(wrong_state(
                tx,
                format!("trans type: '{ty}' current status '{status}', cannot abort. FAILURE"),
            )),
        },
        Request::ForceStop { actor, reason } => {
            if status.is_final() {
                return Err(wrong_state(
                    tx,
                    format!(
                        "global transaction force stop error. status: {status}. error: FAILURE"
                    ),
                ));
            }
            let max = env.policy.limits.reason;
            tx.state.forced = Some(Forced {
                actor: cut(&actor, max),
                reason: cut(&reason, max),
            });
            decide(
                tx,
                env,
                fx,
                Status::Failed,
                if reason.is_empty() {
                    "stopped by force"
                } else {
                    &reason
                },
            );
            Ok(())
        }
        Request::Reset => {
            if !status.is_final() {
                tx.live.paused_until = 0;
                tx.state.root.due = 0;
                tx.live.root_again = tx.live.root_calling;
                tx.live.callback_due = tx.live.callback_due.min(env.now);
                for row in tx
                    .rows
                    .iter_mut()
                    .filter(|r| r.state.status == BranchStatus::Prepared)
                {
                    row.state.due = 0;
                    row.live.again = row.live.calling;
                }
                change(tx, env, fx, When::Now);
                fx.after = tx.next_seq();
            }
            Ok(())
        }
        Request::HostBack(back) => {
            let hit =
                |s: &RowState, url: &str| s.errors > 0 && s.due > env.now && host(url) == back;
            if hit(&tx.state.root, &tx.def.query_prepared) {
                tx.state.root.due = 0;
                tx.live.callback_due = tx.live.callback_due.min(env.now);
                change(tx, env, fx, When::Late);
            }
            for i in 0..tx.rows.len() {
                if hit(&tx.rows[i].state, &tx.rows[i].url) {
                    tx.rows[i].state.due = 0;
                    change(tx, env, fx, When::Late);
                }
            }
            Ok(())
        }
    }
}

/// Non-empty options and custom data of a submit replace those of the prepare; `concurrent` is OR (rules.md 2.2).
fn amend(
    tx: &mut Transaction,
    new: Options,
    custom_data: String,
    env: &Env<'_>,
) -> Result<(), Rejected> {
    let old = &tx.def.options;
    let number = |new: u64, old: u64| if new != 0 { new } else { old };
    let merged = Options {
        wait_result: old.wait_result || new.wait_result,
        timeout_to_fail: number(new.timeout_to_fail, old.timeout_to_fail),
        request_timeout: number(new.request_timeout, old.request_timeout),
        retry_interval: number(new.retry_interval, old.retry_interval),
        retry_limit: number(new.retry_limit, old.retry_limit),
        concurrent: old.concurrent || new.concurrent,
        branch_headers: if new.branch_headers.is_empty() {
            old.branch_headers.clone()
        } else {
            new.branch_headers
        },
    };
    admit::within(
        "custom_data",
        custom_data.len(),
        env.policy.limits.custom_data,
    )?;
    let custom_data = if custom_data.is_empty() {
        tx.def.custom_data.clone()
    } else {
        custom_data
    };
    if merged == tx.def.options && custom_data == tx.def.custom_data {
        return Ok(());
    }
    let custom = super::custom::custom(tx.def.trans_type, &custom_data, tx.def.payloads.len())?;
    tx.def.custom = custom;
    tx.amend(merged, custom_data, env.now);
    Ok(())
}
