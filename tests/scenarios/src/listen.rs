//! A small HTTP server on a free port, under the scripted branch service and the bank of the kill -9 loop.

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    /// When its body had been read.
    pub at: Instant,
    /// When it was answered; `None` while it is open, or if the caller gave up first.
    pub ended: Option<Instant>,
    /// Method.
    pub method: Method,
    /// Path without the query.
    pub path: String,
    /// Query as sent, without `?`.
    pub query: String,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Call {
    /// The decoded value of a query parameter, empty if it was not sent.
    pub fn param(&self, name: &str) -> String {
        let pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| decode(value))
            .next()
            .unwrap_or_default()
    }

    /// A header as text, empty if it was not sent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'+' => out.push(b' '),
            b'%' => {
                let pair = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                let hex = std::str::from_utf8(&pair).unwrap_or("3f");
                out.push(u8::from_str_radix(hex, 16).unwrap_or(b'?'));
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What a handler answers.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers beside Content-Type.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
}

/// A running server; it stops when this is dropped.
#[derive(Debug)]
pub struct Listener {
    /// Where it listens.
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Listener {
    /// Serves each connection on a free port of the loopback address.
    pub(crate) async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Listener
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port on loopback");
        let addr = socket.local_addr().expect("a bound address");
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = socket.accept().await else {
                    continue;
                };
                stream.set_nodelay(true).ok();
                tokio::spawn(serve(stream));
            }
        });
        Listener { addr, task }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connection is cut instead of answered.
#[derive(Debug, thiserror::Error)]
#[error("cut by the script")]
pub(crate) struct Cut;

/// Serves on a free port of the loopback address. A handler that returns `None` cuts the connection.
pub async fn listen<H, F>(handler: H) -> Listener
where
    H: Fn(Call) -> F + Send + Sync + 'static,
    F: Future<Output = Option<Response>> + Send + 'static,
{
    let handler = Arc::new(handler);
    Listener::start(move |stream| {
        let handler = handler.clone();
        async move {
            let service = service_fn(move |request| answer(handler.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new();
            // An error is a caller that went away, or a cut that the script asked for.
            let _ = connection
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}

async fn answer<H, F>(
    handler: Arc<H>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, Cut>
where
    H: Fn(Call) -> F,
    F: Future<Output = Option<Response>>,
{
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let call = Call {
        at: Instant::now(),
        ended: None,
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body,
    };
    let response = handler(call).await.ok_or(Cut)?;
    let mut built = http::Response::builder().status(response.status);
    if !response
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
    {
        built = built.header("content-type", "application/json");
    }
    for (name, value) in &response.headers {
        built = built.header(name, value);
    }
    built
        .body(Full::new(Bytes::from(response.body)))
        .map_err(|_| Cut)
}
