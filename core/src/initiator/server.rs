//! The coordinator as its clients see it over HTTP or gRPC: where requests go. [`super::answers`] has what comes back.

use super::call::is_grpc;
use super::saga::check;
use crate::branch::Protocol;
use crate::coordinator::admit::TOPIC;
use crate::error::Error;
use crate::machine::Request;
use crate::options::{Options, Policy};
use crate::time::Millis;
use crate::wire::grpc::{
    QUERY_PATH, branch_message, global_message, method_path, query_message, request_message,
};
use crate::wire::request::{BranchRequest, GlobalRequest};
use crate::wire::url::escape;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Where a coordinator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `http://host:port/api/dtmsvr`, or `grpc://host:port`
    base: String,
    grpc: bool,
    /// How long an answer may take, waiting for a result not included.
    timeout: Millis,
}

/// The base path over HTTP.
const PATH: &str = "/api/dtmsvr";
/// The service over gRPC, as it stands in paths.
const SERVICE: &str = "/dtmgimp.Dtm/";

impl Server {
    /// The coordinator at `http://host:port`, or at its whole base path as DTM's clients write it; over gRPC at `grpc://host:port`,
    /// `grpcs://host:port`, or `host:port` as DTM's clients write it.
    pub fn new(url: &str, timeout: Millis) -> Server {
        let url = url.trim_end_matches('/');
        let grpc = !url.starts_with("http://") && !url.starts_with("https://");
        let base = if grpc || url.ends_with(PATH) {
            url.to_owned()
        } else {
            format!("{url}{PATH}")
        };
        Server {
            base,
            grpc,
            timeout,
        }
    }

    /// Whether a request goes to a coordinator rather than to a branch, by its path.
    pub fn is_coordinators(url: &str) -> bool {
        let path = url.split('?').next().unwrap_or_default();
        path.rsplit_once('/')
            .is_some_and(|(base, _)| base.ends_with(PATH))
            || path.contains(SERVICE)
            || path.ends_with(QUERY_PATH)
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// How branches of branches find it: its base path, or over gRPC the address without a scheme, as DTM's clients take it.
    pub fn for_branches(&self) -> &str {
        self.base.strip_prefix("grpc://").unwrap_or(&self.base)
    }

    /// A POST of a route, or the gRPC method that stands for it. Over gRPC a body that is none of the route is sent as an empty message,
    /// which the coordinator refuses.
    pub fn post(&self, route: &str, body: &Value) -> Request {
        let body = Bytes::from(body.to_string());
        let body = if self.grpc {
            request_message(route, &body).unwrap_or_default()
        } else {
            body
        };
        self.request(route, body)
    }

    fn request(&self, route: &str, body: Bytes) -> Request {
        if self.grpc {
            return Request {
                method: "GRPC",
                url: format!("{}{}", self.base, method_path(route)),
                headers: Vec::new(),
                body,
                timeout: self.timeout,
            };
        }
        Request {
            method: "POST",
            url: format!("{}/{route}", self.base),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body,
            timeout: self.timeout,
        }
    }

    /// What the coordinator has stored of a transaction.
    pub fn query(&self, gid: &str) -> Request {
        if self.grpc {
            return Request {
                method: "GRPC",
                url: format!("{}{QUERY_PATH}", self.base),
                headers: Vec::new(),
                body: query_message(gid),
                timeout: self.timeout,
            };
        }
        let mut url = format!("{}/query?gid=", self.base);
        escape(gid, &mut url);
        Request {
            method: "GET",
            url,
            headers: Vec::new(),
            body: Bytes::new(),
            timeout: self.timeout,
        }
    }

    /// A POST that the coordinator answers when the transaction has ended, if the options say so: it waits for as long as one of its calls
    /// may take and 2 s (rules.md 2.3).
    pub fn post_and_wait(&self, route: &str, body: &Value, options: &Options) -> Request {
        self.waiting(self.post(route, body), options)
    }

    fn waiting(&self, mut request: Request, options: &Options) -> Request {
        if options.wait_result {
            let call = Policy::default().call_timeout(options);
            request.timeout = self.timeout.max(call + 3 * crate::time::SECOND);
        }
        request
    }

    /// What is sent for an empty body: the coordinator calls by GET whom it has nothing to tell, and by HTTP a branch is called by POST. A
    /// message of gRPC may well be empty.
    pub(super) fn to_send(&self, url: &str, payload: &Bytes) -> Bytes {
        if payload.is_empty() && !url.starts_with(TOPIC) && !is_grpc(self, url) {
            return Bytes::from_static(b"null");
        }
        payload.clone()
    }

    /// A registerBranch with these fields and this payload. Error: `Invalid` for one that is no text, which JSON cannot hold.
    pub(super) fn register(
        &self,
        fields: &[(&str, &String)],
        payload: &Bytes,
    ) -> Result<Request, Error> {
        let mut all: BTreeMap<String, String> = fields
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).clone()))
            .collect();
        let body = if self.grpc {
            branch_message(BranchRequest {
                fields: all,
                data: payload.clone(),
                protocol: Protocol::Grpc,
            })
        } else {
            all.insert("data".to_owned(), text(payload)?.to_owned());
            json!(all).to_string().into()
        };
        Ok(self.request("registerBranch", body))
    }

    /// A POST of a transaction with steps and a body for each. Error: `Invalid`, for whatever the coordinator would refuse, and for a body
    /// that is no text, which JSON cannot hold.
    pub(super) fn post_steps(
        &self,
        route: &str,
        mut all: Map<String, Value>,
        payloads: &[Bytes],
        options: &Options,
    ) -> Result<Request, Error> {
        if self.grpc {
            // What targets without a scheme are meant for.
            all.insert("protocol".to_owned(), json!(Protocol::Grpc.as_str()));
        }
        let mut request =
            GlobalRequest::from_json(Value::from(all.clone()).to_string().as_bytes())?;
        let targets = request.steps.iter().map(|step| step.get("action"));
        request.payloads = targets
            .zip(payloads)
            .map(|(url, payload)| self.to_send(url.map_or("", |url| url), payload))
            .collect();
        let payloads = request.payloads.clone();
        check(request.clone())?;
        let body = if self.grpc {
            global_message(request)
        } else {
            let texts: Vec<&str> = payloads.iter().map(text).collect::<Result<_, _>>()?;
            all.insert("payloads".to_owned(), json!(texts));
            Value::Object(all).to_string().into()
        };
        let request = self.request(route, body);
        Ok(if route == "submit" {
            self.waiting(request, options)
        } else {
            request
        })
    }
}

fn text(payload: &Bytes) -> Result<&str, Error> {
    str::from_utf8(payload).map_err(|_| {
        Error::invalid(
            "a payload is no text: JSON would change it on the way, so use a coordinator at grpc://",
        )
    })
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

#[cfg(test)]
mod tests {
    use super::super::answers::{classify, over_http};
    use super::*;
    use crate::branch::Status;
    use crate::error::ErrorKind;

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
    fn the_same_requests_over_grpc() {
        for (url, want) in [
            ("grpc://h:1", "grpc://h:1/dtmgimp.Dtm/Submit"),
            ("grpcs://h:1/", "grpcs://h:1/dtmgimp.Dtm/Submit"),
            ("h:1", "h:1/dtmgimp.Dtm/Submit"),
        ] {
            let request = Server::new(url, 3_000).post("submit", &json!({"gid": "g"}));
            assert_eq!((request.method, request.url.as_str()), ("GRPC", want));
            assert_eq!(&request.body[..3], b"\x0a\x01g");
            let (status, body) = over_http(
                &request,
                10,
                &Bytes::new(),
                "current status 'failed', cannot sumbmit",
            );
            let error = classify(status, &body).expect_err("refused");
            assert_eq!(
                (error.kind(), error.status()),
                (ErrorKind::Refused, Some(Status::Failed))
            );
        }
    }
}
