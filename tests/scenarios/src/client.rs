//! A small client for DTM's HTTP routes and JSON-RPC.

use crate::json;
use crate::wait::{DEADLINE, eventually};
use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// The body of a success that has nothing to tell.
pub const SUCCESS: &str = r#"{"dtm_result":"SUCCESS"}"#;

/// Longest time that any answer may take; `wait_result` and large bodies included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Why there was no answer.
#[derive(Debug)]
pub struct NoAnswer(String);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoAnswer {}

/// An answer of the coordinator.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Content-Type, empty if there is none.
    pub content_type: String,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The member `message`.
    pub fn message(&self) -> String {
        self.json()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Asserts status and exact body.
    ///
    /// # Panics
    ///
    /// When either differs.
    #[track_caller]
    pub fn expect(&self, status: u16, body: &str) {
        assert_eq!((self.status, self.text().as_str()), (status, body));
    }

    /// Asserts the status and returns the answer.
    ///
    /// # Panics
    ///
    /// When it differs.
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Asserts the plain success.
    ///
    /// # Panics
    ///
    /// When it is something else.
    #[track_caller]
    pub fn expect_success(&self) {
        self.expect(200, SUCCESS);
    }

    /// Asserts a refusal for the stored status: 409, DTM's text, and `status` in the body (rules.md 2.1).
    ///
    /// # Panics
    ///
    /// When it is something else.
    #[track_caller]
    pub fn expect_wrong_state(&self, message: &str, status: &str) {
        let body = format!(
            r#"{{"dtm_result":"FAILURE","message":{},"status":"{status}"}}"#,
            Value::String(message.to_owned())
        );
        self.expect(409, &body);
    }
}

/// What `/query` shows of one transaction.
#[derive(Clone, Debug)]
pub struct View {
    /// The answer as sent.
    pub text: String,
    /// The same, parsed.
    pub json: Value,
}

impl View {
    /// A string member of the transaction, empty if it is absent.
    pub fn field(&self, key: &str) -> &str {
        self.json["transaction"][key].as_str().unwrap_or_default()
    }

    /// The global status, empty if the gid is unknown.
    pub fn status(&self) -> &str {
        self.field("status")
    }

    /// The first letter of each row's status, in the order shown.
    pub fn rows(&self) -> String {
        let letter = |row: &Value| row["status"].as_str().and_then(|s| s.chars().next());
        self.branches()
            .iter()
            .map(|row| letter(row).unwrap_or('?'))
            .collect()
    }

    /// Branch id and op of each row, as `01/action`.
    pub fn row_names(&self) -> Vec<String> {
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        self.branches()
            .iter()
            .map(|r| format!("{}/{}", text(r, "branch_id"), text(r, "op")))
            .collect()
    }

    /// The rows.
    pub fn branches(&self) -> &[Value] {
        self.json["branches"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The raw JSON of the transaction.
    pub fn transaction_text(&self) -> String {
        json::member(&self.text, "transaction")
    }
}

/// A client of one coordinator. Every request has its own connection, so that a restart in between is no error.
#[derive(Clone, Debug)]
pub struct Client {
    addr: SocketAddr,
    token: Option<String>,
}

impl Client {
    /// A client of the coordinator at this address.
    pub fn new(addr: SocketAddr) -> Client {
        Client { addr, token: None }
    }

    /// The same client with an operator's token.
    pub fn with_token(&self, token: &str) -> Client {
        Client {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// Sends a request; the path holds the query.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, NoAnswer> {
        let exchange = self.exchange(method, path, body.into());
        match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(answer) => answer.map_err(|e| NoAnswer(format!("{path}: {e}"))),
            Err(_) => Err(NoAnswer(format!(
                "{path}: no answer within {ANSWER_TIMEOUT:?}"
            ))),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.addr.to_string())
            .header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let (head, body) = sender
            .send_request(request.body(Full::new(body))?)
            .await?
            .into_parts();
        let body = body.collect().await?.to_bytes();
        connection.abort();
        let content_type = head
            .headers
            .get("content-type")
            .and_then(|v| v.to_str().ok());
        Ok(Answer {
            status: head.status.as_u16(),
            content_type: content_type.unwrap_or_default().to_owned(),
            body,
        })
    }

    /// GET.
    ///
    /// # Panics
    ///
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "").await.expect("an answer")
    }

    /// DELETE.
    ///
    /// # Panics
    ///
    /// When there is no answer.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, "")
            .await
            .expect("an answer")
    }

    /// POST to a route of `/api/dtmsvr`.
    ///
    /// # Panics
    ///
    /// When there is no answer.
    pub async fn post(&self, route: &str, body: &Value) -> Answer {
        self.post_text(route, &body.to_string()).await
    }

    /// POST of any text to a route of `/api/dtmsvr`.
    ///
    /// # Panics
    ///
    /// When there is no answer.
    pub async fn post_text(&self, route: &str, body: &str) -> Answer {
        let path = format!("/api/dtmsvr/{route}");
        self.send(Method::POST, &path, body.to_owned())
            .await
            .expect("an answer")
    }

    /// A JSON-RPC call with the id `a`.
    ///
    /// # Panics
    ///
    /// When there is no answer.
    pub async fn rpc(&self, method: &str, params: &Value) -> Answer {
        let frame = json!({"jsonrpc": "2.0", "id": "a", "method": method, "params": params});
        self.send(Method::POST, "/api/json-rpc", frame.to_string())
            .await
            .expect("an answer")
    }

    /// `/query`.
    ///
    /// # Panics
    ///
    /// When it does not answer 200.
    pub async fn query(&self, gid: &str) -> View {
        let answer = self
            .get(&format!("/api/dtmsvr/query?gid={}", escape(gid)))
            .await;
        let answer = answer.expect_status(200);
        View {
            text: answer.text(),
            json: answer.json(),
        }
    }

    /// Waits until `/query` shows this status.
    ///
    /// # Panics
    ///
    /// When the deadline has passed, with what was shown last.
    pub async fn wait_status(&self, gid: &str, status: &str) -> View {
        self.wait_view(gid, &format!("status {status}"), |v| v.status() == status)
            .await
    }

    /// Waits until `/query` shows something.
    ///
    /// # Panics
    ///
    /// When the deadline has passed, with what was shown last.
    pub async fn wait_view(
        &self,
        gid: &str,
        what: &str,
        condition: impl Fn(&View) -> bool,
    ) -> View {
        let last = std::cell::RefCell::new(None);
        let holds = async || {
            let view = self.query(gid).await;
            let holds = condition(&view);
            last.replace(Some(view));
            holds
        };
        let waited = tokio::time::timeout(DEADLINE, eventually(what, DEADLINE * 2, holds)).await;
        let view = last.take().expect("asked at least once");
        assert!(
            waited.is_ok(),
            "{gid}: no {what} within {DEADLINE:?}, last seen: {}",
            view.text
        );
        view
    }

    /// Waits until `/query` shows this `next_cron_interval` in seconds; results of calls may be stored up to 100 ms late (rules.md 1.2).
    ///
    /// # Panics
    ///
    /// When the deadline has passed, with what was shown last.
    pub async fn wait_interval(&self, gid: &str, seconds: u64) -> View {
        let shown = |v: &View| v.json["transaction"]["next_cron_interval"] == seconds;
        self.wait_view(gid, &format!("interval of {seconds} s"), shown)
            .await
    }

    /// Makes a transaction due at once (resetNextCronTime).
    ///
    /// # Panics
    ///
    /// When it is refused.
    pub async fn kick(&self, gid: &str) {
        self.post("resetNextCronTime", &json!({"gid": gid}))
            .await
            .expect_success();
    }
}

/// Escapes a value of a query parameter.
pub fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    let escaped = |b: u8| {
        if plain(b) {
            char::from(b).to_string()
        } else {
            format!("%{b:02X}")
        }
    };
    text.bytes().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_name_their_rows() {
        let text = r#"{"branches":[{"branch_id":"01","op":"compensate","status":"prepared"},
            {"branch_id":"01","op":"action","status":"succeed"}],"transaction":{"status":"submitted","id":0}}"#;
        let view = View {
            text: text.to_owned(),
            json: serde_json::from_str(text).expect("JSON"),
        };
        assert_eq!((view.status(), view.rows().as_str()), ("submitted", "ps"));
        assert_eq!(view.row_names(), ["01/compensate", "01/action"]);
        assert_eq!(view.transaction_text(), r#"{"status":"submitted","id":0}"#);
        assert_eq!(escape("a b/ü"), "a%20b%2F%C3%BC");
    }
}
