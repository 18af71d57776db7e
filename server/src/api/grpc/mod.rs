//! The gRPC API (dtm-server.md 6): the services behind one handler. Statuses are those of rules.md 2.1.

pub(crate) mod codec;
mod dtm;
mod health;
mod operations;

use super::{Api, caught, log_fault};
use crate::metrics::Front;
use amends::Error;
use amends::wire::grpc::{DESCRIPTORS, code_of};
use bytes::Bytes;
use dtm::{DtmServer, DtmService};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use health::HealthService;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Body as HttpBody;
use operations::{OperationsServer, OperationsService};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;
use tower::Service;

/// Largest message that is sent: a page of transactions.
const REPLY_MAX: usize = 128 << 20;

/// Answers gRPC requests. Make it with [`services`].
pub type Handler<B> =
    Arc<dyn Fn(Request<B>) -> BoxFuture<'static, Response<Body>> + Send + Sync + 'static>;

/// The services of an API: DTM's, ours, health, and reflection of both versions.
pub fn services<B>(api: Arc<Api>) -> Handler<B>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
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
    let v1alpha = reflection().build_v1alpha().ok();
    Arc::new(move |request: Request<B>| {
        let uri = request.uri().clone();
        let path = uri.path();
        let (service, method) = path[1.min(path.len())..]
            .split_once('/')
            .unwrap_or_default();
        let answer = match (service, &v1, &v1alpha) {
            _ if !is_grpc(&request) => return not_grpc().boxed(),
            (<DtmServer<DtmService> as NamedService>::NAME, ..) => call(&dtm, request),
            (<OperationsServer<OperationsService> as NamedService>::NAME, ..) => {
                call(&operations, request)
            }
            // Probes are not counted, as over HTTP.
            ("grpc.health.v1.Health", ..) => return call(&health, request),
            ("grpc.reflection.v1.ServerReflection", Some(v1), _) => return call(v1, request),
            ("grpc.reflection.v1alpha.ServerReflection", _, Some(v1alpha)) => {
                return call(v1alpha, request);
            }
            _ => {
                let unknown = format!("no service {service:?} here");
                return async move { Status::unimplemented(unknown).into_http() }.boxed();
            }
        };
        measured(api.clone(), method.to_ascii_lowercase(), answer).boxed()
    })
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(<DtmServer<DtmService> as NamedService>::NAME)
        .with_service_name(<OperationsServer<OperationsService> as NamedService>::NAME)
        .with_service_name("grpc.health.v1.Health")
}

fn call<S, B>(service: &S, request: Request<B>) -> BoxFuture<'static, Response<Body>>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    let answer = service.clone().call(request);
    async move { answer.await.unwrap_or_else(|never| match never {}) }.boxed()
}

/// Counts an answer, and mends a status that the library chose.
async fn measured(
    api: Arc<Api>,
    label: String,
    answer: BoxFuture<'static, Response<Body>>,
) -> Response<Body> {
    let started = Instant::now();
    let mut answer = match caught(answer.map(Ok)).await {
        Ok(answer) => answer,
        Err(error) => status(&error).into_http(),
    };
    // An answer that fails has no message, and its status stands among its headers.
    let headers = answer.headers_mut();
    let code = headers
        .get("grpc-status")
        .map_or(0, |code| Code::from_bytes(code.as_bytes()) as i32);
    // The library says so of a message that is larger than the limit.
    if code == Code::OutOfRange as i32 {
        headers.insert(
            "grpc-status",
            HeaderValue::from(Code::ResourceExhausted as i32),
        );
    }
    let ok = code == 0;
    api.metrics
        .request(Front::Grpc, &label, ok, started.elapsed());
    tracing::debug!(api = label, ok, "answered over gRPC");
    answer
}

/// `application/grpc`, with any suffix.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    request.method() == Method::POST
        && content_type.is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"))
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

/// The status of an error.
fn status(error: &Error) -> Status {
    log_fault(error);
    Status::new(Code::from_i32(code_of(error.kind()).0), error.message())
}
