//! One request to the coordinator, asked again while that is harmless and helps.

use super::server::classify;
use crate::error::{Error, ErrorKind};
use crate::machine::{Fact, Request, StepKind};
use crate::time::Millis;

/// How often a request without an answer is made again.
pub const RETRIES: u32 = 3;
/// The pause before the first of these, ms; it doubles.
const PAUSE: Millis = 100;

/// A request that may be repeated: newGid, query, prepare, submit and abort are (dtm-clients.md 4.6).
#[derive(Clone, Debug)]
pub(super) struct Ask {
    request: Request,
    attempt: u32,
    pausing: bool,
    /// Whether some attempt may have arrived without its answer.
    maybe_done: bool,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// Done.
    Ok,
    /// Refused, or not done.
    Refused {
        error: Error,
        /// Whether an earlier attempt may have been carried out, so that the refusal may be about its consequences.
        maybe_done: bool,
    },
    /// No answer after all attempts.
    Unanswered(Error),
}

impl Ask {
    pub(super) fn new(request: Request) -> Ask {
        Ask {
            request,
            attempt: 0,
            pausing: false,
            maybe_done: false,
        }
    }

    pub(super) fn step(&self) -> StepKind {
        if self.pausing {
            StepKind::Sleep(PAUSE << self.attempt.saturating_sub(1))
        } else {
            StepKind::Call(self.request.clone())
        }
    }

    /// `None` if the fact does not fit; `Some(None)` if there is another step.
    pub(super) fn next(&mut self, fact: Fact) -> Option<Option<Answered>> {
        let error = match (self.pausing, fact) {
            (true, Fact::Done) => {
                self.pausing = false;
                return Some(None);
            }
            (false, Fact::Answer { status, body, .. }) => match classify(status, &body) {
                Ok(()) => return Some(Some(Answered::Ok)),
                // It took nothing in; it may later.
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    // A proxy in between may have passed it on.
                    self.maybe_done |= matches!(status, 502 | 504);
                    error
                }
                Err(error) => {
                    return Some(Some(Answered::Refused {
                        error,
                        maybe_done: self.maybe_done,
                    }));
                }
            },
            (false, Fact::NoAnswer { sent, message }) => {
                self.maybe_done |= sent;
                Error::new(ErrorKind::Unavailable, message)
            }
            (false, Fact::Cancelled) => {
                self.maybe_done = true;
                let error = Error::new(ErrorKind::OutcomeUnknown, "cancelled");
                return Some(Some(Answered::Unanswered(error)));
            }
            (true, Fact::Cancelled) => {
                let error = self.unanswered("cancelled".to_owned());
                return Some(Some(Answered::Unanswered(error)));
            }
            _ => return None,
        };
        if self.attempt < RETRIES {
            self.attempt += 1;
            self.pausing = true;
            return Some(None);
        }
        let error = self.unanswered(error.message().to_owned());
        Some(Some(Answered::Unanswered(error)))
    }

    fn unanswered(&self, message: String) -> Error {
        let kind = if self.maybe_done {
            ErrorKind::OutcomeUnknown
        } else {
            ErrorKind::Unavailable
        };
        Error::new(kind, message)
    }
}
