//! The participants of every measurement: a yes to every call, at once, over HTTP/1.1 and over gRPC on one port.

use crate::error::BenchError;
use crate::grpc;
use crate::http::{SUCCESS, Target, json, serve};
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

/// Where the calls so far are told.
const CALLS: &str = "/calls";

/// How many calls were answered.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Calls {
    /// Over HTTP.
    pub(crate) http: u64,
    /// Over gRPC.
    pub(crate) grpc: u64,
}

impl Calls {
    /// Asks the participants at `address` (`host:port`).
    pub(crate) async fn of(address: &str) -> Result<Calls, BenchError> {
        let target = Target::parse(&format!("http://{address}"))?;
        let (_, body) = target.get(CALLS, Duration::from_secs(30)).await?;
        serde_json::from_slice(&body).map_err(|error| {
            BenchError::Setup(format!(
                "the participants do not count their calls: {error}"
            ))
        })
    }
}

#[derive(Default)]
struct Counters {
    http: AtomicU64,
    grpc: AtomicU64,
}

/// Answers every request with success.
pub(crate) async fn run(listener: TcpListener) -> Result<(), BenchError> {
    let counters = Arc::<Counters>::default();
    serve(listener, move |request| {
        answer(Arc::clone(&counters), request)
    })
    .await
}

async fn answer(
    counters: Arc<Counters>,
    request: Request<Incoming>,
) -> Response<Either<Full<Bytes>, grpc::Answer>> {
    if request.method() == Method::GET && request.uri().path() == CALLS {
        let calls = Calls {
            http: counters.http.load(Ordering::Relaxed),
            grpc: counters.grpc.load(Ordering::Relaxed),
        };
        let body = serde_json::json!(calls).to_string();
        return json(StatusCode::OK, body).map(Either::Left);
    }
    let is_grpc = grpc::is_call(request.headers());
    if let Err(error) = request.into_body().collect().await {
        return json(StatusCode::BAD_REQUEST, error.to_string()).map(Either::Left);
    }
    if is_grpc {
        counters.grpc.fetch_add(1, Ordering::Relaxed);
        grpc::ok().map(Either::Right)
    } else {
        counters.http.fetch_add(1, Ordering::Relaxed);
        json(StatusCode::OK, Bytes::from_static(SUCCESS)).map(Either::Left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Channel;
    use crate::http::{Connection, listen};
    use hyper::Uri;

    #[tokio::test]
    async fn both_protocols_are_answered_and_counted_on_one_port() {
        let listener = listen(0).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(run(listener));

        let target = Target::parse(&format!("http://{address}")).unwrap();
        let mut connection = Connection::open(&address).await.unwrap();
        for _ in 0..2 {
            let request = target.post(Uri::from_static("/busi/out"), Bytes::from_static(b"{}"));
            let (status, body) = connection.send(request).await.unwrap();
            assert_eq!((status, &body[..]), (StatusCode::OK, SUCCESS));
        }
        let mut channel = Channel::open(&address).await.unwrap();
        for _ in 0..3 {
            let uri = format!("http://{address}/bench.Bench/Out").parse().unwrap();
            channel.call(uri, [], b"{}").await.unwrap();
        }
        let calls = Calls::of(&address).await.unwrap();
        assert_eq!(calls, Calls { http: 2, grpc: 3 });
    }
}
