//! A coordinator in this process, and a client for it.

use amends_server::config::{Config, StoreKind};
use amends_server::coordinator::Coordinator;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

pub(crate) const JSON: &str = "application/json; charset=utf-8";

pub(crate) struct Server {
    pub(crate) coordinator: Coordinator,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    pub(crate) fn content_type(&self) -> &str {
        self.headers
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    }
}

/// A coordinator on a free port that keeps its transactions in memory.
pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = Config {
        http_port: 0,
        grpc_port: 0,
        store: StoreKind::Memory,
        ..Config::default()
    };
    change(&mut config);
    Server {
        coordinator: Coordinator::builder()
            .config(config)
            .start()
            .await
            .expect("starts"),
    }
}

impl Server {
    /// One request; `authorization` is left out when it is empty.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        authorization: &str,
        body: &str,
    ) -> Reply {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "h")
            .header("content-type", "text/plain");
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        let request = request
            .body(Full::new(Bytes::from(body.to_owned())))
            .expect("a request");
        let stream = TcpStream::connect(self.coordinator.http_addr())
            .await
            .expect("connects");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .expect("speaks HTTP");
        let connection = tokio::spawn(connection);
        let response: Response<Incoming> = sender.send_request(request).await.expect("answers");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole answer").to_bytes();
        connection.abort();
        Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8(body.to_vec()).expect("text"),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", "").await
    }

    pub(crate) async fn post(&self, route: &str, body: &str) -> Reply {
        self.send("POST", &format!("/api/dtmsvr/{route}"), "", body)
            .await
    }

    pub(crate) async fn rpc(&self, body: &str) -> Reply {
        self.send("POST", "/api/json-rpc", "", body).await
    }
}
