//! What a coordinator's answers mean (rules.md 2.1).

use crate::branch::{BranchStatus, Status};
use crate::error::{Error, ErrorKind, Said};
use crate::machine::{Fact, Request};
use crate::wire::grpc::{Code, answer_over_http};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// An answer of the coordinator as it would have come over HTTP: what [`classify`] reads.
pub fn over_http(request: &Request, status: u16, body: &Bytes, message: &str) -> (u16, Bytes) {
    if request.method == "GRPC" {
        answer_over_http(&request.url, Code(status.into()), message, body)
    } else {
        (status, body.clone())
    }
}

/// What an answer of the coordinator means. One over gRPC goes through [`over_http`] first.
pub fn classify(status: u16, body: &[u8]) -> Result<(), Error> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Answer {
        dtm_result: String,
        message: String,
        status: String,
    }
    let answer: Answer = serde_json::from_slice(body).unwrap_or_default();
    if status == 200 && answer.dtm_result == "SUCCESS" {
        return Ok(());
    }
    let text = if answer.message.is_empty() {
        format!("the coordinator answered {status}")
    } else {
        answer.message
    };
    let said = Said {
        http: status,
        failure: answer.dtm_result == "FAILURE",
        status: Status::parse(&answer.status),
        text: &text,
    };
    let (kind, stored) = (ErrorKind::of_coordinator(&said), said.stored_status());
    Err(Error::new(kind, text).with_status(stored))
}

/// What a workflow has recorded, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progresses {
    /// Status of the workflow.
    pub status: Status,
    /// Why it failed.
    pub reason: String,
    /// What it returned.
    pub result: Bytes,
    /// Its name and input, where the answer has them.
    pub began: Option<(String, Bytes)>,
    /// Its rows, in the order in which they were stored.
    pub rows: Vec<Progress>,
}

/// A row of a workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Branch id.
    pub branch_id: String,
    /// Operation.
    pub op: String,
    /// How it ended.
    pub status: BranchStatus,
    /// What was stored with it.
    pub data: Bytes,
}

/// Reads the answer of prepareWorkflow.
pub fn progresses(status: u16, body: &[u8]) -> Result<Progresses, Error> {
    #[derive(Deserialize)]
    struct Answer {
        transaction: Global,
        #[serde(default)]
        progresses: Option<Vec<Row>>,
    }
    #[derive(Deserialize)]
    struct Global {
        status: String,
        #[serde(default)]
        rollback_reason: Option<String>,
        #[serde(default)]
        result: Option<String>,
        #[serde(default)]
        custom_data: Option<String>,
    }
    #[derive(Deserialize)]
    struct Row {
        branch_id: String,
        op: String,
        status: String,
        #[serde(default)]
        bin_data: Option<String>,
    }
    if status != 200 {
        classify(status, body)?;
    }
    let unread = |e: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Internal,
            format!("this is no answer of prepareWorkflow: {e}"),
        )
    };
    let answer: Answer = serde_json::from_slice(body).map_err(|e| unread(&e))?;
    let bytes = |text| bytes(text).map_err(|e| unread(&e));
    let rows = answer
        .progresses
        .unwrap_or_default()
        .into_iter()
        .map(|row| {
            Ok(Progress {
                status: BranchStatus::parse(&row.status).ok_or_else(|| unread(&row.status))?,
                branch_id: row.branch_id,
                op: row.op,
                data: bytes(row.bin_data)?,
            })
        });
    let began =
        began(&answer.transaction.custom_data.unwrap_or_default()).map_err(|e| unread(&e))?;
    Ok(Progresses {
        began,
        status: Status::parse(&answer.transaction.status)
            .ok_or_else(|| unread(&answer.transaction.status))?,
        reason: answer.transaction.rollback_reason.unwrap_or_default(),
        result: bytes(answer.transaction.result)?,
        rows: rows.collect::<Result<_, Error>>()?,
    })
}

/// What a coordinator has stored of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its mode, as the coordinator calls it.
    pub mode: String,
    /// How far it is.
    pub status: Status,
    /// A workflow's name and input, where the answer has them.
    pub began: Option<(String, Bytes)>,
}

/// Reads what came of [`Server::query`](super::Server::query); `None` from a coordinator that cannot be asked, as DTM's over gRPC. Errors:
/// `UnknownGid`, `Unavailable`.
pub fn stored(request: &Request, fact: Fact) -> Result<Option<Stored>, Error> {
    #[derive(Deserialize)]
    struct Global {
        status: String,
        #[serde(default)]
        trans_type: String,
        #[serde(default)]
        custom_data: Option<String>,
    }
    let (status, body) = match fact {
        Fact::Answer {
            status,
            body,
            message,
        } => over_http(request, status, &body, &message),
        Fact::NoAnswer { message, .. } => return Err(Error::new(ErrorKind::Unavailable, message)),
        other => return Err(Error::invalid(format!("a query cannot end with {other:?}"))),
    };
    if status != 200 {
        classify(status, &body)?;
    }
    let unread = |what: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Internal,
            format!("this is no answer of query: {what}"),
        )
    };
    let mut answer: Map<String, Value> = serde_json::from_slice(&body).map_err(|e| unread(&e))?;
    let tx: Option<Global> = match answer.remove("transaction") {
        None if request.method == "GRPC" => return Ok(None),
        None => return Err(unread(&"it names no transaction")),
        Some(tx) => serde_json::from_value(tx).map_err(|e| unread(&e))?,
    };
    let tx = tx.ok_or_else(|| {
        Error::new(
            ErrorKind::UnknownGid,
            "the coordinator knows no such transaction",
        )
    })?;
    Ok(Some(Stored {
        status: Status::parse(&tx.status).ok_or_else(|| unread(&tx.status))?,
        mode: tx.trans_type,
        began: began(&tx.custom_data.unwrap_or_default()).map_err(|e| unread(&e))?,
    }))
}

/// A workflow's name and input, as it was begun with them; `None` for what is none of a workflow.
fn began(custom_data: &str) -> Result<Option<(String, Bytes)>, base64::DecodeError> {
    #[derive(Deserialize)]
    struct Custom {
        name: String,
        #[serde(default)]
        data: Option<String>,
    }
    match serde_json::from_str::<Custom>(custom_data) {
        Ok(custom) => Ok(Some((custom.name, bytes(custom.data)?))),
        Err(_) => Ok(None),
    }
}

fn bytes(base64: Option<String>) -> Result<Bytes, base64::DecodeError> {
    STANDARD.decode(base64.unwrap_or_default()).map(Bytes::from)
}

/// Reads the answer of query: how many rows of branches are stored.
pub(super) fn branches(status: u16, body: &[u8]) -> Result<usize, Error> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        branches: Option<Vec<&'a RawValue>>,
    }
    if status != 200 {
        classify(status, body)?;
    }
    match serde_json::from_slice::<Answer<'_>>(body) {
        // DTM's null is no row.
        Ok(answer) => Ok(answer.branches.map_or(0, |rows| rows.len())),
        Err(e) => Err(Error::new(
            ErrorKind::Internal,
            format!("this is no answer of query: {e}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The words by which DTM tells kinds of answers mean nothing to this client: statuses do.
    #[test]
    fn words_are_not_interpreted() {
        for word in ["FAILURE", "ONGOING"] {
            let body = json!({"message": format!("AUTHENTICATION_{word} {word}")}).to_string();
            for (status, kind) in [
                (400, ErrorKind::Invalid),
                (500, ErrorKind::Internal),
                (503, ErrorKind::Unavailable),
            ] {
                let error = classify(status, body.as_bytes()).expect_err("an error");
                assert_eq!(error.kind(), kind);
            }
            let body = json!({"dtm_result": "SUCCESS", "message": word}).to_string();
            assert_eq!(classify(200, body.as_bytes()), Ok(()));
        }
    }

    /// A reason is whatever a branch said, also when it had it from a coordinator itself; and a 409 that is none of a coordinator's is no no.
    #[test]
    fn reasons_and_strangers() {
        let kind = |status: u16, body: Value| {
            let error = classify(status, body.to_string().as_bytes()).expect_err("an error");
            (error.kind(), error.status())
        };
        let failed = |message: &str| {
            kind(
                409,
                json!({"dtm_result": "FAILURE", "message": message, "status": "failed"}),
            )
        };
        for reason in [
            "current status 'succeed', cannot sumbmit. FAILURE",
            "bank: current status 'failed', cannot sumbmit. FAILURE",
            "no trans with gid: x status: prepared found",
            "this url exists",
            "he said: unkown result will be retried",
        ] {
            let want = (ErrorKind::Failure, Some(Status::Failed));
            assert_eq!(failed(reason), want, "{reason}");
        }
        let state = (ErrorKind::Refused, Some(Status::Failed));
        assert_eq!(
            failed("current status 'failed', cannot sumbmit. FAILURE"),
            state
        );
        for stranger in [
            json!({}),
            json!({"message": "conflict"}),
            json!({"error": "x"}),
        ] {
            assert_eq!(kind(409, stranger), (ErrorKind::Internal, None));
        }
    }
}
