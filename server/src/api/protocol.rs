//! What is spoken on the connections of a listener: HTTP/1.1, or HTTP/2 as gRPC speaks it.

use super::listen::HEAD_TIMEOUT;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How often an HTTP/2 client that says nothing is asked whether it is there, and how long it has to answer.
const PING_PAUSE: Duration = Duration::from_secs(60);
/// See [`PING_PAUSE`].
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Requests at a time on one HTTP/2 connection: those that wait for a result take one each.
const STREAMS_MAX: u32 = 1_024;
/// What every HTTP/2 client says first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long somebody who speaks something else is listened to.
const GOODBYE: Duration = Duration::from_secs(2);
/// What somebody who speaks HTTP/1 to a gRPC port is told.
const NOT_HTTP2: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nThis port speaks gRPC; the HTTP API has another port.\n";

/// A protocol with who answers its requests.
pub trait Protocol: Clone + Send + Sync + 'static {
    /// A connection on this socket; `None` if the client does not begin one, in time or at all.
    fn connect(
        self,
        stream: TcpStream,
    ) -> impl Future<Output = Option<impl Connection + Send + 'static>> + Send;
}

/// A connection being served.
pub trait Connection: Future<Output = hyper::Result<()>> {
    /// Ends it after the requests that are under way.
    fn drain(self: Pin<&mut Self>);
}

/// HTTP/1.1.
#[derive(Clone)]
pub struct Http1<H>(pub H);

/// HTTP/2 without TLS.
#[derive(Clone)]
pub struct Http2<H>(pub H);

impl<H, F> Protocol for Http1<H>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    async fn connect(self, stream: TcpStream) -> Option<impl Connection + Send + 'static> {
        let service = service_fn(move |request| {
            let answer = (self.0)(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // Answers are short: copied behind their head they cost less than a vectored write.
            .writev(false)
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        Some(connection)
    }
}

impl<H, F, B> Protocol for Http2<H>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<tower::BoxError>,
{
    async fn connect(self, mut stream: TcpStream) -> Option<impl Connection + Send + 'static> {
        // hyper would wait for it without end.
        let mut preface = [0; PREFACE.len()];
        timeout(HEAD_TIMEOUT, read_preface(&mut stream, &mut preface))
            .await
            .ok()?
            .ok()?;
        if preface != *PREFACE {
            // Whoever it is may be gone; the rest of what it says is read, or it would see a reset instead of the answer.
            let _ = timeout(GOODBYE, tell(&mut stream, NOT_HTTP2)).await;
            return None;
        }
        let service = service_fn(move |request| {
            let answer = (self.0)(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let stream = Rewound {
            first: Bytes::from_static(PREFACE),
            stream,
        };
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_PAUSE)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(STREAMS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        Some(connection)
    }
}

/// Says something and reads the other side to its end.
async fn tell(stream: &mut TcpStream, text: &[u8]) -> io::Result<()> {
    stream.write_all(text).await?;
    stream.shutdown().await?;
    let mut rest = [0; 1_024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Reads the preface, or as much as shows that it is none.
async fn read_preface(stream: &mut TcpStream, preface: &mut [u8; 24]) -> io::Result<()> {
    let mut read = 0;
    while read < preface.len() && preface[..read] == PREFACE[..read] {
        match stream.read(&mut preface[read..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => read += n,
        }
    }
    Ok(())
}

/// A stream of which the first bytes were read already.
struct Rewound {
    first: Bytes,
    stream: TcpStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<B, S> Connection for http1::Connection<TokioIo<TcpStream>, S>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<tower::BoxError>,
    B: Body + 'static,
    B::Error: Into<tower::BoxError>,
{
    fn drain(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<B, S, E> Connection for http2::Connection<TokioIo<Rewound>, S, E>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<tower::BoxError>,
    B: Body + 'static,
    B::Error: Into<tower::BoxError>,
    E: Http2ServerConnExec<S::Future, B>,
{
    fn drain(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}
