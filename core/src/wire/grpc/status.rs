//! gRPC status codes: what a branch's mean, and which an error of ours has (dtm-server.md 7.6, rules.md 2.1).

use crate::outcome::Outcome;

/// A gRPC status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub i32);

/// Names of the codes by number, as every gRPC library prints them.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Code {
    /// Done.
    pub const OK: Code = Code(0);
    /// Somebody gave up on the call.
    pub const CANCELLED: Code = Code(1);
    /// Malformed or out of limits.
    pub const INVALID_ARGUMENT: Code = Code(3);
    /// The call took too long.
    pub const DEADLINE_EXCEEDED: Code = Code(4);
    /// Unknown gid or topic.
    pub const NOT_FOUND: Code = Code(5);
    /// It is there already.
    pub const ALREADY_EXISTS: Code = Code(6);
    /// The caller may not do this.
    pub const PERMISSION_DENIED: Code = Code(7);
    /// Larger than the limit.
    pub const RESOURCE_EXHAUSTED: Code = Code(8);
    /// From a branch: ongoing. From the coordinator: not ended yet, or a workflow's registration refused.
    pub const FAILED_PRECONDITION: Code = Code(9);
    /// From a branch: failure, roll back. From the coordinator: wrong state, or rolled back.
    pub const ABORTED: Code = Code(10);
    /// There is no such method.
    pub const UNIMPLEMENTED: Code = Code(12);
    /// A fault of the callee.
    pub const INTERNAL: Code = Code(13);
    /// The store cannot take the write now.
    pub const UNAVAILABLE: Code = Code(14);
    /// The operator's token is missing or wrong.
    pub const UNAUTHENTICATED: Code = Code(16);

    /// Its name; `CODE n` for a number that is none.
    pub fn name(self) -> String {
        let known = usize::try_from(self.0).ok().and_then(|n| NAMES.get(n));
        known.map_or_else(|| format!("CODE {}", self.0), |name| (*name).to_owned())
    }
}

/// Reads the status with which a branch answered. Servers of DTM before 1.10 said ongoing by ABORTED with the message `ONGOING`.
pub fn classify_grpc(code: Code, message: &str) -> Outcome {
    match code {
        Code::OK => Outcome::Success,
        Code::ABORTED if message == "ONGOING" => Outcome::Ongoing,
        Code::ABORTED => Outcome::Failure(message.to_owned()),
        Code::FAILED_PRECONDITION => Outcome::Ongoing,
        _ if message.is_empty() => Outcome::Error(format!("answered {}", code.name())),
        _ => Outcome::Error(format!("answered {}: {message}", code.name())),
    }
}
