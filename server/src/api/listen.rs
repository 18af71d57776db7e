//! The listeners for HTTP/1.1 and, for gRPC, HTTP/2: hyper directly, for this is the hot path. They know nothing of routes.

use super::protocol::{Connection, Protocol};
use super::threads::ConnectionThreads;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::unconstrained;

pub use super::protocol::{Http1, Http2};

/// How long a client may take to send the head of its next request, waiting between requests included: longer than the 90 s that clients'
/// pools usually keep a connection, so that a client never sends into a close.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause after a failed accept: descriptors may be free again then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Failed accepts are logged at most this often.
const LOG_PAUSE: Duration = Duration::from_secs(10);
/// How long a client may pause within a body.
const BODY_PAUSE: Duration = Duration::from_secs(60);
/// How long the rest of a body that is too large is read, so that the client sees the answer and not a broken connection.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// What connections are told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Draining,
    Ended,
}

/// Answers requests until `shutdown` resolves. Then it stops accepting, closes idle connections, lets busy ones finish their request for
/// at most `grace`, and returns; what is left after that is cut off.
///
/// A client that disconnects cancels the handler's future. What must not be cancelled with it, the handler spawns itself. A handler that
/// panics ends its connection and nothing else.
///
/// Accept errors (no descriptors left, a connection gone before it was accepted) are logged, at most one line in ten seconds, and never
/// end the loop.
pub async fn serve(
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
    protocol: impl Protocol,
) {
    serve_on(Arc::default(), listener, shutdown, grace, protocol).await;
}

/// The same, with connections that live on these threads.
pub(crate) async fn serve_on(
    threads: Arc<ConnectionThreads>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
    grace: Duration,
    protocol: impl Protocol,
) {
    let (phase, _) = watch::channel(Phase::Open);
    // Every connection holds a sender; when the last is dropped, all have ended.
    let (open, mut all_ended) = mpsc::channel::<Infallible>(1);
    let mut log = RateLimit::default();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => {
                // Answers are small and awaited; a socket that refuses the option is already closed.
                let _ = stream.set_nodelay(true);
                let ours = (protocol.clone(), phase.subscribe(), open.clone());
                match threads.next() {
                    None => drop(tokio::spawn(connection(stream, ours))),
                    Some(runtime) => moved(stream, runtime, ours),
                }
            }
            Err(e) if of_one_client(&e) => {}
            Err(e) => {
                if let Some(times) = log.line(Instant::now()) {
                    tracing::warn!(error = %e, times, "cannot accept connections; trying again");
                }
                tokio::select! {
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    () = &mut shutdown => break,
                }
            }
        }
    }
    drop((listener, open));
    phase.send_replace(Phase::Draining);
    if tokio::time::timeout(grace, all_ended.recv()).await.is_err() {
        phase.send_replace(Phase::Ended);
        all_ended.recv().await;
    }
}

/// What a connection has of its listener.
type Ours<P> = (P, watch::Receiver<Phase>, mpsc::Sender<Infallible>);

/// Serves a connection on another runtime than the one that accepted it.
fn moved(stream: TcpStream, runtime: &Handle, ours: Ours<impl Protocol>) {
    let stream = stream.into_std();
    runtime.spawn(async move {
        match stream.and_then(TcpStream::from_std) {
            Ok(stream) => connection(stream, ours).await,
            Err(e) => tracing::warn!(error = %e, "a connection could not be handed to its thread"),
        }
    });
}

async fn connection(stream: TcpStream, (protocol, mut phase, _open): Ours<impl Protocol>) {
    // One that has not said anything yet is not waited for.
    let connected = tokio::select! {
        connected = protocol.connect(stream) => connected,
        _ = phase.wait_for(|now| *now != Phase::Open) => None,
    };
    let Some(connection) = connected else { return };
    let mut connection = pin!(connection);
    let mut draining = false;
    loop {
        let (news, phase) = (phase.clone(), &mut phase);
        // Unconstrained, or a task that had done much would be told to come again before this one listens.
        let mut told = pin!(unconstrained(async move {
            // The sender lives until all connections have ended.
            phase
                .wait_for(|now| *now == Phase::Ended || *now == Phase::Draining && !draining)
                .await
                .map_or(Phase::Ended, |now| *now)
        }));
        let mut listens = false;
        let told = poll_fn(|cx| {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if let Err(e) = ended {
                    tracing::debug!(error = %e, "connection ended");
                }
                return Poll::Ready(Phase::Ended);
            }
            // Polled once, it wakes this task when there are news. Each poll of it takes locks that all connections share.
            if listens && !news.has_changed().unwrap_or(true) {
                return Poll::Pending;
            }
            listens = true;
            told.as_mut().poll(cx)
        });
        match told.await {
            Phase::Draining => {
                connection.as_mut().drain();
                draining = true;
            }
            Phase::Open | Phase::Ended => return,
        }
    }
}

/// Errors of accept that concern only the connection that would have been accepted.
fn of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}

/// Lets one log line through per [`LOG_PAUSE`], with the number of events since the last.
#[derive(Default)]
struct RateLimit {
    last: Option<Instant>,
    events: u64,
}

impl RateLimit {
    fn line(&mut self, now: Instant) -> Option<u64> {
        self.events += 1;
        if self
            .last
            .is_some_and(|last| now.duration_since(last) < LOG_PAUSE)
        {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.events))
    }
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It has more bytes than the limit. Answered as 413 (rules.md 2.1).
    #[error("the request body is larger than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The client went away or sent what is no HTTP body; nobody may be there to answer.
    #[error("the request body broke off")]
    Broken,
    /// Nothing more of it came for so long that the rest is not waited for.
    #[error("the rest of the request body did not come within {} s", BODY_PAUSE.as_secs())]
    Stalled,
}

/// Reads a request's body of at most `limit` bytes. A body that came in one piece is not copied.
///
/// Of one that is too large, up to twice the limit is read on and dropped first (for at most 5 s), unless it announces more than that: a
/// client that is still sending would otherwise find its connection broken instead of the answer.
pub async fn read_body<B: Body<Data = Bytes> + Unpin>(
    mut body: B,
    limit: usize,
) -> Result<Bytes, BodyError> {
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        if announced <= 2 * limit as u64 {
            drain(&mut body, 2 * limit).await;
        }
        return Err(BodyError::TooLarge { limit });
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while !body.is_end_stream() {
        // Mostly it is there already: then no timer is set.
        let frame = match body.frame().now_or_never() {
            Some(frame) => frame,
            None => tokio::time::timeout(BODY_PAUSE, body.frame())
                .await
                .map_err(|_| BodyError::Stalled)?,
        };
        let Some(frame) = frame else {
            break;
        };
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else {
            continue;
        };
        let so_far = first.len().max(rest.len());
        if data.len() > limit - so_far {
            drain(&mut body, 2 * limit).await;
            return Err(BodyError::TooLarge { limit });
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(announced as usize);
            rest.extend_from_slice(&first);
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() {
        first
    } else {
        rest.freeze()
    })
}

/// Reads and drops up to about `most` bytes of a body.
async fn drain<B: Body<Data = Bytes> + Unpin>(body: &mut B, most: usize) {
    let mut seen = 0;
    let rest = async {
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > most {
                return;
            }
        }
    };
    // Either way the answer is the same.
    let _ = tokio::time::timeout(DRAIN_TIME, rest).await;
}

/// An answer with a JSON body, as DTM's clients expect it (dtm-server.md 4.1).
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_ten_seconds_that_counts_the_others() {
        let mut log = RateLimit::default();
        let start = Instant::now();
        assert_eq!(log.line(start), Some(1));
        assert_eq!(log.line(start + Duration::from_secs(1)), None);
        assert_eq!(log.line(start + Duration::from_secs(9)), None);
        assert_eq!(log.line(start + Duration::from_secs(10)), Some(3));
    }

    /// A body of which nothing comes.
    struct Silent;

    impl Body for Silent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
            std::task::Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let began = tokio::time::Instant::now();
        assert_eq!(read_body(Silent, 10).await, Err(BodyError::Stalled));
        assert_eq!(began.elapsed(), BODY_PAUSE);
    }

    #[test]
    fn only_a_lost_client_is_passed_over() {
        assert!(of_one_client(&io::ErrorKind::ConnectionAborted.into()));
        assert!(!of_one_client(&io::Error::from_raw_os_error(24)));
    }
}
