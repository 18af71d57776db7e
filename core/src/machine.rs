//! The seam between this crate and whoever has I/O (rules.md 8.1): a machine says what to do next, its host does it and reports what came
//! of it. One interface for every machine, and for every language.
//!
//! ```text
//! loop {
//!     while let Some(step) = machine.poll() {   // more than one may be under way at a time
//!         match step.kind { … }                 // the host's only decision
//!     }
//!     machine.resolve(id, fact)?;               // whichever ended first
//! }
//! ```
//!
//! A machine never blocks, has no clock and no randomness of its own, and may be dropped at any point: that is a crash, and must be
//! harmless. A fact that does not fit its step is an error value and changes nothing.

mod steps;

pub(crate) use steps::{Steps, wrong};

use crate::error::{Error, ErrorKind};
use crate::participant::{BarrierResult, Identity};
use crate::time::Millis;
use bytes::Bytes;
use std::pin::Pin;
use std::time::Instant;

pub use crate::participant::barrier::Statement;

/// Names a step within its machine.
pub type StepId = u32;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// To be named in [`Machine::resolve`].
    pub id: StepId,
    /// What to do.
    pub kind: StepKind,
}

/// What to do. The kinds are exactly those of rules.md 8.1; hosts switch on nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// Make a call and report [`Fact::Answer`] or [`Fact::NoAnswer`].
    Call(Request),
    /// Begin a transaction on the connection that this run has borrowed; [`Fact::Done`]. On MySQL with autocommit off until it ends: what
    /// the user's code does after a deadlock that it swallowed is then rolled back as well, and not committed statement by statement.
    Begin {
        /// SQLite: take the write lock at once, for a reader cannot wait for it later.
        immediate: bool,
    },
    /// Run a statement; [`Fact::Affected`].
    Exec(Statement),
    /// Run a statement that returns at most one row of one text; [`Fact::Text`].
    Query(Statement),
    /// Run the user's code in the same transaction; [`Fact::UserOk`] or [`Fact::UserFailed`].
    RunUser(Identity),
    /// Commit the transaction; [`Fact::Done`].
    Commit,
    /// Roll it back; [`Fact::Done`].
    Rollback,
    /// Close the connection instead of giving it back; [`Fact::Done`].
    Detach,
    /// Wait so many milliseconds; [`Fact::Done`].
    Sleep(Millis),
    /// It is over; nothing is to be reported.
    Done(Result<Output, Error>),
}

/// A call to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, or `GRPC`.
    pub method: &'static str,
    /// Where.
    pub url: String,
    /// Headers or metadata, keys in lower case.
    pub headers: Vec<(String, String)>,
    /// Body or message.
    pub body: Bytes,
    /// How long it may take.
    pub timeout: Millis,
}

/// What a machine achieved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// What the barrier let happen, if there was one.
    pub barrier: Option<BarrierResult>,
    /// What the user's code returned.
    pub value: Bytes,
}

impl From<Bytes> for Output {
    /// Without a barrier.
    fn from(value: Bytes) -> Output {
        Output {
            barrier: None,
            value,
        }
    }
}

impl From<Result<Bytes, Error>> for Fact {
    /// What the user's code ended with.
    fn from(result: Result<Bytes, Error>) -> Fact {
        match result {
            Ok(value) => Fact::UserOk(value),
            Err(error) => Fact::UserFailed {
                kind: error.kind(),
                message: error.message().to_owned(),
            },
        }
    }
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// It was done.
    Done,
    /// So many rows were changed.
    Affected(u64),
    /// The first column of the first row; `None` if there was none, or it was null.
    Text(Option<String>),
    /// The user's code ended well, with what it returned.
    UserOk(Bytes),
    /// The user's code failed.
    UserFailed {
        /// [`ErrorKind::Failure`] for a definite no, [`ErrorKind::Ongoing`] for "not yet", anything else for an unknown error.
        kind: ErrorKind,
        /// What it said.
        message: String,
    },
    /// The answer to a call.
    Answer {
        /// HTTP status, or gRPC code.
        status: u16,
        /// Body or message.
        body: Bytes,
        /// The text of a gRPC status.
        message: String,
    },
    /// A call was not answered.
    NoAnswer {
        /// Whether it may have arrived.
        sent: bool,
        /// What happened.
        message: String,
    },
    /// The database refused a step, or the connection to it is gone.
    DbFailed {
        /// SQLSTATE, if the driver tells it.
        sqlstate: Option<String>,
        /// The database's own number, if the driver tells it.
        errno: Option<i64>,
        /// What it said.
        message: String,
    },
    /// The host gives up on the whole run: the task was cancelled.
    Cancelled,
}

/// The answer to a call over HTTP, for the tests of machines.
#[cfg(test)]
pub(crate) fn answer(status: u16, body: impl AsRef<[u8]>) -> Fact {
    Fact::Answer {
        status,
        body: Bytes::copy_from_slice(body.as_ref()),
        message: String::new(),
    }
}

/// Whatever can make the calls of a machine (rules.md 8.6). It reports [`Fact::Answer`] or [`Fact::NoAnswer`], and never fails otherwise.
pub trait Calls: std::fmt::Debug + Send + Sync {
    /// Makes a call, within its timeout.
    fn call(&self, request: Request) -> Pin<Box<dyn Future<Output = Fact> + Send + '_>>;

    /// When nothing is worth a call any more: what waits for another one ends then. There is none unless it says so.
    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// A protocol that is being carried out.
pub trait Machine {
    /// The next step, or `None` while it waits for facts. After [`StepKind::Done`] there is none any more.
    fn poll(&mut self) -> Option<Step>;

    /// Reports what came of a step. Error: [`ErrorKind::Invalid`] if there is no such step under way, or the fact is none of its kind.
    fn resolve(&mut self, id: StepId, fact: Fact) -> Result<(), Error>;
}
