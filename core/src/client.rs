//! The client for initiators in Rust: it drives the machines of [`crate::initiator`] over HTTP.
//!
//! ```ignore
//! let client = Client::new("http://127.0.0.1:36789")?;
//! let mut saga = Saga::new("transfer-1", Options::default());
//! saga.step("http://bank-a/out", "http://bank-a/out-undo", r#"{"amount":30}"#);
//! saga.step("http://bank-b/in", "http://bank-b/in-undo", r#"{"amount":30}"#);
//! client.submit(&saga).await?;
//! ```

mod tcc;

pub use tcc::TccRun;

use crate::error::{Error, ErrorKind};
use crate::initiator::{Saga, Server};
use crate::machine::{Calls, Fact, Machine, Request, Step, StepKind};
use crate::time::{Millis, SECOND};
use reqwest::Method;
use rustls::{ClientConfig, RootCertStore};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// How long an answer of the coordinator may take, unless it waits for a result.
const TIMEOUT: Millis = 10 * SECOND;

/// A client of one coordinator. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    server: Server,
}

impl Client {
    /// A client of the coordinator at `http://host:port`, or at its whole base path as DTM's clients write it. Error: `Invalid`.
    pub fn new(url: &str) -> Result<Client, Error> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Error::invalid(format!(
                "{url:?} is no address of a coordinator: it begins with http:// or https://"
            )));
        }
        // Installs nothing process-wide: the provider belongs to this client (rules.md 8.8).
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
        Ok(Client {
            http,
            server: Server::new(url, TIMEOUT),
        })
    }

    /// A client of the coordinator that `AMENDS_SERVER` names, else `DTM_URL`. Error: `Invalid` if neither is set.
    pub fn from_env() -> Result<Client, Error> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let url = set("AMENDS_SERVER").or_else(|| set("DTM_URL"));
        let url = url.ok_or_else(|| Error::invalid("neither AMENDS_SERVER nor DTM_URL is set"))?;
        Client::new(&url)
    }

    /// The coordinator.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Submits a saga. Without `wait_result` it has begun when this returns; with it, it has succeeded. Errors: `Failure` for one that was
    /// rolled back, `Ongoing` for one that goes on, `Invalid`, `WrongState`, `Unavailable` if nothing was sent, `OutcomeUnknown` if it may
    /// have arrived.
    pub async fn submit(&self, saga: &Saga) -> Result<(), Error> {
        let mut machine = saga.submit(&self.server)?;
        while let Some(Step { id, kind }) = machine.poll() {
            let fact = match kind {
                StepKind::Call(request) => self.call(request).await,
                StepKind::Sleep(pause) => {
                    tokio::time::sleep(Duration::from_millis(u64::try_from(pause).unwrap_or(0)))
                        .await;
                    Fact::Done
                }
                StepKind::Done(result) => return result.map(|_| ()),
                other => {
                    return Err(Error::new(
                        ErrorKind::Internal,
                        format!("a submit does not ask for {other:?}"),
                    ));
                }
            };
            machine.resolve(id, fact)?;
        }
        Err(Error::new(ErrorKind::Internal, "a submit without an end"))
    }
}

impl Calls for Client {
    fn call(&self, request: Request) -> Pin<Box<dyn Future<Output = Fact> + Send + '_>> {
        Box::pin(async move {
            let timeout = Duration::from_millis(u64::try_from(request.timeout).unwrap_or(0));
            let method = match request.method {
                "GET" => Method::GET,
                _ => Method::POST,
            };
            let mut call = self
                .http
                .request(method, &request.url)
                .timeout(timeout)
                .body(request.body);
            for (name, value) in request.headers {
                call = call.header(name, value);
            }
            let no_answer = |e: reqwest::Error| Fact::NoAnswer {
                sent: !e.is_connect() && !e.is_builder(),
                message: causes(&e),
            };
            let answer = match call.send().await {
                Ok(answer) => answer,
                Err(e) => return no_answer(e),
            };
            let status = answer.status().as_u16();
            match answer.bytes().await {
                Ok(body) => Fact::Answer {
                    status,
                    body,
                    message: String::new(),
                },
                Err(e) => no_answer(e),
            }
        })
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
