//! The rules that hold at every step and at every call, whatever the mode (rules.md 1, architecture 3).

use crate::driver::World;
use amends::coordinator::record::Record;
use amends::coordinator::transaction::{Custom, Row, RowLive};
use amends::coordinator::{Call, CallId, Effects, Transaction};
use amends::{Status, TransType};

/// What was decided, where it was (rules.md 1.3).
fn decision(tx: &Transaction) -> Option<&'static str> {
    match (tx.trans_type(), tx.status()) {
        (_, Status::Succeed) => Some("forward"),
        (_, Status::Failed) => Some("backward"),
        (TransType::Tcc | TransType::Xa | TransType::Msg, Status::Submitted) => Some("forward"),
        (_, Status::Aborting) => Some("backward"),
        _ => None,
    }
}

/// A call as the tests name it.
pub(crate) fn name(call: &Call) -> String {
    format!("{} {}", call.branch_id, call.op)
}

impl World {
    /// What holds after every step, whatever the mode.
    pub(crate) fn check(&self, before: &Transaction, fx: &Effects) {
        let (tx, was) = (&self.tx, before.status());
        let ended = tx.status().is_final();
        if was.is_final() {
            assert_eq!(tx.status(), was, "a final status never changes");
        }
        if let Some(decided) = decision(before)
            && tx.state().forced.is_none()
        {
            assert_eq!(
                decision(tx),
                Some(decided),
                "a decision never changes: {was} became {}",
                tx.status()
            );
        }
        assert_eq!(fx.ended, ended);
        if ended {
            assert!(
                fx.wake_at.is_none() && fx.calls.is_empty(),
                "nothing is done after the end"
            );
        } else {
            assert!(
                fx.wake_at.is_some() || tx.in_flight(),
                "{}: neither a due time nor a call in flight",
                tx.status()
            );
        }
        assert!(
            fx.wake_at.is_none_or(|at| at > self.now),
            "a due time in the past would spin"
        );
        let mut ids: Vec<CallId> = self
            .flying
            .iter()
            .chain(self.held.iter().map(|(_, c)| c))
            .chain(&fx.calls)
            .map(|c| c.id)
            .collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "a branch is never called twice at a time");
    }

    /// An action starts only when every success two levels back is durable (rules.md 1.2).
    pub(crate) fn check_levels(&self, call: &Call) {
        let (Custom::Saga(orders), CallId::Row(i)) = (&self.tx.definition().custom, call.id) else {
            return;
        };
        let two_back: Vec<usize> = orders
            .before(i / 2)
            .iter()
            .flat_map(|b| orders.before(*b))
            .copied()
            .collect();
        if two_back.is_empty() {
            return;
        }
        let stored = Transaction::load(&self.record, self.now, &self.policy)
            .expect("a record that was saved");
        for step in two_back {
            let status = stored.rows()[2 * step + 1].state.status.as_str();
            assert_eq!(
                status,
                "succeed",
                "{} runs though step {step} is not durable",
                name(call)
            );
        }
    }

    /// A compensation is sent only after the call of its action has ended, and after what depends on its step was undone (rules.md 1.4).
    pub(crate) fn check_backward(&self, call: &Call) {
        let (Custom::Saga(orders), CallId::Row(i)) = (&self.tx.definition().custom, call.id) else {
            return;
        };
        let action = CallId::Row(i + 1);
        assert!(
            self.flying.iter().all(|c| c.id != action),
            "{} while its action is in flight",
            name(call)
        );
        let ghost = self
            .ghosts
            .iter()
            .any(|(id, until)| *id == action && *until > self.now);
        assert!(
            !ghost,
            "{} while a call of a dead process may be in flight",
            name(call)
        );
        for step in orders.after(i / 2) {
            let (undo, action) = (&self.tx.rows()[2 * step], &self.tx.rows()[2 * step + 1]);
            let ran = action.state.started || action.state.status.as_str() != "prepared";
            assert!(
                !ran || undo.state.status.as_str() == "succeed",
                "{} before step {step} is undone",
                name(call)
            );
        }
    }

    /// What a save holds is what a load gives back.
    pub(crate) fn check_round_trip(&self) {
        let mut tx = self.tx.clone();
        let (_, save) = tx.take_save(false);
        let mut record = self.record.clone();
        record.parts.extend(
            self.queued
                .iter()
                .flat_map(|(_, s)| s.parts.clone())
                .chain(save.parts),
        );
        record = Record {
            version: save.base + 1,
            index: save.index,
            exact: true,
            state: save.state,
            ..record
        };
        let back =
            Transaction::load(&record, self.now, &self.policy).expect("a record that was saved");
        assert_eq!(
            (back.definition(), back.state(), back.result()),
            (tx.definition(), tx.state(), tx.result())
        );
        let stored = |tx: &Transaction| -> Vec<_> {
            let rows = tx.rows().iter();
            rows.map(|r| Row {
                live: RowLive::default(),
                ..r.clone()
            })
            .collect()
        };
        assert_eq!(stored(&back), stored(&tx));
    }
}
