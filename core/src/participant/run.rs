//! The barrier as a machine: it says when to begin, what to run, when the user's code may run, and whether to commit (rules.md 9).

use super::barrier::{
    BarrierResult, Plan, Verdict, by_reason, decide, plan, query_prepared, was_committed,
};
use super::db_error::{DbError, classify_db_error};
use super::dialect::{Dialect, ParamStyle, Table};
use super::identity::Identity;
use crate::branch::TransType;
use crate::error::{Error, ErrorKind};
use crate::machine::{Fact, Machine, Outcome, Step, StepId, StepKind};
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
    state: State,
    steps: StepId,
    under_way: Option<StepId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Begin,
    Origin,
    Current,
    Reason,
    User,
    Guard(Bytes),
    Commit(Result<Outcome, Error>),
    Rollback(Then),
    Detach(Then),
    Sleep(Millis),
    Done(Result<Outcome, Error>),
    Over,
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
            state: State::Begin,
            steps: 0,
            under_way: None,
        };
        if mode == Mode::Joined {
            run.state = run.first();
        }
        run
    }

    fn first(&self) -> State {
        if self.plan.origin.is_some() {
            State::Origin
        } else {
            State::Current
        }
    }

    fn kind(&self) -> Option<StepKind> {
        Some(match &self.state {
            State::Begin => StepKind::Begin {
                immediate: self.place.dialect == Dialect::Sqlite,
            },
            State::Origin => StepKind::Exec(self.plan.origin.clone()?),
            State::Current => StepKind::Exec(self.plan.current.clone()),
            State::Reason => StepKind::Query(self.plan.reason.clone()),
            State::User => StepKind::RunUser(self.who.clone()),
            State::Guard(_) => StepKind::Query(self.plan.reason.clone()),
            State::Commit(_) => StepKind::Commit,
            State::Rollback(_) => StepKind::Rollback,
            State::Detach(_) => StepKind::Detach,
            State::Sleep(pause) => StepKind::Sleep(*pause),
            State::Done(result) => StepKind::Done(result.clone()),
            State::Over => return None,
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
            let class = classify_db_error(self.place.dialect, sqlstate.as_deref(), errno);
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
                match decide(&self.who.op, self.origin_rows, rows) {
                    Verdict::Run => State::User,
                    Verdict::Skip(result) => self.skip(result),
                    Verdict::NeedReason => State::Reason,
                    Verdict::Duplicated => self.give_up(Error::new(
                        ErrorKind::Duplicated,
                        format!(
                            "the gid {} was used before: this message has its outcome already",
                            self.who.gid
                        ),
                    )),
                }
            }
            (State::Reason, Fact::Text(Some(reason))) if self.check_back => {
                State::Commit(if was_committed(&reason) {
                    Ok(Outcome {
                        barrier: None,
                        value: Bytes::new(),
                    })
                } else {
                    Err(Error::new(
                        ErrorKind::Failure,
                        "the local transaction of this message was not committed, and cannot be any more",
                    ))
                })
            }
            (State::Reason, Fact::Text(Some(reason))) => {
                self.skip(by_reason(&self.who.op, &reason))
            }
            // The row that the insert ran into is gone: its transaction was rolled back meanwhile.
            (State::Reason, Fact::Text(None)) => {
                self.again("the row of another call was rolled back".to_owned())
            }
            (State::User, Fact::UserOk(value)) => match self.mode {
                Mode::Joined => State::Done(Ok(executed(value))),
                // Code that swallowed the error of a statement must not end as executed. PostgreSQL would roll back at COMMIT without a
                // word; MySQL has rolled back at a deadlock already, and goes on without a transaction. Our own row tells.
                Mode::Managed => State::Guard(value),
            },
            (State::User, Fact::UserFailed { kind, message }) => {
                self.give_up(Error::new(kind, message))
            }
            (State::Guard(value), Fact::Text(Some(reason))) if reason == self.who.op.as_str() => {
                State::Commit(Ok(executed(value)))
            }
            (State::Guard(_), Fact::Text(_)) => self.give_up(aborted()),
            (State::Commit(result), Fact::Done) => State::Done(result),
            (State::Rollback(then) | State::Detach(then), Fact::Done) => self.then(then),
            (State::Sleep(_), Fact::Done) => State::Begin,
            _ => return None,
        })
    }

    fn failed(&mut self, state: State, class: DbError, message: String) -> Option<State> {
        let table = &self.place.table;
        let error = match class {
            DbError::Conflict => Error::new(ErrorKind::Conflict, message.clone()),
            DbError::MissingTable => Error::invalid(format!(
                "the barrier's table {table} is missing: create it with what `amends barrier ddl --dialect {}` prints ({message})",
                self.place.dialect
            )),
            _ => Error::new(ErrorKind::Database, message.clone()),
        };
        Some(match state {
            State::Begin | State::Origin | State::Current | State::Reason => match class {
                DbError::Conflict => self.again(message),
                DbError::ConnectionLost if self.mode == Mode::Managed => {
                    State::Detach(Then::End(error))
                }
                _ if state == State::Begin => State::Done(Err(error)),
                _ => self.give_up(error),
            },
            State::Guard(_) => {
                let error = match class {
                    DbError::Aborted => aborted(),
                    _ => error,
                };
                self.give_up(error)
            }
            // It was not committed, PostgreSQL says; or nobody knows.
            State::Commit(_) if class == DbError::Conflict => self.give_up(error),
            State::Commit(_) => State::Detach(Then::End(Error::new(
                ErrorKind::OutcomeUnknown,
                format!("whether it was committed is unknown: {message}"),
            ))),
            // A connection that cannot roll back is not given back.
            State::Rollback(then) => State::Detach(then),
            State::Detach(then) => self.then(then),
            State::User | State::Sleep(_) | State::Done(_) | State::Over => return None,
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
            State::Done(_) | State::Over => State::Over,
            State::Origin | State::Current | State::Reason | State::User | State::Guard(_) => {
                self.give_up(error)
            }
        }
    }

    /// Nothing is to be done, and the rows stay.
    fn skip(&self, result: BarrierResult) -> State {
        let result = match refused(result, self.who.trans_type) {
            Some(error) => Err(error),
            None => Ok(Outcome {
                barrier: Some(result),
                value: Bytes::new(),
            }),
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

fn aborted() -> Error {
    Error::new(
        ErrorKind::Aborted,
        "the transaction had been rolled back before its commit: the error of a statement was swallowed",
    )
}

fn executed(value: Bytes) -> Outcome {
    Outcome {
        barrier: Some(BarrierResult::Executed),
        value,
    }
}

/// A branch whose undo came first is answered as done, for its undo is (dtm-clients.md 4.4). In a workflow that would be a lie: a run that
/// was replayed would go on with something that never happened.
fn refused(result: BarrierResult, trans_type: TransType) -> Option<Error> {
    (result == BarrierResult::Suspended && trans_type == TransType::Workflow).then(|| {
        Error::new(
            ErrorKind::Failure,
            "this step was rolled back before it arrived, and will not be made",
        )
    })
}

impl Machine for BarrierRun {
    fn poll(&mut self) -> Option<Step> {
        if self.under_way.is_some() {
            return None;
        }
        let kind = self.kind()?;
        let id = self.steps;
        self.steps += 1;
        if let State::Done(_) = self.state {
            self.state = State::Over;
        } else {
            self.under_way = Some(id);
        }
        Some(Step { id, kind })
    }

    fn resolve(&mut self, id: StepId, fact: Fact) -> Result<(), Error> {
        if self.under_way != Some(id) {
            return Err(Error::invalid(format!("no step {id} is under way")));
        }
        let wrong = || Error::invalid(format!("step {id} cannot end with this fact"));
        let next = self.next(fact).ok_or_else(wrong)?;
        self.state = next;
        self.under_way = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
