//! What goes into a step and what comes out.

use super::transaction::CallId;
use crate::branch::{Op, Status, TransType};
use crate::error::Error;
use crate::options::{Options, Policy};
use crate::outcome::{Outcome, Purpose};
use crate::time::Millis;
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;

/// What a step knows of the world.
#[derive(Clone, Copy, Debug)]
pub struct Env<'a> {
    /// The store's clock, never backwards.
    pub now: Millis,
    /// Settings.
    pub policy: &'a Policy,
    /// Random bits, for jitter.
    pub random: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// It is time to look.
    Wake,
    /// A client or an operator asks.
    Request(Request),
    /// A call ended, or timed out.
    Result(CallId, Outcome),
    /// The step before panicked: look again after the base interval, and mark for attention.
    Panicked,
}

/// What is asked of a stored transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A repeated prepare.
    Prepare,
    /// A repeated prepareWorkflow.
    PrepareWorkflow,
    /// Submit of what was stored before. Non-empty fields replace stored ones (rules.md 2.2).
    Submit {
        /// Type the request names; must be the stored one.
        trans_type: TransType,
        /// Options of the request.
        options: Box<Options>,
        /// Custom data of the request.
        custom_data: String,
    },
    /// A workflow's end.
    End {
        /// `Succeed` or `Failed`.
        status: Status,
        /// Why it failed.
        reason: String,
        /// Its result, base64.
        result: String,
    },
    /// Undo it.
    Abort {
        /// Why.
        reason: String,
    },
    /// An operator ends it as failed without further calls (rules.md 1.3).
    ForceStop {
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
    /// resetCronTime, resetNextCronTime: every branch is due now.
    Reset,
    /// This host answers again: branches that failed on it are due now (rules.md 4.5).
    HostBack(String),
}

/// When what changed is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// With the next save, at the latest `policy.late_write` from now.
    Late,
    /// At once.
    Now,
}

/// A call to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name in [`Input::Result`].
    pub id: CallId,
    /// Why it is made.
    pub purpose: Purpose,
    /// Branch id.
    pub branch_id: Cow<'static, str>,
    /// Operation.
    pub op: Op,
    /// URL, never empty.
    pub url: Arc<str>,
    /// Body.
    pub payload: Bytes,
}

/// A branch keeps failing (rules.md 4.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// URL of the branch.
    pub branch: String,
    /// What its last error was.
    pub error: String,
    /// Consecutive errors.
    pub retry_count: u32,
    /// Status of the transaction.
    pub status: Status,
}

/// What to do. Calls are made, and the request is answered, when saves up to `after` are durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Whether, and when, what changed is written.
    pub save: Option<When>,
    /// Number of the save that must be durable first; it may be the one that `save` asks for. 0: none.
    pub after: u64,
    /// Calls to make.
    pub calls: Vec<Call>,
    /// Alerts to send.
    pub alerts: Vec<Alert>,
    /// When to step with [`Input::Wake`]; `None` while only calls are awaited, and when it has ended.
    pub wake_at: Option<Millis>,
    /// The transaction was decided to be, or is, at its end: nothing is to be done but what is in here.
    pub ended: bool,
}

impl Effects {
    pub(crate) fn save(&mut self, when: When) {
        self.save = self.save.max(Some(when));
    }

    pub(crate) fn wake(&mut self, at: Millis) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }
}

/// What a refused request is answered with.
pub type Rejected = Error;
