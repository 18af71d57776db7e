//! The routes of operators: what they force, reset and subscribe, the key-value area, and the readiness probe.

use super::http::{PAGE, PAGE_MAX, global};
use super::listen::json;
use super::params::Params;
use super::{Answer, Api, read, success, to_the_end};
use crate::engine::{ADVANCE_TIMEOUT, AdvanceError};
use crate::store::{Kv, StoreError, store_error};
use ::http::StatusCode;
use amends::options::MAX_SECONDS;
use amends::time::seconds;
use amends::wire::http::{KvView, to_json};
use amends::{Error, ErrorKind, Gid};
use bytes::Bytes;
use hyper::body::Body;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Most transactions that one `resetCronTime` makes due.
pub(super) const RESET_MAX: i64 = 10_000;
/// How long the store may take to answer the readiness probe.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn force_stop<B: Body<Data = Bytes> + Unpin>(
    api: &Arc<Api>,
    body: B,
) -> Result<Answer, Error> {
    let request = global(api, body).await?;
    let gid = Gid::new(&request.gid, &api.engine.policy().limits)?;
    let engine = api.engine.clone();
    to_the_end(async move {
        engine
            .force_stop(gid.as_str(), &request.actor, &request.reason)
            .await
    })
    .await?;
    Ok(success())
}

pub(super) async fn reset_next<B: Body<Data = Bytes> + Unpin>(
    api: &Arc<Api>,
    body: B,
) -> Result<Answer, Error> {
    let request = global(api, body).await?;
    let gid = Gid::new(&request.gid, &api.engine.policy().limits)?;
    let engine = api.engine.clone();
    to_the_end(async move { engine.reset_next(gid.as_str()).await }).await?;
    Ok(success())
}

pub(super) async fn reset_all(api: &Arc<Api>, params: &Params<'_>) -> Result<Answer, Error> {
    let engine = api.engine.clone();
    let ahead = match params.number("timeout")? {
        None => engine.policy().timeout_to_fail.saturating_mul(3),
        Some(_) => seconds(params.within("timeout", 0, 0..=MAX_SECONDS as i64)? as u64),
    };
    let limit = params.within("limit", PAGE, 1..=RESET_MAX)? as usize;
    let after = engine.now().saturating_add(ahead);
    let (count, more) = to_the_end(async move { engine.reset_all(after, limit).await }).await?;
    Ok(json(
        StatusCode::OK,
        format!(r#"{{"has_remaining":{more},"succeed_count":{count}}}"#),
    ))
}

pub(super) async fn subscribe(api: &Arc<Api>, params: &Params<'_>) -> Result<Answer, Error> {
    let (topics, topic, url, remark) = (
        api.topics.clone(),
        params.text("topic"),
        params.text("url"),
        params.text("remark"),
    );
    to_the_end(async move { topics.subscribe(&topic, &url, &remark).await }).await?;
    Ok(success())
}

pub(super) async fn unsubscribe(api: &Arc<Api>, params: &Params<'_>) -> Result<Answer, Error> {
    let (topics, topic, url) = (api.topics.clone(), params.text("topic"), params.text("url"));
    to_the_end(async move { topics.unsubscribe(&topic, &url).await }).await?;
    Ok(success())
}

pub(super) async fn delete_topic(api: &Arc<Api>, topic: String) -> Result<Answer, Error> {
    let topics = api.topics.clone();
    to_the_end(async move { topics.delete(&topic).await }).await?;
    Ok(success())
}

pub(super) async fn scan_kv(api: &Api, params: &Params<'_>) -> Result<Answer, Error> {
    let limit = params.within("limit", PAGE, 1..=PAGE_MAX)? as usize;
    let (page, next) = api
        .engine
        .store()
        .kv_list(&params.text("cat"), params.get("position"), limit)
        .await
        .map_err(store_error)?;
    Ok(values(&page, Some(next.as_deref().unwrap_or_default())))
}

pub(super) async fn query_kv(api: &Api, params: &Params<'_>) -> Result<Answer, Error> {
    let store = api.engine.store();
    let cat = params.text("cat");
    let key = params.get("key");
    if let (false, Some(key)) = (cat.is_empty(), &key) {
        let found = store.kv_get(&cat, key).await.map_err(store_error)?;
        return Ok(values(found.as_slice(), None));
    }
    let mut all = Vec::new();
    let mut position = None;
    loop {
        let (page, next) = store
            .kv_list(&cat, position, PAGE_MAX as usize)
            .await
            .map_err(store_error)?;
        all.extend(
            page.into_iter()
                .filter(|kv| key.as_ref().is_none_or(|key| kv.key == *key)),
        );
        match next {
            Some(next) => position = Some(next),
            None => return Ok(values(&all, None)),
        }
    }
}

fn values(kvs: &[Kv], next_position: Option<&str>) -> Answer {
    #[derive(Serialize)]
    struct Values<'a> {
        kv: Vec<KvView<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_position: Option<&'a str>,
    }
    let kv = kvs.iter().map(|kv| KvView {
        id: 0,
        create_time: kv.created,
        update_time: kv.updated,
        cat: &kv.cat,
        k: &kv.key,
        v: &kv.value,
        version: kv.version,
    });
    json(
        StatusCode::OK,
        to_json(&Values {
            kv: kv.collect(),
            next_position,
        }),
    )
}

/// Moves the clock of a coordinator that tests run, and answers when everything that is due by then is done; 503 says what was not,
/// within the real time given.
pub(super) async fn advance<B: Body<Data = Bytes> + Unpin>(
    api: &Arc<Api>,
    body: B,
) -> Result<Answer, Error> {
    #[derive(Deserialize)]
    struct Advance {
        seconds: f64,
        #[serde(default = "within_default")]
        within: f64,
    }
    fn within_default() -> f64 {
        ADVANCE_TIMEOUT.as_secs_f64()
    }
    #[derive(Serialize)]
    struct Advanced {
        dtm_result: &'static str,
        now_ms: i64,
    }
    let asked: Advance = serde_json::from_slice(&read(api, body).await?)
        .map_err(|error| Error::invalid(format!("want {{\"seconds\": N}}: {error}")))?;
    let span = |name: &str, value: f64| {
        let span = Duration::try_from_secs_f64(value).ok();
        span.filter(|span| span.as_secs() <= MAX_SECONDS)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "{name} is {value}: it must be a number from 0 to {MAX_SECONDS}"
                ))
            })
    };
    let (by, within) = (
        span("seconds", asked.seconds)?,
        span("within", asked.within)?,
    );
    let now_ms = api
        .engine
        .advance(by, within)
        .await
        .map_err(|error| match error {
            AdvanceError::SystemClock => Error::new(ErrorKind::Internal, error.to_string()),
            AdvanceError::Deadline { .. } | AdvanceError::Stopping => {
                Error::new(ErrorKind::Unavailable, error.to_string())
            }
        })?;
    let advanced = Advanced {
        dtm_result: "SUCCESS",
        now_ms,
    };
    Ok(json(StatusCode::OK, to_json(&advanced)))
}

/// Whether the store takes a write now, as `ping` finds; if not, 503 says why.
pub(super) async fn ready(
    ping: impl Future<Output = Result<(), StoreError>>,
) -> Result<Answer, Error> {
    let refused = |why: String| Err(Error::new(ErrorKind::Unavailable, why));
    match tokio::time::timeout(READY_TIMEOUT, ping).await {
        Ok(Ok(())) => Ok(json(StatusCode::OK, r#"{"status":"ok"}"#)),
        Ok(Err(error)) => refused(error.to_string()),
        Err(_) => refused(format!(
            "the store did not answer within {} s",
            READY_TIMEOUT.as_secs()
        )),
    }
}
