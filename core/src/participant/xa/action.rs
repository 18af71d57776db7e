//! Phase 1: begin, the barrier's row, the user's change, registration, prepare.

use super::xid::Xid;
use super::{BARRIER_ID, is_mysql, refusal, with_xid};
use crate::branch::{Op, TransType};
use crate::error::{Error, ErrorKind};
use crate::initiator::Server;
use crate::initiator::ask::Ask;
use crate::machine::{Fact, Machine, Output, Statement, Step, StepId, StepKind, Steps, wrong};
use crate::participant::Identity;
use crate::participant::barrier::{self, BarrierResult, Plan, by_reason};
use crate::participant::db_error::{self, DbError};
use crate::participant::run::{Place, aborted, executed, guarded, skipped};
use bytes::Bytes;
use serde_json::json;

/// Where a branch is registered before it is prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The coordinator that the call named in its parameter `dtm`.
    pub server: Server,
    /// Where phase 2 is to be called: the call's parameter `phase2_url`.
    pub phase2_url: String,
}

/// The action of an XA branch, on a connection that is used for nothing else: it is closed at the end.
///
/// `Done` is success when the branch is prepared, now ([`BarrierResult::Executed`]) or by an earlier call ([`BarrierResult::Duplicate`]).
/// Errors: `Failure` if the branch was rolled back before it arrived, or its transaction is not open any more; `Conflict` while another run
/// of it is under way; `Aborted` if the error of a statement was swallowed; `OutcomeUnknown` if the answer to the prepare was lost, and
/// then a repeated call finds out; `Invalid` for a missing barrier table, or a PostgreSQL that prepares nothing.
#[derive(Clone, Debug)]
pub struct XaBranch {
    place: Place,
    mysql: bool,
    who: Identity,
    xid: Xid,
    plan: Plan,
    register: Ask,
    value: Bytes,
    state: State,
    steps: Steps,
}

#[derive(Clone, Debug)]
enum State {
    /// MySQL: a lock by name, which the server lets go when this session is gone. Whoever has it knows that no other run is active.
    Own,
    Start,
    /// PostgreSQL: not to wait for ever for the row of a run that is prepared.
    Limit,
    Row,
    Reason,
    /// The user's own waits are none of our business.
    Unlimit,
    User,
    Guard,
    Register,
    End,
    Prepare,
    /// PostgreSQL: it says nothing if it rolled back instead.
    Prepared,
    UndoEnd(Then),
    Undo(Then),
    /// PostgreSQL, after a conflict: another run of this branch may be prepared.
    Earlier(Error),
    Detach(Result<Output, Error>),
    Done(Result<Output, Error>),
}

#[derive(Clone, Debug)]
enum Then {
    End(Result<Output, Error>),
    LookForEarlier(Error),
}

impl XaBranch {
    /// The action with this identity. Error: `Invalid` if it is no action of an xa, or the database has no XA.
    pub fn new(place: Place, who: Identity, at: &Registration) -> Result<XaBranch, Error> {
        let mysql = is_mysql(&place)?;
        if who.trans_type != TransType::Xa || who.op != Op::ACTION {
            return Err(Error::invalid(format!(
                "a {} of a {} is no action of an xa",
                who.op, who.trans_type
            )));
        }
        if at.phase2_url.is_empty() {
            return Err(Error::invalid(
                "phase2_url is missing: this request was not made by a client of xa",
            ));
        }
        let plan = barrier::plan(place.dialect, &place.table, place.style, &who, BARRIER_ID)?;
        let register = json!({
            "gid": who.gid.as_str(),
            "trans_type": "xa",
            "branch_id": who.branch_id,
            "url": at.phase2_url,
        });
        Ok(XaBranch {
            xid: Xid::new(&who.gid, &who.branch_id),
            register: Ask::registering(at.server.post("registerBranch", &register)),
            plan,
            value: Bytes::new(),
            state: if mysql { State::Own } else { State::Start },
            place,
            mysql,
            who,
            steps: Steps::default(),
        })
    }

    /// The name of the branch in its database.
    pub fn xid(&self) -> &Xid {
        &self.xid
    }

    fn text(&self, mysql: &str, postgres: &str) -> StepKind {
        StepKind::Exec(Statement::plain(if self.mysql {
            format!("{mysql} '{}'", self.xid)
        } else {
            postgres.to_owned()
        }))
    }

    fn kind(&self) -> Option<StepKind> {
        let is_prepared = || {
            let text = "select gid from pg_prepared_xacts where gid = ?";
            StepKind::Query(with_xid(&self.place, text, &self.xid))
        };
        Some(match &self.state {
            State::Own => {
                let text = "select cast(get_lock(?, 0) as char)";
                StepKind::Query(with_xid(&self.place, text, &self.xid))
            }
            State::Start => self.text("xa start", "begin"),
            State::Limit => StepKind::Exec(Statement::plain("set local lock_timeout = '1s'")),
            State::Row => StepKind::Exec(self.plan.current.clone()),
            State::Reason => StepKind::Query(self.plan.reason.clone()),
            State::Guard => StepKind::Query(self.plan.guard.clone()?),
            State::Unlimit => StepKind::Exec(Statement::plain("set local lock_timeout to default")),
            State::User => StepKind::RunUser(self.who.clone()),
            State::Register => self.register.step(),
            State::End | State::UndoEnd(_) => self.text("xa end", ""),
            State::Prepare => {
                self.text("xa prepare", &format!("prepare transaction '{}'", self.xid))
            }
            State::Prepared | State::Earlier(_) => is_prepared(),
            State::Undo(_) => self.text("xa rollback", "rollback"),
            State::Detach(_) => StepKind::Detach,
            State::Done(result) => StepKind::Done(result.clone()),
        })
    }

    /// The state after a fact; `None` if the fact does not fit.
    fn next(&mut self, fact: Fact) -> Option<State> {
        if let State::Register = self.state {
            return Some(match self.register.next(fact)?.map(|a| a.registered()) {
                None => State::Register,
                Some(Ok(())) if self.mysql => State::End,
                Some(Ok(())) => State::Prepare,
                Some(Err(error)) => self.undo(Err(not_open(error))),
            });
        }
        if fact == Fact::Cancelled {
            return self.cancelled();
        }
        if let Some((class, message)) = refusal(&self.place, &fact) {
            return self.failed(class, message);
        }
        Some(match (&self.state, fact) {
            (State::Own, Fact::Text(Some(got))) if got == "1" => State::Start,
            (State::Own, Fact::Text(_)) => State::Detach(Err(under_way())),
            (State::Start, Fact::Affected(_)) if self.mysql => State::Row,
            (State::Start, Fact::Affected(_)) => State::Limit,
            (State::Limit, Fact::Affected(_)) => State::Row,
            (State::Row, Fact::Affected(0)) => State::Reason,
            (State::Row, Fact::Affected(_)) if self.mysql => State::User,
            (State::Row, Fact::Affected(_)) => State::Unlimit,
            (State::Unlimit, Fact::Affected(_)) => State::User,
            (State::Reason, Fact::Text(Some(reason))) => {
                let result = match by_reason(&self.who.op, &reason) {
                    // Its row can be seen, so it was committed.
                    BarrierResult::Duplicate => Ok(skipped(BarrierResult::Duplicate)),
                    _ => Err(Error::new(
                        ErrorKind::Failure,
                        "this branch was rolled back before it arrived, and will not be made",
                    )),
                };
                self.undo(result)
            }
            (State::Reason, Fact::Text(None)) => self.undo(Err(under_way())),
            (State::User, Fact::UserOk(value)) => {
                self.value = value;
                State::Guard
            }
            (State::User, Fact::UserFailed { kind, message }) => {
                self.undo(Err(Error::new(kind, message)))
            }
            // Code that swallowed the error of a statement, or ended the transaction itself, must not end as prepared.
            (State::Guard, Fact::Text(found)) => match guarded(&self.who.op, found.as_deref()) {
                Ok(()) => State::Register,
                Err(error) if error.kind() == ErrorKind::HalfDone => State::Detach(Err(error)),
                Err(error) => self.undo(Err(error)),
            },
            (State::End, Fact::Affected(_)) => State::Prepare,
            (State::Prepare, Fact::Affected(_)) if self.mysql => self.prepared(),
            (State::Prepare, Fact::Affected(_)) => State::Prepared,
            (State::Prepared, Fact::Text(Some(_))) => self.prepared(),
            (State::Prepared, Fact::Text(None)) => State::Detach(Err(aborted())),
            (State::UndoEnd(then), Fact::Affected(_)) => State::Undo(then.clone()),
            (State::Undo(then), Fact::Affected(_)) => after(then.clone()),
            (State::Earlier(_), Fact::Text(Some(_))) => {
                State::Detach(Ok(skipped(BarrierResult::Duplicate)))
            }
            (State::Earlier(error), Fact::Text(None)) => State::Detach(Err(error.clone())),
            (State::Detach(result), Fact::Done) => State::Done(result.clone()),
            _ => return None,
        })
    }

    fn failed(&self, class: DbError, message: String) -> Option<State> {
        let error = db_error::error(&self.place, class, message.clone());
        Some(match &self.state {
            State::Own => State::Detach(Err(error)),
            // No other run is active, so it is prepared: done before.
            State::Start if class == DbError::XidInUse => {
                State::Detach(Ok(skipped(BarrierResult::Duplicate)))
            }
            State::Start => State::Detach(Err(error)),
            State::Row | State::Reason if class == DbError::Conflict && !self.mysql => {
                State::Undo(Then::LookForEarlier(error))
            }
            State::Guard if class == DbError::Aborted => self.undo(Err(aborted())),
            State::Limit | State::Row | State::Reason | State::Unlimit | State::Guard => {
                self.undo(Err(error))
            }
            State::End => State::Undo(Then::End(Err(error))),
            State::Prepare if class == DbError::ConnectionLost => {
                State::Detach(Err(unknown(&message)))
            }
            State::Prepare if class == DbError::XaDisabled => {
                State::Undo(Then::End(Err(Error::invalid(format!(
                    "this PostgreSQL prepares no transactions: set max_prepared_transactions to the number of connections at least, and start it again ({message})"
                )))))
            }
            State::Prepare => State::Undo(Then::End(Err(error))),
            State::Prepared => State::Detach(Err(unknown(&message))),
            // The server rolls back what a connection leaves behind.
            State::UndoEnd(then) => State::Undo(then.clone()),
            State::Undo(Then::End(result)) => State::Detach(result.clone()),
            State::Undo(Then::LookForEarlier(error)) | State::Earlier(error) => {
                State::Detach(Err(error.clone()))
            }
            State::Detach(result) => State::Done(result.clone()),
            State::User | State::Register | State::Done(_) => return None,
        })
    }

    /// The connection is closed, and the server rolls back.
    fn cancelled(&self) -> Option<State> {
        let error = || Error::new(ErrorKind::Database, "the run was cancelled");
        Some(match &self.state {
            State::Prepare | State::Prepared => {
                State::Detach(Err(unknown("cancelled while it was being prepared")))
            }
            State::UndoEnd(Then::End(result)) | State::Undo(Then::End(result)) => {
                State::Detach(result.clone())
            }
            State::UndoEnd(Then::LookForEarlier(error))
            | State::Undo(Then::LookForEarlier(error))
            | State::Earlier(error) => State::Detach(Err(error.clone())),
            State::Detach(result) => State::Done(result.clone()),
            State::Done(_) => return None,
            _ => State::Detach(Err(error())),
        })
    }

    fn undo(&self, result: Result<Output, Error>) -> State {
        let then = Then::End(result);
        if self.mysql {
            State::UndoEnd(then)
        } else {
            State::Undo(then)
        }
    }

    fn prepared(&mut self) -> State {
        State::Detach(Ok(executed(std::mem::take(&mut self.value))))
    }
}

fn after(then: Then) -> State {
    match then {
        Then::End(result) => State::Detach(result),
        Then::LookForEarlier(error) => State::Earlier(error),
    }
}

fn under_way() -> Error {
    Error::new(
        ErrorKind::Conflict,
        "another call of this branch is under way",
    )
}

fn unknown(message: &str) -> Error {
    Error::new(
        ErrorKind::OutcomeUnknown,
        format!("whether the branch was prepared is unknown: {message}"),
    )
}

/// A transaction that takes no branches any more is a definite no to the branch.
fn not_open(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Refused | ErrorKind::UnknownGid => {
            Error::new(ErrorKind::Failure, error.message())
        }
        _ => error,
    }
}

impl Machine for XaBranch {
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
