//! Calls to branches: the transport that makes them, and the limits that say when.

pub mod http;
mod pool;
pub mod slots;
mod url;

use amends::Outcome;
use amends::wire::call::HttpCall;
use futures_util::future::BoxFuture;

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
    fn call(&self, call: HttpCall) -> BoxFuture<'static, Reply>;
}
