//! The leanest gRPC there is: message frames on hyper's HTTP/2 connections, without a gRPC library around them.

use crate::error::BenchError;
use crate::http::connect;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::combinators::WithTrailers;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::future::{Ready, ready};

/// The service of the participants. Each of its methods says yes.
pub(crate) const SERVICE: &str = "bench.Bench";

const CONTENT: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A client connection that takes many calls at a time; clones share it.
#[derive(Clone)]
pub(crate) struct Channel {
    sender: SendRequest<Full<Bytes>>,
}

impl Channel {
    /// Connects to `host:port`.
    pub(crate) async fn open(authority: &str) -> Result<Channel, BenchError> {
        let what = || format!("connecting to grpc://{authority}");
        let stream = connect(authority).await.map_err(BenchError::io(what()))?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .map_err(BenchError::http(what()))?;
        tokio::spawn(async move {
            // How a connection ended is told by the calls that were on it.
            let _ = connection.await;
        });
        Ok(Channel { sender })
    }

    /// Whether it takes no more calls.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Makes a unary call of the method at `uri`, which holds scheme and authority too. The answer's message is dropped;
    /// a status other than OK is an error.
    pub(crate) async fn call(
        &mut self,
        uri: Uri,
        metadata: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
        message: &[u8],
    ) -> Result<(), BenchError> {
        let broken = || BenchError::http("the gRPC call broke");
        let mut request = Request::new(Full::new(framed(message)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, CONTENT);
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.extend(metadata);
        self.sender.ready().await.map_err(broken())?;
        let answer = self.sender.send_request(request).await.map_err(broken())?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(broken())?;
        // An answer without a message may carry its status at once.
        let trailers = body.trailers();
        let last = trailers.filter(|trailers| trailers.contains_key(STATUS));
        let last = last.unwrap_or(&head.headers);
        if last.get(STATUS).is_some_and(|status| status == "0") {
            return Ok(());
        }
        let text = |name| {
            let value = last.get(name).map(HeaderValue::as_bytes);
            String::from_utf8_lossy(value.unwrap_or(b"none"))
        };
        let (status, message) = (text(STATUS), text(MESSAGE));
        Err(BenchError::Refused(format!(
            "gRPC status {status}, message {message}"
        )))
    }
}

/// A message behind its length, not compressed.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.extend_from_slice(message);
    frame.freeze()
}

/// The message of a frame.
pub(crate) fn unframed(mut frame: Bytes) -> Result<Bytes, BenchError> {
    match frame.first_chunk::<5>() {
        Some([0, length @ ..]) if frame.len() - 5 == u32::from_be_bytes(*length) as usize => {
            frame.advance(5);
            Ok(frame)
        }
        _ => Err(BenchError::Refused(
            "one message was expected, not compressed".to_owned(),
        )),
    }
}

/// Whether a request with these headers is a gRPC call.
pub(crate) fn is_call(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| kind.starts_with(CONTENT.as_bytes()))
}

/// The body of an answer: a message, then a status.
pub(crate) type Answer = WithTrailers<Full<Bytes>, Ready<Option<Result<HeaderMap, Infallible>>>>;

/// An answer with an empty message and the status OK.
pub(crate) fn ok() -> Response<Answer> {
    answer(HeaderMap::from_iter([(
        STATUS,
        HeaderValue::from_static("0"),
    )]))
}

/// An answer with the status INTERNAL.
pub(crate) fn internal(error: &str) -> Response<Answer> {
    // Without these nothing needs an escape.
    let escaped = |c: char| !(c.is_ascii_graphic() || c == ' ') || c == '%';
    let message = error.replace(escaped, "?");
    let message = HeaderValue::from_maybe_shared(Bytes::from(message));
    let mut trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from_static("13"))]);
    trailers.extend(message.ok().map(|message| (MESSAGE, message)));
    answer(trailers)
}

fn answer(trailers: HeaderMap) -> Response<Answer> {
    let message = Full::new(Bytes::from_static(&[0; 5]));
    let mut response = Response::new(message.with_trailers(ready(Some(Ok(trailers)))));
    response.headers_mut().insert(CONTENT_TYPE, CONTENT);
    response
}
