//! The routes of clients (dtm-server.md 4.2).

use super::params::Params;
use super::{Answer, Api, read, success, to_the_end};
use crate::store::Filter;
use ::http::StatusCode;
use amends::wire::http::{page, progress, query as query_answer};
use amends::wire::request::{BranchRequest, GlobalRequest};
use amends::{Error, Status, TransType};
use bytes::Bytes;
use hyper::body::Body;
use std::sync::Arc;

use super::listen::json;

/// Most entries of a page of `all` and `scanKV`.
pub(super) const PAGE_MAX: i64 = 1_000;
/// Entries of a page when the request does not say.
pub(super) const PAGE: i64 = 100;

pub(super) async fn global<B: Body<Data = Bytes> + Unpin>(
    api: &Api,
    body: B,
) -> Result<GlobalRequest, Error> {
    GlobalRequest::from_json(&read(api, body).await?)
}

pub(super) async fn submit<B: Body<Data = Bytes> + Unpin>(
    api: &Arc<Api>,
    body: B,
) -> Result<Answer, Error> {
    let request = global(api, body).await?;
    // The engine carries a submit through by itself: a task more would only cost time.
    api.engine.submit(request).await?;
    Ok(success())
}

pub(super) async fn prepare<B: Body<Data = Bytes> + Unpin>(
    api: &Arc<Api>,
    body: B,
) -> Result<Answer, Error> {
    let request = global(api, body).await?;
    let engine = api.engine.clone();
    to_the_end(async move { engine.prepare(request).await }).await?;
    Ok(success())
}

pub(super) async fn abort<B: Body<Data = Bytes> + Unpin>(
    api: &Arc<Api>,
    body: B,
) -> Result<Answer, Error> {
    let request = global(api, body).await?;
    let engine = api.engine.clone();
    to_the_end(async move { engine.abort(request).await }).await?;
    Ok(success())
}

pub(super) async fn register_branch<B: Body<Data = Bytes> + Unpin>(
    api: &Arc<Api>,
    body: B,
) -> Result<Answer, Error> {
    let request = BranchRequest::from_json(&read(api, body).await?)?;
    let engine = api.engine.clone();
    to_the_end(async move { engine.register_branch(request).await }).await?;
    Ok(success())
}

pub(super) async fn prepare_workflow<B: Body<Data = Bytes> + Unpin>(
    api: &Arc<Api>,
    body: B,
) -> Result<Answer, Error> {
    let request = global(api, body).await?;
    let engine = api.engine.clone();
    let tx = to_the_end(async move { engine.prepare_workflow(request).await }).await?;
    Ok(json(StatusCode::OK, progress(&tx, api.engine.policy())))
}

pub(super) fn new_gid(api: &Api) -> Answer {
    json(
        StatusCode::OK,
        format!(
            r#"{{"dtm_result":"SUCCESS","gid":"{}"}}"#,
            api.engine.new_gid()
        ),
    )
}

pub(super) async fn query(api: &Api, params: &Params<'_>) -> Result<Answer, Error> {
    let gid = params
        .get("gid")
        .ok_or_else(|| Error::invalid("no gid specified"))?;
    let tx = api.engine.query(&gid).await?;
    Ok(json(
        StatusCode::OK,
        query_answer(tx.as_ref(), api.engine.policy()),
    ))
}

pub(super) async fn all(api: &Api, params: &Params<'_>) -> Result<Answer, Error> {
    let policy = api.engine.policy();
    if let Some(gid) = params.get("gid") {
        let tx = api.engine.query(&gid).await?;
        return Ok(json(
            StatusCode::OK,
            page(tx.as_ref().map(std::slice::from_ref), "", policy),
        ));
    }
    let limit = params.within("limit", PAGE, 1..=PAGE_MAX)?;
    let filter = Filter {
        status: params.word("status", Status::parse, Status::ALL)?,
        trans_type: params.word("transType", TransType::parse, TransType::ALL)?,
        created_from: params.number("createTimeStart")?,
        created_to: params.number("createTimeEnd")?,
    };
    let (txs, next) = api
        .engine
        .list(filter, params.get("position"), limit as usize)
        .await?;
    Ok(json(
        StatusCode::OK,
        page(Some(&txs), next.as_deref().unwrap_or_default(), policy),
    ))
}
