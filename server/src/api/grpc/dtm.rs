//! DTM's service: the client routes of the HTTP API once more, on the same engine.

use super::status;
use crate::api::{Api, to_the_end};
use amends::wire::grpc::dtmgimp::{
    DtmBranchRequest, DtmGidReply, DtmProgressesReply, DtmRequest, DtmTopicRequest,
};
use amends::wire::grpc::{global, progresses, registration};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) use generated::dtm_server::DtmServer;

#[allow(unreachable_pub, missing_docs, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/dtmgimp.rs"));
}

#[derive(Clone)]
pub(super) struct DtmService(pub(super) Arc<Api>);

type Answer<T = ()> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, amends::Error>) -> Answer<T> {
    result.map(Response::new).map_err(|error| status(&error))
}

#[tonic::async_trait]
impl generated::dtm_server::Dtm for DtmService {
    async fn new_gid(&self, _: Request<()>) -> Answer<DtmGidReply> {
        let gid = self.0.engine.new_gid().as_str().to_owned();
        Ok(Response::new(DtmGidReply { gid }))
    }

    async fn submit(&self, request: Request<DtmRequest>) -> Answer {
        let request = global(request.into_inner()).map_err(|e| status(&e))?;
        // The engine carries a submit through by itself.
        answer(self.0.engine.submit(request).await)
    }

    async fn prepare(&self, request: Request<DtmRequest>) -> Answer {
        let request = global(request.into_inner()).map_err(|e| status(&e))?;
        let engine = self.0.engine.clone();
        answer(to_the_end(async move { engine.prepare(request).await }).await)
    }

    async fn abort(&self, request: Request<DtmRequest>) -> Answer {
        let request = global(request.into_inner()).map_err(|e| status(&e))?;
        let engine = self.0.engine.clone();
        answer(to_the_end(async move { engine.abort(request).await }).await)
    }

    async fn register_branch(&self, request: Request<DtmBranchRequest>) -> Answer {
        let request = registration(request.into_inner());
        let engine = self.0.engine.clone();
        answer(to_the_end(async move { engine.register_branch(request).await }).await)
    }

    async fn prepare_workflow(&self, request: Request<DtmRequest>) -> Answer<DtmProgressesReply> {
        let request = global(request.into_inner()).map_err(|e| status(&e))?;
        let engine = self.0.engine.clone();
        let tx = to_the_end(async move { engine.prepare_workflow(request).await }).await;
        answer(tx.map(|tx| progresses(&tx)))
    }

    async fn subscribe(&self, request: Request<DtmTopicRequest>) -> Answer {
        self.operator(&request)?;
        let (topics, r) = (self.0.topics.clone(), request.into_inner());
        answer(to_the_end(async move { topics.subscribe(&r.topic, &r.url, &r.remark).await }).await)
    }

    async fn unsubscribe(&self, request: Request<DtmTopicRequest>) -> Answer {
        self.operator(&request)?;
        let (topics, r) = (self.0.topics.clone(), request.into_inner());
        answer(to_the_end(async move { topics.unsubscribe(&r.topic, &r.url).await }).await)
    }

    async fn delete_topic(&self, request: Request<DtmTopicRequest>) -> Answer {
        self.operator(&request)?;
        let (topics, r) = (self.0.topics.clone(), request.into_inner());
        answer(to_the_end(async move { topics.delete(&r.topic).await }).await)
    }
}

impl DtmService {
    fn operator<T>(&self, request: &Request<T>) -> Result<(), Status> {
        super::operator(&self.0, request)
    }
}
