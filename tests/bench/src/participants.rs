//! The participants of every measurement: a yes to every call, at once.

use crate::error::BenchError;
use crate::http::{SUCCESS, json, serve};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use tokio::net::TcpListener;

/// Answers every request with success.
pub(crate) async fn run(listener: TcpListener) -> Result<(), BenchError> {
    serve(listener, |request| async move {
        match request.into_body().collect().await {
            Ok(_) => json(StatusCode::OK, Bytes::from_static(SUCCESS)),
            Err(error) => json(StatusCode::BAD_REQUEST, error.to_string()),
        }
    })
    .await
}
