//! The coordinator's gRPC API from its client's side: requests from the bodies of its HTTP API, and answers in that API's terms, so that
//! everything behind them is read in one way (rules.md 2.1).

use super::{Code, dtmgimp, v1};
use crate::error::Error;
use crate::wire::request::{BranchRequest, GlobalRequest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message;
use serde_json::json;

/// The path of a method of `dtmgimp.Dtm` by its HTTP route, with a slash in front: `prepare` is `/dtmgimp.Dtm/Prepare`.
pub fn method_path(route: &str) -> String {
    let mut letters = route.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    first
        .into_iter()
        .fold("/dtmgimp.Dtm/".to_owned(), |path, c| path + &c.to_string())
        + letters.as_str()
}

/// The method that shows what is stored of a transaction. DTM's coordinator has none.
pub const QUERY_PATH: &str = "/amends.v1.Operations/Query";

/// Its message.
pub fn query_message(gid: &str) -> Bytes {
    let gid = gid.to_owned();
    v1::QueryRequest { gid }.encode_to_vec().into()
}

/// The message of a route, from the JSON body that HTTP would have. Error: `Invalid` if that is no body of the route.
pub fn request_message(route: &str, body: &[u8]) -> Result<Bytes, Error> {
    Ok(match route {
        "newGid" => Bytes::new(),
        "registerBranch" => branch_message(BranchRequest::from_json(body)?),
        _ => global_message(GlobalRequest::from_json(body)?),
    })
}

/// The message of a transaction: the reverse of [`super::global`].
pub fn global_message(req: GlobalRequest) -> Bytes {
    let message = dtmgimp::DtmRequest {
        gid: req.gid,
        trans_type: req.trans_type,
        trans_options: Some(dtmgimp::DtmTransOptions {
            wait_result: req.wait_result,
            timeout_to_fail: req.times.timeout_to_fail,
            retry_interval: req.times.retry_interval,
            branch_headers: req.branch_headers,
            request_timeout: req.times.request_timeout,
            retry_limit: req.times.retry_limit,
            concurrent: req.concurrent,
        }),
        customed_data: req.custom_data,
        bin_payloads: req.payloads,
        query_prepared: req.query_prepared,
        steps: if req.steps.is_empty() {
            String::new()
        } else {
            json!(req.steps).to_string()
        },
        req_extra: req.req_extra,
        rollback_reason: req.rollback_reason,
    };
    message.encode_to_vec().into()
}

/// The message of a registration: the reverse of [`super::registration`].
pub fn branch_message(req: BranchRequest) -> Bytes {
    let mut data = req.fields;
    let mut take = |key: &str| data.remove(key).unwrap_or_default();
    let (gid, trans_type, branch_id) = (take("gid"), take("trans_type"), take("branch_id"));
    let message = dtmgimp::DtmBranchRequest {
        gid,
        trans_type,
        branch_id,
        op: String::new(),
        data,
        busi_payload: req.data,
    };
    message.encode_to_vec().into()
}

/// What an answer over gRPC would have been over HTTP: status and body. A message that cannot be read becomes a 200 that is none of the
/// coordinator's.
pub fn answer_over_http(path: &str, code: Code, message: &str, reply: &Bytes) -> (u16, Bytes) {
    if code == Code::UNIMPLEMENTED && path.ends_with(QUERY_PATH) {
        // DTM's coordinator cannot be asked; what it would say is that it knows of nothing.
        return (200, json!({"branches": []}).to_string().into());
    }
    if code != Code::OK {
        let status = http_status(code, message);
        let body = match code {
            Code::ABORTED => json!({"dtm_result": "FAILURE", "message": said(code, message)}),
            _ => json!({"message": said(code, message)}),
        };
        return (status, body.to_string().into());
    }
    let body = match path.rsplit('/').next() {
        Some("PrepareWorkflow") => {
            dtmgimp::DtmProgressesReply::decode(reply.clone()).map(progresses_over_http)
        }
        Some("Query") => v1::QueryReply::decode(reply.clone()).map(|reply| {
            let rows = reply.branches.iter();
            let row = |b: &v1::Branch| json!({"branch_id": b.branch_id, "op": b.op});
            let status = reply.transaction.map(|tx| {
                json!({"status": tx.status, "trans_type": tx.trans_type, "custom_data": tx.custom_data})
            });
            json!({"branches": rows.map(row).collect::<Vec<_>>(), "transaction": status})
        }),
        Some("NewGid") => dtmgimp::DtmGidReply::decode(reply.clone())
            .map(|reply| json!({"dtm_result": "SUCCESS", "gid": reply.gid})),
        _ => Ok(json!({"dtm_result": "SUCCESS"})),
    };
    let body = body.unwrap_or_else(|e| json!({"message": format!("its message is broken: {e}")}));
    (200, body.to_string().into())
}

fn progresses_over_http(reply: dtmgimp::DtmProgressesReply) -> serde_json::Value {
    let rows = reply.progresses.into_iter().map(|row| {
        json!({
            "branch_id": row.branch_id,
            "op": row.op,
            "status": row.status,
            "bin_data": STANDARD.encode(&row.bin_data),
        })
    });
    let tx = reply.transaction.unwrap_or_default();
    json!({
        "transaction": {
            "gid": tx.gid,
            "status": tx.status,
            "rollback_reason": tx.rollback_reason,
            "result": tx.result,
            "custom_data": tx.custom_data,
        },
        "progresses": rows.collect::<Vec<_>>(),
    })
}

/// The rows of rules.md 2.1 read from right to left, and the codes of gRPC's own machinery.
fn http_status(code: Code, message: &str) -> u16 {
    match code {
        Code::INVALID_ARGUMENT => 400,
        Code::UNAUTHENTICATED | Code::PERMISSION_DENIED => 401,
        Code::NOT_FOUND => 404,
        Code::ABORTED | Code::ALREADY_EXISTS => 409,
        // A workflow's refused registration, which is ABORTED from DTM's coordinator.
        Code::FAILED_PRECONDITION if message.starts_with("no trans with gid") => 409,
        Code::FAILED_PRECONDITION => 425,
        Code::RESOURCE_EXHAUSTED => 413,
        Code::UNAVAILABLE => 503,
        // A proxy gave up on what it may have passed on.
        Code::CANCELLED | Code::DEADLINE_EXCEEDED => 504,
        _ => 500,
    }
}

fn said(code: Code, message: &str) -> String {
    if message.is_empty() {
        format!("the coordinator answered {}", code.name())
    } else {
        message.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{global, registration};
    use super::*;
    use crate::branch::Protocol;
    use crate::error::ErrorKind;
    use serde_json::Value;

    #[test]
    fn paths() {
        for (route, path) in [
            ("submit", "/dtmgimp.Dtm/Submit"),
            ("prepareWorkflow", "/dtmgimp.Dtm/PrepareWorkflow"),
            ("registerBranch", "/dtmgimp.Dtm/RegisterBranch"),
        ] {
            assert_eq!(method_path(route), path);
        }
    }

    /// Whatever a body says, the message says; but for the protocol, which is the wire's.
    #[test]
    fn a_global_transaction_survives_the_way() {
        let body = json!({
            "gid": "g", "trans_type": "saga", "custom_data": "{}", "query_prepared": "h:1/a.B/C",
            "steps": [{"action": "h:1/a.B/C", "compensate": "h:1/a.B/D"}], "payloads": ["p\u{1}"],
            "rollback_reason": "why", "req_extra": {"status": "succeed"},
            "wait_result": true, "timeout_to_fail": 1, "request_timeout": 2, "retry_interval": 3,
            "retry_limit": 4, "concurrent": true, "branch_headers": {"a": "b"},
        });
        let body = body.to_string();
        let message = request_message("submit", body.as_bytes()).expect("a body");
        let read = global(dtmgimp::DtmRequest::decode(message).expect("a message"));
        let mut want = GlobalRequest::from_json(body.as_bytes()).expect("a body");
        want.protocol = "grpc".to_owned();
        assert_eq!(read, Ok(want));
        let wrong = request_message("submit", b"{\"gid\":1}").expect_err("no body");
        assert_eq!(wrong.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_registration_survives_the_way() {
        let body = br#"{"gid":"g","trans_type":"tcc","branch_id":"01","data":"d","confirm":"h:1/a.B/C","cancel":""}"#;
        let message = request_message("registerBranch", body).expect("a body");
        let read = registration(dtmgimp::DtmBranchRequest::decode(message).expect("a message"));
        let mut want = BranchRequest::from_json(body).expect("a body");
        want.protocol = Protocol::Grpc;
        assert_eq!(read, want);
    }

    /// An error of the coordinator is the same one over both wires.
    #[test]
    fn codes_become_the_statuses_of_the_same_row() {
        for kind in ErrorKind::ALL {
            let answer = kind.coordinator_answer();
            // Its text tells it from "not ended yet".
            let text = match kind {
                ErrorKind::RowRefused => "no trans with gid: g status: prepared found",
                _ => "text",
            };
            let status = http_status(Code(answer.grpc), text);
            assert_eq!(status, answer.http, "{kind:?}");
        }
        assert_eq!(http_status(Code(4), ""), 504);
        assert_eq!(http_status(Code(77), ""), 500);
    }

    #[test]
    fn replies() {
        let answer = |method: &str, code, text: &str, reply: &[u8]| {
            let path = format!("h:1/dtmgimp.Dtm/{method}");
            let (status, body) =
                answer_over_http(&path, code, text, &Bytes::copy_from_slice(reply));
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            (status, body)
        };
        assert_eq!(
            answer("Submit", Code::OK, "", b""),
            (200, json!({"dtm_result": "SUCCESS"}))
        );
        assert_eq!(
            answer("Submit", Code::ABORTED, "no stock", b""),
            (409, json!({"dtm_result": "FAILURE", "message": "no stock"}))
        );
        assert_eq!(
            answer("Submit", Code(2), "", b""),
            (500, json!({"message": "the coordinator answered UNKNOWN"}))
        );
        let reply = dtmgimp::DtmProgressesReply {
            transaction: Some(dtmgimp::DtmTransaction {
                gid: "g".to_owned(),
                status: "failed".to_owned(),
                rollback_reason: "why".to_owned(),
                result: "aGk=".to_owned(),
                custom_data: "{}".to_owned(),
            }),
            progresses: vec![dtmgimp::DtmProgress {
                status: "succeed".to_owned(),
                bin_data: Bytes::from_static(b"\xff"),
                branch_id: "01".to_owned(),
                op: "action".to_owned(),
            }],
        };
        assert_eq!(
            answer("PrepareWorkflow", Code::OK, "", &reply.encode_to_vec()),
            (
                200,
                json!({
                    "transaction": {"gid": "g", "status": "failed", "rollback_reason": "why", "result": "aGk=", "custom_data": "{}"},
                    "progresses": [{"branch_id": "01", "op": "action", "status": "succeed", "bin_data": "/w=="}],
                })
            )
        );
        let (status, broken) = answer("PrepareWorkflow", Code::OK, "", b"\xff");
        assert!(status == 200 && broken["transaction"].is_null(), "{broken}");
    }
}
