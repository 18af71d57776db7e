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
    /// A message's local transaction ran under a gid that was used before: it was rolled back.
    Duplicated = 13,
    /// PostgreSQL had aborted the transaction before it was to be committed: nothing of it was kept.
    Aborted = 14,
    /// A conflict with another transaction; nothing was kept, the same again may succeed.
    Conflict = 15,
    /// The database refused a statement; nothing was kept.
    Database = 16,
    /// Whether it was done is not known: the connection was lost while it was being committed.
    OutcomeUnknown = 17,
    /// A script on Redis failed after it may have written, and what it wrote stays: neither it nor its undo is run again until a person has
    /// looked.
    HalfDone = 18,
}

/// What a participant answers for an error, so that a coordinator takes it as it is meant (rules.md 8.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchAnswer {
    /// HTTP status.
    pub http: u16,
    /// gRPC code.
    pub grpc: i32,
    /// JSON-RPC error code.
    pub jsonrpc: i64,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: &'static [ErrorKind] = &[
        ErrorKind::Invalid,
        ErrorKind::UnknownGid,
        ErrorKind::WrongState,
        ErrorKind::Refused,
        ErrorKind::TooLarge,
        ErrorKind::Failure,
        ErrorKind::Ongoing,
        ErrorKind::TopicNotFound,
        ErrorKind::UrlExists,
        ErrorKind::Unavailable,
        ErrorKind::Unauthorized,
        ErrorKind::Internal,
        ErrorKind::Duplicated,
        ErrorKind::Aborted,
        ErrorKind::Conflict,
        ErrorKind::Database,
        ErrorKind::OutcomeUnknown,
        ErrorKind::HalfDone,
    ];

    /// The number; frozen.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// Whether the same again may succeed without a change.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            ErrorKind::Ongoing
                | ErrorKind::Unavailable
                | ErrorKind::Internal
                | ErrorKind::Aborted
                | ErrorKind::Conflict
                | ErrorKind::Database
                | ErrorKind::OutcomeUnknown
        )
    }

    /// What a participant answers for it. Only a definite no is 409: an unknown error must never become one.
    pub fn branch_answer(self) -> BranchAnswer {
        let (http, grpc, jsonrpc) = match self {
            ErrorKind::Failure => (409, 10, -32901),
            ErrorKind::Ongoing | ErrorKind::Conflict => (425, 9, -32902),
            _ => (500, 13, -32603),
        };
        BranchAnswer {
            http,
            grpc,
            jsonrpc,
        }
    }
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
        self.kind.is_retryable()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frozen table (rules.md 8.5): number, whether the same again may succeed, what a participant answers.
    #[test]
    fn the_table_is_frozen() {
        let table: Vec<(u32, bool, u16, i32, i64)> = ErrorKind::ALL
            .iter()
            .map(|k| {
                let a = k.branch_answer();
                (k.code(), k.is_retryable(), a.http, a.grpc, a.jsonrpc)
            })
            .collect();
        let other = |code, retryable| (code, retryable, 500, 13, -32603);
        assert_eq!(
            table,
            [
                other(1, false),
                other(2, false),
                other(3, false),
                other(4, false),
                other(5, false),
                (6, false, 409, 10, -32901),
                (7, true, 425, 9, -32902),
                other(8, false),
                other(9, false),
                other(10, true),
                other(11, false),
                other(12, true),
                other(13, false),
                other(14, true),
                (15, true, 425, 9, -32902),
                other(16, true),
                other(17, true),
                other(18, false),
            ]
        );
    }
}
