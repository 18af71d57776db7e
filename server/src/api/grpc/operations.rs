//! Our service: what DTM has over HTTP only.

use super::{operator, status};
use crate::api::http::{PAGE, PAGE_MAX};
use crate::api::ops::RESET_MAX;
use crate::api::{Api, to_the_end};
use crate::store::Filter;
use amends::options::MAX_SECONDS;
use amends::time::seconds;
use amends::wire::grpc::v1::{
    ForceStopReply, ForceStopRequest, ListReply, ListRequest, QueryReply, QueryRequest,
    ResetAllReply, ResetAllRequest, ResetReply, ResetRequest,
};
use amends::wire::grpc::{branches, listed, millis, transaction};
use amends::{Error, Status as TxStatus, TransType};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) use generated::operations_server::OperationsServer;

#[allow(unreachable_pub, missing_docs, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/amends.v1.rs"));
}

/// What the payloads of a reply may have together.
const PAYLOADS_MAX: usize = 2 << 20;

#[derive(Clone)]
pub(super) struct OperationsService(pub(super) Arc<Api>);

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, Error>) -> Answer<T> {
    result.map(Response::new).map_err(|error| status(&error))
}

#[tonic::async_trait]
impl generated::operations_server::Operations for OperationsService {
    async fn query(&self, request: Request<QueryRequest>) -> Answer<QueryReply> {
        let gid = request.into_inner().gid;
        let engine = &self.0.engine;
        let found = engine.query(&gid).await;
        answer(found.and_then(|tx| {
            let tx = tx.ok_or_else(|| Error::unknown_gid(&gid))?;
            Ok(QueryReply {
                transaction: Some(transaction(&tx, engine.policy())),
                branches: branches(&tx, PAYLOADS_MAX),
            })
        }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Answer<ListReply> {
        let r = request.into_inner();
        answer(self.page(r).await)
    }

    async fn force_stop(&self, request: Request<ForceStopRequest>) -> Answer<ForceStopReply> {
        operator(&self.0, &request)?;
        let (engine, r) = (self.0.engine.clone(), request.into_inner());
        let stopped =
            to_the_end(async move { engine.force_stop(&r.gid, &r.actor, &r.reason).await });
        answer(stopped.await.map(|()| ForceStopReply {}))
    }

    async fn reset(&self, request: Request<ResetRequest>) -> Answer<ResetReply> {
        operator(&self.0, &request)?;
        let (engine, r) = (self.0.engine.clone(), request.into_inner());
        let reset = to_the_end(async move { engine.reset_next(&r.gid).await });
        answer(reset.await.map(|()| ResetReply {}))
    }

    async fn reset_all(&self, request: Request<ResetAllRequest>) -> Answer<ResetAllReply> {
        operator(&self.0, &request)?;
        answer(self.reset_many(request.into_inner()).await)
    }
}

impl OperationsService {
    async fn page(&self, r: ListRequest) -> Result<ListReply, Error> {
        let engine = &self.0.engine;
        let filter = Filter {
            status: word("status", &r.status, TxStatus::parse, TxStatus::ALL)?,
            trans_type: word(
                "trans_type",
                &r.trans_type,
                TransType::parse,
                TransType::ALL,
            )?,
            created_from: r.created_from.map(millis),
            created_to: r.created_to.map(millis),
        };
        let limit = within("page_size", r.page_size, PAGE, PAGE_MAX)?;
        let position = Some(r.page_token).filter(|token| !token.is_empty());
        let (txs, next) = engine.list(filter, position, limit).await?;
        let policy = engine.policy();
        Ok(ListReply {
            transactions: txs.iter().map(|tx| listed(tx, policy)).collect(),
            next_page_token: next.unwrap_or_default(),
        })
    }

    async fn reset_many(&self, r: ResetAllRequest) -> Result<ResetAllReply, Error> {
        let engine = self.0.engine.clone();
        let ahead = match r.after_seconds {
            None => engine.policy().timeout_to_fail.saturating_mul(3),
            Some(s) if s <= MAX_SECONDS => seconds(s),
            Some(s) => {
                return Err(Error::invalid(format!(
                    "after_seconds is {s}: it must be between 0 and {MAX_SECONDS}"
                )));
            }
        };
        let limit = within("limit", r.limit, PAGE, RESET_MAX)?;
        let after = engine.now().saturating_add(ahead);
        let (count, more) = to_the_end(async move { engine.reset_all(after, limit).await }).await?;
        Ok(ResetAllReply {
            succeed_count: count as u64,
            has_remaining: more,
        })
    }
}

fn within(name: &str, n: u32, default: i64, max: i64) -> Result<usize, Error> {
    let n = if n == 0 { default } else { i64::from(n) };
    usize::try_from(n)
        .ok()
        .filter(|_| n <= max)
        .ok_or_else(|| Error::invalid(format!("{name} is {n}: it must be between 0 and {max}")))
}

fn word<T: Copy + std::fmt::Display>(
    name: &str,
    word: &str,
    parse: fn(&str) -> Option<T>,
    all: &[T],
) -> Result<Option<T>, Error> {
    if word.is_empty() {
        return Ok(None);
    }
    crate::api::params::known(name, word, parse, all).map(Some)
}
