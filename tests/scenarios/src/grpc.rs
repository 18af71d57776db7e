//! gRPC for tests, frame by frame on HTTP/2: a client of the coordinator, and a server under the scripted branch service.

use crate::listen::{Call, Cut, Listener, Response};
use amends::wire::grpc::dtmgimp::{DtmBranchRequest, DtmRequest, DtmTransOptions};
use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::Value;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// The service whose methods the scripted branch service has: `/a` is `busi.Busi/a`.
pub(crate) const SERVICE: &str = "busi.Busi";
/// Longest time that any answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How a call ended that was not OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcStatus {
    /// Code.
    pub code: i32,
    /// Message, decoded.
    pub message: String,
}

/// A client of one coordinator. Every call has its own connection, so that a restart in between is no error.
#[derive(Clone, Debug)]
pub struct GrpcClient {
    addr: SocketAddr,
    token: Option<String>,
}

impl GrpcClient {
    /// A client of the coordinator whose gRPC port this is.
    pub fn new(addr: SocketAddr) -> GrpcClient {
        GrpcClient { addr, token: None }
    }

    /// The same client with an operator's token.
    pub fn with_token(&self, token: &str) -> GrpcClient {
        GrpcClient {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// Calls `package.Service/Method`.
    ///
    /// # Errors
    ///
    /// The status if it is not OK.
    ///
    /// # Panics
    ///
    /// When there is no answer, or one that is no gRPC.
    pub async fn call<Q: Message, R: Message + Default>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<R, GrpcStatus> {
        let messages = self.raw(method, framed(&request.encode_to_vec())).await?;
        Ok(R::decode(&messages[0][..]).expect("a message of its type"))
    }

    /// A method of DTM's service that returns nothing.
    ///
    /// # Errors
    ///
    /// The status if it is not OK.
    pub async fn dtm<Q: Message>(&self, method: &str, request: &Q) -> Result<(), GrpcStatus> {
        self.call(&format!("dtmgimp.Dtm/{method}"), request).await
    }

    /// The same for a request in the words of the HTTP API.
    ///
    /// # Errors
    ///
    /// The status if it is not OK.
    pub async fn dtm_json(&self, method: &str, body: &Value) -> Result<(), GrpcStatus> {
        self.dtm(method, &dtm_request(body)).await
    }

    /// Sends bytes as they are and returns the messages that come back.
    ///
    /// # Errors
    ///
    /// The status if it is not OK.
    ///
    /// # Panics
    ///
    /// When there is no answer, or one without a status.
    pub async fn raw(&self, method: &str, body: Bytes) -> Result<Vec<Bytes>, GrpcStatus> {
        self.stream(method, body, oneshot::channel().0).await
    }

    /// The same, and says when the answer has begun.
    ///
    /// # Errors
    ///
    /// The status if it is not OK.
    ///
    /// # Panics
    ///
    /// When there is no answer, or one without a status.
    pub async fn stream(
        &self,
        method: &str,
        body: Bytes,
        begun: oneshot::Sender<()>,
    ) -> Result<Vec<Bytes>, GrpcStatus> {
        let exchange = self.exchange(method, body, begun);
        let (headers, data, trailers) = tokio::time::timeout(ANSWER_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| panic!("{method}: no answer within {ANSWER_TIMEOUT:?}"));
        assert_eq!(
            headers.get("content-type").map(|v| v.as_bytes()),
            Some(&b"application/grpc"[..])
        );
        let place = if trailers.contains_key("grpc-status") {
            trailers
        } else {
            headers
        };
        let text = |name: &str| {
            let value = place.get(name).and_then(|v| v.to_str().ok());
            percent_encoding::percent_decode_str(value.unwrap_or_default())
                .decode_utf8_lossy()
                .into_owned()
        };
        match text("grpc-status").parse().expect("a grpc-status") {
            0 => Ok(unframed(&data)),
            code => Err(GrpcStatus {
                code,
                message: text("grpc-message"),
            }),
        }
    }

    async fn exchange(
        &self,
        method: &str,
        body: Bytes,
        begun: oneshot::Sender<()>,
    ) -> (HeaderMap, Bytes, HeaderMap) {
        let stream = TcpStream::connect(self.addr).await.expect("connects");
        stream.set_nodelay(true).expect("an option");
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let mut request = http::Request::builder()
            .method("POST")
            .uri(format!("http://{}/{method}", self.addr))
            // What newer Go clients of DTM send.
            .header("content-type", "application/grpc+dtm_raw")
            .header("te", "trailers");
        if let Some(token) = &self.token {
            // Bytes, for a test that sends what is no text.
            let value = http::HeaderValue::from_bytes(format!("Bearer {token}").as_bytes());
            request = request.header("authorization", value.expect("no control characters"));
        }
        let request = request.body(Full::new(body)).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        // Mostly nobody waits for it.
        let _ = begun.send(());
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("a whole answer");
        connection.abort();
        let trailers = body.trailers().cloned().unwrap_or_default();
        (head.headers, body.to_bytes(), trailers)
    }
}

/// A message in its frame.
pub fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a message below 4 GiB"));
    frame.extend_from_slice(message);
    frame.freeze()
}

fn unframed(mut data: &[u8]) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while let [_, a, b, c, d, rest @ ..] = data {
        let (message, rest) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        messages.push(Bytes::copy_from_slice(message));
        data = rest;
    }
    messages
}

fn text(body: &Value, key: &str) -> String {
    body[key].as_str().unwrap_or_default().to_owned()
}

fn strings(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs
        .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// The gRPC message that says what this body of the HTTP API says.
pub fn dtm_request(body: &Value) -> DtmRequest {
    let number = |key: &str| body[key].as_i64().unwrap_or_default();
    let flag = |key: &str| body[key].as_bool().unwrap_or_default();
    let payloads = body["payloads"].as_array().into_iter().flatten();
    DtmRequest {
        gid: text(body, "gid"),
        trans_type: text(body, "trans_type"),
        trans_options: Some(DtmTransOptions {
            wait_result: flag("wait_result"),
            timeout_to_fail: number("timeout_to_fail"),
            retry_interval: number("retry_interval"),
            branch_headers: strings(&body["branch_headers"]),
            request_timeout: number("request_timeout"),
            retry_limit: number("retry_limit"),
            concurrent: flag("concurrent"),
        }),
        customed_data: text(body, "custom_data"),
        bin_payloads: payloads
            .map(|p| Bytes::from(p.as_str().unwrap_or_default().to_owned()))
            .collect(),
        query_prepared: text(body, "query_prepared"),
        steps: body.get("steps").map(Value::to_string).unwrap_or_default(),
        req_extra: strings(&body["req_extra"]),
        rollback_reason: text(body, "rollback_reason"),
    }
}

/// The same for registerBranch.
pub fn branch_request(body: &Value) -> DtmBranchRequest {
    let mut data = strings(body);
    let mut take = |key: &str| data.remove(key).unwrap_or_default();
    DtmBranchRequest {
        gid: take("gid"),
        trans_type: take("trans_type"),
        branch_id: take("branch_id"),
        busi_payload: Bytes::from(take("data")),
        op: String::new(),
        data,
    }
}

type Body = BoxBody<Bytes, Infallible>;

/// Serves the methods of [`SERVICE`] on a free port of the loopback address. The HTTP status of a response becomes the gRPC status of
/// its meaning, one below 17 is a gRPC status itself. A handler that returns `None` resets the stream.
pub(crate) async fn listen_grpc<H, F>(handler: H) -> Listener
where
    H: Fn(Call) -> F + Send + Sync + 'static,
    F: Future<Output = Option<Response>> + Send + 'static,
{
    let handler = Arc::new(handler);
    Listener::start(move |stream| {
        let handler = handler.clone();
        async move {
            let service = service_fn(move |request| answer(handler.clone(), request));
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // An error is a caller that went away.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await
}

async fn answer<H, F>(
    handler: Arc<H>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Body>, Cut>
where
    H: Fn(Call) -> F,
    F: Future<Output = Option<Response>>,
{
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let path = head.uri.path();
    let call = Call {
        at: Instant::now(),
        ended: None,
        method: head.method,
        path: path
            .strip_prefix(&format!("/{SERVICE}"))
            .unwrap_or(path)
            .to_owned(),
        query: String::new(),
        headers: head.headers,
        body: unframed(&body).into_iter().next().unwrap_or_default(),
    };
    let response = handler(call).await.ok_or(Cut)?;
    let code = match response.status {
        200 => 0,
        409 => 10,
        425 => 9,
        code @ 0..17 => code,
        _ => 13,
    };
    let message =
        percent_encoding::utf8_percent_encode(&response.body, percent_encoding::NON_ALPHANUMERIC);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    let message = message.to_string().parse();
    trailers.insert("grpc-message", message.expect("letters and escapes"));
    let frames = [
        Ok::<_, Infallible>(Frame::data(framed(b""))),
        Ok(Frame::trailers(trailers)),
    ];
    let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
    http::Response::builder()
        .header("content-type", "application/grpc")
        .body(body)
        .map_err(|_| Cut)
}
