//! The gRPC API (dtm-server.md 6): the services behind one handler. Statuses are those of rules.md 2.1.

pub(crate) mod codec;
mod dtm;
mod health;
mod operations;

use super::listen::{BodyError, read_body};
use super::{Api, caught, log_fault};
use crate::metrics::Front;
use amends::Error;
use amends::wire::grpc::DESCRIPTORS;
use bytes::Bytes;
use dtm::{DtmServer, DtmService};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use health::HealthService;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyStream, Full, StreamBody};
use hyper::body::Body as HttpBody;
use operations::{OperationsServer, OperationsService};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;
use tower::Service;

/// Largest message that is sent: a workflow with all its results.
const REPLY_MAX: usize = 128 << 20;
/// Largest message that asks about health or by reflection.
const QUESTION_MAX: usize = 64 << 10;
/// Longest text of a status, percent-encoded.
const TEXT_MAX: usize = 4 << 10;
/// How often a stream looks whether the server stops.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Answers gRPC requests. Make it with [`services`].
pub type Handler<B> =
    Arc<dyn Fn(Request<B>) -> BoxFuture<'static, Response<Body>> + Send + Sync + 'static>;

/// The services of an API: DTM's, ours, health, and reflection of both versions.
pub fn services<B>(api: Arc<Api>) -> Handler<B>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<tower::BoxError> + Send,
{
    let limit = api.engine.policy().limits.body;
    let dtm = DtmServer::new(DtmService(api.clone()))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(REPLY_MAX);
    let operations = OperationsServer::new(OperationsService(api.clone()))
        .max_decoding_message_size(limit)
        .max_encoding_message_size(REPLY_MAX);
    let health = HealthServer::new(HealthService(api.clone()));
    let v1 = reflection().build_v1().ok();
    let v1 = v1.map(|service| service.max_decoding_message_size(QUESTION_MAX));
    let v1alpha = reflection().build_v1alpha().ok();
    let v1alpha = v1alpha.map(|service| service.max_decoding_message_size(QUESTION_MAX));
    Arc::new(move |request: Request<B>| {
        let uri = request.uri().clone();
        let (service, method) = uri.path()[1.min(uri.path().len())..]
            .split_once('/')
            .unwrap_or_default();
        match (service, &v1, &v1alpha) {
            _ if !is_grpc(&request) => not_grpc().boxed(),
            (<DtmServer<DtmService> as NamedService>::NAME, ..) => {
                let method = method.to_ascii_lowercase();
                measured(api.clone(), method, unary(limit, dtm.clone(), request)).boxed()
            }
            (<OperationsServer<OperationsService> as NamedService>::NAME, ..) => {
                let method = method.to_ascii_lowercase();
                let answer = unary(limit, operations.clone(), request);
                measured(api.clone(), method, answer).boxed()
            }
            // Probes are not counted, as over HTTP.
            ("grpc.health.v1.Health", ..) => unary(QUESTION_MAX, health.clone(), request).boxed(),
            ("grpc.reflection.v1.ServerReflection", Some(v1), _) => {
                call(v1.clone(), until_stopped(&api, request)).boxed()
            }
            ("grpc.reflection.v1alpha.ServerReflection", _, Some(v1alpha)) => {
                call(v1alpha.clone(), until_stopped(&api, request)).boxed()
            }
            _ => {
                let unknown = format!("no service {service:?} here");
                async move { Status::unimplemented(unknown).into_http() }.boxed()
            }
        }
    })
}

/// A call whose one message is read first: the library would set aside as much memory as a frame announces, wait for the rest of it
/// without end, and call a broken frame its own fault.
async fn unary<S, B>(limit: usize, service: S, request: Request<B>) -> Response<Body>
where
    S: Service<Request<Full<Bytes>>, Response = Response<Body>, Error = Infallible>,
    B: HttpBody<Data = Bytes> + Unpin,
{
    let (head, body) = request.into_parts();
    let body = read_body(body, limit.saturating_add(FRAME)).await;
    match body.map_err(unread).and_then(|body| framed(body, limit)) {
        Ok(body) => call(service, Request::from_parts(head, Full::new(body))).await,
        Err(status) => status.into_http(),
    }
}

/// Bytes in front of a message: a flag and its length.
const FRAME: usize = 5;

/// A body that is exactly one message, not compressed.
fn framed(body: Bytes, limit: usize) -> Result<Bytes, Status> {
    let malformed = |why: &str| {
        Err(Status::invalid_argument(format!(
            "malformed gRPC frame: {why}"
        )))
    };
    let [flag, a, b, c, d, message @ ..] = &body[..] else {
        return malformed("the request has no message");
    };
    let announced = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    match flag {
        0 if announced == message.len() => Ok(body),
        0 if announced > limit => Err(too_large(limit)),
        0 => malformed("its length is not that of the message"),
        1 => Err(Status::unimplemented("compressed messages are not taken")),
        _ => malformed("unknown flag"),
    }
}

fn too_large(limit: usize) -> Status {
    Status::resource_exhausted(format!("the message is larger than {limit} bytes"))
}

fn unread(error: BodyError) -> Status {
    match error {
        BodyError::TooLarge { limit } => too_large(limit - FRAME),
        BodyError::Broken | BodyError::Stalled => Status::invalid_argument(error.to_string()),
    }
}

/// A stream of requests that ends with the server, which would wait for it otherwise.
fn until_stopped<B>(api: &Arc<Api>, request: Request<B>) -> Request<Body>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<tower::BoxError> + Send,
{
    let engine = api.engine.clone();
    let stopped = Box::pin(async move {
        while !engine.stopping() {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    });
    request.map(|body| Body::new(StreamBody::new(BodyStream::new(body).take_until(stopped))))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(<DtmServer<DtmService> as NamedService>::NAME)
        .with_service_name(<OperationsServer<OperationsService> as NamedService>::NAME)
        .with_service_name("grpc.health.v1.Health")
}

async fn call<S, B>(mut service: S, request: Request<B>) -> Response<Body>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    let answer = service.call(request).await;
    answer.unwrap_or_else(|never| match never {})
}

/// Counts an answer.
async fn measured(
    api: Arc<Api>,
    label: String,
    answer: impl Future<Output = Response<Body>>,
) -> Response<Body> {
    let started = Instant::now();
    let answer = match caught(answer.map(Ok)).await {
        Ok(answer) => answer,
        Err(error) => status(&error).into_http(),
    };
    // An answer that fails has no message, and its status stands among its headers.
    let code = answer.headers().get("grpc-status");
    let ok = code.is_none_or(|code| code == "0");
    api.metrics
        .request(Front::Grpc, &label, ok, started.elapsed());
    tracing::debug!(api = label, ok, "answered over gRPC");
    answer
}

/// `application/grpc`, alone or with a suffix such as `+proto` or `+dtm_raw`.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    let rest = content_type.and_then(|t| t.as_bytes().strip_prefix(b"application/grpc"));
    request.method() == Method::POST
        && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

async fn not_grpc() -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    answer
}

/// Refuses a request for operators without their token.
fn operator<T>(api: &Api, request: &tonic::Request<T>) -> Result<(), Status> {
    api.check_token(request.metadata().as_ref())
        .map_err(|error| status(&error))
}

/// The status of an error. Its text is kept short enough for every client: as a header it is percent-encoded, and some take 8 KiB of
/// headers only.
fn status(error: &Error) -> Status {
    log_fault(error);
    let code = Code::from_i32(error.kind().coordinator_answer().grpc);
    let (mut encoded, text) = (0, error.message());
    let end = text.char_indices().find(|(_, c)| {
        let plain = c.is_ascii_graphic() && *c != '%' || *c == ' ';
        encoded += if plain { 1 } else { 3 * c.len_utf8() };
        encoded > TEXT_MAX
    });
    match end {
        None => Status::new(code, text),
        Some((end, _)) => Status::new(code, format!("{}...", &text[..end])),
    }
}

#[cfg(test)]
mod tests;
