//! XA for Rust users: a guard instead of a closure, as for TCC.

use super::Client;
use super::tcc::{TccRun, stuck};
use crate::error::Error;
use crate::initiator::xa::Action;
use crate::initiator::{Server, Xa};
use crate::machine::Calls;
use crate::options::Options;
use bytes::Bytes;
use std::sync::Arc;

/// An XA that is open: call its branches, then submit or abort it. Dropped, it is rolled back by the coordinator after its
/// `timeout_to_fail`.
#[derive(Debug)]
#[must_use = "an xa that is dropped is rolled back by its timeout"]
pub struct XaRun(TccRun);

impl Client {
    /// Prepares an XA. Errors: `Invalid`, `Refused` for a gid that was used before, `Unavailable`.
    pub async fn xa(&self, gid: &str, options: Options) -> Result<XaRun, Error> {
        XaRun::begin(&self.server, Arc::new(self.clone()), gid, options).await
    }
}

impl XaRun {
    /// As [`Client::xa`], with a transport of your own.
    pub async fn begin(
        server: &Server,
        calls: Arc<dyn Calls>,
        gid: &str,
        options: Options,
    ) -> Result<XaRun, Error> {
        let span = tracing::info_span!("xa", gid);
        let xa = Xa::new(server, gid, options)?;
        Ok(XaRun(TccRun::open(calls, xa.into_open(), span).await?))
    }

    /// Calls a branch; what it answered. Errors: `Failure` for a definite no; whatever the error is, the transaction can only be aborted
    /// from now on.
    pub async fn call(
        &mut self,
        url: impl Into<String>,
        payload: impl AsRef<[u8]>,
    ) -> Result<Bytes, Error> {
        let action = Action {
            url: url.into(),
            payload: Bytes::copy_from_slice(payload.as_ref()),
        };
        let mut results = self.calls(&[action]).await?;
        results.pop().unwrap_or_else(|| Err(stuck()))
    }

    /// The same for several at a time; their results in the order given. Error: `Invalid`, before anything was called.
    pub async fn calls(&mut self, all: &[Action]) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let numbers = self.0.tcc.actions(all)?;
        self.0.ended(&numbers).await
    }

    /// Commits all branches. With `wait_result` they are committed when this returns. Errors: that of a branch that did not succeed, and
    /// then it was aborted; `OutcomeUnknown` if the answer was lost, and then it was not.
    pub async fn submit(self) -> Result<(), Error> {
        self.0.submit().await
    }

    /// Rolls all branches back; the error is kept as the reason, and returned.
    pub async fn abort(self, error: Error) -> Error {
        self.0.abort(error).await
    }
}
