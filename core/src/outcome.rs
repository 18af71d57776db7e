//! What a branch call meant. One classifier for every caller (rules.md 3).

use crate::options::Compat;
use crate::wire::http::SUCCESS;
use serde::Deserialize;

/// Meaning of a branch's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Success,
    /// A definite no, with the answer's text. Legal from actions and tries; elsewhere treated as an error.
    Failure(String),
    /// Not done yet; ask again at the base interval.
    Ongoing,
    /// Unknown: retry with backoff. The text says what happened.
    Error(String),
}

/// Why a call was made; a check-back is read more strictly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A branch operation.
    Branch,
    /// A message's query-prepared: exactly 200 commits.
    CheckBack,
    /// A workflow's callback; its answer changes nothing but the next due time.
    Callback,
}

/// The code of a JSON-RPC error that means failure.
pub const JSONRPC_FAILURE: i64 = -32901;
/// The code of a JSON-RPC error that means ongoing.
pub const JSONRPC_ONGOING: i64 = -32902;

/// Reads an HTTP answer. `body` is at most the first `limits.answer` bytes of it.
pub fn classify_http(purpose: Purpose, status: u16, body: &[u8], compat: &Compat) -> Outcome {
    let text = || String::from_utf8_lossy(body).into_owned();
    if compat.body_text {
        if status == 425 || contains(body, b"ONGOING") {
            return Outcome::Ongoing;
        }
        if status == 409 || contains(body, b"FAILURE") {
            return Outcome::Failure(text());
        }
    }
    match status {
        409 => return Outcome::Failure(text()),
        425 => return Outcome::Ongoing,
        202 if !compat.only_200 => return Outcome::Ongoing,
        200 => {}
        201..=299 if !compat.only_200 => {}
        _ => return Outcome::Error(describe(status, body)),
    }
    // What DTM's clients answer need not be parsed.
    if body == SUCCESS.as_bytes() {
        return Outcome::Success;
    }
    match dtm_result(body).as_deref() {
        Some("SUCCESS") => Outcome::Success,
        Some("FAILURE") => Outcome::Failure(text()),
        Some("ONGOING") => Outcome::Ongoing,
        Some(other) => Outcome::Error(format!(
            "answered {status} with the unknown dtm_result {other:?}"
        )),
        None if purpose == Purpose::CheckBack && status != 200 => Outcome::Error(format!(
            "answered the check-back with {status}: only 200 commits"
        )),
        None if purpose == Purpose::CheckBack && is_html(body) => Outcome::Error(
            "answered the check-back with an HTML page, which is no answer".to_owned(),
        ),
        None => Outcome::Success,
    }
}

/// Reads the answer to a JSON-RPC call: the HTTP rules first, then the member `error`.
pub fn classify_jsonrpc(purpose: Purpose, status: u16, body: &[u8], compat: &Compat) -> Outcome {
    #[derive(Deserialize)]
    struct Reply {
        error: Option<ReplyError>,
    }
    #[derive(Deserialize)]
    struct ReplyError {
        code: i64,
        #[serde(default)]
        message: String,
    }
    match classify_http(purpose, status, body, compat) {
        Outcome::Success => {}
        other => return other,
    }
    match serde_json::from_slice::<Reply>(body) {
        Ok(Reply { error: None }) => Outcome::Success,
        Ok(Reply { error: Some(e) }) => match e.code {
            JSONRPC_FAILURE => Outcome::Failure(e.message),
            JSONRPC_ONGOING => Outcome::Ongoing,
            code => Outcome::Error(format!("answered the JSON-RPC error {code}: {}", e.message)),
        },
        Err(e) => Outcome::Error(format!(
            "answered {status}, which is no JSON-RPC answer: {e}"
        )),
    }
}

fn describe(status: u16, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.is_empty() {
        format!("answered {status}")
    } else {
        format!("answered {status}: {text}")
    }
}

/// The top-level JSON member `dtm_result`, if the body is an object that has one that is not null.
fn dtm_result(body: &[u8]) -> Option<String> {
    // Most answers have no such member: do not parse them.
    if !contains(body, b"dtm_result") {
        return None;
    }
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        dtm_result: Option<serde_json::Value>,
    }
    match serde_json::from_slice::<Answer>(body).ok()?.dtm_result? {
        serde_json::Value::String(word) => Some(word),
        other => Some(other.to_string()),
    }
}

fn is_html(body: &[u8]) -> bool {
    let start = body.trim_ascii_start();
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let begins =
        |word: &[u8]| start.len() >= word.len() && start[..word.len()].eq_ignore_ascii_case(word);
    [
        b"<!doctype".as_slice(),
        b"<html",
        b"<head",
        b"<body",
        b"<?xml",
        b"<!--",
    ]
    .iter()
    .any(|w| begins(w))
}

fn contains(body: &[u8], word: &[u8]) -> bool {
    body.windows(word.len()).any(|w| w == word)
}
