//! A machine that is driven over sqlx: what is the same whatever connection its steps are done on.

use crate::error::{Error, ErrorKind};
use crate::machine::{Calls, Fact, Machine, Output, Step, StepId, StepKind};
use crate::pause::pause;
use std::sync::Arc;
use tracing::{Instrument, Span};

/// The connection that a machine's steps are done on.
pub(super) trait Line: Send {
    /// Does a step on the database. Error: `Internal` for a step that is not asked for on such a connection.
    fn carry_out(&mut self, kind: StepKind) -> impl Future<Output = Result<Fact, Error>> + Send;

    /// The machine has come to its end.
    fn over(&mut self) {}
}

/// A machine with its connection.
#[derive(Debug)]
pub(super) struct Driven<M, L> {
    machine: M,
    pub(super) line: L,
    calls: Option<Arc<dyn Calls>>,
    /// What its calls are part of.
    pub(super) span: Span,
}

/// Where a machine has come to.
pub(super) enum Reached {
    User(StepId),
    End(Output),
}

impl<M: Machine, L: Line> Driven<M, L> {
    pub(super) fn new(machine: M, line: L, calls: Option<Arc<dyn Calls>>) -> Driven<M, L> {
        Driven {
            machine,
            line,
            calls,
            span: Span::none(),
        }
    }

    /// On to the user's code, or to the end.
    pub(super) async fn drive(&mut self) -> Result<Reached, Error> {
        while let Some(Step { id, kind }) = self.machine.poll() {
            let fact = match kind {
                StepKind::RunUser(_) => return Ok(Reached::User(id)),
                StepKind::Done(result) => {
                    self.line.over();
                    return result.map(Reached::End);
                }
                StepKind::Sleep(ms) => {
                    let deadline = self.calls.as_ref().and_then(|calls| calls.deadline());
                    pause(ms, deadline).await
                }
                StepKind::Call(request) => match &self.calls {
                    Some(calls) => calls.call(request).instrument(self.span.clone()).await,
                    None => return Err(strange(&StepKind::Call(request))),
                },
                kind => self.line.carry_out(kind).await?,
            };
            self.machine.resolve(id, fact)?;
        }
        Err(Error::new(ErrorKind::Internal, "a machine without an end"))
    }

    /// On to the end, where no user's code is left to be run.
    pub(super) async fn drive_to_end(&mut self) -> Result<(), Error> {
        match self.drive().await? {
            Reached::End(_) => Ok(()),
            Reached::User(_) => Err(Error::new(
                ErrorKind::Internal,
                "there is no user's code to be run any more",
            )),
        }
    }

    /// What follows from what the user's code ended with.
    pub(super) async fn end(&mut self, user: StepId, fact: Fact) -> Result<(), Error> {
        self.machine.resolve(user, fact)?;
        self.drive_to_end().await
    }

    /// Rolls back; the definite no to answer with.
    pub(super) async fn refuse(&mut self, user: StepId, why: impl Into<String>) -> Error {
        let refused = Err(Error::new(ErrorKind::Failure, why));
        match self.end(user, refused.into()).await {
            Err(error) => error,
            Ok(()) => Error::new(ErrorKind::Internal, "a refusal was not rolled back"),
        }
    }
}

pub(super) fn strange(kind: &StepKind) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("a barrier does not ask for {kind:?}"),
    )
}
