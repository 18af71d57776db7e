//! The barrier on Redis (dtm-clients.md 2.13, rules.md 9.7): a script that wraps the user's own, for Redis has no transaction that could be
//! rolled back. Nothing is sent from here; whoever holds the connection runs a [`Script`] and gives the answer to [`read`].
//!
//! The markers of a branch are the keys `gid-branch-op-part`, as DTM's clients write them, so both can serve branches of one gid. One rule is
//! ours: in branch id, op and part a `-` is written `;`, so the branch `01-01` of a topic has `gid-01;01-action-01`. No id may hold a `;`, and
//! read from its end such a key has one meaning; by DTM's the branch `01-01` of `g` would be the branch `01` of `g-01`. The script looks at them before anything else. It writes `running` to the op's own marker, runs the body, and then writes the op. A body that refuses
//! before it has written anything leaves no marker. One that fails afterwards leaves `running`, for Redis keeps what was written: neither it
//! nor its undo is run any more, and each call is [`ErrorKind::HalfDone`] until a person has looked.
//!
//! **Lost answers.** A script that was sent may be sent again: it runs its body once.
//!
//! **Cluster.** All keys of a script must be in one slot. Give a hash tag: the markers then begin with `{tag};`, and a body with a key that
//! does not hold it is refused. Without one the markers have DTM's own names, and Redis itself refuses keys of several slots. The calls of one
//! branch and its undo have the same tag, or none.
//!
//! **What Redis can lose.** It answers before its replicas, and by default its disk, have the write. What a failover or a power cut takes
//! away is the change together with its markers; the coordinator has the answer and does not call again. Markers must outlive the longest
//! retry ([`DEFAULT_TTL`]) and must not be evicted: `maxmemory-policy noeviction`.

use super::barrier::{BarrierResult, barrier_id, check_barrier_id, check_message, origin_of};
use super::identity::Identity;
use super::run::refused;
use crate::branch::Op;
use crate::error::{Error, ErrorKind};
use crate::gid::check_id;
use crate::limits::Limits;
use crate::time::{Millis, SECOND};
use bytes::Bytes;

/// How long markers live unless the caller knows better: 30 days. A call that comes later finds no marker and is carried out again.
pub const DEFAULT_TTL: Millis = 30 * 24 * 3_600 * SECOND;

/// Largest amount either way, 2^53: Lua counts in doubles, which are exact up to there.
pub const AMOUNT_MAX: i64 = 1 << 53;

/// Longest hash tag, as long as a gid.
const TAG_MAX: usize = 128;
/// The value of a marker while its body runs.
const RUNNING: &str = "running";

const BARRIER: &str = include_str!("redis/barrier.lua");
const ADJUST: &str = include_str!("redis/adjust.lua");
const QUERY_PREPARED: &str = include_str!("redis/query_prepared.lua");

/// One EVAL, or EVALSHA: the text is the same for all calls with the same body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The script.
    pub text: String,
    /// Its keys, in order.
    pub keys: Vec<String>,
    /// Its arguments, in order.
    pub args: Vec<Bytes>,
}

/// What a branch does behind the barrier: the body of a Lua function with `KEYS` and `ARGV` of its own, which uses Redis by `redis.call` and
/// `redis.pcall`. What it returns is the second element of the answer.
///
/// It refuses by `return redis.error_reply('FAILURE why')`, before its first write. Every other error that it returns or raises before its
/// first write is [`ErrorKind::Database`], and it may be run again; after that it is [`ErrorKind::HalfDone`]. A command that is not known to
/// read only counts as a write. It should be short, as any script: once the marker is written, SCRIPT KILL does not stop it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The body. It begins in the first line of the script, so line numbers in errors are its own.
    pub body: String,
    /// Its keys.
    pub keys: Vec<String>,
    /// Its arguments.
    pub args: Vec<Bytes>,
}

impl Work {
    /// Adds an amount to the integer at `key`, and returns what is there then. An action, try or message is refused where there is no
    /// balance, or would be less than zero after a deduction; an undo or a second phase must not be refused, so it goes below zero and
    /// begins at zero. Error: `Invalid` if the amount is beyond [`AMOUNT_MAX`].
    pub fn adjust(op: &Op, key: impl Into<String>, amount: i64) -> Result<Work, Error> {
        if amount.unsigned_abs() > AMOUNT_MAX.unsigned_abs() {
            return Err(Error::invalid(format!(
                "the amount is {amount}: Redis can check amounts up to {AMOUNT_MAX} (2^53) either way"
            )));
        }
        let firm = [
            Op::COMPENSATE,
            Op::CONFIRM,
            Op::CANCEL,
            Op::COMMIT,
            Op::ROLLBACK,
        ]
        .contains(op);
        Ok(Work {
            body: ADJUST.to_owned(),
            keys: vec![key.into()],
            args: vec![
                Bytes::from(amount.to_string()),
                Bytes::from_static(if firm { b"firm" } else { b"" }),
            ],
        })
    }
}

/// The script of a barrier call. `part` tells parts of one branch apart, as [`barrier_id`] makes them; the action and its undo use the
/// same. Markers live for `ttl`. Error: `Invalid`; for a key without `tag` too.
pub fn plan(
    who: &Identity,
    part: &str,
    tag: Option<&str>,
    ttl: Millis,
    work: &Work,
) -> Result<Script, Error> {
    if who.op == Op::MSG {
        check_message(&who.branch_id, part)?;
    }
    if who.op.as_str() == RUNNING {
        return Err(Error::invalid(format!(
            "the op is {RUNNING:?}: that word marks scripts under way, choose another"
        )));
    }
    if let Some(tag) = tag
        && let Some(key) = work.keys.iter().find(|key| hash_tag(key) != Some(tag))
    {
        return Err(Error::invalid(format!(
            "the key {key:?} is not tagged {{{tag}}}: in a cluster all keys of a script must be in one slot"
        )));
    }
    let origin = origin_of(&who.op);
    let mut keys = Vec::with_capacity(2 + work.keys.len());
    for op in [Some(&who.op), origin.as_ref()].into_iter().flatten() {
        keys.push(marker(who, op, part, tag)?);
    }
    let mut args = Vec::with_capacity(3 + work.args.len());
    args.push(Bytes::from_static(if keys.len() == 2 {
        b"2"
    } else {
        b"1"
    }));
    args.push(Bytes::copy_from_slice(who.op.as_str().as_bytes()));
    args.push(lifetime(ttl)?);
    keys.extend_from_slice(&work.keys);
    args.extend_from_slice(&work.args);
    let body = &work.body;
    Ok(Script {
        // The body comes first, where it sees nothing of the rest.
        text: format!("local function body(KEYS, ARGV, redis, server) {body}\nend\n{BARRIER}"),
        keys,
        args,
    })
}

/// The script of a check-back (query-prepared). [`read`] gives [`BarrierResult::Duplicate`] if the message's own script was carried out,
/// else [`ErrorKind::Failure`]; from then on it cannot be. Error: `Invalid`.
pub fn query_prepared(who: &Identity, tag: Option<&str>, ttl: Millis) -> Result<Script, Error> {
    let root = who.of_message();
    Ok(Script {
        text: QUERY_PREPARED.to_owned(),
        keys: vec![marker(&root, &Op::MSG, &barrier_id(1), tag)?],
        args: vec![lifetime(ttl)?],
    })
}

/// What Redis answered to a [`Script`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// An array.
    Array {
        /// Its first element.
        word: &'a str,
        /// Its second element, if that is a text. After [`BarrierResult::Executed`] it is what the body returned, of any type, and is
        /// the caller's.
        text: &'a str,
    },
    /// An error reply, its code included.
    Error(&'a str),
}

/// What an answer means. Errors: `Failure` if the body refused; `HalfDone`; `Duplicated` for the script of a message whose gid was used
/// before; `Invalid` if the script can never run as it is; `Database` if nothing was kept.
pub fn read(who: &Identity, reply: Reply<'_>) -> Result<BarrierResult, Error> {
    let (word, text) = match reply {
        Reply::Array { word, text } => (word, text),
        Reply::Error(text) => return Err(refused_by_redis(text)),
    };
    Err(match word {
        "executed" => return Ok(BarrierResult::Executed),
        "duplicate" => return Ok(BarrierResult::Duplicate),
        "null_compensation" => return Ok(BarrierResult::NullCompensation),
        "suspended" => {
            let suspended = BarrierResult::Suspended;
            return refused(suspended, who.trans_type).map_or(Ok(suspended), Err);
        }
        "duplicated" => Error::new(
            ErrorKind::Duplicated,
            format!(
                "the gid {} was used before: this message has its outcome already",
                who.gid
            ),
        ),
        "failure" => {
            let why = text.strip_prefix("FAILURE").unwrap_or(text).trim_start();
            Error::new(ErrorKind::Failure, why)
        }
        "failed" => Error::new(ErrorKind::Database, text),
        "half_done" => Error::new(
            ErrorKind::HalfDone,
            format!(
                "a script failed after it may have written, and Redis keeps what it wrote; look at the data, then set the marker to its \
                 op if all of it is there, or undo the rest and delete the marker: {text}"
            ),
        ),
        _ => Error::invalid(format!(
            "the answer {word:?} is none of a barrier's script: give both elements of the answer as they are"
        )),
    })
}

fn refused_by_redis(text: &str) -> Error {
    if text.starts_with("CROSSSLOT") {
        return Error::invalid(format!(
            "in a cluster all keys of a script must be in one slot: give a hash tag that every key holds ({text})"
        ));
    }
    if text.starts_with("NOPERM") {
        return Error::invalid(format!(
            "this user of Redis may not run the barrier's scripts: allow it EVALSHA and SCRIPT LOAD, and the keys ({text})"
        ));
    }
    if text.contains("Error compiling script") {
        return Error::invalid(format!("the script's body cannot be compiled: {text}"));
    }
    Error::new(ErrorKind::Database, text)
}

/// The key of a marker. Only the gid keeps its `-`, so that no two branches have the same one.
fn marker(who: &Identity, op: &Op, part: &str, tag: Option<&str>) -> Result<String, Error> {
    let limits = Limits::default();
    // An identity may have been put together by hand, and a `;` would make two branches one.
    check_id("branch_id", &who.branch_id, limits.branch_id)?;
    check_id("op", op.as_str(), limits.op)?;
    check_barrier_id(part)?;
    let key = [&who.branch_id, op.as_str(), part]
        .map(|text| text.replace('-', ";"))
        .join("-");
    let key = format!("{}-{key}", who.gid);
    let Some(tag) = tag else { return Ok(key) };
    check_id("hash tag", tag, TAG_MAX)?;
    if tag.contains(['{', '}']) {
        return Err(Error::invalid(format!(
            "the hash tag is {tag:?}: give it without braces"
        )));
    }
    Ok(format!("{{{tag}}};{key}"))
}

/// The part of a key that chooses its slot in a cluster, if that is not the whole key: from the first `{` to the next `}`.
fn hash_tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

fn lifetime(ttl: Millis) -> Result<Bytes, Error> {
    if ttl <= 0 {
        return Err(Error::invalid(format!(
            "markers would live {ttl} ms: let them outlive the longest retry, 30 days by default"
        )));
    }
    Ok(Bytes::from(ttl.to_string()))
}

#[cfg(test)]
mod tests;
