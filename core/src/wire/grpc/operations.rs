//! A transaction and its branches as `amends.v1.Operations` shows them.

use super::v1;
use crate::branch::BranchStatus;
use crate::coordinator::Transaction;
use crate::coordinator::transaction::Row;
use crate::options::Policy;
use crate::time::Millis;
use crate::wire::http::to_json;
use prost_types::Timestamp;

fn time(at: Millis) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: at.div_euclid(1_000),
        nanos: i32::try_from(at.rem_euclid(1_000)).unwrap_or(0) * 1_000_000,
    })
}

/// The moment of a timestamp, ms.
pub fn millis(at: Timestamp) -> Millis {
    at.seconds
        .saturating_mul(1_000)
        .saturating_add(i64::from(at.nanos) / 1_000_000)
}

/// The view of a transaction.
pub fn transaction(tx: &Transaction, policy: &Policy) -> v1::Transaction {
    let def = tx.definition();
    let state = tx.state();
    let text = |s: &str| s.to_owned();
    v1::Transaction {
        gid: text(def.gid.as_str()),
        trans_type: text(def.trans_type.as_str()),
        status: text(state.status.as_str()),
        protocol: text(def.protocol.as_str()),
        create_time: time(state.created),
        update_time: time(state.updated),
        end_time: state.finished.and_then(time),
        next_cron_time: tx.due().and_then(time),
        next_cron_interval: tx.shown_interval(policy).saturating_add(999) / 1_000,
        rollback_reason: state.reason.clone(),
        result: text(tx.result()),
        query_prepared: def.query_prepared.clone(),
        custom_data: def.custom_data.clone(),
        options: String::from_utf8(to_json(&def.options)).unwrap_or_default(),
        retry_count: tx.attempts(),
        attention: state.attention,
        last_error: tx
            .last_error()
            .map_or(String::new(), |(error, _)| text(error)),
        forced: state.forced.as_ref().map(|f| v1::Forced {
            actor: f.actor.clone(),
            reason: f.reason.clone(),
        }),
    }
}

/// The view of a transaction in a list: without what may be large.
pub fn listed(tx: &Transaction, policy: &Policy) -> v1::Transaction {
    v1::Transaction {
        custom_data: String::new(),
        result: String::new(),
        ..transaction(tx, policy)
    }
}

/// The views of a transaction's branch operations, in the order they were stored. Payloads are left out from the point on where together
/// they have more than `payloads_max` bytes.
pub fn branches(tx: &Transaction, payloads_max: usize) -> Vec<v1::Branch> {
    let mut room = payloads_max;
    let rows = tx.rows().iter().map(|row| {
        let mut branch = branch(row);
        match room.checked_sub(row.payload.len()) {
            Some(left) => room = left,
            None => {
                room = 0;
                branch.payload.clear();
            }
        }
        branch
    });
    rows.collect()
}

fn branch(row: &Row) -> v1::Branch {
    let changed = Some(row.state.updated).filter(|at| *at != 0);
    v1::Branch {
        branch_id: row.branch_id.to_string(),
        op: row.op.as_str().to_owned(),
        status: row.state.status.as_str().to_owned(),
        url: row.url.to_string(),
        payload: row.payload.clone(),
        payload_bytes: row.payload.len() as u64,
        create_time: time(row.created),
        update_time: time(changed.unwrap_or(row.created)),
        finish_time: changed
            .filter(|_| row.state.status == BranchStatus::Succeed)
            .and_then(time),
        retry_count: row.state.errors,
        last_error: row.state.error.clone(),
    }
}
