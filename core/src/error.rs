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
    Refused = 3,
    /// A workflow's registerBranch was refused: another runner was first, or the workflow is not open.
    RowRefused = 4,
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
    /// The database had rolled the transaction back before it was to be committed, for the error of a statement was swallowed: nothing of
    /// it was kept, but for what followed it in a joined transaction on MySQL.
    Aborted = 14,
    /// A conflict with another transaction; nothing was kept, the same again may succeed.
    Conflict = 15,
    /// The database refused a statement; nothing was kept.
    Database = 16,
    /// Whether it was done is not known: the connection was lost while it was being committed.
    OutcomeUnknown = 17,
    /// Only a part may have been made, and it stays; a person has to look. A script on Redis failed after it may have written: neither it nor
    /// its undo is run again. Or the user's code ended the barrier's transaction itself, so that it was not one change: its row is
    /// committed, and a repeated call is a duplicate.
    HalfDone = 18,
    /// A workflow's body took other steps than those that are recorded.
    Nondeterministic = 19,
    /// Another run of the same workflow is ahead: this one stops, and that one goes on.
    LostRace = 20,
    /// A workflow is decided, and the step was not made: its body is to be left. Users never see it as a result.
    Unwind = 21,
}

/// What stands for an error in an answer, over each wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codes {
    /// HTTP status.
    pub http: u16,
    /// gRPC code.
    pub grpc: i32,
    /// JSON-RPC error code.
    pub jsonrpc: i64,
}

/// A kind's row in the one table (rules.md 8.5).
struct Row {
    retryable: bool,
    /// From a participant to the coordinator.
    branch: Codes,
    /// From the coordinator to a client.
    coordinator: Codes,
}

const fn codes(http: u16, grpc: i32, jsonrpc: i64) -> Codes {
    Codes {
        http,
        grpc,
        jsonrpc,
    }
}

/// A definite no. Only [`ErrorKind::Failure`] has it: an unknown error must never become one.
const NO: Codes = codes(409, 10, -32901);
const NOT_YET: Codes = codes(425, 9, -32902);
const ERROR: Codes = codes(500, 13, -32603);

impl ErrorKind {
    /// Every kind.
    pub const ALL: &'static [ErrorKind] = &[
        ErrorKind::Invalid,
        ErrorKind::UnknownGid,
        ErrorKind::Refused,
        ErrorKind::RowRefused,
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
        ErrorKind::Nondeterministic,
        ErrorKind::LostRace,
        ErrorKind::Unwind,
    ];

    /// The number; frozen.
    pub fn code(self) -> u32 {
        self as u32
    }

    const fn row(self) -> Row {
        use ErrorKind::*;
        let (retryable, branch, coordinator) = match self {
            Invalid => (false, ERROR, codes(400, 3, -32602)),
            UnknownGid => (false, ERROR, codes(404, 5, -32603)),
            Refused => (false, ERROR, codes(409, 10, -32901)),
            // DTM's Go client takes ABORTED for a business failure, and would roll back.
            RowRefused => (false, ERROR, codes(409, 9, -32603)),
            TooLarge => (false, ERROR, codes(413, 8, -32602)),
            Failure => (false, NO, NO),
            Ongoing => (true, NOT_YET, codes(425, 9, -32603)),
            TopicNotFound => (false, ERROR, codes(404, 5, -32603)),
            UrlExists => (false, ERROR, codes(409, 6, -32603)),
            Unavailable => (true, ERROR, codes(503, 14, -32000)),
            Unauthorized => (false, ERROR, codes(401, 16, -32603)),
            Internal => (true, ERROR, ERROR),
            // From here on a client's own; no coordinator answers them.
            Duplicated | HalfDone | Nondeterministic | Unwind => (false, ERROR, ERROR),
            Aborted | Database | OutcomeUnknown => (true, ERROR, ERROR),
            Conflict | LostRace => (true, NOT_YET, ERROR),
        };
        Row {
            retryable,
            branch,
            coordinator,
        }
    }

    /// Whether the same again may succeed without a change.
    pub const fn is_retryable(self) -> bool {
        self.row().retryable
    }

    /// What a participant answers for it, so that a coordinator takes it as it is meant.
    pub const fn branch_answer(self) -> Codes {
        self.row().branch
    }

    /// What a coordinator answers for it (rules.md 2.1).
    pub const fn coordinator_answer(self) -> Codes {
        self.row().coordinator
    }

    /// What a coordinator means by an answer: [`ErrorKind::coordinator_answer`] read from right to left. Where kinds share a status, its
    /// words tell them apart, which are DTM's and the same in every version of both servers.
    pub fn of_coordinator(said: &Said<'_>) -> ErrorKind {
        let text = said.text;
        match said.http {
            // DTM's words when what was waited for has not ended.
            409 | 500
                if text.starts_with("your http/grpc result should be")
                    && text.contains("unkown result will be retried") =>
            {
                ErrorKind::Ongoing
            }
            409 if text.starts_with("wait result not return success") => ErrorKind::Ongoing,
            400 => ErrorKind::Invalid,
            401 | 403 => ErrorKind::Unauthorized,
            // DTM says these under 500.
            404 | 500 if text.contains("no TransGlobal with gid") => ErrorKind::UnknownGid,
            404 | 500 if text == "topic not found" => ErrorKind::TopicNotFound,
            404 if text.starts_with("no trans with gid") => ErrorKind::UnknownGid,
            404 if text.contains("topic")
                || text.contains("such an url")
                || text == "storage: NotFound" =>
            {
                ErrorKind::TopicNotFound
            }
            // Something else is listening there.
            404 => ErrorKind::Invalid,
            409 if said.is_of_state() => ErrorKind::Refused,
            // What was waited for has ended so; the text is its reason, which may be anything.
            409 if said.failure => ErrorKind::Failure,
            409 if text == "this url exists" => ErrorKind::UrlExists,
            409 if text.starts_with("no trans with gid") => ErrorKind::RowRefused,
            // Somebody else's: an unknown error is never a definite no.
            409 => ErrorKind::Internal,
            413 => ErrorKind::TooLarge,
            425 => ErrorKind::Ongoing,
            429 | 502..=504 => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        }
    }
}

/// What a coordinator's answer says.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// HTTP status.
    pub http: u16,
    /// Whether its `dtm_result` is `FAILURE`.
    pub failure: bool,
    /// The stored status, where the answer has it as a member of its own.
    pub status: Option<Status>,
    /// The text for people.
    pub text: &'a str,
}

impl Said<'_> {
    /// Whether the stored state does not allow what was asked. Such texts begin so: a reason may hold these words further on, and one that
    /// a branch had from a coordinator itself names another status than the transaction's own.
    fn is_of_state(&self) -> bool {
        let text = self.text;
        match self.named_status() {
            Some(named) => self.status.is_none_or(|stored| stored == named),
            None => {
                text.starts_with("no trans with gid") && text.ends_with("FAILURE")
                    || text.starts_with("gid ") && text.contains(", not a ")
                    || text.starts_with("branch ") && text.contains("registered with other content")
                    || text.starts_with("global transaction force stop error")
            }
        }
    }

    /// The status that DTM's coordinator names in its text only: `current status 'failed', cannot prepare`.
    fn named_status(&self) -> Option<Status> {
        let text = self.text;
        let after = text.strip_prefix("trans type: '").map_or(text, |of_type| {
            of_type.split_once("' ").map_or(of_type, |(_, after)| after)
        });
        let after = after.strip_prefix("current status '")?;
        Status::parse(after.split_once('\'')?.0)
    }

    /// The stored status, however the answer tells it.
    pub fn stored_status(&self) -> Option<Status> {
        self.status.or_else(|| self.named_status())
    }
}

/// An error with its kind, a text for people, and the stored status where that was the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    status: Option<Status>,
    committed: Option<bool>,
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            status: None,
            committed: None,
        }
    }

    /// A message's local transaction under a gid that was used before, and whether that earlier one was committed.
    pub fn duplicated(gid: &str, committed: bool) -> Error {
        let became = if committed {
            "committed"
        } else {
            "rolled back"
        };
        Error {
            committed: Some(committed),
            ..Error::new(
                ErrorKind::Duplicated,
                format!("the gid {gid} was used before, and {became}"),
            )
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
    pub fn refused(status: Option<Status>, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Refused, message).with_status(status)
    }

    /// The same error with the stored status attached.
    pub fn with_status(mut self, status: impl Into<Option<Status>>) -> Error {
        self.status = status.into();
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

    /// Whether the earlier message of this gid was committed; only [`ErrorKind::Duplicated`] says so (rules.md 9.4).
    pub fn committed(&self) -> Option<bool> {
        self.committed
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

    /// What each row of rules.md 2.1 says is read as that row again: with the words that this coordinator and DTM's use.
    #[test]
    fn what_a_coordinator_answers_is_read_as_it_was_meant() {
        let said = [
            (ErrorKind::Invalid, "no gid specified"),
            (ErrorKind::UnknownGid, "no TransGlobal with gid: g found"),
            (ErrorKind::UnknownGid, "no trans with gid: g"),
            (
                ErrorKind::Refused,
                "current status 'failed', cannot prepare. FAILURE",
            ),
            (
                ErrorKind::Refused,
                "trans type: 'msg' current status 'succeed', cannot abort. FAILURE",
            ),
            (
                ErrorKind::Refused,
                "no trans with gid: g status: prepared found FAILURE",
            ),
            (
                ErrorKind::Refused,
                "branch 01 is registered with other content FAILURE",
            ),
            (
                ErrorKind::Refused,
                "gid g is a saga, not a workflow. FAILURE",
            ),
            (
                ErrorKind::Refused,
                "global transaction force stop error. status: succeed. error: FAILURE",
            ),
            (
                ErrorKind::RowRefused,
                "no trans with gid: g status: prepared found",
            ),
            (
                ErrorKind::TooLarge,
                "the request body is larger than 1 bytes",
            ),
            (ErrorKind::Failure, "no stock FAILURE"),
            (ErrorKind::Ongoing, "not ended"),
            (ErrorKind::TopicNotFound, "topic not found"),
            (ErrorKind::TopicNotFound, "no such a topic"),
            (ErrorKind::TopicNotFound, "no such an url "),
            (ErrorKind::TopicNotFound, "this topic is empty"),
            (ErrorKind::TopicNotFound, "storage: NotFound"),
            (ErrorKind::UrlExists, "this url exists"),
            (ErrorKind::Unavailable, "disk_full"),
            (ErrorKind::Unauthorized, "no token"),
            (ErrorKind::Internal, "anything"),
        ];
        for (kind, text) in said {
            let read = ErrorKind::of_coordinator(&Said {
                http: kind.coordinator_answer().http,
                failure: matches!(kind, ErrorKind::Refused | ErrorKind::Failure),
                status: None,
                text,
            });
            assert_eq!(read, kind, "{text}");
        }
        for kind in ErrorKind::ALL {
            let one_of_a_client = kind.code() > ErrorKind::Internal.code();
            assert_eq!(
                one_of_a_client,
                !said.iter().any(|(k, _)| k == kind),
                "{kind:?}"
            );
        }
    }

    /// The page for users has every kind, with what the table says.
    #[test]
    fn the_page_about_errors_is_complete() {
        let page = include_str!("../../docs/errors.md");
        let rows: Vec<&str> = page.lines().filter(|l| l.starts_with("| ")).collect();
        for kind in ErrorKind::ALL {
            let begins = format!("| {} | `{kind:?}` | ", kind.code());
            let again = if kind.is_retryable() { "yes" } else { "no" };
            let ends = format!(" | {again} | {} |", kind.branch_answer().http);
            let row = rows.iter().find(|row| row.starts_with(&begins));
            assert!(
                row.is_some_and(|row| row.ends_with(&ends)),
                "{kind:?}: {row:?}"
            );
            let http = kind.coordinator_answer().http;
            let answers = if http == ERROR.http {
                format!("| `{kind:?}` | any other | ")
            } else {
                format!("| `{kind:?}` | {http}")
            };
            let listed = rows.iter().any(|row| row.starts_with(&answers));
            assert_eq!(
                listed,
                kind.code() <= ErrorKind::Internal.code(),
                "{kind:?}"
            );
        }
        let of_coordinator = ErrorKind::Internal.code() as usize;
        assert_eq!(rows.len(), ErrorKind::ALL.len() + of_coordinator + 2);
    }
}
