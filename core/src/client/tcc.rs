//! TCC for Rust users: a guard instead of a closure, so that the user's code borrows what it likes.

use super::Client;
use crate::error::{Error, ErrorKind};
use crate::initiator::server::Server;
use crate::initiator::tcc::BranchNumber;
use crate::initiator::{Tcc, Try};
use crate::machine::{Calls, Fact, Machine, StepId, StepKind};
use crate::options::Options;
use crate::participant::Identity;
use bytes::Bytes;
use std::time::Duration;
use tokio::task::JoinSet;

/// A TCC that is open: add branches, then submit or abort it. Dropped, it is cancelled by the coordinator after its `timeout_to_fail`.
#[derive(Debug)]
#[must_use = "a tcc that is dropped is cancelled by its timeout"]
pub struct TccRun {
    client: Client,
    tcc: Tcc,
    user: StepId,
    calls: JoinSet<(StepId, Fact)>,
}

impl Client {
    /// Prepares a TCC. Errors: `Invalid`, `WrongState` for a gid that was used before, `Unavailable`.
    pub async fn tcc(&self, gid: &str, options: Options) -> Result<TccRun, Error> {
        TccRun::open(self, Tcc::new(&self.server, gid, options)?).await
    }

    /// Branches of a branch, in a try that came in with this identity and, in its parameter `dtm`, the base path of the coordinator. End it
    /// before the try is answered; an error is the try's own answer. Error: `Invalid` if the call is no try.
    pub async fn nested_tcc(
        &self,
        who: &Identity,
        dtm: &str,
        options: Options,
    ) -> Result<TccRun, Error> {
        let server = Server::new(dtm, super::TIMEOUT);
        TccRun::open(self, Tcc::nested(&server, who, options)?).await
    }
}

impl TccRun {
    async fn open(client: &Client, tcc: Tcc) -> Result<TccRun, Error> {
        let mut run = TccRun {
            client: client.clone(),
            tcc,
            user: 0,
            calls: JoinSet::new(),
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
    /// can only be aborted from now on.
    pub async fn branch(&mut self, branch: &Try) -> Result<Bytes, Error> {
        let mut results = self.branches(std::slice::from_ref(branch)).await?;
        results.pop().unwrap_or_else(|| Err(stuck()))
    }

    /// The same for several at a time; their results in the order given. Error: `Invalid`, before anything was called.
    pub async fn branches(&mut self, all: &[Try]) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let numbers: Vec<BranchNumber> = self.tcc.branches(all)?;
        loop {
            let results: Option<Vec<_>> = numbers.iter().map(|n| self.tcc.result(*n)).collect();
            match results {
                Some(results) => return Ok(results),
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
        let failed = Fact::UserFailed {
            kind: error.kind(),
            message: error.message().to_owned(),
        };
        self.end(failed).await.err().unwrap_or(error)
    }

    async fn end(mut self, fact: Fact) -> Result<(), Error> {
        self.tcc.resolve(self.user, fact)?;
        self.calls.abort_all();
        self.calls = JoinSet::new();
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
                    let client = self.client.clone();
                    self.calls
                        .spawn(async move { (id, client.call(request).await) });
                }
                StepKind::Sleep(pause) => {
                    let pause = Duration::from_millis(u64::try_from(pause).unwrap_or(0));
                    self.calls.spawn(async move {
                        tokio::time::sleep(pause).await;
                        (id, Fact::Done)
                    });
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
        match self.calls.join_next().await {
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

fn stuck() -> Error {
    Error::new(ErrorKind::Internal, "a tcc that does not go on")
}
