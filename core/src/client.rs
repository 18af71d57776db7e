//! The client for initiators in Rust: it drives the machines of [`crate::initiator`] over HTTP, or with feature `grpc` over gRPC
//! (`grpc://host:36790`).
//!
//! ```no_run
//! # use amends::{Options, client::Client, initiator::Saga};
//! # async fn transfer() -> Result<(), amends::Error> {
//! let client = Client::new("http://127.0.0.1:36789")?;
//! let mut saga = Saga::new("transfer-1", Options::default());
//! saga.step("http://bank-a/out", "http://bank-a/out-undo", r#"{"amount":30}"#);
//! saga.step("http://bank-b/in", "http://bank-b/in-undo", r#"{"amount":30}"#);
//! client.submit(&saga).await?;
//! # Ok(()) }
//! ```
//!
//! Each saga, TCC, XA and workflow is a span of `tracing`, with its gid; each call an event in it, at debug, or a warning if it was not answered. To let
//! participants join a trace, put `traceparent` into the transaction's [`branch_headers`](crate::Options::branch_headers): every call of its
//! branches carries them.

#[cfg(feature = "blocking")]
pub mod blocking;
mod builder;
#[cfg(feature = "grpc")]
mod grpc;
mod tcc;
mod workflow;
mod xa;

pub use builder::ClientBuilder;
pub use tcc::TccRun;
pub use workflow::{WorkflowBranch, WorkflowRun, Workflows};
pub use xa::XaRun;

use crate::branch::{Status, TransType};
use crate::error::{Error, ErrorKind};
use crate::gid::Gid;
use crate::initiator::answers::stored;
use crate::initiator::{Asking, Message, Saga, Server};
use crate::limits::Limits;
use crate::machine::{Calls, Fact, Machine, Request, Step, StepKind};
use crate::pause::pause;
use crate::time::{Millis, duration};
use bytes::{Bytes, BytesMut};
use reqwest::{Method, Response};
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::Instrument;

/// How often a transaction that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A new gid, made here: for transactions that have no name of their own in your data. Error: `Internal` without randomness.
pub fn new_gid() -> Result<String, Error> {
    Ok(Gid::random(random()?).to_string())
}

/// A client of one coordinator. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    #[cfg(feature = "grpc")]
    http2: reqwest::Client,
    server: Server,
    deadline: Option<Instant>,
}

impl Client {
    /// A client of the coordinator at `http://host:port`, or at its whole base path as DTM's clients write it; with feature `grpc` also at
    /// `grpc://host:port` or, within TLS, `grpcs://host:port`. Error: `Invalid`.
    pub fn new(url: &str) -> Result<Client, Error> {
        Client::builder(url).build()
    }

    /// A client with settings of your own: other certificates, another time to wait for answers.
    pub fn builder(url: &str) -> ClientBuilder {
        ClientBuilder::new(url)
    }

    /// A client of the coordinator that `AMENDS_SERVER` names, else `DTM_URL`. Error: `Invalid` if neither is set.
    pub fn from_env() -> Result<Client, Error> {
        Client::new(&builder::url_from_env()?)
    }

    /// The same client for work that is to be over by then: an answer is not waited for beyond it, and nothing is asked again. What was
    /// sent and not answered is `OutcomeUnknown`, what was not sent is `Unavailable`, as ever. A TCC or an XA that is not submitted by then is
    /// undone by its timeout. [`Workflows`] take no deadline from it.
    pub fn until(&self, deadline: Instant) -> Client {
        Client {
            deadline: Some(deadline),
            ..self.clone()
        }
    }

    fn without_deadline(&self) -> Client {
        Client {
            deadline: None,
            ..self.clone()
        }
    }

    /// How far a transaction is: what to ask after `OutcomeUnknown` or `Ongoing`. Errors: `UnknownGid`, `Unavailable`.
    pub async fn status(&self, gid: &str) -> Result<Status, Error> {
        let request = self.server.query(gid);
        let stored = stored(&request, self.call(request.clone()).await)?;
        let stored = stored.ok_or_else(|| {
            Error::invalid("this coordinator cannot be asked: DTM's has no query over gRPC")
        })?;
        Ok(stored.status)
    }

    /// Waits until a transaction has succeeded or failed. Errors: `Ongoing` if it has not within this time, `Unavailable` if the coordinator
    /// could not be asked at its end; `UnknownGid`.
    pub async fn wait(&self, gid: &str, within: Duration) -> Result<Status, Error> {
        let end = tokio::time::Instant::now() + within;
        loop {
            let open = match self.status(gid).await {
                Ok(status) if status.is_final() => return Ok(status),
                Ok(status) => {
                    let text = format!("the transaction {gid} is {status} after {within:?}");
                    Error::new(ErrorKind::Ongoing, text).with_status(status)
                }
                Err(error) if error.kind() == ErrorKind::Unavailable => error,
                Err(error) => return Err(error),
            };
            if tokio::time::Instant::now() + LOOK > end {
                return Err(open);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The coordinator.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Submits a saga; or a message that has no local transaction, or whose local transaction is committed. Without `wait_result` it has
    /// begun when this returns; with it, it has succeeded. Errors: `Failure` for one that was rolled back, `Ongoing` for one that goes on,
    /// `Invalid`, `Refused`, `TopicNotFound`, `Unavailable` if nothing was sent, `OutcomeUnknown` if it may have arrived.
    pub async fn submit(&self, what: &impl Submit) -> Result<(), Error> {
        self.ask(what.machine(&self.server)?)
            .instrument(what.span())
            .await
    }

    /// Prepares a message, before a local transaction in a database that has no adapter here: commit, then [`Client::submit`] it; after a
    /// rollback, [`Client::abort`] it. If neither is heard of, the coordinator asks at the message's `query_prepared`. With an adapter,
    /// [`Message::begin`](crate::initiator::Message) does all of this. Errors: `Invalid`, `Refused` for a gid that was used before,
    /// `Unavailable`, `OutcomeUnknown`.
    pub async fn prepare(&self, message: &Message) -> Result<(), Error> {
        self.ask(message.prepare(&self.server)?)
            .instrument(sealed::Sealed::span(message))
            .await
    }

    /// Takes back what was prepared: has a TCC or an XA undone, withdraws a message; `reason` is kept. One that has failed already is as it
    /// should be. Errors: `Refused` for one that is submitted, or of another mode; `UnknownGid`, `Invalid`, `Unavailable`, `OutcomeUnknown`.
    pub async fn abort(&self, mode: TransType, gid: &str, reason: &str) -> Result<(), Error> {
        let span = tracing::info_span!("abort", %mode, gid);
        self.ask(Asking::abort(&self.server, mode, gid, reason)?)
            .instrument(span)
            .await
    }

    async fn ask(&self, mut machine: Asking) -> Result<(), Error> {
        while let Some(Step { id, kind }) = machine.poll() {
            let fact = match kind {
                StepKind::Call(request) => self.call(request).await,
                StepKind::Sleep(ms) => pause(ms, self.deadline).await,
                StepKind::Done(result) => return result.map(|_| ()),
                other => {
                    return Err(Error::new(
                        ErrorKind::Internal,
                        format!("a request does not ask for {other:?}"),
                    ));
                }
            };
            machine.resolve(id, fact)?;
        }
        Err(Error::new(ErrorKind::Internal, "a request without an end"))
    }
}

/// What [`Client::submit`] takes.
pub trait Submit: sealed::Sealed {}

impl Submit for Saga {}
impl Submit for Message {}

mod sealed {
    use super::*;

    pub trait Sealed {
        fn machine(&self, server: &Server) -> Result<Asking, Error>;
        fn span(&self) -> tracing::Span;
    }

    impl Sealed for Saga {
        fn machine(&self, server: &Server) -> Result<Asking, Error> {
            self.submit(server)
        }

        fn span(&self) -> tracing::Span {
            tracing::info_span!("saga", gid = self.gid())
        }
    }

    impl Sealed for Message {
        fn machine(&self, server: &Server) -> Result<Asking, Error> {
            self.submit(server)
        }

        fn span(&self) -> tracing::Span {
            tracing::info_span!("message", gid = self.gid())
        }
    }
}

impl Calls for Client {
    fn call(&self, request: Request) -> Pin<Box<dyn Future<Output = Fact> + Send + '_>> {
        Box::pin(async move {
            let began = Instant::now();
            let (method, path) = (request.method, without_query(&request.url).to_owned());
            let fact = self.answer(request).await;
            let ms = began.elapsed().as_millis();
            match &fact {
                Fact::Answer { status, .. } => {
                    tracing::debug!(method, path, status, ms, "answered")
                }
                Fact::NoAnswer { message, .. } => {
                    tracing::warn!(method, path, message, ms, "not answered");
                }
                _ => {}
            }
            fact
        })
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

impl Client {
    async fn answer(&self, request: Request) -> Fact {
        let mut timeout = duration(request.timeout);
        if let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Fact::NoAnswer {
                    sent: false,
                    message: format!("{}: the deadline has passed", without_query(&request.url)),
                };
            }
            timeout = timeout.min(left);
        }
        let method = match request.method {
            "GET" => Method::GET,
            "POST" => Method::POST,
            #[cfg(feature = "grpc")]
            "GRPC" => return grpc::call(&self.http2, request, timeout).await,
            other => {
                return Fact::NoAnswer {
                    sent: false,
                    message: format!("{}: this build speaks no {other}", request.url),
                };
            }
        };
        let of_coordinator = Server::is_coordinators(&request.url);
        let mut call = self
            .http
            .request(method, &request.url)
            .timeout(timeout)
            .body(request.body);
        for (name, value) in request.headers {
            call = call.header(name, value);
        }
        let answer = match call.send().await {
            Ok(answer) => answer,
            Err(e) => return no_answer(e),
        };
        let status = answer.status().as_u16();
        match read(answer, of_coordinator).await {
            Ok(body) => Fact::Answer {
                status,
                body,
                message: String::new(),
            },
            Err(fact) => fact,
        }
    }
}

/// A query may hold what is not for logs.
fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// The system's time.
fn now() -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, builder::millis)
}

/// Random bytes of the operating system.
fn random() -> Result<[u8; 16], Error> {
    let mut bytes = [0; 16];
    let source = rustls::crypto::ring::default_provider().secure_random;
    match source.fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Error::new(ErrorKind::Internal, "there is no randomness")),
    }
}

/// Reads an answer. One that is larger than it may be (rules.md 3 and 5) is none: half of it must not be taken for what was said.
async fn read(mut answer: Response, of_coordinator: bool) -> Result<Bytes, Fact> {
    let limits = Limits::default();
    let max = if of_coordinator {
        limits.body
    } else {
        limits.answer
    };
    let mut body = BytesMut::new();
    while let Some(part) = answer.chunk().await.map_err(no_answer)? {
        body.extend_from_slice(&part);
        if body.len() > max {
            return Err(Fact::NoAnswer {
                sent: true,
                message: format!("the answer has more than {max} bytes"),
            });
        }
    }
    Ok(body.freeze())
}

fn no_answer(error: reqwest::Error) -> Fact {
    Fact::NoAnswer {
        sent: !error.is_connect() && !error.is_builder(),
        message: causes(&error),
    }
}

/// An error with its causes, which reqwest keeps to itself.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    text
}
