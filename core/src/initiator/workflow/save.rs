//! Storing a row of a workflow, and finding out what became of it when that is not clear.

use crate::error::{Error, ErrorKind};
use crate::initiator::answers::Progresses;
use crate::initiator::ask::{Answered, Ask};
use crate::initiator::workflow::journal::Journal;
use crate::initiator::workflow::run::not_of_a_branch;
use crate::machine::{Fact, Request, StepKind};

/// A row on its way to the coordinator.
#[derive(Clone, Debug)]
pub(super) struct Save {
    branch: String,
    op: String,
    run: String,
    store: Ask,
    read: Ask<Progresses>,
    /// Why it is being read again.
    unclear: Option<Error>,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(super) enum Saved {
    /// It is stored.
    Stored,
    /// Another runner has stored this row, or it cannot be stored any more.
    Lost(Progresses, Error),
    /// It is not stored, or nobody knows.
    Unknown(Error),
}

impl Save {
    pub(super) fn new(branch: &str, op: &str, run: &str, store: Request, read: Request) -> Save {
        Save {
            branch: branch.to_owned(),
            op: op.to_owned(),
            run: run.to_owned(),
            store: Ask::registering(store),
            read: Ask::reading(read),
            unclear: None,
        }
    }

    pub(super) fn step(&self) -> StepKind {
        match self.unclear {
            None => self.store.step(),
            Some(_) => self.read.step(),
        }
    }

    /// `None` if the fact does not fit; `Some(None)` if there is another step.
    pub(super) fn next(&mut self, fact: Fact) -> Option<Option<Saved>> {
        let Some(why) = &self.unclear else {
            return Some(match self.store.next(fact)? {
                Some(Answered::Ok(())) => Some(Saved::Stored),
                // It will never be taken as it is.
                Some(Answered::Refused { error, .. }) if error.kind() == ErrorKind::Invalid => {
                    Some(Saved::Unknown(error))
                }
                Some(Answered::Refused { error, .. } | Answered::Unanswered(error)) => {
                    self.unclear = Some(not_of_a_branch(error));
                    None
                }
                None => None,
            });
        };
        let why = why.clone();
        Some(match self.read.next(fact)? {
            Some(Answered::Ok(now)) => {
                let journal = Journal::new(&now);
                let row = journal.get(&self.branch, &self.op);
                Some(match row {
                    Some(row) if row.frame.run == self.run => Saved::Stored,
                    Some(_) => Saved::Lost(now, why),
                    None if now.status.is_final() || journal.decision().is_some() => {
                        Saved::Lost(now, why)
                    }
                    None => Saved::Unknown(why),
                })
            }
            Some(Answered::Refused { error, .. } | Answered::Unanswered(error)) => {
                Some(Saved::Unknown(not_of_a_branch(error)))
            }
            None => None,
        })
    }
}
