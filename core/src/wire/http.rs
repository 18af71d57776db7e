//! Answers of the HTTP API: transactions, branches and errors in DTM's keys, order and escaping (dtm-server.md 3 and 4). Keys of ours
//! stand behind DTM's.

use crate::branch::{BranchStatus, Status};
use crate::coordinator::Transaction;
use crate::coordinator::transaction::{Forced, Row};
use crate::error::{Error, ErrorKind};
use crate::options::{Options, Policy};
use crate::time::{Millis, rfc3339};
use crate::wire::step::Step;
use base64::display::Base64Display;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD};
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::ser::Formatter;
use std::borrow::Cow;
use std::io;

/// The answer of every request that has nothing to return.
pub const SUCCESS: &str = r#"{"dtm_result":"SUCCESS"}"#;

/// JSON as Go's encoder prints it: compact, with `<`, `>`, `&` and the two line separators of Unicode escaped in strings.
pub fn to_json<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    // Writing into memory cannot fail, and the keys of every map here are strings.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut out, GoStrings,
    ));
    out
}

struct GoStrings;

impl Formatter for GoStrings {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let c = rest[at..].chars().next().unwrap_or_default();
            write!(writer, "{}\\u{:04x}", &rest[..at], u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// The answer of `query`: a transaction with its branches, or `[]` and `null` for an unknown gid.
pub fn query(tx: Option<&Transaction>, policy: &Policy) -> Vec<u8> {
    #[derive(Serialize)]
    struct Answer<'a> {
        branches: Vec<BranchView<'a>>,
        transaction: Option<TransactionView<'a>>,
    }
    to_json(&Answer {
        branches: tx.map(branches).unwrap_or_default(),
        transaction: tx.map(|tx| transaction(tx, policy)),
    })
}

/// The answer of `prepareWorkflow`: what the workflow's client replays.
pub fn progress(tx: &Transaction, policy: &Policy) -> Vec<u8> {
    #[derive(Serialize)]
    struct Answer<'a> {
        progresses: Vec<BranchView<'a>>,
        transaction: TransactionView<'a>,
    }
    to_json(&Answer {
        progresses: branches(tx),
        transaction: transaction(tx, policy),
    })
}

/// The answer of `all`. `None` stands for a gid that was asked for and is unknown; an empty position is the end.
pub fn page(txs: Option<&[Transaction]>, next_position: &str, policy: &Policy) -> Vec<u8> {
    #[derive(Serialize)]
    struct Answer<'a> {
        next_position: &'a str,
        transactions: Option<Vec<TransactionView<'a>>>,
    }
    to_json(&Answer {
        next_position,
        transactions: txs.map(|txs| txs.iter().map(|tx| transaction(tx, policy)).collect()),
    })
}

fn is_false(b: &bool) -> bool {
    !*b
}
fn is_zero(n: &u32) -> bool {
    *n == 0
}
fn is_empty(list: &[impl Sized]) -> bool {
    list.is_empty()
}

fn time<S: Serializer>(at: &Millis, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&rfc3339(*at))
}

fn time_if<S: Serializer>(at: &Option<Millis>, s: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => time(at, s),
        None => s.serialize_none(),
    }
}

fn texts<S: Serializer>(payloads: &&[bytes::Bytes], s: S) -> Result<S::Ok, S::Error> {
    let mut seq = s.serialize_seq(Some(payloads.len()))?;
    for p in *payloads {
        seq.serialize_element(&String::from_utf8_lossy(p))?;
    }
    seq.end()
}

fn base64<S: Serializer>(data: &&[u8], s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&Base64Display::<GeneralPurpose>::new(data, &STANDARD))
}

/// A global transaction as DTM shows it (dtm-server.md 3.2); made by [`transaction`].
#[derive(Clone, Debug, Serialize)]
pub struct TransactionView<'a> {
    id: u32,
    #[serde(serialize_with = "time")]
    create_time: Millis,
    #[serde(serialize_with = "time")]
    update_time: Millis,
    gid: &'a str,
    trans_type: &'static str,
    #[serde(skip_serializing_if = "is_empty")]
    steps: &'a [Step],
    #[serde(skip_serializing_if = "is_empty", serialize_with = "texts")]
    payloads: &'a [bytes::Bytes],
    status: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    query_prepared: &'a str,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "time_if")]
    finish_time: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "time_if")]
    rollback_time: Option<Millis>,
    #[serde(skip_serializing_if = "str::is_empty")]
    result: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    rollback_reason: &'a str,
    options: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    custom_data: &'a str,
    next_cron_interval: Millis,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "time_if")]
    next_cron_time: Option<Millis>,
    // DTM shows the options twice: as text above, and one by one.
    #[serde(flatten)]
    each_option: &'a Options,
    #[serde(skip_serializing_if = "is_zero")]
    retry_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    forced: Option<&'a Forced>,
    #[serde(skip_serializing_if = "is_false")]
    attention: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    last_error: &'a str,
}

/// The view of a transaction. `retry_count` is the highest number of consecutive errors of one of its calls.
pub fn transaction<'a>(tx: &'a Transaction, policy: &Policy) -> TransactionView<'a> {
    let def = tx.definition();
    let state = tx.state();
    let ended = |status: Status| state.finished.filter(|_| state.status == status);
    TransactionView {
        id: 0,
        create_time: state.created,
        update_time: state.updated,
        gid: def.gid.as_str(),
        trans_type: def.trans_type.as_str(),
        steps: &def.steps,
        payloads: &def.payloads,
        status: state.status.as_str(),
        query_prepared: &def.query_prepared,
        protocol: def.protocol.as_str(),
        finish_time: ended(Status::Succeed),
        rollback_time: ended(Status::Failed),
        result: tx.result(),
        rollback_reason: &state.reason,
        options: String::from_utf8(to_json(&def.options)).unwrap_or_default(),
        custom_data: &def.custom_data,
        next_cron_interval: tx.shown_interval(policy).saturating_add(999) / 1_000,
        next_cron_time: tx.due(),
        each_option: &def.options,
        retry_count: tx.attempts(),
        forced: state.forced.as_ref(),
        attention: state.attention,
        last_error: tx.last_error().map_or("", |(error, _)| error),
    }
}

/// A branch operation as DTM shows it (dtm-server.md 3.3); made by [`branches`].
#[derive(Clone, Debug, Serialize)]
pub struct BranchView<'a> {
    id: u32,
    #[serde(serialize_with = "time")]
    create_time: Millis,
    #[serde(serialize_with = "time")]
    update_time: Millis,
    gid: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    url: &'a str,
    #[serde(skip_serializing_if = "is_empty", serialize_with = "base64")]
    bin_data: &'a [u8],
    branch_id: &'a str,
    op: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "time_if")]
    finish_time: Option<Millis>,
    #[serde(skip_serializing_if = "is_zero")]
    retry_count: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    last_error: &'a str,
}

/// The views of a transaction's branches, in the order they were stored.
pub fn branches(tx: &Transaction) -> Vec<BranchView<'_>> {
    let gid = tx.gid().as_str();
    tx.rows().iter().map(|row| branch(gid, row)).collect()
}

fn branch<'a>(gid: &'a str, row: &'a Row) -> BranchView<'a> {
    let changed = Some(row.state.updated).filter(|at| *at != 0);
    BranchView {
        id: 0,
        create_time: row.created,
        update_time: changed.unwrap_or(row.created),
        gid,
        url: &row.url,
        bin_data: &row.payload,
        branch_id: &row.branch_id,
        op: row.op.as_str(),
        status: row.state.status.as_str(),
        finish_time: changed.filter(|_| row.state.status == BranchStatus::Succeed),
        retry_count: row.state.errors,
        last_error: &row.state.error,
    }
}

/// A value of the key-value area as DTM shows it (dtm-server.md 3.4).
#[derive(Clone, Debug, Serialize)]
pub struct KvView<'a> {
    /// Always 0.
    pub id: u32,
    /// When it was created.
    #[serde(serialize_with = "time")]
    pub create_time: Millis,
    /// When it was last written.
    #[serde(serialize_with = "time")]
    pub update_time: Millis,
    /// Category.
    pub cat: &'a str,
    /// Key.
    pub k: &'a str,
    /// Value.
    pub v: &'a str,
    /// 1 when created, one more with every write.
    pub version: u64,
}

/// A subscriber of a topic, as the topic's value lists them (dtm-server.md 11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscriber {
    /// Where messages go.
    pub url: String,
    /// For people.
    #[serde(default)]
    pub remark: String,
}

/// The body of an error (rules.md 2.1, dtm-server.md 4.1).
pub fn error_body(error: &Error) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        dtm_result: Option<&'static str>,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<&'static str>,
    }
    let kind = error.kind();
    let failed = matches!(kind, ErrorKind::Refused | ErrorKind::Failure);
    let dtm_result = if failed {
        Some("FAILURE")
    } else {
        (kind == ErrorKind::Ongoing).then_some("ONGOING")
    };
    let status = error
        .status()
        .filter(|_| failed || kind == ErrorKind::RowRefused)
        .map(Status::as_str);
    let body = to_json(&Body {
        dtm_result,
        message: error.message(),
        status,
    });
    if failed { body } else { without_failure(body) }
}

/// Headers that describe the connection or the framing, which are not a transaction's to set. `name` is in lower case.
pub fn of_the_connection(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "content-length"
            | "connection"
            | "transfer-encoding"
            | "trailer"
            | "te"
            | "upgrade"
            | "expect"
            | "keep-alive"
            | "proxy-connection"
    )
}

/// Clients search a body for the word FAILURE and roll back. Where the answer is no failure, a text that quotes the word (a gid, say)
/// is sent with its last letter escaped: the same text to a JSON decoder.
pub(crate) fn without_failure(body: Vec<u8>) -> Vec<u8> {
    match String::from_utf8_lossy(&body) {
        Cow::Borrowed(text) if text.contains("FAILURE") => {
            text.replace("FAILURE", "FAILUR\\u0045").into_bytes()
        }
        _ => body,
    }
}

#[cfg(test)]
mod tests;
