//! The health service: SERVING while the store takes writes, as `/readyz` says.

use super::dtm::{DtmServer, DtmService};
use super::operations::{OperationsServer, OperationsService};
use crate::api::{Api, ops};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use std::sync::Arc;
use std::time::Duration;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

#[derive(Clone)]
pub(super) struct HealthService(pub(super) Arc<Api>);

/// How often a watched status is looked at.
const WATCH_PAUSE: Duration = Duration::from_secs(2);

impl HealthService {
    /// `None` for a service that is not here; the empty name stands for the whole server.
    async fn status_of(&self, service: &str) -> Option<ServingStatus> {
        let known = [
            "",
            <DtmServer<DtmService> as NamedService>::NAME,
            <OperationsServer<OperationsService> as NamedService>::NAME,
        ];
        if !known.contains(&service) {
            return None;
        }
        let engine = &self.0.engine;
        if engine.stopping() || ops::ready(engine.store().ping()).await.is_err() {
            return Some(ServingStatus::NotServing);
        }
        Some(ServingStatus::Serving)
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match self.status_of(&service).await {
            Some(status) => Ok(Response::new(reply(status))),
            None => Err(Status::not_found(format!("no service {service:?} here"))),
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (health, service) = (self.clone(), request.into_inner().service);
        let next = move |last: Option<ServingStatus>| {
            let (health, service) = (health.clone(), service.clone());
            async move {
                loop {
                    // Ends with the server, which would wait for it otherwise.
                    if last == Some(ServingStatus::NotServing) && health.0.engine.stopping() {
                        return None;
                    }
                    let now = health.status_of(&service).await;
                    let now = now.unwrap_or(ServingStatus::ServiceUnknown);
                    if last != Some(now) {
                        return Some((Ok(reply(now)), Some(now)));
                    }
                    tokio::time::sleep(WATCH_PAUSE).await;
                }
            }
        };
        Ok(Response::new(unfold(None, next).boxed()))
    }
}

fn reply(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
