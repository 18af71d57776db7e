//! Branch calls as values (dtm-server.md 7): how a URL is called, what is sent over HTTP, and how the answer is read.

use crate::branch::{self, Op, Protocol, TransType};
use crate::error::Error;
use crate::gid::Gid;
use crate::options::Compat;
use crate::outcome::{Outcome, Purpose, classify_http, classify_jsonrpc};
use crate::time::Millis;
use crate::wire::grpc::{GrpcCall, GrpcTarget};
use crate::wire::url::{add_query, authority_and_port, http_rest, unescape};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Whose call it is, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Global transaction id.
    pub gid: &'a Gid,
    /// Mode.
    pub trans_type: TransType,
    /// Protocol of the transaction.
    pub protocol: Protocol,
    /// Branch id.
    pub branch_id: &'a str,
    /// Operation.
    pub op: &'a Op,
    /// URL as the client gave it.
    pub url: &'a str,
    /// Why it is made.
    pub purpose: Purpose,
}

impl<'a> Target<'a> {
    /// Whose call it is, as names and texts.
    pub(crate) fn identity(&self) -> [(&'static str, &'a str); 4] {
        branch::identity(
            self.gid.as_str(),
            self.trans_type,
            self.branch_id,
            self.op.as_str(),
        )
    }
}

/// How a URL is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Plain HTTP.
    Http,
    /// JSON-RPC over HTTP.
    JsonRpc,
    /// gRPC.
    Grpc,
}

/// How this URL is called under this protocol, or why nothing here can call it (dtm-server.md 7.1).
pub fn via(protocol: Protocol, url: &str, max_len: usize) -> Result<Via, Error> {
    if url.len() > max_len {
        return Err(Error::invalid(format!(
            "a URL has {} bytes, the limit is {max_len}",
            url.len()
        )));
    }
    let Some(rest) = http_rest(url) else {
        // Without a scheme it may be a forgotten http:// as well: only where gRPC is spoken it is taken for a gRPC target.
        if protocol != Protocol::Grpc && !url.contains("://") {
            return Err(Error::invalid(format!(
                "nothing here can call {url:?}: URLs begin with http:// or https://, or with grpc:// or grpcs:// for a gRPC method"
            )));
        }
        return GrpcTarget::parse(url).map(|_| Via::Grpc);
    };
    let (host, port) = authority_and_port(rest);
    if !port.is_empty() && !port.parse::<u16>().is_ok_and(|p| p > 0) {
        return Err(Error::invalid(format!(
            "{url:?} has the port {port:?}: it must be a number from 1 to 65535"
        )));
    }
    // Without a way out of the loop it looks at many bytes at once.
    let unfit = |found, b| found | (b <= b' ') | (b == 0x7f);
    if host.is_empty() || host.starts_with(':') || url.bytes().fold(false, unfit) {
        return Err(Error::invalid(format!(
            "{url:?} is no URL that can be called: it needs a host, and no spaces or control characters"
        )));
    }
    Ok(how(protocol, url))
}

/// How a URL that was checked when it was stored is called.
fn how(protocol: Protocol, url: &str) -> Via {
    if http_rest(url).is_none() {
        Via::Grpc
    } else if protocol == Protocol::JsonRpc && url.contains("method") {
        Via::JsonRpc
    } else {
        Via::Http
    }
}

/// A branch call to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BranchCall {
    /// Over HTTP, JSON-RPC included.
    Http(HttpCall),
    /// Over gRPC.
    Grpc(GrpcCall),
}

impl BranchCall {
    /// The call of a branch. Its URL was checked by [`via`] when it was stored.
    pub fn new(
        t: &Target<'_>,
        payload: &Bytes,
        headers: &BTreeMap<String, String>,
        timeout: Millis,
        compat: &Compat,
    ) -> BranchCall {
        match how(t.protocol, t.url) {
            Via::Grpc => BranchCall::Grpc(GrpcCall::new(t, payload, headers, timeout)),
            via => {
                let json_rpc = via == Via::JsonRpc;
                BranchCall::Http(HttpCall::new(
                    t, payload, headers, timeout, compat, json_rpc,
                ))
            }
        }
    }
}

/// An HTTP request to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCall {
    /// POST or GET.
    pub post: bool,
    /// The whole URL with its query.
    pub url: String,
    /// Headers; a later one of the same name replaces an earlier one.
    pub headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// Body.
    pub body: Bytes,
    /// How long the whole call may take, ms.
    pub timeout: Millis,
    /// How the answer is read.
    pub purpose: Purpose,
    /// Whether it is a JSON-RPC call.
    pub json_rpc: bool,
}

impl HttpCall {
    fn new(
        t: &Target<'_>,
        payload: &Bytes,
        headers: &BTreeMap<String, String>,
        timeout: Millis,
        compat: &Compat,
        json_rpc: bool,
    ) -> HttpCall {
        let mut all = Vec::with_capacity(2 + headers.len());
        all.push(("content-type".into(), "application/json".into()));
        all.push(("accept".into(), "application/json".into()));
        all.extend(
            headers
                .iter()
                .map(|(k, v)| (k.to_ascii_lowercase().into(), v.clone().into())),
        );
        let (post, url, body) = if json_rpc {
            (true, t.url.to_owned(), jsonrpc_body(t, payload))
        } else {
            let callback = t.purpose == Purpose::Callback && !compat.callback_get;
            (
                callback || !payload.is_empty() || t.trans_type == TransType::Xa,
                with_query(t),
                payload.clone(),
            )
        };
        HttpCall {
            post,
            url,
            headers: all,
            body,
            timeout,
            purpose: t.purpose,
            json_rpc,
        }
    }

    /// Reads the answer; `body` is at most the first `limits.answer` bytes of it.
    pub fn classify(&self, status: u16, body: &[u8], compat: &Compat) -> Outcome {
        if self.json_rpc {
            classify_jsonrpc(self.purpose, status, body, compat)
        } else {
            classify_http(self.purpose, status, body, compat)
        }
    }
}

/// The URL with branch_id, gid, op and trans_type appended, in that order.
fn with_query(t: &Target<'_>) -> String {
    let end = t.url.bytes().position(|b| b == b'#');
    let (base, fragment) = t.url.split_at(end.unwrap_or(t.url.len()));
    let mut url = String::with_capacity(base.len() + 64 + t.gid.as_str().len());
    url.push_str(base);
    let mut pairs = t.identity();
    pairs.sort_unstable();
    add_query(&mut url, pairs);
    if fragment.len() > 1 {
        url.push_str(fragment);
    }
    url
}

fn jsonrpc_body(t: &Target<'_>, payload: &[u8]) -> Bytes {
    // A payload that is no object was refused when it was stored; a check-back has none.
    let mut params: Map<String, Value> = serde_json::from_slice(payload).unwrap_or_default();
    for (key, value) in t.identity() {
        params.insert(key.to_owned(), Value::String(value.to_owned()));
    }
    let id = format!("{}-{}-{}", t.gid, t.branch_id, t.op);
    Bytes::from(
        json!({"id": id, "jsonrpc": "2.0", "method": method_of(t.url), "params": params})
            .to_string(),
    )
}

/// The value of the query parameter `method`, decoded.
fn method_of(url: &str) -> String {
    let query = url
        .split_once('?')
        .map_or("", |(_, q)| q)
        .split('#')
        .next()
        .unwrap_or_default();
    let raw = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("method="))
        .unwrap_or_default();
    unescape(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(
        trans_type: TransType,
        protocol: Protocol,
        url: &str,
        purpose: Purpose,
        payload: &str,
    ) -> HttpCall {
        let gid = Gid::stored("g 1/ü");
        let op = Op::ACTION;
        let t = Target {
            gid: &gid,
            trans_type,
            protocol,
            branch_id: "01",
            op: &op,
            url,
            purpose,
        };
        let headers = BTreeMap::from([("X-Foo".to_owned(), "bar".to_owned())]);
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        match BranchCall::new(&t, &payload, &headers, 3_000, &Compat::default()) {
            BranchCall::Http(call) => call,
            BranchCall::Grpc(call) => panic!("{url} is HTTP, not {call:?}"),
        }
    }

    #[test]
    fn the_query_is_appended_in_dtms_order() {
        let c = call(
            TransType::Saga,
            Protocol::Http,
            "http://h/a?x=1",
            Purpose::Branch,
            "{}",
        );
        assert_eq!(
            c.url,
            "http://h/a?x=1&branch_id=01&gid=g+1%2F%C3%BC&op=action&trans_type=saga"
        );
        assert!(c.post);
        assert!(c.headers.contains(&("x-foo".into(), "bar".into())));
        assert!(
            call(
                TransType::Saga,
                Protocol::Http,
                "http://h/a",
                Purpose::Branch,
                ""
            )
            .url
            .starts_with("http://h/a?branch_id=01&")
        );
    }

    #[test]
    fn get_without_payload_but_post_for_xa_and_callbacks() {
        assert!(
            !call(
                TransType::Msg,
                Protocol::Http,
                "http://h/a",
                Purpose::CheckBack,
                ""
            )
            .post
        );
        assert!(
            call(
                TransType::Xa,
                Protocol::Http,
                "http://h/a",
                Purpose::Branch,
                ""
            )
            .post
        );
        assert!(
            call(
                TransType::Workflow,
                Protocol::Http,
                "http://h/a",
                Purpose::Callback,
                ""
            )
            .post
        );
    }

    #[test]
    fn json_rpc_puts_the_identity_into_params() {
        let c = call(
            TransType::Saga,
            Protocol::JsonRpc,
            "http://h/rpc?method=do+it",
            Purpose::Branch,
            r#"{"a":1}"#,
        );
        let body: Value = serde_json::from_slice(&c.body).expect("JSON");
        assert_eq!(body["method"], "do it");
        assert_eq!(body["params"]["a"], 1);
        assert_eq!(body["params"]["op"], "action");
        assert_eq!(c.url, "http://h/rpc?method=do+it");
    }

    #[test]
    fn a_check_back_by_json_rpc_needs_no_payload() {
        let c = call(
            TransType::Msg,
            Protocol::JsonRpc,
            "http://h/rpc?method=query",
            Purpose::CheckBack,
            "",
        );
        let body: Value = serde_json::from_slice(&c.body).expect("JSON");
        assert_eq!(body["params"]["trans_type"], "msg");
    }

    #[test]
    fn urls_nothing_can_call_are_refused() {
        for bad in [
            "h:1/pkg.Svc/M",
            "ftp://h/a",
            "http://",
            "http:///a",
            "http://h/a b",
            "http://h/\n",
            "http://:80/",
            "http://h:99999/",
            "http://h:x/",
            "http://[::1]:0/",
        ] {
            assert!(via(Protocol::Http, bad, 2_048).is_err(), "{bad}");
        }
        assert_eq!(
            via(Protocol::JsonRpc, "http://h/r?method=a", 2_048).expect("ok"),
            Via::JsonRpc
        );
        assert_eq!(
            via(Protocol::JsonRpc, "http://h/r", 2_048).expect("ok"),
            Via::Http
        );
        // Where HTTP is spoken a gRPC target says so; a forgotten http:// must not become one.
        for (protocol, url, want) in [
            (Protocol::Http, "grpc://h:1/p.S/M", Some(Via::Grpc)),
            (Protocol::JsonRpc, "grpcs://h/p.S/M", Some(Via::Grpc)),
            (Protocol::Grpc, "h:1/p.S/M", Some(Via::Grpc)),
            (Protocol::Grpc, "http://h:1/a", Some(Via::Http)),
            (Protocol::Grpc, "http://h:1/a?method=x", Some(Via::Http)),
            (Protocol::Grpc, "h/p.S/M", None),
            (Protocol::Grpc, "etcd://h:1/p.S/M", None),
        ] {
            assert_eq!(via(protocol, url, 2_048).ok(), want, "{protocol} {url}");
        }
        for good in [
            "http://h:1/",
            "http://[::1]/",
            "http://[::1]:80/",
            "http://u:p@h/",
        ] {
            assert!(via(Protocol::Http, good, 2_048).is_ok(), "{good}");
        }
        let long = format!("http://h/{}", "a".repeat(2_048 - 9));
        assert!(via(Protocol::Http, &long, 2_048).is_ok());
        assert!(via(Protocol::Http, &format!("{long}a"), 2_048).is_err());
    }
}
