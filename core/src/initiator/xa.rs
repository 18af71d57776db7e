//! XA for initiators (dtm-clients.md 2.9): prepare, the user's code with its branches, then submit or abort. Each branch registers itself
//! before it prepares, and is called at the same URL in phase 2.

use super::server::Server;
use super::tcc::{BranchNumber, Tcc, XA};
use crate::error::Error;
use crate::machine::{Fact, Machine, Step, StepId};
use crate::options::Options;
use bytes::Bytes;

/// A branch to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Phase 1, and phase 2 as well.
    pub url: String,
    /// The body of the action; phase 2 has none.
    pub payload: Bytes,
}

/// An XA as a machine, which works as a [`Tcc`] does: between its [`StepKind::RunUser`](crate::machine::StepKind::RunUser) and the fact
/// that ends it, the user's code adds branches, and several may be under way.
///
/// It ends well when the submit was taken. A user who reports success although a branch did not succeed is not believed: then it is aborted.
/// A submit whose answer is lost is `OutcomeUnknown`, and never aborted.
#[derive(Clone, Debug)]
pub struct Xa(Tcc);

impl Xa {
    /// An XA of this gid. Error: `Invalid`.
    pub fn new(server: &Server, gid: &str, options: Options) -> Result<Xa, Error> {
        Ok(Xa(Tcc::open(XA, server, gid, options)?))
    }

    /// Adds branches while the user's code runs; [`Xa::result`] has what came of each. Error: `Invalid`, and none is added.
    pub fn branches(&mut self, all: &[Action]) -> Result<Vec<BranchNumber>, Error> {
        self.0.actions(all)
    }

    /// What a branch answered; `None` while it is under way. `Failure` is a definite no, `Ongoing` and others are not known.
    pub fn result(&self, branch: BranchNumber) -> Option<Result<Bytes, Error>> {
        self.0.result(branch)
    }

    /// What TCC and XA have in common.
    #[cfg(feature = "client")]
    pub(crate) fn into_open(self) -> Tcc {
        self.0
    }
}

impl Machine for Xa {
    fn poll(&mut self) -> Option<Step> {
        self.0.poll()
    }

    fn resolve(&mut self, id: StepId, fact: Fact) -> Result<(), Error> {
        self.0.resolve(id, fact)
    }
}

#[cfg(test)]
mod tests;
