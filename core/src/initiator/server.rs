//! The coordinator as its clients see it over HTTP: where requests go, and what answers mean (rules.md 2.1).

use crate::branch::Status;
use crate::error::{Error, ErrorKind};
use crate::machine::Request;
use crate::options::Options;
use crate::time::Millis;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Where a coordinator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `http://host:port/api/dtmsvr`
    base: String,
    /// How long an answer may take, waiting for a result not included.
    timeout: Millis,
}

impl Server {
    /// The coordinator at `http://host:port`, or at its whole base path as DTM's clients write it.
    pub fn new(url: &str, timeout: Millis) -> Server {
        const PATH: &str = "/api/dtmsvr";
        let url = url.trim_end_matches('/');
        let base = if url.ends_with(PATH) {
            url.to_owned()
        } else {
            format!("{url}{PATH}")
        };
        Server { base, timeout }
    }

    /// Its base path, by which branches of branches find it.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A POST of a route.
    pub fn post(&self, route: &str, body: &Value) -> Request {
        Request {
            method: "POST",
            url: format!("{}/{route}", self.base),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: Bytes::from(body.to_string()),
            timeout: self.timeout,
        }
    }

    /// The same, for a request that the coordinator answers when the transaction has ended: it waits for as long as one of its calls may
    /// take and 2 s (rules.md 2.3).
    pub fn post_and_wait(&self, route: &str, body: &Value, call_timeout: Millis) -> Request {
        let mut request = self.post(route, body);
        request.timeout = self.timeout.max(call_timeout + 3 * crate::time::SECOND);
        request
    }
}

/// The members of a global transaction that every mode has. Options of their default value are left out.
pub(super) fn body(gid: &str, trans_type: &str, options: &Options) -> Map<String, Value> {
    let mut all = match serde_json::to_value(options) {
        Ok(Value::Object(options)) => options,
        _ => Map::new(),
    };
    all.insert("gid".to_owned(), json!(gid));
    all.insert("trans_type".to_owned(), json!(trans_type));
    all
}

/// Whether a 409 says that the stored status does not allow the request; else it is the end of a transaction that was waited for. These
/// texts are DTM's, and the same in every version of both servers.
fn is_refusal(text: &str) -> bool {
    text.contains("current status '")
        || text.starts_with("no trans with gid")
        || text.starts_with("global transaction force stop error")
}

/// What an answer of the coordinator means.
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
    let stored = Status::parse(&answer.status);
    let error = match status {
        400 | 413 => Error::invalid(text),
        401 | 403 => Error::new(ErrorKind::Unauthorized, text),
        404 => Error::new(ErrorKind::UnknownGid, text),
        409 if is_refusal(&text) => Error::wrong_state(stored, text),
        409 => Error::new(ErrorKind::Failure, text),
        425 => Error::new(ErrorKind::Ongoing, text),
        429 | 502..=504 => Error::new(ErrorKind::Unavailable, text),
        _ => Error::new(ErrorKind::Internal, text),
    };
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_the_path() {
        for url in [
            "http://h:1",
            "http://h:1/",
            "http://h:1/api/dtmsvr",
            "http://h:1/api/dtmsvr/",
        ] {
            let request = Server::new(url, 3_000).post("submit", &json!({}));
            assert_eq!(request.url, "http://h:1/api/dtmsvr/submit");
        }
    }

    #[test]
    fn answers_are_typed() {
        let table: &[(u16, &str, Option<ErrorKind>)] = &[
            (200, r#"{"dtm_result":"SUCCESS"}"#, None),
            // A login page, or another server.
            (200, "<title>Sign in</title>", Some(ErrorKind::Internal)),
            (200, "{}", Some(ErrorKind::Internal)),
            (400, r#"{"message":"gid"}"#, Some(ErrorKind::Invalid)),
            (404, "", Some(ErrorKind::UnknownGid)),
            (
                409,
                r#"{"dtm_result":"FAILURE","message":"no stock FAILURE"}"#,
                Some(ErrorKind::Failure),
            ),
            (
                409,
                r#"{"dtm_result":"FAILURE","message":"no stock FAILURE","status":"aborting"}"#,
                Some(ErrorKind::Failure),
            ),
            (
                409,
                r#"{"message":"current status 'failed', cannot sumbmit. FAILURE","status":"failed"}"#,
                Some(ErrorKind::WrongState),
            ),
            (
                409,
                r#"{"message":"no trans with gid: g status: prepared found FAILURE"}"#,
                Some(ErrorKind::WrongState),
            ),
            (425, "{}", Some(ErrorKind::Ongoing)),
            (500, "oops", Some(ErrorKind::Internal)),
            (503, "", Some(ErrorKind::Unavailable)),
        ];
        for (status, body, want) in table {
            let got = classify(*status, body.as_bytes()).err();
            assert_eq!(got.map(|e| e.kind()), *want, "{status} {body}");
        }
        let refused = br#"{"message":"current status 'aborting', cannot prepare. FAILURE","status":"aborting"}"#;
        let refused = classify(409, refused);
        let refused = refused.expect_err("refused");
        assert_eq!(refused.status(), Some(Status::Aborting));
    }
}
