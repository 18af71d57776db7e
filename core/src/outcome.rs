//! What a branch call meant. One classifier for every caller (rules.md 3).

use crate::options::Compat;
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

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Compat = Compat {
        body_text: false,
        only_200: false,
        wait_result_409: false,
        callback_get: false,
    };

    fn kind(o: Outcome) -> char {
        match o {
            Outcome::Success => 's',
            Outcome::Failure(_) => 'f',
            Outcome::Ongoing => 'o',
            Outcome::Error(_) => 'e',
        }
    }

    #[test]
    fn branch_answers_by_status_and_dtm_result() {
        let table: &[(u16, &str, char)] = &[
            (200, "", 's'),
            (200, "{\"dtm_result\":\"SUCCESS\"}", 's'),
            (200, "{\"dtm_result\":\"FAILURE\"}", 'f'),
            (200, "{\"dtm_result\":\"ONGOING\"}", 'o'),
            (200, "{\"dtm_result\":null}", 's'),
            (200, "{\"dtm_result\":\"MAYBE\"}", 'e'),
            (200, "{\"dtm_result\":1}", 'e'),
            (200, "{\"inner\":{\"dtm_result\":\"FAILURE\"}}", 's'),
            (200, "AUTHENTICATION_FAILURE and ONGOING", 's'),
            (201, "", 's'),
            (204, "", 's'),
            (202, "", 'o'),
            (409, "no stock", 'f'),
            (425, "", 'o'),
            (500, "FAILURE", 'e'),
            (500, "ONGOING", 'e'),
            (302, "", 'e'),
            (404, "", 'e'),
        ];
        for (status, body, want) in table {
            let got = classify_http(Purpose::Branch, *status, body.as_bytes(), &OURS);
            assert_eq!(kind(got.clone()), *want, "{status} {body} gave {got:?}");
        }
    }

    #[test]
    fn check_backs_commit_on_exactly_200() {
        let table: &[(u16, &str, char)] = &[
            (200, "", 's'),
            (200, "anything", 's'),
            (200, "{\"dtm_result\":\"FAILURE\"}", 'f'),
            (200, " <!DOCTYPE html><p>log in", 'e'),
            (200, "\n<HTML>", 'e'),
            (204, "", 'e'),
            (201, "{\"dtm_result\":\"SUCCESS\"}", 's'),
            (409, "", 'f'),
            (500, "", 'e'),
        ];
        for (status, body, want) in table {
            let got = classify_http(Purpose::CheckBack, *status, body.as_bytes(), &OURS);
            assert_eq!(kind(got.clone()), *want, "{status} {body} gave {got:?}");
        }
    }

    #[test]
    fn compat_body_text_reads_words_as_dtm_does() {
        let dtm = Compat {
            body_text: true,
            only_200: true,
            ..OURS
        };
        for (status, body, want) in [
            (200, "some FAILURE x", 'f'),
            (500, "FAILURE", 'f'),
            (500, "ONGOING", 'o'),
            (201, "", 'e'),
            (202, "", 'e'),
            (200, "ok", 's'),
        ] {
            assert_eq!(
                kind(classify_http(
                    Purpose::Branch,
                    status,
                    body.as_bytes(),
                    &dtm
                )),
                want,
                "{status} {body}"
            );
        }
    }

    #[test]
    fn json_rpc_codes_are_recognised() {
        for (body, want) in [
            (r#"{"jsonrpc":"2.0","id":"1","result":{}}"#, 's'),
            (
                r#"{"jsonrpc":"2.0","id":"1","result":{},"error":null}"#,
                's',
            ),
            (r#"{"error":{"code":-32901,"message":"no"}}"#, 'f'),
            (r#"{"error":{"code":-32902}}"#, 'o'),
            (r#"{"error":{"code":-32603,"message":"x"}}"#, 'e'),
            ("garbage", 'e'),
        ] {
            assert_eq!(
                kind(classify_jsonrpc(
                    Purpose::Branch,
                    200,
                    body.as_bytes(),
                    &OURS
                )),
                want,
                "{body}"
            );
        }
    }
}
