//! Calls to branches: the transport that makes them, and the limits that say when.

mod connect;
mod exchange;
mod framing;
pub mod grpc;
pub mod http;
mod pool;
pub mod slots;
mod url;

use amends::wire::call::BranchCall;
use amends::{Compat, Outcome};
use futures_util::future::BoxFuture;

pub use grpc::GrpcTransport;
pub use http::HttpTransport;
pub use slots::Slots;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What the answer meant (rules.md 3). The text of an error names what happened and the host, and holds no credentials.
    pub outcome: Outcome,
    /// Whether nothing answered: no connection, a broken one, or a timeout. Feeds the circuit breaker (rules.md 4.5); any answer,
    /// also an error status, leaves it `false`.
    pub unreachable: bool,
}

/// Whatever can make a branch call. The engine knows only this; tests put faulty networks behind it.
pub trait Transport: Send + Sync + 'static {
    /// Makes the call and reads the answer. Always resolves, at the latest after `call.timeout`; dropping the future abandons the
    /// call, whose effect is then unknown.
    fn call(&self, call: BranchCall) -> BoxFuture<'static, Reply>;
}

/// The built-in client for branch calls. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct BranchClient {
    http: HttpTransport,
    grpc: GrpcTransport,
}

impl BranchClient {
    /// A client that reads at most `answer_limit` bytes of an HTTP answer and classifies it with these switches; with `docker`, the
    /// first `localhost` and the first `127.0.0.1` of a URL become `host.docker.internal`, as DTM does when `IS_DOCKER` is set
    /// (dtm-server.md 1).
    pub fn new(compat: Compat, answer_limit: usize, docker: bool) -> BranchClient {
        BranchClient {
            http: HttpTransport::with_docker(compat, answer_limit, docker),
            grpc: GrpcTransport::new(docker),
        }
    }
}

impl Transport for BranchClient {
    fn call(&self, call: BranchCall) -> BoxFuture<'static, Reply> {
        match call {
            BranchCall::Http(call) => self.http.call(call),
            BranchCall::Grpc(call) => self.grpc.call(call),
        }
    }
}
