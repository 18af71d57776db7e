//! A bank as a gRPC service: the same bank, another door.

use super::bank::{Answer, Branch, Order};
use super::service::{Shared, coordinator_or_app};
use super::timeline::{Entry, Tone};
use crate::api::grpc::codec::Checked;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

/// `bank.Bank/Withdraw` and `bank.Bank/Deposit`, which take an [`Order`] and return nothing.
pub(super) async fn answer(shared: Shared, request: Request<Incoming>) -> Response<Body> {
    let method = request.uri().path().strip_prefix("/bank.Bank/");
    let method = match method {
        Some(method @ ("Withdraw" | "Deposit")) => method.to_owned(),
        _ => return Status::unimplemented("no such method").into_http(),
    };
    let codec = Checked::<(), Order>::default();
    let bank = Method { shared, method };
    tonic::server::Grpc::new(codec).unary(bank, request).await
}

struct Method {
    shared: Shared,
    method: String,
}

impl tower::Service<tonic::Request<Order>> for Method {
    type Response = tonic::Response<()>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<tonic::Response<()>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Order>) -> Self::Future {
        let done = self.carry_out(request.metadata(), request.get_ref());
        async move { done.map(tonic::Response::new) }.boxed()
    }
}

impl Method {
    fn carry_out(&self, metadata: &MetadataMap, order: &Order) -> Result<(), Status> {
        let branch = branch_in(|key| metadata.get(key).and_then(|value| value.to_str().ok()));
        let answer = match self.method.as_str() {
            "Withdraw" => self.shared.bank().withdraw(branch, order),
            _ => self.shared.bank().deposit(branch, order),
        };
        let (code, name, note, tone) = match &answer {
            Answer::Done(note) => (Code::Ok, "OK", note, Tone::Good),
            Answer::Refused(note) => (Code::Aborted, "ABORTED", note, Tone::Bad),
            Answer::NotYet(note) => (
                Code::FailedPrecondition,
                "FAILED_PRECONDITION",
                note,
                Tone::Wait,
            ),
        };
        let agent = metadata.get("user-agent").map(|agent| agent.as_bytes());
        self.shared.timeline.add(&Entry {
            from: coordinator_or_app(agent),
            to: self.shared.name,
            call: &format!("Bank/{}", self.method),
            branch: &format!("{} {}", branch.branch_id, branch.op),
            answer: &format!("{name} {note}"),
            tone,
        });
        match code {
            Code::Ok => Ok(()),
            code => Err(Status::new(code, note)),
        }
    }
}

/// The branch that metadata name.
pub(super) fn branch_in<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Branch<'a> {
    let value = |key: &str| value(key).unwrap_or_default();
    Branch {
        gid: value("dtm-gid"),
        branch_id: value("dtm-branch_id"),
        op: value("dtm-op"),
    }
}
