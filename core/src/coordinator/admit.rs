//! From requests to what is stored: everything is checked before anything is stored (architecture, rule 11).

use super::codec::Registration;
use super::custom::custom;
use super::transaction::{Custom, Definition, RowDef};
use crate::branch::{BranchStatus, Op, Protocol, ROOT_BRANCH, TransType, step_branch_id};
use crate::error::{Error, ErrorKind};
use crate::gid::{Gid, check_id};
use crate::limits::Limits;
use crate::wire::call::{Via, via};
use crate::wire::grpc::check_metadata;
use crate::wire::request::{BranchRequest, GlobalRequest};
use crate::wire::step::Step;
use bytes::Bytes;
use serde_json::Value;
use std::collections::BTreeMap;

pub(crate) const TOPIC: &str = "topic://";

/// Names of the topics that a request's steps address.
pub fn topics(req: &GlobalRequest) -> impl Iterator<Item = &str> {
    req.steps
        .iter()
        .filter_map(|s| s.get("action")?.strip_prefix(TOPIC))
}

/// Checks the request of a transaction that is to be stored. `subscribers` holds the URLs of the topics it addresses, resolved once
/// (rules.md 2.4). Steps and texts are moved out of the request; an error leaves it as it was. Errors: `Invalid` naming field, limit and
/// fix; `TopicNotFound`.
pub fn define(
    req: &mut GlobalRequest,
    subscribers: &BTreeMap<String, Vec<String>>,
    limits: &Limits,
) -> Result<Definition, Error> {
    let gid = Gid::new(&req.gid, limits)?;
    let trans_type = trans_type(&req.trans_type)?;
    let protocol = match req.protocol.as_str() {
        "" => Protocol::Http,
        word => Protocol::parse(word).ok_or_else(|| {
            Error::invalid(format!(
                "protocol is {word:?}: it must be http, json-rpc or grpc"
            ))
        })?,
    };
    let options = req.options(limits)?;
    within("custom_data", req.custom_data.len(), limits.custom_data)?;
    let with_steps = matches!(trans_type, TransType::Saga | TransType::Msg);
    if !with_steps && !req.steps.is_empty() {
        return Err(Error::invalid(format!(
            "steps belong to saga and msg, not to {trans_type}"
        )));
    }
    // A step without a URL is success without a call (dtm-server.md 9); one whose key is misspelt is not meant so.
    for (i, step) in req.steps.iter().enumerate() {
        let mut keys = step.iter().map(|(key, _)| key);
        let unknown = |key: &&str| !matches!(*key, "action" | "compensate" | "data");
        if let (None, Some(key)) = (step.get("action"), keys.find(unknown)) {
            return Err(Error::invalid(format!(
                "step {} has no action, but the unknown key {key:?}",
                i + 1
            )));
        }
    }
    let payloads = payloads(req, limits)?;
    let mut topics = Vec::new();
    for (i, step) in req.steps.iter().enumerate() {
        let Some(topic) = step.get("action").and_then(|a| a.strip_prefix(TOPIC)) else {
            continue;
        };
        if trans_type != TransType::Msg {
            return Err(Error::invalid(format!(
                "step {}: topics belong to msg, not to {trans_type}",
                i + 1
            )));
        }
        match subscribers.get(topic) {
            Some(urls) if !urls.is_empty() => topics.push((i, urls.clone())),
            _ => return Err(Error::new(ErrorKind::TopicNotFound, "topic not found")),
        }
    }
    let rows = rows_of(trans_type, &req.steps, &topics);
    let topics_at: Vec<usize> = topics.iter().map(|(step, _)| *step).collect();
    let mut grpc = check_rows(&rows, protocol, &topics_at, &payloads, limits)?;
    let check_back = |e| Error::invalid(format!("query_prepared: {e}"));
    if !req.query_prepared.is_empty() {
        match via(protocol, &req.query_prepared, limits.url).map_err(check_back)? {
            Via::JsonRpc if trans_type == TransType::Workflow => {
                return Err(Error::invalid(
                    "query_prepared: a workflow is called back over HTTP, not JSON-RPC",
                ));
            }
            Via::Grpc => grpc = true,
            Via::JsonRpc | Via::Http => {}
        }
    }
    let custom = custom(trans_type, &req.custom_data, req.steps.len())?;
    // Branches of a tcc or xa are known later; over gRPC they are gRPC branches.
    if grpc || protocol == Protocol::Grpc && matches!(trans_type, TransType::Tcc | TransType::Xa) {
        let name = match &custom {
            Custom::Workflow { name, .. } => name,
            _ => "",
        };
        let identity = [("gid", gid.as_str()), ("the workflow's name", name)];
        check_metadata(identity, &options.branch_headers)?;
    }
    let kept = |key: &str, value: &str| key != "data" && !value.is_empty();
    let size = payloads.iter().map(Bytes::len).sum::<usize>()
        + req
            .steps
            .iter()
            .flat_map(Step::iter)
            .filter(|(key, value)| kept(key, value))
            .map(|(key, value)| key.len() + value.len())
            .sum::<usize>()
        + topics
            .iter()
            .flat_map(|(_, urls)| urls)
            .map(String::len)
            .sum::<usize>()
        + req.custom_data.len();
    within("the transaction", size, limits.transaction)?;
    let mut steps = std::mem::take(&mut req.steps);
    for step in &mut steps {
        step.retain(kept);
    }
    Ok(Definition {
        gid,
        trans_type,
        protocol,
        steps,
        payloads,
        rows,
        query_prepared: std::mem::take(&mut req.query_prepared),
        options,
        custom_data: std::mem::take(&mut req.custom_data),
        custom,
    })
}

/// The mode of a word.
pub fn trans_type(word: &str) -> Result<TransType, Error> {
    if word.is_empty() {
        return Err(Error::invalid(
            "no trans type specified: trans_type is msg, saga, tcc, xa or workflow",
        ));
    }
    TransType::parse(word).ok_or_else(|| {
        Error::invalid(format!(
            "unknow trans type: {word} (known: msg, saga, tcc, xa, workflow)"
        ))
    })
}

/// Refuses what is too long, naming field and limit.
pub(super) fn within(what: &str, size: usize, max: usize) -> Result<(), Error> {
    if size > max {
        return Err(Error::invalid(format!(
            "{what} has {size} bytes, the limit is {max}"
        )));
    }
    Ok(())
}

fn payloads(req: &GlobalRequest, limits: &Limits) -> Result<Vec<Bytes>, Error> {
    let legacy = req
        .steps
        .iter()
        .filter_map(|s| s.get("data"))
        .filter(|d| !d.is_empty());
    let payloads: Vec<Bytes> = req
        .payloads
        .iter()
        .cloned()
        .chain(legacy.map(|d| Bytes::copy_from_slice(d.as_bytes())))
        .collect();
    if payloads.len() != req.steps.len() {
        return Err(Error::invalid(format!(
            "{} payloads for {} steps: send one payload per step, in payloads or in the step's data",
            payloads.len(),
            req.steps.len()
        )));
    }
    let too_long = |p: &Bytes| p.len() > limits.payload;
    if let Some(i) = payloads.iter().position(too_long) {
        within(
            &format!("payload {}", i + 1),
            payloads[i].len(),
            limits.payload,
        )?;
    }
    Ok(payloads)
}

/// Checks URLs and payloads. Whether some branch is called over gRPC.
fn check_rows(
    rows: &[RowDef],
    protocol: Protocol,
    topics_at: &[usize],
    payloads: &[Bytes],
    limits: &Limits,
) -> Result<bool, Error> {
    let mut grpc = false;
    let mut branches = 0;
    let mut last = "";
    for r in rows {
        if r.branch_id != last {
            branches += 1;
            last = &r.branch_id;
        }
        if r.url.is_empty() {
            continue;
        }
        // A subscriber's URL was checked when it subscribed; it is no mistake of who sends the message.
        let protocol = if topics_at.contains(&r.step) && !r.url.contains("://") {
            Protocol::Grpc
        } else {
            protocol
        };
        let v = via(protocol, &r.url, limits.url)
            .map_err(|e| Error::invalid(format!("step {}, {}: {e}", r.step + 1, r.op)))?;
        grpc |= v == Via::Grpc;
        let payload = payloads.get(r.step).map_or(&b""[..], |p| p);
        if v == Via::JsonRpc && !matches!(serde_json::from_slice(payload), Ok(Value::Object(_))) {
            return Err(Error::invalid(format!(
                "step {}: the payload of a JSON-RPC call must be a JSON object",
                r.step + 1
            )));
        }
    }
    if branches > limits.branches {
        return Err(Error::invalid(format!(
            "{branches} branches, the limit is {}",
            limits.branches
        )));
    }
    Ok(grpc)
}

/// The rows of steps: a saga's compensation stands before its action; a topic of several subscribers makes branches `NN-01`, `NN-02`….
pub(crate) fn rows_of(
    trans_type: TransType,
    steps: &[Step],
    topics: &[(usize, Vec<String>)],
) -> Vec<RowDef> {
    let mut rows = Vec::with_capacity(steps.len() * 2);
    for (step, s) in steps.iter().enumerate() {
        let id = step_branch_id(step);
        let url = |key: &str| s.get(key).cloned().unwrap_or_default();
        match topics.iter().find(|(i, _)| *i == step) {
            Some((_, urls)) if urls.len() > 1 => {
                for (n, u) in urls.iter().enumerate() {
                    rows.push(RowDef {
                        branch_id: format!("{id}-{}", step_branch_id(n)).into(),
                        op: Op::ACTION,
                        url: u.as_str().into(),
                        step,
                    });
                }
            }
            Some((_, urls)) => rows.push(RowDef {
                branch_id: id,
                op: Op::ACTION,
                url: urls.first().map(String::as_str).unwrap_or_default().into(),
                step,
            }),
            None => {
                if trans_type == TransType::Saga {
                    rows.push(RowDef {
                        branch_id: id.clone(),
                        op: Op::COMPENSATE,
                        url: url("compensate"),
                        step,
                    });
                }
                rows.push(RowDef {
                    branch_id: id,
                    op: Op::ACTION,
                    url: url("action"),
                    step,
                });
            }
        }
    }
    rows
}

/// The resolved topics of a definition, as [`rows_of`] takes them.
pub(crate) fn topics_of(def: &Definition) -> Vec<(usize, Vec<String>)> {
    let is_topic = |s: &Step| s.get("action").is_some_and(|a| a.starts_with(TOPIC));
    let steps = def.steps.iter().enumerate().filter(|(_, s)| is_topic(s));
    steps
        .map(|(i, _)| {
            (
                i,
                def.rows
                    .iter()
                    .filter(|r| r.step == i)
                    .map(|r| r.url.to_string())
                    .collect(),
            )
        })
        .collect()
}

/// A checked registerBranch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// Whose branch.
    pub gid: Gid,
    /// Mode the record must have.
    pub trans_type: TransType,
    /// What is stored.
    pub registration: Registration,
}

impl Register {
    /// The row that forbids this one: after a workflow's decision nothing more is executed (rules.md 2.7).
    pub fn forbidden(&self) -> Option<(String, String)> {
        let runs = self
            .registration
            .rows
            .iter()
            .any(|(op, _)| *op == Op::ACTION || *op == Op::BUSINESS);
        (self.trans_type == TransType::Workflow && runs)
            .then(|| (ROOT_BRANCH.to_owned(), Op::DECISION.as_str().to_owned()))
    }
}

/// Checks a registerBranch.
pub fn register(req: &BranchRequest, limits: &Limits) -> Result<Register, Error> {
    let gid = Gid::new(req.get("gid"), limits)?;
    // DTM's text for this route says no more (dtm-server.md 4), unlike that of [`trans_type`].
    let word = req.get("trans_type");
    let trans_type = TransType::parse(word)
        .ok_or_else(|| Error::invalid(format!("unknow trans type: {word}")))?;
    let branch_id = req.get("branch_id");
    check_id("branch_id", branch_id, limits.branch_id)?;
    within("data", req.data.len(), limits.payload)?;
    within("run", req.get("run").len(), limits.branch_id)?;
    let url = |key: &str| -> Result<String, Error> {
        let url = req.get(key);
        if !url.is_empty() {
            let v = via(req.protocol, url, limits.url)
                .map_err(|e| Error::invalid(format!("{key}: {e}")))?;
            if v == Via::Grpc {
                let identity = [("gid", gid.as_str()), ("branch_id", branch_id)];
                check_metadata(identity, &BTreeMap::new())?;
            }
        }
        Ok(url.to_owned())
    };
    let mut status = BranchStatus::Prepared;
    let rows = match trans_type {
        TransType::Tcc => vec![(Op::CANCEL, url("cancel")?), (Op::CONFIRM, url("confirm")?)],
        TransType::Xa => {
            let url = url("url")?;
            vec![(Op::ROLLBACK, url.clone()), (Op::COMMIT, url)]
        }
        TransType::Workflow => {
            check_id("op", req.get("op"), limits.op)?;
            status = BranchStatus::parse(req.get("status")).ok_or_else(|| {
                Error::invalid(format!(
                    "status is {:?}: it must be prepared, succeed or failed",
                    req.get("status")
                ))
            })?;
            let op = Op::new(req.get("op"));
            if op == Op::DECISION && (branch_id != ROOT_BRANCH || status == BranchStatus::Prepared)
            {
                return Err(Error::invalid(
                    "a decision has branch_id 00 and status succeed or failed",
                ));
            }
            vec![(op, String::new())]
        }
        TransType::Saga | TransType::Msg => {
            return Err(Error::invalid(format!(
                "unknow trans type: {trans_type} registers no branches"
            )));
        }
    };
    let registration = Registration {
        branch_id: branch_id.to_owned(),
        rows,
        status,
        run: req.get("run").to_owned(),
        data: req.data.clone(),
    };
    Ok(Register {
        gid,
        trans_type,
        registration,
    })
}
