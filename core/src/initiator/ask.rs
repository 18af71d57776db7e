//! One request to the coordinator, asked again while that is harmless and helps.

use super::answers::{Progresses, branches, classify, over_http, progresses};
use crate::error::{Error, ErrorKind};
use crate::machine::{Fact, Request, StepKind};
use crate::time::Millis;

/// How often a request without an answer is made again.
pub const RETRIES: u32 = 3;
/// The pause before the first of these, ms; it doubles.
const PAUSE: Millis = 100;

/// A request that may be repeated: newGid, query, prepare, submit and abort are (dtm-clients.md 4.6).
#[derive(Clone, Debug)]
pub(crate) struct Ask<T = ()> {
    request: Request,
    attempt: u32,
    /// Since the last attempt, which went so.
    pausing: Option<Error>,
    /// Whether some attempt may have arrived without its answer.
    maybe_done: bool,
    /// Whether it may be asked again after a 500. Not a registration: DTM's 500 may say that somebody else's row stands there, and must not
    /// come to look like one's own.
    idempotent: bool,
    /// What an answer means.
    read: fn(u16, &[u8]) -> Result<T, Error>,
}

/// Something broke within the coordinator, which may have done the request or not.
const BROKEN: u16 = 500;

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answered<T = ()> {
    /// Done.
    Ok(T),
    /// Refused, or not done.
    Refused {
        error: Error,
        /// Whether an earlier attempt may have been carried out, so that the refusal may be about its consequences.
        maybe_done: bool,
    },
    /// No answer after all attempts.
    Unanswered(Error),
}

impl Answered {
    /// What it means for a registerBranch. It is not idempotent at DTM, which says so of a row that an attempt without an answer has stored.
    pub(crate) fn registered(self) -> Result<(), Error> {
        match self {
            Answered::Ok(()) => Ok(()),
            Answered::Refused { error, maybe_done }
                if maybe_done && is_duplicate(error.message()) =>
            {
                Ok(())
            }
            Answered::Refused { error, .. } | Answered::Unanswered(error) => Err(error),
        }
    }
}

fn is_duplicate(text: &str) -> bool {
    ["UniqueKeyConflict", "Duplicate entry", "duplicate key"]
        .iter()
        .any(|word| text.contains(word))
}

impl Ask {
    pub(crate) fn new(request: Request) -> Ask {
        Ask::of(request, classify)
    }

    /// A registerBranch.
    pub(crate) fn registering(request: Request) -> Ask {
        Ask {
            idempotent: false,
            ..Ask::new(request)
        }
    }
}

impl Ask<Progresses> {
    /// A prepareWorkflow.
    pub(super) fn reading(request: Request) -> Ask<Progresses> {
        Ask::of(request, progresses)
    }
}

impl Ask<usize> {
    /// A query: how many rows of branches are stored.
    pub(super) fn counting(request: Request) -> Ask<usize> {
        Ask::of(request, branches)
    }
}

impl<T> Ask<T> {
    fn of(request: Request, read: fn(u16, &[u8]) -> Result<T, Error>) -> Ask<T> {
        Ask {
            request,
            attempt: 0,
            pausing: None,
            maybe_done: false,
            idempotent: true,
            read,
        }
    }

    pub(crate) fn step(&self) -> StepKind {
        if self.pausing.is_some() {
            StepKind::Sleep(PAUSE << self.attempt.saturating_sub(1))
        } else {
            StepKind::Call(self.request.clone())
        }
    }

    /// `None` if the fact does not fit; `Some(None)` if there is another step.
    pub(crate) fn next(&mut self, fact: Fact) -> Option<Option<Answered<T>>> {
        let error = match (&self.pausing, fact) {
            (Some(_), Fact::Done) => {
                self.pausing = None;
                return Some(None);
            }
            // No time is left for another attempt.
            (Some(last), Fact::Cancelled) => {
                return Some(Some(Answered::Unanswered(self.unanswered(last))));
            }
            (
                None,
                Fact::Answer {
                    status,
                    body,
                    message,
                },
            ) => {
                let (status, body) = over_http(&self.request, status, &body, &message);
                match (self.read)(status, &body) {
                    Ok(value) => return Some(Some(Answered::Ok(value))),
                    // It took nothing in; it may later.
                    Err(error) if error.kind() == ErrorKind::Unavailable => {
                        // A proxy in between may have passed it on.
                        self.maybe_done |= matches!(status, 502 | 504);
                        error
                    }
                    Err(error)
                        if status == BROKEN
                            && error.kind() == ErrorKind::Internal
                            && self.attempt < RETRIES
                            && self.idempotent =>
                    {
                        self.maybe_done = true;
                        error
                    }
                    Err(error) => {
                        return Some(Some(Answered::Refused {
                            error,
                            maybe_done: self.maybe_done,
                        }));
                    }
                }
            }
            (None, Fact::NoAnswer { sent, message }) => {
                self.maybe_done |= sent;
                Error::new(ErrorKind::Unavailable, message)
            }
            (None, Fact::Cancelled) => {
                self.maybe_done = true;
                let error = Error::new(ErrorKind::OutcomeUnknown, "cancelled");
                return Some(Some(Answered::Unanswered(error)));
            }
            _ => return None,
        };
        if self.attempt < RETRIES {
            self.attempt += 1;
            self.pausing = Some(error);
            return Some(None);
        }
        Some(Some(Answered::Unanswered(self.unanswered(&error))))
    }

    fn unanswered(&self, last: &Error) -> Error {
        let kind = if self.maybe_done {
            ErrorKind::OutcomeUnknown
        } else {
            ErrorKind::Unavailable
        };
        Error::new(kind, last.message())
    }
}
