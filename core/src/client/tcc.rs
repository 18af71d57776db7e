//! TCC for Rust users: a guard instead of a closure, so that the user's code borrows what it likes.

use super::Client;
use crate::error::{Error, ErrorKind};
use crate::initiator::server::Server;
use crate::initiator::tcc::BranchNumber;
use crate::initiator::{Tcc, Try};
use crate::machine::{Calls, Fact, Machine, StepId, StepKind};
use crate::options::Options;
use crate::participant::Identity;
use crate::pause::pause;
use bytes::Bytes;
use std::sync::Arc;
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

/// A TCC that is open: add branches, then submit or abort it. Dropped, it is cancelled by the coordinator after its `timeout_to_fail`.
#[derive(Debug)]
#[must_use = "a tcc that is dropped is cancelled by its timeout"]
pub struct TccRun {
    calls: Arc<dyn Calls>,
    pub(super) tcc: Tcc,
    user: StepId,
    under_way: JoinSet<(StepId, Fact)>,
    /// Tries that somebody waits for.
    awaited: Vec<BranchNumber>,
    span: Span,
}

impl Client {
    /// Prepares a TCC. Errors: `Invalid`, `Refused` for a gid that was used before, also by a run that died before it submitted;
    /// `Unavailable`.
    pub async fn tcc(&self, gid: &str, options: Options) -> Result<TccRun, Error> {
        TccRun::begin(&self.server, Arc::new(self.clone()), gid, options).await
    }

    /// Branches of a branch, in a try that came in with this identity. They are registered at this client's coordinator, whatever the
    /// call says: whoever can call a participant must not be able to send it elsewhere. End it before the try is answered; an error is the
    /// try's own answer. Error: `Invalid` if the call is no try.
    pub async fn nested_tcc(&self, who: &Identity, options: Options) -> Result<TccRun, Error> {
        let span = tracing::info_span!("tcc", gid = who.gid.as_str());
        let tcc = Tcc::nested(&self.server, who, options)?;
        TccRun::open(Arc::new(self.clone()), tcc, span).await
    }
}

impl TccRun {
    /// As [`Client::tcc`], with a transport of your own.
    pub async fn begin(
        server: &Server,
        calls: Arc<dyn Calls>,
        gid: &str,
        options: Options,
    ) -> Result<TccRun, Error> {
        let span = tracing::info_span!("tcc", gid);
        TccRun::open(calls, Tcc::new(server, gid, options)?, span).await
    }

    pub(super) async fn open(calls: Arc<dyn Calls>, tcc: Tcc, span: Span) -> Result<TccRun, Error> {
        let mut run = TccRun {
            calls,
            tcc,
            user: 0,
            under_way: JoinSet::new(),
            awaited: Vec::new(),
            span,
        };
        loop {
            match run.advance().await? {
                Came::ToUser(step) => {
                    run.user = step;
                    return Ok(run);
                }
                Came::Further => {}
                Came::ToEnd(result) => {
                    result?;
                    return Err(stuck());
                }
            }
        }
    }

    /// Registers a branch and calls its try; what it answered. Errors: `Failure` for a definite no; whatever the error is, the transaction
    /// can only be aborted from now on. The same if this future is dropped before it ends: its try may be made all the same, and is
    /// cancelled.
    pub async fn branch(&mut self, branch: &Try) -> Result<Bytes, Error> {
        let mut results = self.branches(std::slice::from_ref(branch)).await?;
        results.pop().unwrap_or_else(|| Err(stuck()))
    }

    /// The same for several at a time; their results in the order given. Error: `Invalid`, before anything was called.
    pub async fn branches(&mut self, all: &[Try]) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let numbers = self.tcc.branches(all)?;
        self.ended(&numbers).await
    }

    /// Waits until these branches were called.
    pub(super) async fn ended(
        &mut self,
        numbers: &[BranchNumber],
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        self.give_up();
        self.awaited = numbers.to_vec();
        loop {
            let results: Option<Vec<_>> = numbers.iter().map(|n| self.tcc.result(*n)).collect();
            match results {
                Some(results) => {
                    self.awaited.clear();
                    return Ok(results);
                }
                None => match self.advance().await? {
                    Came::Further => {}
                    Came::ToUser(_) | Came::ToEnd(_) => return Err(stuck()),
                },
            }
        }
    }

    /// Confirms all branches. With `wait_result` they are confirmed when this returns. Errors: that of a try that did not succeed, and then
    /// it was aborted; `OutcomeUnknown` if the answer was lost, and then it was not.
    pub async fn submit(self) -> Result<(), Error> {
        self.end(Fact::UserOk(Bytes::new())).await
    }

    /// Cancels all branches; the error is kept as the reason, and returned.
    pub async fn abort(self, error: Error) -> Error {
        self.end(Fact::from(Err(error.clone())))
            .await
            .err()
            .unwrap_or(error)
    }

    /// Whoever waited for these was dropped.
    fn give_up(&mut self) {
        for number in self.awaited.drain(..) {
            self.tcc.give_up(number);
        }
    }

    async fn end(mut self, fact: Fact) -> Result<(), Error> {
        self.give_up();
        self.tcc.resolve(self.user, fact)?;
        self.under_way = JoinSet::new();
        loop {
            match self.advance().await? {
                Came::Further => {}
                Came::ToEnd(result) => return result,
                Came::ToUser(_) => return Err(stuck()),
            }
        }
    }

    /// Starts all steps that there are, and waits for one of them to end.
    async fn advance(&mut self) -> Result<Came, Error> {
        while let Some(step) = self.tcc.poll() {
            let id = step.id;
            match step.kind {
                StepKind::Call(request) => {
                    let calls = self.calls.clone();
                    let call = async move { (id, calls.call(request).await) };
                    self.under_way.spawn(call.instrument(self.span.clone()));
                }
                StepKind::Sleep(ms) => {
                    let deadline = self.calls.deadline();
                    let rest = async move { (id, pause(ms, deadline).await) };
                    self.under_way.spawn(rest);
                }
                StepKind::RunUser(_) => return Ok(Came::ToUser(id)),
                StepKind::Done(result) => return Ok(Came::ToEnd(result.map(|_| ()))),
                other => {
                    return Err(Error::new(
                        ErrorKind::Internal,
                        format!("a tcc does not ask for {other:?}"),
                    ));
                }
            }
        }
        match self.under_way.join_next().await {
            Some(Ok((id, fact))) => self.tcc.resolve(id, fact)?,
            Some(Err(ended)) => return Err(Error::new(ErrorKind::Internal, ended.to_string())),
            None => return Err(stuck()),
        }
        Ok(Came::Further)
    }
}

enum Came {
    ToUser(StepId),
    Further,
    ToEnd(Result<(), Error>),
}

pub(super) fn stuck() -> Error {
    Error::new(ErrorKind::Internal, "a tcc that does not go on")
}
