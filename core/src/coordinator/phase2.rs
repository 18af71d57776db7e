//! TCC and XA: the client runs phase 1 and decides; phase 2 confirms or cancels every branch (dtm-server.md 9.3, 9.4).
//! They differ in the names of their operations and in the order of their rows only.

use super::decision::{call_row, decide};
use super::event::{Effects, Env};
use super::transaction::Transaction;
use crate::branch::{BranchStatus, Op, Status, TransType};
use crate::time::{SECOND, seconds};

pub(crate) fn advance(tx: &mut Transaction, env: &Env<'_>, fx: &mut Effects) {
    if tx.state.status == Status::Prepared {
        let limit = match tx.def.options.timeout_to_fail {
            0 => env.policy.timeout_to_fail,
            s => seconds(s),
        };
        let at = tx.state.created.saturating_add(limit);
        if env.now < at {
            return fx.wake(at);
        }
        decide(tx, env, fx, Status::Aborting, &format!("Timeout after {} seconds", limit / SECOND));
    }
    let xa = tx.def.trans_type == TransType::Xa;
    let (op, end) = match (xa, tx.state.status) {
        (false, Status::Submitted) => (Op::CONFIRM, Status::Succeed),
        (false, _) => (Op::CANCEL, Status::Failed),
        (true, Status::Submitted) => (Op::COMMIT, Status::Succeed),
        (true, _) => (Op::ROLLBACK, Status::Failed),
    };
    // TCC from the last registered to the first, XA the other way; one by one, the first that does not succeed holds the rest.
    let count = tx.rows.len();
    for n in 0..count {
        let i = if xa { n } else { count - 1 - n };
        let row = &tx.rows[i];
        if row.op != op || row.state.status == BranchStatus::Succeed {
            continue;
        }
        if row.live.calling {
            return;
        }
        if row.state.due > env.now {
            return fx.wake(row.state.due);
        }
        if !call_row(tx, env, fx, i) {
            return;
        }
    }
    decide(tx, env, fx, end, "");
}
