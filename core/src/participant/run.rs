//! The barrier as a machine: it says when to begin, what to run, when the user's code may run, and whether to commit (rules.md 9).

use super::barrier::{
    BarrierResult, Plan, Verdict, by_reason, decide, plan, query_prepared, was_committed,
};
use super::db_error::{self, DbError, classify_commit_error, classify_db_error};
use super::dialect::{Dialect, ParamStyle, Table};
use super::identity::Identity;
use crate::branch::{Op, TransType};
use crate::error::{Error, ErrorKind};
use crate::machine::{Fact, Machine, Output, Statement, Step, StepId, StepKind, Steps, wrong};
use crate::time::Millis;
use bytes::Bytes;

/// How often a barrier is tried again after a conflict before the user's code ran (rules.md 9.2).
pub const RETRIES: u32 = 5;
/// The pause before the first of these, ms; it doubles, and half of it is random.
const PAUSE: Millis = 8;

/// Where barriers run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Kind of database.
    pub dialect: Dialect,
    /// The barrier's table.
    pub table: Table,
    /// How the driver writes parameters.
    pub style: ParamStyle,
}

/// Whose transaction it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The machine begins and commits, on a connection without an open transaction.
    Managed,
    /// The user has begun a transaction and will commit it, also when the user's code was skipped.
    Joined,
}

/// One run of a barrier.
#[derive(Clone, Debug)]
pub struct BarrierRun {
    place: Place,
    who: Identity,
    plan: Plan,
    mode: Mode,
    /// A check-back: the question is whether a message's transaction was committed.
    check_back: bool,
    random: u64,
    attempt: u32,
    origin_rows: Option<u64>,
    /// Whether the op's row is this run's.
    own_row: bool,
    state: State,
    steps: Steps,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Begin,
    Origin,
    Current,
    Reason,
    /// A savepoint is set, by which the transaction is known again.
    Hold,
    User,
    /// The savepoint is let go of, if it is there still.
    Release(Bytes),
    Guard(Bytes),
    /// The savepoint is gone, and the transaction with it: how it ended.
    Ended,
    Commit(Result<Output, Error>),
    Rollback(Then),
    Detach(Then),
    Sleep(Millis),
    Done(Result<Output, Error>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Then {
    Again,
    End(Error),
}

impl BarrierRun {
    /// A run of a branch. `random` spreads its pauses. Error: `Invalid`.
    pub fn new(
        place: Place,
        who: Identity,
        barrier_id: &str,
        mode: Mode,
        random: u64,
    ) -> Result<BarrierRun, Error> {
        let plan = plan(place.dialect, &place.table, place.style, &who, barrier_id)?;
        Ok(BarrierRun::of(place, who, plan, mode, false, random))
    }

    /// The answer to a check-back: `Done` is success if the message's transaction was committed, else [`ErrorKind::Failure`]; from then
    /// on it cannot be committed any more. It is committed before it is answered, on a transaction of its own (rules.md 9.4).
    pub fn check_back(place: Place, who: Identity, random: u64) -> BarrierRun {
        let plan = query_prepared(place.dialect, &place.table, place.style, &who);
        BarrierRun::of(place, who, plan, Mode::Managed, true, random)
    }

    fn of(
        place: Place,
        who: Identity,
        plan: Plan,
        mode: Mode,
        check_back: bool,
        random: u64,
    ) -> BarrierRun {
        let mut run = BarrierRun {
            place,
            who,
            plan,
            mode,
            check_back,
            random,
            attempt: 0,
            origin_rows: None,
            own_row: false,
            state: State::Begin,
            steps: Steps::default(),
        };
        if mode == Mode::Joined {
            run.state = run.first();
        }
        run
    }

    /// What whoever joined a transaction of his own must ask just before he commits it; `None` if nothing can be wrong with it that its
    /// COMMIT would not say.
    pub fn guard(&self) -> Option<Guard> {
        let (question, op) = match &self.plan.guard {
            Some(own) if self.own_row => (own.clone(), Some(self.who.op.clone())),
            // PostgreSQL answers nothing in a transaction that it has aborted, whatever is asked.
            _ if self.place.dialect == Dialect::Postgres => {
                (Statement::plain("select 'open'"), None)
            }
            _ => return None,
        };
        Some(Guard { question, op })
    }

    /// Whether the transaction is known again by a savepoint: where the database does not tell it from another one that the user's code
    /// has begun, by a statement alone.
    fn holds(&self) -> bool {
        self.mode == Mode::Managed && self.place.dialect == Dialect::MySql
    }

    fn first(&self) -> State {
        if self.plan.origin.is_some() {
            State::Origin
        } else {
            State::Current
        }
    }

    fn kind(&mut self) -> Option<StepKind> {
        Some(match &self.state {
            State::Begin => StepKind::Begin {
                immediate: self.place.dialect == Dialect::Sqlite,
            },
            State::Origin => StepKind::Exec(self.plan.origin.clone()?),
            State::Current => StepKind::Exec(self.plan.current.clone()),
            State::Reason => StepKind::Query(self.plan.reason.clone()),
            State::Hold => StepKind::Exec(savepoint("savepoint")),
            State::User => StepKind::RunUser(self.who.clone()),
            State::Release(_) => StepKind::Exec(savepoint("release savepoint")),
            State::Guard(_) | State::Ended => StepKind::Query(self.plan.guard.take()?),
            State::Commit(_) => StepKind::Commit,
            State::Rollback(_) => StepKind::Rollback,
            State::Detach(_) => StepKind::Detach,
            State::Sleep(pause) => StepKind::Sleep(*pause),
            State::Done(result) => StepKind::Done(result.clone()),
        })
    }

    /// The state after a fact; `None` if the fact does not fit.
    fn next(&mut self, fact: Fact) -> Option<State> {
        let state = self.state.clone();
        if fact == Fact::Cancelled {
            return Some(self.cancelled(state));
        }
        if let Fact::DbFailed {
            sqlstate,
            errno,
            message,
        } = fact
        {
            let classify = match state {
                State::Commit(_) => classify_commit_error,
                _ => classify_db_error,
            };
            let class = classify(self.place.dialect, sqlstate.as_deref(), errno);
            return self.failed(state, class, message);
        }
        Some(match (state, fact) {
            (State::Begin, Fact::Done) => self.first(),
            (State::Origin, Fact::Affected(rows)) => {
                self.origin_rows = Some(rows);
                State::Current
            }
            (State::Current, Fact::Affected(_)) if self.check_back => State::Reason,
            (State::Current, Fact::Affected(rows)) => {
                self.own_row = rows > 0;
                match decide(&self.who.op, self.origin_rows, rows) {
                    Verdict::Run if self.holds() => State::Hold,
                    Verdict::Run => State::User,
                    Verdict::Skip(result) => self.skip(result),
                    Verdict::NeedReason | Verdict::Duplicated => State::Reason,
                }
            }
            (State::Reason, Fact::Text(Some(reason))) if self.check_back => {
                State::Commit(if was_committed(&reason) {
                    Ok(Output::from(Bytes::new()))
                } else {
                    Err(Error::new(
                        ErrorKind::Failure,
                        "the local transaction of this message was not committed, and cannot be any more",
                    ))
                })
            }
            (State::Reason, Fact::Text(Some(reason))) if self.who.op == Op::MSG => {
                let gid = self.who.gid.as_str();
                self.give_up(Error::duplicated(gid, was_committed(&reason)))
            }
            (State::Reason, Fact::Text(Some(reason))) => {
                self.skip(by_reason(&self.who.op, &reason))
            }
            // The row that the insert ran into is gone: its transaction was rolled back meanwhile.
            (State::Reason, Fact::Text(None)) => {
                self.again("the row of another call was rolled back".to_owned())
            }
            (State::Hold, Fact::Affected(_)) => State::User,
            (State::User, Fact::UserOk(value)) => match self.mode {
                Mode::Joined => State::Done(Ok(executed(value))),
                // Code that swallowed the error of a statement must not end as executed. PostgreSQL would roll back at COMMIT without a
                // word; MySQL has rolled back at a deadlock already, and goes on in another transaction. There the savepoint tells, and
                // elsewhere our own row, and who wrote it whether the user's code has committed it already.
                Mode::Managed if self.holds() => State::Release(value),
                Mode::Managed => State::Guard(value),
            },
            (State::Release(value), Fact::Affected(_)) => State::Commit(Ok(executed(value))),
            (State::User, Fact::UserFailed { kind, message }) => {
                self.give_up(Error::new(kind, message))
            }
            (State::Guard(value), Fact::Text(found)) => {
                match guarded(&self.who.op, found.as_deref()) {
                    Ok(()) => State::Commit(Ok(executed(value))),
                    Err(error) if error.kind() == ErrorKind::HalfDone => {
                        State::Detach(Then::End(error))
                    }
                    Err(error) => self.give_up(error),
                }
            }
            // Its row is there: the user's code has committed it.
            (State::Ended, Fact::Text(Some(_))) => State::Detach(Then::End(ended())),
            (State::Ended, Fact::Text(None)) => self.give_up(aborted()),
            (State::Commit(result), Fact::Done) => State::Done(result),
            (State::Rollback(then) | State::Detach(then), Fact::Done) => self.then(then),
            (State::Sleep(_), Fact::Done) => State::Begin,
            _ => return None,
        })
    }

    fn failed(&mut self, state: State, class: DbError, message: String) -> Option<State> {
        let error = db_error::error(&self.place, class, message.clone());
        Some(match state {
            State::Begin | State::Origin | State::Current | State::Reason | State::Hold => {
                match class {
                    DbError::Conflict => self.again(message),
                    DbError::ConnectionLost if self.mode == Mode::Managed => {
                        State::Detach(Then::End(error))
                    }
                    _ if state == State::Begin => State::Done(Err(error)),
                    _ => self.give_up(error),
                }
            }
            // It ended that transaction; our row, seen from without, tells how.
            State::Release(_) if class != DbError::ConnectionLost => State::Ended,
            State::Release(_) | State::Guard(_) | State::Ended => {
                let error = match class {
                    DbError::Aborted => aborted(),
                    _ => error,
                };
                self.give_up(error)
            }
            State::Commit(_) => match class {
                DbError::ConnectionLost => State::Detach(Then::End(Error::new(
                    ErrorKind::OutcomeUnknown,
                    format!("whether it was committed is unknown: {message}"),
                ))),
                DbError::NoTransaction => State::Detach(Then::End(ended())),
                // An answer is a definite one: a constraint that is checked at COMMIT, a conflict.
                _ => self.give_up(error),
            },
            // A connection that cannot roll back is not given back.
            State::Rollback(then) => State::Detach(then),
            State::Detach(then) => self.then(then),
            State::User | State::Sleep(_) | State::Done(_) => return None,
        })
    }

    fn cancelled(&mut self, state: State) -> State {
        let error = Error::new(ErrorKind::Database, "the run was cancelled");
        match state {
            State::Commit(_) => State::Detach(Then::End(Error::new(
                ErrorKind::OutcomeUnknown,
                "cancelled while it was being committed",
            ))),
            State::Begin | State::Sleep(_) => State::Detach(Then::End(error)),
            State::Detach(then) => self.then(then),
            // Whatever was the reason, it is not tried again.
            State::Rollback(Then::Again) => State::Detach(Then::End(error)),
            State::Rollback(then) => State::Detach(then),
            State::Done(result) => State::Done(result),
            State::Origin
            | State::Current
            | State::Reason
            | State::Hold
            | State::User
            | State::Release(_)
            | State::Guard(_)
            | State::Ended => self.give_up(error),
        }
    }

    /// Nothing is to be done, and the rows stay.
    fn skip(&self, result: BarrierResult) -> State {
        let result = match refused(result, self.who.trans_type) {
            Some(error) => Err(error),
            None => Ok(skipped(result)),
        };
        match self.mode {
            Mode::Managed => State::Commit(result),
            Mode::Joined => State::Done(result),
        }
    }

    fn give_up(&self, error: Error) -> State {
        match self.mode {
            Mode::Managed => State::Rollback(Then::End(error)),
            Mode::Joined => State::Done(Err(error)),
        }
    }

    /// After a conflict in front of the user's code.
    fn again(&mut self, message: String) -> State {
        let error = Error::new(ErrorKind::Conflict, message);
        if self.mode == Mode::Joined {
            return State::Done(Err(error));
        }
        let then = if self.attempt < RETRIES {
            Then::Again
        } else {
            Then::End(error)
        };
        match self.state {
            // Nothing was begun.
            State::Begin => self.then(then),
            _ => State::Rollback(then),
        }
    }

    fn then(&mut self, then: Then) -> State {
        match then {
            Then::End(error) => State::Done(Err(error)),
            Then::Again => {
                self.attempt += 1;
                self.origin_rows = None;
                let longest = PAUSE << self.attempt.min(10);
                let random = (self.random.rotate_left(self.attempt * 11) % 1_024) as Millis;
                State::Sleep(longest / 2 + longest / 2 * random / 1_024)
            }
        }
    }
}

/// Its name is ours: another savepoint of the same name would take its place.
fn savepoint(verb: &str) -> Statement {
    Statement::plain(format!("{verb} amends_barrier"))
}

/// What to ask before the commit of a transaction that a run has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// A query of one text. An error of the database is one of the commit.
    pub question: Statement,
    /// Whose row it asks for, if the run has left one.
    op: Option<Op>,
}

impl Guard {
    /// Judges what was found. Errors as of `guarded`.
    pub fn judge(&self, found: Option<&str>) -> Result<(), Error> {
        self.op.as_ref().map_or(Ok(()), |op| guarded(op, found))
    }
}

/// What the guard found: the run's own row, in its own transaction. Errors: `Aborted` if it was rolled back, `HalfDone` if it was ended.
pub(super) fn guarded(op: &Op, found: Option<&str>) -> Result<(), Error> {
    match found {
        Some(reason) if reason == op.as_str() => Ok(()),
        Some("") => Err(ended()),
        _ => Err(aborted()),
    }
}

pub(super) fn aborted() -> Error {
    Error::new(
        ErrorKind::Aborted,
        "the transaction had been rolled back before its commit: the error of a statement was swallowed",
    )
}

fn ended() -> Error {
    Error::new(
        ErrorKind::HalfDone,
        "the code of this branch ended the barrier's transaction itself (commit, rollback, or a statement that commits, as create table does \
         on MySQL): what it did was not one change, and what is committed stays; leave the end of the transaction to the run",
    )
}

/// Nothing was done, for this reason.
pub(super) fn skipped(result: BarrierResult) -> Output {
    Output {
        barrier: Some(result),
        value: Bytes::new(),
    }
}

pub(super) fn executed(value: Bytes) -> Output {
    Output {
        barrier: Some(BarrierResult::Executed),
        value,
    }
}

/// A branch whose undo came first is answered as done, for its undo is (dtm-clients.md 4.4). In a workflow that would be a lie: a run that
/// was replayed would go on with something that never happened.
pub(super) fn refused(result: BarrierResult, trans_type: TransType) -> Option<Error> {
    (result == BarrierResult::Suspended && trans_type == TransType::Workflow).then(|| {
        Error::new(
            ErrorKind::Failure,
            "this step was rolled back before it arrived, and will not be made",
        )
    })
}

impl Machine for BarrierRun {
    fn poll(&mut self) -> Option<Step> {
        self.steps.idle()?;
        let kind = self.kind()?;
        Some(self.steps.give((), kind))
    }

    fn resolve(&mut self, id: StepId, fact: Fact) -> Result<(), Error> {
        self.steps.who(id)?;
        self.state = self.next(fact).ok_or_else(|| wrong(id))?;
        self.steps.end(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
