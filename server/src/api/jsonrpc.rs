//! JSON-RPC 2.0 (dtm-server.md 5): the client routes once more, always answered with four keys.

use super::listen::json;
use super::{Answer, Api, caught, log_fault, read, to_the_end};
use ::http::StatusCode;
use amends::Error;
use amends::wire::http::to_json;
use amends::wire::jsonrpc::{Frame, failure, parse, success, unknown_method};
use amends::wire::request::{BranchRequest, GlobalRequest};
use bytes::Bytes;
use hyper::body::Body;
use serde_json::{Value, json as value};
use std::sync::Arc;

pub(super) async fn answer<B: Body<Data = Bytes> + Unpin>(api: &Arc<Api>, body: B) -> Answer {
    let reply = |status: StatusCode, body: &Value| json(status, to_json(body));
    let body = match read(api, body).await {
        Ok(body) => body,
        Err(error) => return reply(StatusCode::OK, &failure("", &error)),
    };
    let frame = match parse(&body) {
        Ok(frame) => frame,
        Err(bad) => {
            return reply(
                StatusCode::from_u16(bad.status).unwrap_or(StatusCode::BAD_REQUEST),
                &bad.body,
            );
        }
    };
    let answer = match caught(call(api, &frame)).await {
        Ok(Some(result)) => success(&frame.id, result),
        Ok(None) => unknown_method(&frame.id, &frame.method),
        Err(error) => {
            log_fault(&error);
            failure(&frame.id, &error)
        }
    };
    reply(StatusCode::OK, &answer)
}

/// The result of a call; `None` for a method that is not known.
async fn call(api: &Arc<Api>, frame: &Frame<'_>) -> Result<Option<Value>, Error> {
    let engine = api.engine.clone();
    match frame.method.as_str() {
        "newGid" => return Ok(Some(value!({"gid": engine.new_gid().as_str()}))),
        // The engine carries a submit through by itself: a task more would only cost time.
        "submit" => {
            engine
                .submit(GlobalRequest::from_json(frame.params)?)
                .await?
        }
        "prepare" => {
            let request = GlobalRequest::from_json(frame.params)?;
            to_the_end(async move { engine.prepare(request).await }).await?;
        }
        "abort" => {
            let request = GlobalRequest::from_json(frame.params)?;
            to_the_end(async move { engine.abort(request).await }).await?;
        }
        "registerBranch" => {
            let request = BranchRequest::from_json(frame.params)?;
            to_the_end(async move { engine.register_branch(request).await }).await?;
        }
        _ => return Ok(None),
    }
    Ok(Some(Value::Null))
}
