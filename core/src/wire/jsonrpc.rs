//! JSON-RPC 2.0 frames (dtm-server.md 5): four keys in every answer.

use crate::error::Error;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// A request frame.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Echoed in the answer.
    pub id: String,
    /// Method name.
    pub method: String,
    /// The body of the HTTP route of that name.
    pub params: &'a [u8],
}

/// A framing error: its HTTP status and whole answer.
#[derive(Debug, PartialEq)]
pub struct Bad {
    /// 400 for what could not be parsed, else 200.
    pub status: u16,
    /// The body.
    pub body: Value,
}

/// Parses one frame.
pub fn parse(body: &[u8]) -> Result<Frame<'_>, Bad> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(default)]
        id: Option<Value>,
        #[serde(default)]
        jsonrpc: Option<String>,
        #[serde(default)]
        method: Option<String>,
        #[serde(borrow, default)]
        params: Option<&'a RawValue>,
    }
    let unparsable = |why: String| Bad {
        status: 400,
        body: answer(
            "",
            Some((-32700, format!("Parse json error: {why}"))),
            Value::Null,
        ),
    };
    // What is derived would take a list by position.
    if body.trim_ascii_start().first().is_some_and(|b| *b != b'{') {
        return Err(unparsable("a request is a JSON object".to_owned()));
    }
    let raw: Raw<'_> = serde_json::from_slice(body).map_err(|e| unparsable(e.to_string()))?;
    let id = match raw.id {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(id)) => id,
        Some(other) => {
            return Err(unparsable(format!(
                "id must be a non-empty string, it is {other}"
            )));
        }
    };
    let method = raw.method.unwrap_or_default();
    if id.is_empty() || raw.jsonrpc.as_deref() != Some("2.0") {
        let shown = json!({"method": method, "jsonrpc": raw.jsonrpc.unwrap_or_default(), "params": Value::Null, "id": id});
        return Err(Bad {
            status: 200,
            body: answer(
                &id,
                Some((-32600, format!("Bad json request: {shown}"))),
                Value::Null,
            ),
        });
    }
    let params = raw.params.map_or(&b"{}"[..], |p| p.get().as_bytes());
    let params = if params == b"null" { b"{}" } else { params };
    Ok(Frame { id, method, params })
}

/// The answer to an unknown method.
pub fn unknown_method(id: &str, method: &str) -> Value {
    answer(
        id,
        Some((-32601, format!("Method not found: {method}"))),
        Value::Null,
    )
}

/// A successful answer.
pub fn success(id: &str, result: Value) -> Value {
    answer(id, None, result)
}

/// A refused or failed one.
pub fn failure(id: &str, error: &Error) -> Value {
    answer(
        id,
        Some((
            error.kind().coordinator_answer().jsonrpc,
            error.message().to_owned(),
        )),
        json!({}),
    )
}

fn answer(id: &str, error: Option<(i64, String)>, result: Value) -> Value {
    let error = error.map_or(
        Value::Null,
        |(code, message)| json!({"code": code, "message": message}),
    );
    json!({"error": error, "id": id, "jsonrpc": "2.0", "result": result})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_need_a_string_id_and_version_2() {
        let f = parse(br#"{"jsonrpc":"2.0","id":"a","method":"submit","params":{"gid":"g"}}"#)
            .expect("parses");
        assert_eq!(
            (f.id.as_str(), f.method.as_str(), f.params),
            ("a", "submit", &br#"{"gid":"g"}"#[..])
        );
        assert_eq!(
            parse(br#"{"jsonrpc":"2.0","id":1,"method":"x"}"#)
                .expect_err("number id")
                .status,
            400
        );
        assert_eq!(parse(b"").expect_err("empty").body["error"]["code"], -32700);
        for list in ["[]", r#" ["x","2.0","newGid",{}]"#] {
            let bad = parse(list.as_bytes()).expect_err("a list");
            assert_eq!(
                (bad.status, &bad.body["error"]["code"]),
                (400, &json!(-32700))
            );
        }
        let bad = parse(br#"{"jsonrpc":"1.0","id":"a","method":"newGid"}"#).expect_err("version");
        assert_eq!(
            (
                bad.status,
                bad.body["error"]["code"].as_i64(),
                bad.body["id"].as_str()
            ),
            (200, Some(-32600), Some("a"))
        );
    }

    #[test]
    fn answers_have_four_keys() {
        let e = Error::refused(None, "no FAILURE");
        assert_eq!(
            failure("a", &e).to_string(),
            r#"{"error":{"code":-32901,"message":"no FAILURE"},"id":"a","jsonrpc":"2.0","result":{}}"#
        );
        assert_eq!(
            success("a", Value::Null).to_string(),
            r#"{"error":null,"id":"a","jsonrpc":"2.0","result":null}"#
        );
    }
}
