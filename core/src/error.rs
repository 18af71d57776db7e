//! One error type. Kinds are stable numbers; front ends map kinds, never texts.

use crate::branch::Status;
use std::fmt;

/// What went wrong, as a caller can act on it. The numbers are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ErrorKind {
    /// Malformed, out of limits, or inconsistent: the request can never succeed as it is. Nothing was stored.
    Invalid = 1,
    /// No transaction with this gid.
    UnknownGid = 2,
    /// The stored status does not allow the request; [`Error::status`] has it.
    WrongState = 3,
    /// A workflow's registerBranch was refused: another runner was first, or the workflow is not open.
    Refused = 4,
    /// The message as a whole is over the limit.
    TooLarge = 5,
    /// The transaction was rolled back, or will be: a definite no.
    Failure = 6,
    /// Not ended yet; ask again.
    Ongoing = 7,
    /// No such topic, or no such subscriber.
    TopicNotFound = 8,
    /// The subscriber is there already.
    UrlExists = 9,
    /// The store cannot take the write now (down, or the disk is full); nothing was stored.
    Unavailable = 10,
    /// The operator's token is missing or wrong.
    Unauthorized = 11,
    /// A fault of Amends itself.
    Internal = 12,
}

/// An error with its kind, a text for people, and the stored status where that was the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    status: Option<Status>,
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            status: None,
        }
    }

    /// A request that can never succeed as it is; the text names the field, the limit and the fix.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    /// No transaction with this gid, in DTM's words.
    pub fn unknown_gid(gid: &str) -> Error {
        Error::new(
            ErrorKind::UnknownGid,
            format!("no TransGlobal with gid: {gid} found"),
        )
    }

    /// The stored status does not allow the request.
    pub fn wrong_state(status: Option<Status>, message: impl Into<String>) -> Error {
        Error {
            kind: ErrorKind::WrongState,
            message: message.into(),
            status,
        }
    }

    /// The same error with the stored status attached.
    pub fn with_status(mut self, status: Status) -> Error {
        self.status = Some(status);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The stored status, where it was the reason.
    pub fn status(&self) -> Option<Status> {
        self.status
    }

    /// Whether the same request may succeed later without a change.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Ongoing | ErrorKind::Unavailable | ErrorKind::Internal
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
