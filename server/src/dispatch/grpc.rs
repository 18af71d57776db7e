//! Unary branch calls over gRPC (dtm-server.md 7.4): raw bytes go out, of the answer only the status counts.
//!
//! Spoken over hyper's HTTP/2 directly, for the message that a branch answers is read to its end and dropped: one of any size or shape,
//! or none, is as good as another. There is one connection for each target and runtime, and many calls at a time on it.

use super::Reply;
use super::connect::{Connector, Failed, Place, broken, late, leave_the_container};
use amends::Outcome;
use amends::wire::grpc::{Code, GrpcCall, GrpcTarget, classify_grpc};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use h2::Reason;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::TokioExecutor;
use percent_encoding::percent_decode;
use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Id};
use tokio::time::timeout;

/// Unused longer than this, a connection is not used again: something between here and there may have forgotten it.
const IDLE_TIME: Duration = Duration::from_secs(120);
/// How long a connection may take to be opened. Others wait for it, whose calls may have less time than the one that opens it.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// What headers of an answer may have together: the text of a failure stands among them.
const HEADERS_MAX: u32 = 1 << 20;

type Sender = SendRequest<Full<Bytes>>;

/// The gRPC client. Cheap to clone; clones share connections.
///
/// * A connection that broke, was closed by its server or let a call run into its timeout is not used again.
/// * A call that never left, because the connection had been closed meanwhile, or that the server says it did not look at (it is being
///   restarted, say), is made again on a fresh one, once. Every other broken call is an error: its effect is unknown.
/// * No pings are sent: servers in Go end a connection for them, and a call's timeout finds a dead one as well.
/// * `grpcs` uses the system's root certificates, read at the first such call.
#[derive(Clone)]
pub struct GrpcTransport {
    shared: Arc<Shared>,
}

struct Shared {
    docker: bool,
    connector: Connector,
    /// By the runtime that calls, so that a call wakes no other thread, and by target.
    channels: Mutex<HashMap<Id, Channels>>,
}

type Channels = HashMap<Box<str>, Arc<Channel>>;

/// The connection of a runtime to a target, opened by the first who needs it while the others wait.
#[derive(Default)]
struct Channel {
    open: Mutex<Option<Open>>,
    opening: tokio::sync::Mutex<u64>,
}

/// A connection.
#[derive(Clone)]
struct Open {
    sender: Sender,
    used: Instant,
    /// Which one of its target it is, so that nobody ends one that was opened after his own.
    number: u64,
}

/// How far a call has come, for the text of a timeout.
#[derive(Default)]
struct Progress {
    /// On which connection it was sent.
    sent: Option<(Arc<Channel>, u64)>,
}

impl GrpcTransport {
    /// A client; `docker` as for [`super::BranchClient::new`].
    pub fn new(docker: bool) -> GrpcTransport {
        let shared = Shared {
            docker,
            connector: Connector::http2(),
            channels: Mutex::default(),
        };
        GrpcTransport {
            shared: Arc::new(shared),
        }
    }

    /// Makes a call, as [`super::Transport::call`] says.
    pub fn call(&self, mut call: GrpcCall) -> BoxFuture<'static, Reply> {
        let shared = self.shared.clone();
        Box::pin(async move {
            if shared.docker {
                call.url = leave_the_container(&call.url);
            }
            let limit = Duration::from_millis(u64::try_from(call.timeout).unwrap_or(0));
            let target = match GrpcTarget::parse(&call.url) {
                Ok(target) => target,
                Err(e) => {
                    return Reply {
                        outcome: Outcome::Error(e.to_string()),
                        unreachable: false,
                    };
                }
            };
            let shown = format!(
                "{}://{}",
                if target.tls { "grpcs" } else { "grpc" },
                target.authority
            );
            let mut progress = Progress::default();
            match timeout(limit, shared.unary(&call, &target, &shown, &mut progress)).await {
                Ok(Ok(outcome)) => Reply {
                    outcome,
                    unreachable: false,
                },
                Ok(Err(failed)) => failed.into(),
                Err(_) => {
                    let connecting = progress.sent.is_none();
                    // It may be the connection: the next call gets another.
                    if let Some((channel, number)) = progress.sent {
                        channel.give_up(number);
                    }
                    late(&shown, limit, connecting).into()
                }
            }
        })
    }
}

impl Channel {
    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open connection, if there is one that may be used.
    fn current(&self) -> Option<Open> {
        let mut open = self.open();
        let current = open.as_mut()?;
        if current.sender.is_closed() || current.used.elapsed() > IDLE_TIME {
            *open = None;
            return None;
        }
        current.used = Instant::now();
        Some(current.clone())
    }

    /// Does not use this connection again.
    fn give_up(&self, number: u64) {
        self.open().take_if(|open| open.number == number);
    }

    fn is_idle(&self) -> bool {
        self.open()
            .as_ref()
            .is_none_or(|open| open.used.elapsed() > IDLE_TIME)
    }
}

impl Shared {
    async fn unary(
        &self,
        call: &GrpcCall,
        target: &GrpcTarget<'_>,
        shown: &str,
        progress: &mut Progress,
    ) -> Result<Outcome, Failed> {
        let channel = self.channel(shown);
        let (mut open, mut fresh) = match channel.current() {
            Some(open) => (open, false),
            // Boxed, or every call would carry the state of a connect about: 5 KiB more.
            None => Box::pin(self.connect(&channel, target, shown)).await?,
        };
        let mut again = false;
        let answer = loop {
            progress.sent = Some((channel.clone(), open.number));
            let request = request(call, target)?;
            let mut error = match open.sender.try_send_request(request).await {
                Ok(answer) => break answer,
                Err(error) => error,
            };
            let unsent = error.take_message().is_some() && !fresh;
            let refused = refused(error.error());
            if again || !unsent && refused.is_none() {
                return Err(unanswered(shown, error.error(), target.tls, fresh));
            }
            again = true;
            progress.sent = None;
            // A server that is at its limit of calls is not helped by another connection.
            if refused != Some(Refused::Stream) {
                channel.give_up(open.number);
                (open, fresh) = Box::pin(self.connect(&channel, target, shown)).await?;
            }
        };
        read(answer, shown).await
    }

    fn channel(&self, key: &str) -> Arc<Channel> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let here = Handle::current().id();
        if let Some(channel) = channels.get(&here).and_then(|ours| ours.get(key)) {
            return channel.clone();
        }
        channels.retain(|_, of_runtime| {
            // One that somebody holds is about to be used.
            of_runtime.retain(|_, channel| Arc::strong_count(channel) > 1 || !channel.is_idle());
            !of_runtime.is_empty()
        });
        let channel = Arc::<Channel>::default();
        let ours = channels.entry(here).or_default();
        ours.insert(key.into(), channel.clone());
        channel
    }

    /// A usable connection, and whether it is a fresh one.
    async fn connect(
        &self,
        channel: &Channel,
        target: &GrpcTarget<'_>,
        shown: &str,
    ) -> Result<(Open, bool), Failed> {
        let mut number = channel.opening.lock().await;
        if let Some(open) = channel.current() {
            return Ok((open, false));
        }
        let place = Place {
            tls: target.tls,
            host: target.host,
            port: target.port,
            authority: target.authority,
            shown,
        };
        let io = timeout(CONNECT_TIME, self.connector.connect(&place))
            .await
            .unwrap_or_else(|_| Err(late(shown, CONNECT_TIME, true)))?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .max_header_list_size(HEADERS_MAX)
            .handshake(io)
            .await
            .map_err(|e| broken(shown, &e, false))?;
        // How it ends reaches the calls that wait on it.
        tokio::spawn(connection);
        *number += 1;
        let open = Open {
            sender,
            used: Instant::now(),
            number: *number,
        };
        *channel.open() = Some(open.clone());
        Ok((open, true))
    }
}

fn request(call: &GrpcCall, target: &GrpcTarget<'_>) -> Result<Request<Full<Bytes>>, Failed> {
    let refused = |text: String| Failed {
        text,
        unreachable: false,
    };
    let length = u32::try_from(call.message.len())
        .map_err(|_| refused("the message is too large for gRPC".to_owned()))?;
    let mut body = BytesMut::with_capacity(5 + call.message.len());
    body.put_u8(0);
    body.put_u32(length);
    body.extend_from_slice(&call.message);
    let mut request = Request::new(Full::new(body.freeze()));
    *request.method_mut() = Method::POST;
    let scheme = if target.tls { "https" } else { "http" };
    *request.uri_mut() = Uri::builder()
        .scheme(scheme)
        .authority(target.authority)
        .path_and_query(target.path)
        .build()
        .map_err(|e| refused(format!("the called URL cannot be sent: {e}")))?;
    let headers = request.headers_mut();
    headers.reserve(call.metadata.len() + 4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("amends/", env!("CARGO_PKG_VERSION"))),
    );
    headers.insert("grpc-timeout", timeout_value(call.timeout));
    for (key, value) in &call.metadata {
        let cannot = |e: &dyn std::fmt::Display| {
            refused(format!("the branch header {key:?} cannot be sent: {e}"))
        };
        let name = HeaderName::from_bytes(key.as_bytes()).map_err(|e| cannot(&e))?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|e| cannot(&e))?;
        headers.insert(name, value);
    }
    Ok(request)
}

/// At most eight digits, and a unit.
fn timeout_value(ms: amends::Millis) -> HeaderValue {
    const DIGITS_END: i64 = 100_000_000;
    let ms = ms.max(0);
    let text = if ms < DIGITS_END {
        format!("{ms}m")
    } else {
        format!("{}S", (ms / 1_000).min(DIGITS_END - 1))
    };
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("1H"))
}

/// How a server says that it did not look at a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// It goes away.
    Connection,
    /// It takes no more calls now.
    Stream,
}

fn refused(error: &hyper::Error) -> Option<Refused> {
    let mut cause = error.source();
    while let Some(source) = cause {
        if let Some(error) = source.downcast_ref::<h2::Error>() {
            return match error.reason() {
                _ if !error.is_remote() => None,
                Some(Reason::NO_ERROR) if error.is_go_away() => Some(Refused::Connection),
                Some(Reason::REFUSED_STREAM) => Some(Refused::Stream),
                _ => None,
            };
        }
        cause = source.source();
    }
    None
}

/// The text of a call that got no answer. Who speaks something else than HTTP/2 breaks off at the first bytes of a connection.
fn unanswered(shown: &str, error: &hyper::Error, tls: bool, fresh: bool) -> Failed {
    let mut failed = broken(shown, error, false);
    if fresh {
        let hint = if tls { "" } else { ", without TLS" };
        failed
            .text
            .push_str(&format!(" (does it speak gRPC{hint}?)"));
    }
    failed
}

/// Reads an answer to its end, for its status comes last: in the trailers, or, where there is nothing else, in the headers.
async fn read(answer: Response<Incoming>, shown: &str) -> Result<Outcome, Failed> {
    let (head, mut body) = answer.into_parts();
    let mut status = Status::of(&head.headers);
    while let Some(frame) = body.frame().await {
        // Whatever stood in front of a break is not to be trusted.
        let frame = frame.map_err(|e| broken(shown, &e, true))?;
        status = match frame.into_trailers() {
            Ok(trailers) => Status::of(&trailers),
            Err(data) if data.data_ref().is_some_and(|data| !data.is_empty()) => Status::Missing,
            Err(_) => status,
        };
    }
    let content_type = head.headers.get(CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    Ok(match status {
        _ if head.status != StatusCode::OK => {
            Outcome::Error(format!("answered HTTP {}, which is no gRPC", head.status))
        }
        _ if !is_grpc => {
            Outcome::Error("its answer has no content-type application/grpc".to_owned())
        }
        Status::Is(code, message) => classify_grpc(code, &message),
        Status::Missing => Outcome::Error("its answer has no grpc-status".to_owned()),
        Status::Strange => Outcome::Error("its answer has no grpc-status that is one".to_owned()),
    })
}

/// What headers or trailers say of a call.
enum Status {
    Is(Code, String),
    Missing,
    /// More than one, or no number.
    Strange,
}

impl Status {
    fn of(headers: &HeaderMap) -> Status {
        let mut codes = headers.get_all("grpc-status").iter();
        let code = match (codes.next(), codes.next()) {
            (None, _) => return Status::Missing,
            (Some(code), None) => code.as_bytes(),
            (Some(_), Some(_)) => return Status::Strange,
        };
        let digits = std::str::from_utf8(code).ok();
        let digits = digits.filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        let Some(code) = digits.and_then(|d| d.parse().ok()) else {
            return Status::Strange;
        };
        let message = headers.get("grpc-message").map(HeaderValue::as_bytes);
        let message = percent_decode(message.unwrap_or_default()).decode_utf8_lossy();
        Status::Is(Code(code), message.into_owned())
    }
}
