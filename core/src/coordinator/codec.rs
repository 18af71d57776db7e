//! Records as stores keep them: parts of raw bytes with a small JSON head, and the state as JSON. Format 1.
//!
//! A part: `1` (format), its kind, the head's length as a little-endian u32, the head, then raw payloads one after the other with the
//! lengths the head names.

use super::admit;
use super::record::{FAILING_HOSTS, Index, Part, Record, Save};
use super::transaction::{
    CallId, Definition, Live, Progress, Row, RowDef, RowLive, RowState, State, Transaction,
};
use crate::branch::{BranchStatus, Op, Protocol, ROOT_BRANCH, Status, TransType};
use crate::error::{Error, ErrorKind};
use crate::gid::Gid;
use crate::options::{Options, Policy};
use crate::time::Millis;
use crate::wire::step::Step;
use crate::wire::url::host;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Format of parts and state.
pub const FORMAT: u32 = 1;

const DEFINE: u8 = 1;
const AMEND: u8 = 2;
const ROWS: u8 = 3;
const RESULT: u8 = 4;

/// Borrows what is written, owns what is read.
#[derive(Serialize, Deserialize)]
struct DefineHead<'a> {
    #[serde(rename = "t")]
    trans_type: TransType,
    #[serde(rename = "p")]
    protocol: Protocol,
    #[serde(rename = "s", default, skip_serializing_if = "<[_]>::is_empty")]
    steps: Cow<'a, [Step]>,
    /// Rows whose URL is not that of a step: subscribers of topics.
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    topics: Vec<(usize, Vec<String>)>,
    #[serde(rename = "q", default, skip_serializing_if = "str::is_empty")]
    query_prepared: Cow<'a, str>,
    #[serde(rename = "o")]
    options: Cow<'a, Options>,
    #[serde(rename = "c", default, skip_serializing_if = "str::is_empty")]
    custom_data: Cow<'a, str>,
    #[serde(rename = "l", default, skip_serializing_if = "Vec::is_empty")]
    lengths: Vec<usize>,
}

#[derive(Serialize, Deserialize)]
struct AmendHead {
    #[serde(rename = "o")]
    options: Options,
    #[serde(rename = "c", default, skip_serializing_if = "String::is_empty")]
    custom_data: String,
}

/// Rows of one registration; they share one payload.
#[derive(Serialize, Deserialize)]
struct RowsHead {
    #[serde(rename = "b")]
    branch_id: String,
    #[serde(rename = "r")]
    rows: Vec<(Op, String)>,
    #[serde(
        rename = "s",
        default = "prepared",
        skip_serializing_if = "is_prepared"
    )]
    status: BranchStatus,
    /// The run token of a workflow's client (rules.md 2.5).
    #[serde(rename = "k", default, skip_serializing_if = "String::is_empty")]
    run: String,
}

fn prepared() -> BranchStatus {
    BranchStatus::Prepared
}
fn is_prepared(s: &BranchStatus) -> bool {
    *s == BranchStatus::Prepared
}

/// What registerBranch adds: one branch's rows with one payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Branch id.
    pub branch_id: String,
    /// (op, URL) in the order they are stored.
    pub rows: Vec<(Op, String)>,
    /// Status of the rows: a workflow's client names it.
    pub status: BranchStatus,
    /// A workflow client's run token; empty if it sent none.
    pub run: String,
    /// Body of later calls, or a workflow step's recorded result.
    pub data: Bytes,
}

impl Registration {
    /// The part that stores it.
    pub fn part(&self, created: Millis) -> Part {
        let head = RowsHead {
            branch_id: self.branch_id.clone(),
            rows: self.rows.clone(),
            status: self.status,
            run: self.run.clone(),
        };
        Part {
            keys: self
                .rows
                .iter()
                .map(|(op, _)| (self.branch_id.clone(), op.as_str().to_owned()))
                .collect(),
            created,
            bytes: frame(ROWS, &head, std::slice::from_ref(&self.data)),
        }
    }
}

fn frame<T: Serialize>(kind: u8, head: &T, payloads: &[Bytes]) -> Bytes {
    let size: usize = payloads.iter().map(Bytes::len).sum();
    let mut out = Vec::with_capacity(384 + size);
    out.extend_from_slice(&[FORMAT as u8, kind, 0, 0, 0, 0]);
    // Writing JSON of these types into memory cannot fail.
    let _ = serde_json::to_writer(&mut out, head);
    let length = (out.len() - 6) as u32;
    out[2..6].copy_from_slice(&length.to_le_bytes());
    for p in payloads {
        out.extend_from_slice(p);
    }
    out.into()
}

fn damaged(gid: &Gid, what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("the stored record of {gid} is damaged: {what}"),
    )
}

fn unframe(gid: &Gid, part: &Bytes) -> Result<(u8, Bytes, Bytes), Error> {
    if part.len() < 6 || u32::from(part[0]) != FORMAT {
        return Err(damaged(gid, "a part without a head of format 1"));
    }
    let length = u32::from_le_bytes([part[2], part[3], part[4], part[5]]) as usize;
    if part.len() < 6 + length {
        return Err(damaged(gid, "a part that is shorter than its head says"));
    }
    Ok((part[1], part.slice(6..6 + length), part.slice(6 + length..)))
}

fn head<T: DeserializeOwned>(gid: &Gid, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| damaged(gid, e))
}

impl Transaction {
    /// A transaction that no store has yet.
    pub fn new(mut def: Definition, status: Status, now: Millis) -> Transaction {
        let part = define_part(&def, now);
        let rows = new_rows(&mut def, now);
        let state = State {
            format: FORMAT,
            status,
            created: now,
            updated: now,
            submitted: (status == Status::Submitted).then_some(now),
            finished: None,
            reason: String::new(),
            forced: None,
            attention: false,
            unsure_until: 0,
            root: RowState::default(),
            rows: BTreeMap::new(),
        };
        let live = Live {
            dirty: true,
            decision: 1,
            branches: branches(&rows),
            ..Live::default()
        };
        let mut tx = Transaction {
            def,
            rows,
            state,
            result: String::new(),
            live,
        };
        tx.add(part);
        tx
    }

    /// Reads a record. One that is not exact is one whose driver ended without letting go: what may have run then is marked
    /// (rules.md 1.2), and its compensation waits until calls of that driver have ended (1.4).
    pub fn load(record: &Record, now: Millis, policy: &Policy) -> Result<Transaction, Error> {
        let mut tx = decode(record, policy)?;
        if !record.exact && !tx.state.status.is_final() {
            super::saga::mark_started(&mut tx);
            let until = now + policy.longest_call(&tx.def.options);
            super::saga::mark_unsure(&mut tx, until);
        } else if tx.state.unsure_until > now {
            let until = tx.state.unsure_until;
            super::saga::mark_unsure(&mut tx, until);
        }
        Ok(tx)
    }

    /// Reads a record again after a lost race, keeping what `self`, its driver, knows: calls in flight and what was started. Results
    /// that no durable save holds are to be stepped again; until then their calls, `unsaved`, count as in flight.
    pub fn reload(
        &self,
        record: &Record,
        policy: &Policy,
        unsaved: impl IntoIterator<Item = CallId>,
    ) -> Result<Transaction, Error> {
        let mut tx = decode(record, policy)?;
        for (row, old) in tx.rows.iter_mut().zip(&self.rows) {
            row.live.calling = old.live.calling;
            // Results that are to be stepped again since an earlier lost race, and have not been yet.
            row.live.replays = old.live.replays;
            row.live.again = old.live.again;
            row.live.unsure = old.live.unsure;
            row.state.started |= old.state.started;
        }
        tx.live.root_calling = self.live.root_calling;
        tx.live.root_replays = self.live.root_replays;
        tx.live.root_again = self.live.root_again;
        for id in unsaved {
            match id {
                CallId::Root if tx.live.root_calling => tx.live.root_replays += 1,
                CallId::Root => tx.live.root_calling = true,
                CallId::Row(i) => {
                    if let Some(row) = tx.rows.get_mut(i) {
                        row.live.replays += u32::from(row.live.calling);
                        row.live.calling = true;
                    }
                }
            }
        }
        tx.live.paused_until = self.live.paused_until;
        tx.state.unsure_until = tx.state.unsure_until.max(self.state.unsure_until);
        tx.live.built = self.live.built;
        tx.live.decision = self.live.built;
        Ok(tx)
    }

    /// Takes what no save holds yet as the next save, and its number. `driven: false` lets go of the transaction.
    pub fn take_save(&mut self, driven: bool) -> (u64, Save) {
        let save = Save {
            base: self.live.version,
            index: self.index(driven),
            state: self.encode_state(),
            parts: std::mem::take(&mut self.live.new_parts),
        };
        self.live.version += 1;
        self.live.built += 1;
        self.live.dirty = false;
        (self.live.built, save)
    }

    fn index(&self, driven: bool) -> Index {
        let ended = self.state.status.is_final();
        Index {
            status: self.state.status,
            trans_type: self.def.trans_type,
            // A driver that lets go always has a time to come back; the creation time stands for "at once".
            due: (!ended).then(|| self.live.wake_at.unwrap_or(self.state.created)),
            quiet: self.live.quiet.filter(|_| !ended),
            created: self.state.created,
            finished: self.state.finished,
            attempts: self.attempts(),
            failing_hosts: if ended {
                Vec::new()
            } else {
                self.failing_hosts()
            },
            attention: self.state.attention,
            branches: self.live.branches,
            bytes: self.live.bytes,
            driven: driven && !ended,
        }
    }

    fn failing_hosts(&self) -> Vec<String> {
        let failing = self.called().filter(|(s, _)| s.errors > 0);
        let hosts: BTreeSet<&str> = failing.map(|(_, url)| host(url)).collect();
        hosts
            .into_iter()
            .take(FAILING_HOSTS)
            .map(str::to_owned)
            .collect()
    }

    /// The JSON of [`State`], with `rows` taken from the rows themselves: those that made progress.
    fn encode_state(&self) -> Bytes {
        let mut out = Vec::with_capacity(160 + 48 * self.rows.len());
        let _ = serde_json::to_writer(&mut out, &self.state);
        if self.rows.iter().any(Row::has_progress) {
            // `rows` is the last field, and was left out because it is empty there.
            out.pop();
            out.extend_from_slice(b",\"rows\":");
            let _ = serde_json::to_writer(&mut out, &Progress(&self.rows));
            out.push(b'}');
        }
        out.into()
    }

    fn add(&mut self, part: Part) {
        self.live.bytes += part.bytes.len() as u64;
        self.live.new_parts.push(part);
    }

    /// Adds a part that replaces options and custom data (rules.md 2.2).
    pub(crate) fn amend(&mut self, options: Options, custom_data: String, now: Millis) {
        let head = AmendHead {
            options: options.clone(),
            custom_data: custom_data.clone(),
        };
        self.add(Part {
            keys: Vec::new(),
            created: now,
            bytes: frame(AMEND, &head, &[]),
        });
        self.def.options = options;
        self.def.custom_data = custom_data;
    }

    /// Adds a part with a workflow's result.
    pub(crate) fn set_result(&mut self, result: String, now: Millis) {
        if !result.is_empty() {
            self.add(Part {
                keys: Vec::new(),
                created: now,
                bytes: frame(RESULT, &(), &[Bytes::from(result.clone())]),
            });
            self.result = result;
        }
    }
}

/// The rows of a definition, moved out of it.
fn new_rows(def: &mut Definition, created: Millis) -> Vec<Row> {
    let row = |r: RowDef| Row {
        branch_id: r.branch_id,
        op: r.op,
        url: r.url,
        payload: def.payloads.get(r.step).cloned().unwrap_or_default(),
        created,
        run: String::new(),
        registered: BranchStatus::Prepared,
        state: RowState::default(),
        live: RowLive::default(),
    };
    std::mem::take(&mut def.rows).into_iter().map(row).collect()
}

/// Counted from the rows, not taken from the index, so that a count that went wrong does not stay.
fn branches(rows: &[Row]) -> u32 {
    let mut ids: Vec<&str> = rows
        .iter()
        .map(|r| &*r.branch_id)
        .filter(|id| *id != ROOT_BRANCH)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids.len() as u32
}

fn define_part(def: &Definition, now: Millis) -> Part {
    let head = DefineHead {
        trans_type: def.trans_type,
        protocol: def.protocol,
        steps: Cow::Borrowed(&def.steps),
        topics: admit::topics_of(def),
        query_prepared: Cow::Borrowed(&def.query_prepared),
        options: Cow::Borrowed(&def.options),
        custom_data: Cow::Borrowed(&def.custom_data),
        lengths: def.payloads.iter().map(Bytes::len).collect(),
    };
    Part {
        keys: Vec::new(),
        created: now,
        bytes: frame(DEFINE, &head, &def.payloads),
    }
}

fn decode(record: &Record, policy: &Policy) -> Result<Transaction, Error> {
    let gid = &record.gid;
    let mut state: State = head(gid, &record.state)?;
    if state.format != FORMAT {
        return Err(damaged(
            gid,
            format!(
                "its state has format {}, this build reads format {FORMAT}",
                state.format
            ),
        ));
    }
    let mut parts = record.parts.iter();
    let first = parts
        .next()
        .ok_or_else(|| damaged(gid, "it has no parts"))?;
    let (kind, bytes, body) = unframe(gid, &first.bytes)?;
    if kind != DEFINE {
        return Err(damaged(gid, "its first part does not define it"));
    }
    let h: DefineHead<'static> = head(gid, &bytes)?;
    let mut payloads = Vec::with_capacity(h.lengths.len());
    let mut at = 0;
    for length in &h.lengths {
        let end = at + length;
        if end > body.len() {
            return Err(damaged(gid, "a payload is cut"));
        }
        payloads.push(body.slice(at..end));
        at = end;
    }
    let mut def = Definition {
        gid: gid.clone(),
        trans_type: h.trans_type,
        protocol: h.protocol,
        rows: admit::rows_of(h.trans_type, &h.steps, &h.topics),
        steps: h.steps.into_owned(),
        payloads,
        query_prepared: h.query_prepared.into_owned(),
        options: h.options.into_owned(),
        custom: super::custom::custom(h.trans_type, &h.custom_data, h.lengths.len())
            .map_err(|e| damaged(gid, e))?,
        custom_data: h.custom_data.into_owned(),
    };
    let mut rows = new_rows(&mut def, first.created);
    let mut result = String::new();
    for part in parts {
        let (kind, bytes, body) = unframe(gid, &part.bytes)?;
        match kind {
            AMEND => {
                let a: AmendHead = head(gid, &bytes)?;
                def.options = a.options;
                if a.custom_data != def.custom_data {
                    def.custom =
                        super::custom::custom(def.trans_type, &a.custom_data, def.payloads.len())
                            .map_err(|e| damaged(gid, e))?;
                    def.custom_data = a.custom_data;
                }
            }
            ROWS => {
                let r: RowsHead = head(gid, &bytes)?;
                for (op, url) in r.rows {
                    rows.push(Row {
                        branch_id: r.branch_id.clone().into(),
                        op,
                        url: url.into(),
                        payload: body.clone(),
                        created: part.created,
                        run: r.run.clone(),
                        registered: r.status,
                        state: RowState {
                            status: r.status,
                            ..RowState::default()
                        },
                        live: RowLive::default(),
                    });
                }
            }
            RESULT => result = String::from_utf8_lossy(&body).into_owned(),
            other => return Err(damaged(gid, format!("a part of unknown kind {other}"))),
        }
    }
    for (i, progress) in std::mem::take(&mut state.rows) {
        let row = rows
            .get_mut(i as usize)
            .ok_or_else(|| damaged(gid, format!("progress of row {i}, which it has not")))?;
        row.state = progress;
    }
    let live = Live {
        version: record.version,
        callback_due: record.index.due.unwrap_or(0),
        wake_at: record.index.due,
        quiet: (def.trans_type == TransType::Workflow).then(|| policy.quiet(&def.options)),
        branches: branches(&rows),
        bytes: record.parts.iter().map(|p| p.bytes.len() as u64).sum(),
        ..Live::default()
    };
    Ok(Transaction {
        def,
        rows,
        state,
        result,
        live,
    })
}
