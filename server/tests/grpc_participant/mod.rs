//! A participant of the tests of branch calls over gRPC: HTTP/2 frames as a test wants them.

#![allow(unreachable_pub, dead_code, missing_docs)]

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::io::InspectWriter;

/// A body that breaks off.
#[derive(Debug, thiserror::Error)]
#[error("broken as asked")]
pub struct Broken;

pub type Body = BoxBody<Bytes, Broken>;

/// What every gRPC answer has.
pub const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// A call as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |v| std::str::from_utf8(v.as_bytes()).expect("UTF-8"))
    }
}

/// What is answered.
pub enum Answer {
    Now(Response<Body>),
    /// Headers with these, and then the stream is reset.
    Reset(&'static [(&'static str, &'static str)]),
    /// Nothing, ever.
    Silence,
    /// The whole connection ends.
    HangUp,
}

type Behaviour = dyn Fn(Seen) -> Answer + Send + Sync;

pub struct Participant {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Participant {
    pub async fn start(behaviour: impl Fn(Seen) -> Answer + Send + Sync + 'static) -> Participant {
        Participant::on("127.0.0.1:0".parse().expect("an address"), behaviour)
    }

    /// At this address, which may have been used a moment ago.
    pub fn on(
        address: SocketAddr,
        behaviour: impl Fn(Seen) -> Answer + Send + Sync + 'static,
    ) -> Participant {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(address).expect("a free port");
        let listener = socket.listen(128).expect("listens");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::<AtomicUsize>::default();
        let accepting = tokio::spawn(accept(listener, connections.clone(), Arc::new(behaviour)));
        Participant {
            address,
            connections,
            accepting,
        }
    }

    /// Stops accepting; connections end with it.
    pub async fn stop(self) {
        self.accepting.abort();
        let _ = self.accepting.await;
    }

    pub fn url(&self, method: &str) -> String {
        format!("{}/{method}", self.address)
    }
}

async fn accept(listener: TcpListener, connections: Arc<AtomicUsize>, behaviour: Arc<Behaviour>) {
    let mut open = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        connections.fetch_add(1, SeqCst);
        open.spawn(serve(stream, behaviour.clone()));
    }
}

/// Serves one connection.
pub async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, behaviour: Arc<Behaviour>) {
    let (hang_up, hung_up) = tokio::sync::watch::channel(false);
    let hang_up = Arc::new(hang_up);
    let (wrote, written) = tokio::sync::watch::channel(());
    let stream = InspectWriter::new(stream, move |_| {
        wrote.send_replace(());
    });
    let service = service_fn(move |request: Request<Incoming>| {
        let (behaviour, hang_up) = (behaviour.clone(), hang_up.clone());
        let mut written = written.clone();
        async move {
            let (head, body) = request.into_parts();
            let seen = Seen {
                path: head.uri.path().to_owned(),
                version: head.version,
                headers: head.headers,
                body: body.collect().await.expect("a body").to_bytes(),
            };
            match behaviour(seen) {
                Answer::Now(answer) => Ok::<_, Infallible>(answer),
                Answer::Reset(headers) => {
                    // It is first polled when the headers are queued: with what is written next they have gone out, and it breaks.
                    let broken = futures_util::stream::once(async move {
                        written.mark_unchanged();
                        let _ = written.changed().await;
                        Err::<Frame<Bytes>, _>(Broken)
                    });
                    let body = StreamBody::new(broken);
                    let mut response = Response::new(BodyExt::boxed(body));
                    *response.headers_mut() = map(headers);
                    Ok(response)
                }
                Answer::Silence => std::future::pending().await,
                Answer::HangUp => {
                    hang_up.send_replace(true);
                    std::future::pending().await
                }
            }
        }
    });
    let mut hung_up = hung_up;
    tokio::select! {
        _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service) => {}
        _ = hung_up.wait_for(|up| *up) => {}
    }
}

/// An answer of these messages and trailers, after headers with these.
pub fn answer(headers: &[(&str, &str)], data: &[&[u8]], trailers: &[(&str, &str)]) -> Answer {
    let mut frames: Vec<Result<Frame<Bytes>, Broken>> = data
        .iter()
        .map(|d| Ok(Frame::data(Bytes::copy_from_slice(d))))
        .collect();
    if !trailers.is_empty() {
        frames.push(Ok(Frame::trailers(map(trailers))));
    }
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let mut response = Response::new(BodyExt::boxed(body));
    *response.headers_mut() = map(headers);
    Answer::Now(response)
}

fn map(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(k, v): &(&str, &str)| {
        (
            k.parse::<http::HeaderName>().expect("a name"),
            http::HeaderValue::from_bytes(v.as_bytes()).expect("a value"),
        )
    };
    pairs.iter().map(pair).collect()
}

/// A unary answer with this status.
pub fn status(code: &str, message: &str) -> Answer {
    answer(
        &[GRPC],
        &[b"\0\0\0\0\0"],
        &[("grpc-status", code), ("grpc-message", message)],
    )
}
