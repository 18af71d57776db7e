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
        decide(
            tx,
            env,
            fx,
            Status::Aborting,
            &format!("Timeout after {} seconds", limit / SECOND),
        );
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

#[cfg(test)]
mod tests {
    use crate::branch::{Op, Status};
    use crate::coordinator::codec::Registration;
    use crate::coordinator::record::Record;
    use crate::coordinator::{CallId, Effects, Env, Input, Request, Transaction, admit, step};
    use crate::options::{Options, Policy};
    use crate::wire::request::GlobalRequest;
    use bytes::Bytes;
    use std::collections::BTreeMap;

    fn submit(tx: &mut Transaction, policy: &Policy) -> Effects {
        let request = Request::Submit {
            trans_type: tx.trans_type(),
            options: Box::<Options>::default(),
            custom_data: String::new(),
        };
        step(
            tx,
            Input::Request(request),
            &Env {
                now: 10,
                policy,
                random: 0,
            },
        )
        .expect("accepted")
    }

    fn ids(fx: &Effects) -> Vec<CallId> {
        fx.calls.iter().map(|c| c.id).collect()
    }

    #[test]
    fn a_confirm_that_was_dropped_with_its_refused_save_is_asked_for_again() {
        let policy = Policy::default();
        let mut request = GlobalRequest {
            gid: "g".into(),
            trans_type: "tcc".into(),
            ..GlobalRequest::default()
        };
        let def = admit::define(&mut request, &BTreeMap::new(), &policy.limits).expect("legal");
        let (_, save) = Transaction::new(def, Status::Prepared, 0).take_save(false);
        let part = |branch: &str| {
            let rows = vec![
                (Op::CANCEL, "http://p/cancel".to_owned()),
                (Op::CONFIRM, "http://p/confirm".to_owned()),
            ];
            let status = crate::branch::BranchStatus::Prepared;
            Registration {
                branch_id: branch.into(),
                rows,
                status,
                run: String::new(),
                data: Bytes::new(),
            }
            .part(0)
        };
        let mut parts = save.parts.clone();
        parts.push(part("01"));
        let mut record = Record {
            gid: crate::gid::Gid::stored("g"),
            version: 2,
            index: save.index,
            exact: true,
            state: save.state,
            parts,
        };
        let mut tx = Transaction::load(&record, 5, &policy).expect("sound");
        let fx = submit(&mut tx, &policy);
        assert_eq!(ids(&fx), [CallId::Row(1)]);
        // Before `submitted` is durable another branch is registered: the save is refused, the confirm was never sent.
        let _refused = tx.take_save(true);
        record.parts.push(part("02"));
        record.version += 1;
        tx.withdraw(CallId::Row(1));
        let mut tx = tx.reload(&record, &policy, []).expect("sound");
        assert!(!tx.in_flight());
        assert_eq!(
            ids(&submit(&mut tx, &policy)),
            [CallId::Row(3)],
            "the branch registered last is confirmed first"
        );
    }
}
