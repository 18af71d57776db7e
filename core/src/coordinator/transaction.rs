//! A global transaction in memory: what was submitted, its rows, its stored state, and what only its driver knows.

use super::saga::Orders;
use crate::branch::{BranchStatus, Op, Protocol, Status, TransType};
use crate::gid::Gid;
use crate::options::Options;
use crate::time::Millis;
use crate::wire::step::Step;
use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a client defined: immutable once stored, but for the options that a submit may replace (rules.md 2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Global transaction id.
    pub gid: Gid,
    /// Mode.
    pub trans_type: TransType,
    /// Protocol of the branch calls.
    pub protocol: Protocol,
    /// Steps as sent (saga, msg): keys `action`, `compensate`.
    pub steps: Vec<Step>,
    /// One body per step.
    pub payloads: Vec<Bytes>,
    /// Rows made from the steps, topics expanded; none for tcc, xa and workflow. A transaction moves them out: see
    /// [`Transaction::rows`].
    pub rows: Vec<RowDef>,
    /// Check-back (msg) or callback (workflow) URL.
    pub query_prepared: String,
    /// Options.
    pub options: Options,
    /// JSON text as sent.
    pub custom_data: String,
    /// What `custom_data` says.
    pub custom: Custom,
}

/// What `custom_data` means in each mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Custom {
    /// Nothing.
    #[default]
    None,
    /// Saga: which steps wait for which.
    Saga(Arc<Orders>),
    /// Message: how long after its submit it is delivered, ms.
    Msg {
        /// See above.
        delay: Millis,
    },
    /// Workflow: its name, and the input that callbacks carry.
    Workflow {
        /// The `op` of callbacks.
        name: String,
        /// Decoded input.
        data: Bytes,
    },
}

/// A row made from a step: its payload is that of the step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowDef {
    /// Branch id.
    pub branch_id: Cow<'static, str>,
    /// Operation.
    pub op: Op,
    /// URL; empty is success without a call.
    pub url: Arc<str>,
    /// Index of the step.
    pub step: usize,
}

/// One branch operation: what it is, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Branch id.
    pub branch_id: Cow<'static, str>,
    /// Operation.
    pub op: Op,
    /// URL; empty is success without a call.
    pub url: Arc<str>,
    /// Body of its call, or a workflow step's recorded result.
    pub payload: Bytes,
    /// When it was stored.
    pub created: Millis,
    /// The run token a workflow's client registered it with (rules.md 2.5).
    pub run: String,
    /// Its status when it was stored: a workflow's client names it, others begin as prepared.
    pub registered: BranchStatus,
    /// What is stored of its progress.
    pub state: RowState,
    /// What only this process knows.
    pub live: RowLive,
}

impl Row {
    /// Whether anything happened to it since it was stored.
    pub(crate) fn has_progress(&self) -> bool {
        self.state
            != RowState {
                status: self.registered,
                ..RowState::default()
            }
    }
}

/// Progress of a row as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowState {
    /// Status.
    #[serde(rename = "s", skip_serializing_if = "is_prepared")]
    pub status: BranchStatus,
    /// Consecutive errors.
    #[serde(rename = "n", skip_serializing_if = "is_zero")]
    pub errors: u32,
    /// Retries spent of `retry_limit`.
    #[serde(rename = "r", skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// Not to be called before; 0 = at once.
    #[serde(rename = "d", skip_serializing_if = "is_never")]
    pub due: Millis,
    /// When it last changed; 0 = when it was stored.
    #[serde(rename = "u", skip_serializing_if = "is_never")]
    pub updated: Millis,
    /// A saga's action whose call was started, and may have run.
    #[serde(rename = "t", skip_serializing_if = "is_false")]
    pub started: bool,
    /// What its last error was.
    #[serde(rename = "e", skip_serializing_if = "String::is_empty")]
    pub error: String,
}

impl Default for RowState {
    fn default() -> Self {
        RowState {
            status: BranchStatus::Prepared,
            errors: 0,
            retries: 0,
            due: 0,
            updated: 0,
            started: false,
            error: String::new(),
        }
    }
}

fn is_prepared(s: &BranchStatus) -> bool {
    *s == BranchStatus::Prepared
}
fn is_zero(n: &u32) -> bool {
    *n == 0
}
fn is_never(n: &Millis) -> bool {
    *n == 0
}
fn is_false(b: &bool) -> bool {
    !*b
}

/// What a driver knows of a row and never stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowLive {
    /// A call of it is on its way (rules.md 1.5).
    pub calling: bool,
    /// A call of an earlier process may still be on its way (rules.md 1.4).
    pub unsure: bool,
    /// Results of calls before the one on its way, which are stepped again after a lost race.
    pub replays: u32,
    /// The call on its way is the first one that was ever started.
    pub first: bool,
    /// It was reset while a call was on its way: if that one does not succeed, it is called again at once.
    pub again: bool,
    /// The save that holds its success, 0 for one that was loaded.
    pub seq: u64,
}

/// The mutable part of the record (architecture 4); its JSON is what stores keep as `state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Version of this layout.
    pub format: u32,
    /// Status.
    pub status: Status,
    /// When it was first stored.
    pub created: Millis,
    /// When it last changed.
    pub updated: Millis,
    /// When it became submitted (rules.md 2.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted: Option<Millis>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Millis>,
    /// Why it is undone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who stopped it by force, and why (rules.md 1.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<Forced>,
    /// Wants a person's eyes (rules.md 4.3).
    #[serde(default, skip_serializing_if = "is_false")]
    pub attention: bool,
    /// Until then an action's call of an earlier driver may be on its way (rules.md 1.4). Stored, because a driver may let go before.
    #[serde(default, skip_serializing_if = "is_never")]
    pub unsure_until: Millis,
    /// Progress of the check-back or callback.
    #[serde(default, skip_serializing_if = "RowState::is_default")]
    pub root: RowState,
    /// Progress of rows, by their index; rows that are not listed are as they were stored.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<u32, RowState>,
}

impl RowState {
    fn is_default(&self) -> bool {
        *self == RowState::default()
    }
}

/// What is stored of rows: the progress of those that made some, by their index.
pub(super) struct Progress<'a>(pub(super) &'a [Row]);

impl Serialize for Progress<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows = self.0.iter().enumerate();
        serializer.collect_map(
            rows.filter(|(_, row)| row.has_progress())
                .map(|(i, row)| (i, &row.state)),
        )
    }
}

/// An operator's override.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forced {
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// A global transaction. Change it only through [`super::step`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub(crate) def: Definition,
    pub(crate) rows: Vec<Row>,
    /// `state.rows` is empty here: each row carries its own.
    pub(crate) state: State,
    /// A workflow's result, base64 as sent.
    pub(crate) result: String,
    pub(crate) live: Live,
}

/// What only the driver knows of a transaction; never stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    /// The version the next save is based on.
    pub(crate) version: u64,
    /// Saves built so far; the next one has the number `built + 1`.
    pub(crate) built: u64,
    /// Whether there is something that no built save holds.
    pub(crate) dirty: bool,
    /// Calls and answers wait for this save: it holds the newest decision.
    pub(crate) decision: u64,
    /// Nothing is tried before: the step before panicked.
    pub(crate) paused_until: Millis,
    /// A check-back or callback is on its way.
    pub(crate) root_calling: bool,
    /// See [`RowLive::replays`].
    pub(crate) root_replays: u32,
    /// See [`RowLive::again`].
    pub(crate) root_again: bool,
    /// A workflow's callback is not due before.
    pub(crate) callback_due: Millis,
    /// When it must be looked at next, as the last step found.
    pub(crate) wake_at: Option<Millis>,
    /// See [`super::record::Index::quiet`]. Of a new workflow its first step says it.
    pub(crate) quiet: Option<Millis>,
    /// See [`super::record::Index::branches`].
    pub(crate) branches: u32,
    /// See [`super::record::Index::bytes`], parts that no built save holds included.
    pub(crate) bytes: u64,
    /// Parts that no built save holds.
    pub(crate) new_parts: Vec<super::record::Part>,
}

/// Names a call in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallId {
    /// The check-back or callback.
    Root,
    /// The row with this index.
    Row(usize),
}

impl Transaction {
    /// What was submitted.
    pub fn definition(&self) -> &Definition {
        &self.def
    }

    /// Its id.
    pub fn gid(&self) -> &Gid {
        &self.def.gid
    }

    /// Its mode.
    pub fn trans_type(&self) -> TransType {
        self.def.trans_type
    }

    /// Its status. Durable only when the save that made it is.
    pub fn status(&self) -> Status {
        self.state.status
    }

    /// Its stored state, without the rows' progress (see [`Transaction::rows`]).
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Its rows in the order they were stored.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// A workflow's result, base64 as the client sent it.
    pub fn result(&self) -> &str {
        &self.result
    }

    /// When it must be looked at next, if it has not ended.
    pub fn due(&self) -> Option<Millis> {
        if self.state.status.is_final() {
            None
        } else {
            self.live.wake_at
        }
    }

    /// Whether a call of it is on its way.
    pub fn in_flight(&self) -> bool {
        self.live.root_calling || self.rows.iter().any(|r| r.live.calling)
    }

    /// Whether there is something that no save holds yet.
    pub fn is_dirty(&self) -> bool {
        self.live.dirty
    }

    /// The highest number of consecutive errors of one of its calls.
    pub fn attempts(&self) -> u32 {
        self.progress().map(|r| r.errors).max().unwrap_or(0)
    }

    /// The last error of a branch that has not succeeded since, and its URL.
    pub fn last_error(&self) -> Option<(&str, &str)> {
        let root = (&self.state.root, self.def.query_prepared.as_str());
        let rows = self.rows.iter().map(|r| (&r.state, &*r.url));
        std::iter::once(root)
            .chain(rows)
            .filter(|(s, _)| !s.error.is_empty())
            .max_by_key(|(s, _)| s.updated)
            .map(|(s, u)| (s.error.as_str(), u))
    }

    /// The decision row of a workflow, if it was registered (rules.md 2.7).
    pub fn decision_row(&self) -> Option<&Row> {
        self.rows.iter().find(|r| r.op == Op::DECISION)
    }

    /// Asks to be looked at by then, although nothing of its own is due: it waits for a free slot.
    pub fn look_by(&mut self, at: Millis) {
        self.live.wake_at = Some(self.live.wake_at.map_or(at, |w| w.min(at)));
    }

    /// Takes back a call that was asked for and not sent: it has not been started.
    pub fn withdraw(&mut self, id: CallId) {
        match id {
            CallId::Root => self.live.root_calling = false,
            CallId::Row(i) => {
                if let Some(row) = self.rows.get_mut(i) {
                    row.live.calling = false;
                    if row.live.first {
                        row.state.started = false;
                    }
                }
            }
        }
    }

    pub(crate) fn progress(&self) -> impl Iterator<Item = &RowState> {
        std::iter::once(&self.state.root).chain(self.rows.iter().map(|r| &r.state))
    }

    /// The number of the save that will hold what was changed now.
    pub(crate) fn next_seq(&self) -> u64 {
        self.live.built + 1
    }
}
