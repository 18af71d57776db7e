//! What a driver tells the outside: metrics, logs and alerts.

use super::driver::Driver;
use amends::branch::ROOT_BRANCH;
use amends::coordinator::{Alert, CallId};
use amends::limits::cut;
use amends::{Op, Outcome, Status};

/// What a log line keeps of a text that somebody else wrote, bytes.
const TEXT_MAX: usize = 300;

impl Driver<'_> {
    pub(super) fn observe(&self, id: CallId, outcome: &Outcome) {
        let tx = &self.tx;
        let (branch_id, op) = match id {
            // A callback's operation is its workflow's name: one label for all of them.
            CallId::Root => (ROOT_BRANCH, &Op::MSG),
            CallId::Row(i) => (&*tx.rows()[i].branch_id, &tx.rows()[i].op),
        };
        self.engine
            .metrics
            .branch(tx.trans_type(), branch_id, op, outcome);
        if let Outcome::Error(text) | Outcome::Failure(text) = outcome {
            let what = if matches!(outcome, Outcome::Error(_)) {
                "failed"
            } else {
                "was refused"
            };
            let text = cut(text, TEXT_MAX);
            self.engine
                .info(tx.gid(), &format!("branch {branch_id} {op} {what}: {text}"));
        }
    }

    pub(super) fn alert(&self, alert: Alert) {
        let gid = self.tx.gid().clone();
        let Alert {
            branch,
            error,
            retry_count,
            status,
        } = alert;
        self.engine.alerts.send(crate::alert::Alert {
            branch,
            error,
            gid,
            retry_count,
            status,
        });
    }

    /// Counts an outcome once, when it is durable.
    pub(super) fn count_end(&mut self) {
        let status = self.tx.status();
        if !status.is_final() || self.counted_end {
            return;
        }
        self.counted_end = true;
        let forced = self.tx.state().forced.is_some();
        self.engine
            .metrics
            .finished(self.tx.trans_type(), status, forced);
        if status == Status::Failed {
            self.engine.info(
                self.tx.gid(),
                &format!(
                    "ended as failed: {}",
                    cut(&self.tx.state().reason, TEXT_MAX)
                ),
            );
        }
    }
}
