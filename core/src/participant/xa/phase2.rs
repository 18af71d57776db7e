//! Phase 2: commit or roll back what was prepared, and know that it was done.

use super::xid::Xid;
use super::{BARRIER_ID, is_mysql, refusal, with_xid};
use crate::branch::{Op, TransType};
use crate::error::{Error, ErrorKind};
use crate::machine::{Fact, Machine, Output, Statement, Step, StepId, StepKind, Steps, wrong};
use crate::participant::Identity;
use crate::participant::barrier::{self, BarrierResult, by_reason};
use crate::participant::db_error::{self, DbError};
use crate::participant::run::{Place, executed, skipped};
use crate::time::Millis;
use bytes::Bytes;

/// How long MySQL's session is given to let go of a branch, ms. If that is too short, the commit is not proved, and MariaDB may hold the
/// branch until it is started again.
const SETTLE: Millis = 10;

/// The commit or rollback of an XA branch, on any connection.
///
/// `Done` is success only if it is proved: by the database, or by the barrier's row. Errors: `Ongoing` for a commit of a branch that cannot
/// be found yet, `Conflict` for a rollback while the action still runs, and both are asked for again; `Refused` if the branch has the
/// opposite outcome already, which is for a person to look at.
#[derive(Clone, Debug)]
pub struct XaPhase2 {
    place: Place,
    mysql: bool,
    commit: bool,
    xid: Xid,
    /// Claims the action's row for the rollback.
    marker: Statement,
    /// Reads who has that row: a plain read for a commit (rules.md 9.3), a locking one for a rollback.
    reason: Statement,
    state: State,
    steps: Steps,
}

#[derive(Clone, Debug)]
enum State {
    /// MySQL: for a second at most, until the session that prepared the branch is going. As long as it is there, nothing is tried:
    /// MariaDB might hold the branch for good.
    Wait,
    /// It lets go of the lock a little before it lets go of the branch.
    Settle,
    Finish,
    /// The row tells whether it was committed, now or before. MariaDB's word is no proof: it answers a commit in the moment in which a
    /// session lets go with success, and commits nothing.
    Proof,
    Begin,
    /// Not to wait for an action that still runs.
    Limit,
    Marker,
    Reason,
    Commit,
    /// After a rollback the connection is closed: its settings were changed, and it may have an open transaction.
    Detach(Result<Output, Error>),
    Done(Result<Output, Error>),
}

impl XaPhase2 {
    /// Phase 2 with this identity. Error: `Invalid` if it is no commit or rollback of an xa, or the database has no XA.
    pub fn new(place: Place, who: Identity) -> Result<XaPhase2, Error> {
        let mysql = is_mysql(&place)?;
        let commit = who.op == Op::COMMIT;
        if who.trans_type != TransType::Xa || !(commit || who.op == Op::ROLLBACK) {
            return Err(Error::invalid(format!(
                "a {} of a {} is neither commit nor rollback of an xa",
                who.op, who.trans_type
            )));
        }
        let action = Identity {
            op: Op::ACTION,
            ..who
        };
        let Place {
            dialect,
            ref table,
            style,
        } = place;
        let by = Op::ROLLBACK;
        Ok(XaPhase2 {
            marker: barrier::insert(
                dialect,
                table,
                style,
                &action,
                &Op::ACTION,
                BARRIER_ID,
                by.as_str(),
            ),
            reason: barrier::reason(dialect, table, style, &action, BARRIER_ID, !commit),
            xid: Xid::new(&action.gid, &action.branch_id),
            state: if mysql { State::Wait } else { State::Finish },
            place,
            mysql,
            commit,
            steps: Steps::default(),
        })
    }

    fn kind(&self) -> StepKind {
        let xid = &self.xid;
        match &self.state {
            State::Wait => {
                let text = "select cast(if(get_lock(?, 1) = 1, release_lock(?), 0) as char)";
                StepKind::Query(with_xid(&self.place, text, xid))
            }
            State::Settle => StepKind::Sleep(SETTLE),
            State::Finish => StepKind::Exec(Statement::plain(match (self.mysql, self.commit) {
                (true, true) => format!("xa commit '{xid}'"),
                (true, false) => format!("xa rollback '{xid}'"),
                (false, true) => format!("commit prepared '{xid}'"),
                (false, false) => format!("rollback prepared '{xid}'"),
            })),
            State::Proof | State::Reason => StepKind::Query(self.reason.clone()),
            State::Begin => StepKind::Begin { immediate: false },
            State::Limit => {
                let limit = if self.mysql {
                    "set session innodb_lock_wait_timeout = 1"
                } else {
                    "set local lock_timeout = '1s'"
                };
                StepKind::Exec(Statement::plain(limit))
            }
            State::Marker => StepKind::Exec(self.marker.clone()),
            State::Commit => StepKind::Commit,
            State::Detach(_) => StepKind::Detach,
            State::Done(result) => StepKind::Done(result.clone()),
        }
    }

    /// The state after a fact; `None` if the fact does not fit.
    fn next(&mut self, fact: Fact) -> Option<State> {
        if fact == Fact::Cancelled {
            let error = Error::new(ErrorKind::OutcomeUnknown, "cancelled");
            return match &self.state {
                State::Done(_) => None,
                State::Detach(result) => Some(State::Done(result.clone())),
                _ => Some(State::Detach(Err(error))),
            };
        }
        if let Some((class, message)) = refusal(&self.place, &fact) {
            return self.failed(class, message);
        }
        Some(match (&self.state, fact) {
            (State::Wait, Fact::Text(Some(got))) if got == "1" => State::Settle,
            (State::Wait, Fact::Text(_)) => State::Done(Err(Error::new(
                if self.commit {
                    ErrorKind::Ongoing
                } else {
                    ErrorKind::Conflict
                },
                "the session that prepares this branch is still there",
            ))),
            (State::Settle, Fact::Done) => State::Finish,
            (State::Finish, Fact::Affected(_)) if self.commit && self.mysql => State::Proof,
            (State::Finish, Fact::Affected(_)) if self.commit => {
                State::Done(Ok(executed(Bytes::new())))
            }
            (State::Finish, Fact::Affected(_)) => State::Begin,
            (State::Proof, Fact::Text(Some(reason))) => State::Done(self.proved(&reason)),
            (State::Proof, Fact::Text(None)) => State::Done(Err(Error::new(
                ErrorKind::Ongoing,
                "the branch is neither prepared nor committed, as far as can be seen yet",
            ))),
            (State::Begin, Fact::Done) => State::Limit,
            (State::Limit, Fact::Affected(_)) => State::Marker,
            (State::Marker, Fact::Affected(_)) => State::Reason,
            (State::Reason, Fact::Text(Some(reason))) => match self.proved(&reason) {
                Ok(_) => State::Commit,
                Err(error) => State::Detach(Err(error)),
            },
            (State::Reason, Fact::Text(None)) => State::Detach(Err(Error::new(
                ErrorKind::Conflict,
                "the row of an action was rolled back just now",
            ))),
            (State::Commit, Fact::Done) => State::Detach(Ok(executed(Bytes::new()))),
            (State::Detach(result), Fact::Done) => State::Done(result.clone()),
            _ => return None,
        })
    }

    fn failed(&self, class: DbError, message: String) -> Option<State> {
        let error = db_error::error(&self.place, class, message);
        Some(match &self.state {
            State::Wait if class == DbError::ConnectionLost => State::Detach(Err(error)),
            State::Wait => State::Settle,
            State::Finish => match class {
                DbError::UnknownXid if self.commit => State::Proof,
                DbError::UnknownXid => State::Begin,
                // PostgreSQL: another session is just ending it.
                DbError::XaDisabled => {
                    State::Done(Err(Error::new(ErrorKind::Conflict, error.message())))
                }
                _ => State::Detach(Err(error)),
            },
            State::Proof
            | State::Begin
            | State::Limit
            | State::Marker
            | State::Reason
            | State::Commit => State::Detach(Err(error)),
            State::Detach(result) => State::Done(result.clone()),
            State::Settle | State::Done(_) => return None,
        })
    }

    /// What the row of the action says: written by the action, it was committed; else it was rolled back.
    fn proved(&self, reason: &str) -> Result<Output, Error> {
        let committed = by_reason(&Op::ACTION, reason) == BarrierResult::Duplicate;
        if committed == self.commit {
            return Ok(skipped(BarrierResult::Duplicate));
        }
        let (was, now) = if committed {
            ("committed", "rolled back")
        } else {
            ("rolled back", "committed")
        };
        Err(Error::new(
            ErrorKind::Refused,
            format!(
                "the branch {} was {was}, and is to be {now}: a person must look at it",
                self.xid
            ),
        ))
    }
}

impl Machine for XaPhase2 {
    fn poll(&mut self) -> Option<Step> {
        self.steps.idle()?;
        let kind = self.kind();
        Some(self.steps.give((), kind))
    }

    fn resolve(&mut self, id: StepId, fact: Fact) -> Result<(), Error> {
        self.steps.who(id)?;
        self.state = self.next(fact).ok_or_else(|| wrong(id))?;
        self.steps.end(id);
        Ok(())
    }
}
