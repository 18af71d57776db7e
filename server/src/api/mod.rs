//! What clients talk to: requests are decoded, given to the engine, and its answer is encoded. Nothing is decided here.
//!
//! Routes and answers are DTM's (dtm-server.md 4, 5 and 6), refusals and codes those of rules.md 2.1.

pub mod grpc;
mod http;
mod jsonrpc;
pub mod listen;
mod ops;
mod params;
mod protocol;
mod route;
pub mod threads;

use crate::engine::Engine;
use crate::metrics::{Front, Metrics};
use crate::topics::Topics;
use ::http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use ::http::{HeaderMap, Request, Response, StatusCode};
use amends::wire::http::{SUCCESS, error_body};
use amends::{Error, ErrorKind};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::Full;
use hyper::body::Body;
use listen::{BodyError, json, read_body};
use route::Route;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

/// What requests are answered from.
pub struct Api {
    engine: Arc<Engine>,
    topics: Arc<Topics>,
    metrics: Arc<Metrics>,
    operator_token: Option<String>,
}

impl Api {
    /// The API of this engine. With an `operator_token` (an empty one counts as none) the routes that only operators use want it as
    /// `Authorization: Bearer` (rules.md 6.3).
    pub fn new(
        engine: Arc<Engine>,
        topics: Arc<Topics>,
        metrics: Arc<Metrics>,
        operator_token: Option<String>,
    ) -> Arc<Api> {
        Arc::new(Api {
            engine,
            topics,
            metrics,
            operator_token: operator_token.filter(|token| !token.is_empty()),
        })
    }
}

type Answer = Response<Full<Bytes>>;

/// Answers one request. A client that goes away cancels this future, but nothing that it began to change.
pub async fn handle<B: Body<Data = Bytes> + Unpin>(
    api: Arc<Api>,
    request: Request<B>,
) -> Response<Full<Bytes>> {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let route = Route::of(&head.method, head.uri.path());
    // A clock that goes by itself cannot be moved, and has no route for it.
    let route = route.filter(|(route, _)| *route != Route::Advance || api.engine.clock_is_manual());
    let Some((route, label)) = route else {
        api.metrics
            .request(Front::Http, "other", false, started.elapsed());
        return text(StatusCode::NOT_FOUND, "text/plain", "404 page not found");
    };
    let counted = route != Route::Ping;
    // The server moves this future with every request: it stays small by holding a submit in place and all else in a box.
    let result = match route {
        Route::Submit => {
            // It holds the connection's buffer, which would have to be another one meanwhile.
            drop(head);
            caught(pin!(http::submit(&api, body))).await
        }
        _ => caught(Box::pin(answer(&api, route, &head, body))).await,
    };
    let answer = result.unwrap_or_else(|error| refusal(&error));
    if counted {
        let ok = answer.status().as_u16() < 400;
        api.metrics
            .request(Front::Http, label, ok, started.elapsed());
        tracing::debug!(api = label, status = answer.status().as_u16(), "answered");
    }
    answer
}

async fn answer<B: Body<Data = Bytes> + Unpin>(
    api: &Arc<Api>,
    route: Route<'_>,
    head: &::http::request::Parts,
    body: B,
) -> Result<Answer, Error> {
    if route.is_operators() {
        api.check_token(&head.headers)?;
    }
    let params = params::Params::new(head.uri.query());
    match route {
        Route::Submit => http::submit(api, body).await,
        Route::Prepare => http::prepare(api, body).await,
        Route::Abort => http::abort(api, body).await,
        Route::RegisterBranch => http::register_branch(api, body).await,
        Route::PrepareWorkflow => http::prepare_workflow(api, body).await,
        Route::NewGid => Ok(http::new_gid(api)),
        Route::Query => http::query(api, &params).await,
        Route::All => http::all(api, &params).await,
        Route::JsonRpc => Ok(jsonrpc::answer(api, body).await),
        Route::Ping => Ok(json(StatusCode::OK, r#"{"msg":"pong"}"#)),
        Route::Version => Ok(json(
            StatusCode::OK,
            concat!(r#"{"version":"v"#, env!("CARGO_PKG_VERSION"), r#""}"#),
        )),
        Route::ForceStop => ops::force_stop(api, body).await,
        Route::ResetCronTime => ops::reset_all(api, &params).await,
        Route::ResetNextCronTime => ops::reset_next(api, body).await,
        Route::Subscribe => ops::subscribe(api, &params).await,
        Route::Unsubscribe => ops::unsubscribe(api, &params).await,
        Route::DeleteTopic(name) => ops::delete_topic(api, params::path_segment(name)).await,
        Route::ScanKv => ops::scan_kv(api, &params).await,
        Route::QueryKv => ops::query_kv(api, &params).await,
        Route::Advance => ops::advance(api, body).await,
        Route::Metrics => {
            api.engine.gauge();
            let shown = api
                .metrics
                .render(&api.engine.store().stats(), api.engine.now());
            Ok(text(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                shown,
            ))
        }
        Route::Alive => Ok(json(StatusCode::OK, r#"{"status":"ok"}"#)),
        Route::Ready => ops::ready(api.engine.store().ping()).await,
    }
}

impl Api {
    fn check_token(&self, headers: &HeaderMap) -> Result<(), Error> {
        let Some(token) = &self.operator_token else {
            return Ok(());
        };
        let refused = |why: &str| {
            Err(Error::new(
                ErrorKind::Unauthorized,
                format!("{why}: send it as \"Authorization: Bearer <token>\""),
            ))
        };
        match headers
            .get(::http::header::AUTHORIZATION)
            .map(|value| value.as_bytes().split_at_checked(7))
        {
            None => refused("this route needs the operator token"),
            Some(Some((scheme, sent)))
                if scheme.eq_ignore_ascii_case(b"Bearer ") && same(sent, token.as_bytes()) =>
            {
                Ok(())
            }
            Some(_) => refused("this is not the operator token"),
        }
    }
}

/// Compares in a time that depends on the lengths only.
fn same(sent: &[u8], secret: &[u8]) -> bool {
    sent.len() == secret.len()
        && std::hint::black_box(
            sent.iter()
                .zip(secret)
                .fold(0, |differs, (a, b)| differs | (a ^ b)),
        ) == 0
}

async fn read<B: Body<Data = Bytes> + Unpin>(api: &Api, body: B) -> Result<Bytes, Error> {
    read_body(body, api.engine.policy().limits.body)
        .await
        .map_err(|error| {
            let kind = match error {
                BodyError::TooLarge { .. } => ErrorKind::TooLarge,
                BodyError::Broken | BodyError::Stalled => ErrorKind::Invalid,
            };
            Error::new(kind, error.to_string())
        })
}

/// Runs a change in a task of its own, so that it is carried through when the client goes away.
async fn to_the_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    match tokio::spawn(change).await {
        Ok(result) => result,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => Err(internal(&*panic)),
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                "the coordinator is shutting down",
            )),
        },
    }
}

/// A panic becomes an answer: the connection goes on.
async fn caught<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(internal(&*panic)))
}

fn internal(panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        panic = text.unwrap_or("without a text"),
        "a request panicked"
    );
    Error::new(
        ErrorKind::Internal,
        "internal error: the coordinator's log has the details",
    )
}

fn success() -> Answer {
    json(StatusCode::OK, SUCCESS)
}

/// What is a fault of ours is logged: the client cannot do anything about it.
fn log_fault(error: &Error) {
    if error.kind() == ErrorKind::Internal {
        tracing::error!(%error, "a request failed");
    }
}

fn refusal(error: &Error) -> Answer {
    log_fault(error);
    let status = StatusCode::from_u16(error.kind().coordinator_answer().http)
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = json(status, error_body(error));
    if status == StatusCode::UNAUTHORIZED {
        answer
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

#[cfg(test)]
mod tests;
