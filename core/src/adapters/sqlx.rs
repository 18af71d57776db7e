//! The barrier for sqlx: MySQL and MariaDB (`sqlx-mysql`), PostgreSQL (`sqlx-postgres`), SQLite (`sqlx-sqlite`).
//!
//! ```no_run
//! # use amends::{Error, ErrorKind, adapters::sqlx::{Begun, Branch}, participant::Identity};
//! # #[cfg(feature = "sqlx-sqlite")]
//! # async fn withdraw(identity: Identity, pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
//! match Branch::new(identity).begin(&pool).await? {
//!     Begun::Run(mut tx) => {
//!         sqlx::query("update account set balance = balance - 30").execute(&mut *tx).await?;
//!         let _committed = tx.commit().await?;
//!     }
//!     Begun::Skip(why) => {}      // done before, or never to be done: answer success
//! }
//! # Ok(()) }
//! ```
//!
//! Dropping a [`Run`] rolls it back, and a later call runs the code again. Whatever future is dropped, by a timeout for instance, nothing
//! half done is committed and the pool gets its place back; where a statement was cut off, its connection is closed. Drop the run as well
//! when a statement of your own was cut off: what is left of it on the connection may be taken for the answer to another one.
//!
//! Leave the end of the transaction to the run: `commit`, `rollback` and statements that commit by themselves (`create table` and
//! `truncate` on MySQL) end it behind the barrier's back. Then `commit` answers `HalfDone`, and only what the database has kept is known:
//! a rollback took the barrier's row along, and is `Aborted`.
//!
//! An error of sqlx becomes ours with `?`: a conflict is answered with 425, anything else with 500.

mod backend;
mod driven;
mod errors;
mod held;
mod xa;

pub use backend::Backend;
pub use errors::db_error;
pub use xa::{XaBegun, XaBranch, XaRun};

use crate::error::{Error, ErrorKind};
use crate::initiator::msg::Commit;
use crate::initiator::{Message, Server};
use crate::machine::{Calls, Fact, Machine, Step, StepId, StepKind};
use crate::participant::barrier::{barrier_id, check_message};
use crate::participant::run::Guard;
use crate::participant::{
    BarrierResult, BarrierRun, BranchResult, Done, Identity, Mode, Place, Table,
};
use bytes::Bytes;
use driven::{Driven, Line, Reached, strange};
use errors::{commit_error, told};
use held::Held;
use sqlx::{Pool, Transaction};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A branch call as this participant received it.
#[derive(Clone, Debug)]
pub struct Branch {
    who: Identity,
    part: String,
    table: Option<Table>,
}

impl Branch {
    /// The branch with this identity.
    pub fn new(who: Identity) -> Branch {
        Branch {
            who,
            part: barrier_id(1),
            table: None,
        }
    }

    /// Names a part of the branch, where it has several that commit apart; the action's part and its undo's have the same name.
    /// The default is `01`, and the only one for the local transaction of a message.
    pub fn part(self, name: &str) -> Branch {
        Branch {
            part: name.to_owned(),
            ..self
        }
    }

    /// Uses another table than the dialect's default.
    pub fn table(self, table: Table) -> Branch {
        Branch {
            table: Some(table),
            ..self
        }
    }

    /// Whose branch it is.
    pub fn identity(&self) -> &Identity {
        &self.who
    }

    fn place<DB: Backend>(&self) -> Place {
        place::<DB>(self.table.as_ref())
    }

    fn run(&self, place: Place, mode: Mode) -> Result<BarrierRun, Error> {
        BarrierRun::new(place, self.who.clone(), &self.part, mode, random())
    }

    /// Begins a transaction behind the barrier. Errors: `Conflict` after the last of several tries, `Database`, `Invalid` for a missing
    /// table or a message with a part, `Duplicated` for a message whose gid was used before ([`Error::committed`] says how it ended),
    /// `Failure` for a workflow's step that was rolled back before it arrived.
    pub async fn begin<DB: Backend>(&self, pool: &Pool<DB>) -> Result<Begun<DB>, Error> {
        let machine = self.run(self.place::<DB>(), Mode::Managed)?;
        let mut run = Box::new(Driven::new(machine, Borrowed::of(pool), None));
        match run.drive().await? {
            Reached::User(step) => Ok(Begun::Run(Run { run, step })),
            Reached::End(outcome) => Ok(Begun::Skip(Skipped(
                outcome.barrier.unwrap_or(BarrierResult::Executed),
            ))),
        }
    }

    /// The same inside a transaction that the caller has begun and will commit, also when the business change is skipped: the barrier's
    /// rows must stay. Errors as of [`Branch::begin`]; a conflict is not tried again, for the transaction is the caller's.
    ///
    /// Do not drop it before it ends, as a timeout would: the connection is the caller's and cannot be closed here, and sqlx's pool may lose
    /// its place on MySQL when a statement is cut off. [`Branch::begin`] has no such weakness.
    pub async fn join<DB: Backend>(&self, tx: &mut Transaction<'_, DB>) -> Result<Joined, Error> {
        let mut machine = self.run(self.place::<DB>(), Mode::Joined)?;
        while let Some(Step { id, kind }) = machine.poll() {
            let fact = match kind {
                StepKind::Done(result) => {
                    let outcome = result?;
                    let result = outcome.barrier.unwrap_or(BarrierResult::Executed);
                    return Ok(Joined {
                        result,
                        guard: machine.guard(),
                    });
                }
                StepKind::RunUser(_) => Fact::UserOk(Bytes::new()),
                StepKind::Exec(s) => told::<DB, _>(DB::exec(tx, s).await, Fact::Affected),
                StepKind::Query(s) => told::<DB, _>(DB::text(tx, s).await, Fact::Text),
                other => return Err(strange(&other)),
            };
            machine.resolve(id, fact)?;
        }
        Err(Error::new(ErrorKind::Internal, "a barrier without an end"))
    }

    /// Answers a check-back (query-prepared): success if the message's local transaction was committed, [`ErrorKind::Failure`] if it was
    /// not and cannot be any more; any other error is no answer. `Invalid` for a part, for a message has none.
    pub async fn check_back<DB: Backend>(&self, pool: &Pool<DB>) -> BranchResult {
        check_message(crate::branch::ROOT_BRANCH, &self.part)?;
        let machine = BarrierRun::check_back(self.place::<DB>(), self.who.clone(), random());
        let mut run = Driven::new(machine, Borrowed::of(pool), None);
        run.drive_to_end().await?;
        Ok(Done(()))
    }
}

/// What a barrier let happen.
#[derive(Debug)]
#[must_use = "a run that is dropped is rolled back"]
pub enum Begun<DB: Backend> {
    /// Make the change in this transaction, and commit it.
    Run(Run<DB>),
    /// Nothing is to be done: answer success. The barrier's rows are committed.
    Skip(Skipped),
}

/// The proof that nothing is to be done: the barrier's rows are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped(BarrierResult);

impl Skipped {
    /// Why.
    pub fn why(self) -> BarrierResult {
        self.0
    }
}

impl From<Skipped> for Done {
    fn from(_: Skipped) -> Done {
        Done(())
    }
}

/// A barrier inside the caller's own transaction. Whatever it let happen, the transaction must be committed: the barrier's rows are in it.
#[derive(Debug)]
#[must_use = "the transaction must be committed, also when the change is skipped"]
pub struct Joined {
    result: BarrierResult,
    guard: Option<Guard>,
}

impl Joined {
    /// What it let happen: make the change if it is [`BarrierResult::Executed`], else not.
    pub fn result(&self) -> BarrierResult {
        self.result
    }

    /// Commits the caller's transaction, if it is the one that was joined, and nothing has rolled it back. Errors as of [`Run::commit`].
    pub async fn commit<DB: Backend>(self, mut tx: Transaction<'_, DB>) -> Result<Done, Error> {
        if let Some(guard) = self.guard {
            let found = DB::text(&mut tx, guard.question.clone()).await;
            guard.judge(found.map_err(|e| db_error::<DB>(&e))?.as_deref())?;
        }
        tx.commit().await.map_err(|e| commit_error::<DB>(&e))?;
        Ok(Done(()))
    }
}

/// A transaction that the barrier has begun. It is sqlx's connection for every use; dropped, it is rolled back.
#[derive(Debug)]
#[must_use = "a run that is dropped is rolled back"]
pub struct Run<DB: Backend, M: Machine = BarrierRun> {
    run: Box<Driven<M, Borrowed<DB>>>,
    step: StepId,
}

/// Where barriers run: in this table, or in the dialect's own.
fn place<DB: Backend>(table: Option<&Table>) -> Place {
    Place {
        dialect: DB::DIALECT,
        table: table
            .cloned()
            .unwrap_or_else(|| DB::DIALECT.default_table()),
        style: DB::STYLE,
    }
}

/// The local transaction of a message. Dropped, it is rolled back, and the coordinator will learn that when it asks.
pub type MessageRun<DB> = Run<DB, Commit>;

impl Message {
    /// Prepares the message, and begins its local transaction. `calls` is a client, or a transport of your own. Errors: `Invalid`,
    /// `Unavailable` from the coordinator, before anything was begun; `Duplicated` for a gid that was used before; those of
    /// [`Branch::begin`].
    pub async fn begin<DB: Backend>(
        &self,
        server: &Server,
        calls: Arc<dyn Calls>,
        pool: &Pool<DB>,
    ) -> Result<MessageRun<DB>, Error> {
        let place = place::<DB>(self.barrier_table());
        let machine = self.commit_with(server, place, random())?;
        let mut run = Box::new(Driven::new(machine, Borrowed::of(pool), Some(calls)));
        run.span = tracing::info_span!("message", gid = self.gid());
        match run.drive().await? {
            Reached::User(step) => Ok(Run { run, step }),
            Reached::End(_) => Err(Error::new(
                ErrorKind::Internal,
                "a message was committed without its local transaction",
            )),
        }
    }
}

/// The proof that a change was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it is what the answer to the coordinator rests on"]
pub struct Committed(());

impl From<Committed> for Done {
    fn from(_: Committed) -> Done {
        Done(())
    }
}

impl<DB: Backend, M: Machine> Run<DB, M> {
    /// Commits the change together with the barrier's row. Errors: `Aborted` if the database had rolled back because the error of a
    /// statement was swallowed; `Conflict` if it was rolled back for another's sake; `Database` if it was refused, as by a constraint
    /// that is checked now; `HalfDone` if your code ended the transaction itself; `OutcomeUnknown` if the answer was lost.
    pub async fn commit(mut self) -> Result<Committed, Error> {
        if let Some(held) = &mut self.run.line.held {
            held.settle().await;
        }
        let ok = Fact::UserOk(Bytes::new());
        self.run.end(self.step, ok).await?;
        Ok(Committed(()))
    }

    /// Rolls back and returns the definite no to answer with. No row stays, so that the refused op may come again.
    pub async fn refuse(mut self, why: impl Into<String>) -> Error {
        self.run.refuse(self.step, why).await
    }
}

impl<DB: Backend, M: Machine> Deref for Run<DB, M> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        // The machine reaches the user's code only behind Begin, and the transaction is taken only by what ends it.
        self.run
            .line
            .held
            .as_deref()
            .expect("the transaction is open")
    }
}

impl<DB: Backend, M: Machine> DerefMut for Run<DB, M> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.run
            .line
            .held
            .as_deref_mut()
            .expect("the transaction is open")
    }
}

/// A connection of the pool, from the machine's begin to its end.
#[derive(Debug)]
struct Borrowed<DB: Backend> {
    pool: Pool<DB>,
    held: Option<Held<DB>>,
}

impl<DB: Backend> Borrowed<DB> {
    fn of(pool: &Pool<DB>) -> Borrowed<DB> {
        Borrowed {
            pool: pool.clone(),
            held: None,
        }
    }

    /// Gives the connection back, unless its transaction could not be ended.
    fn ended(&mut self, result: Result<(), sqlx::Error>) -> Fact {
        if result.is_ok() {
            self.held = None;
        }
        told::<DB, _>(result, |()| Fact::Done)
    }
}

impl<DB: Backend> Line for Borrowed<DB> {
    async fn carry_out(&mut self, kind: StepKind) -> Result<Fact, Error> {
        let closed = || Error::new(ErrorKind::Internal, "there is no open transaction");
        Ok(match kind {
            StepKind::Begin { .. } => {
                let begun = Held::begin(&self.pool).await;
                told::<DB, _>(begun, |held| {
                    self.held = Some(held);
                    Fact::Done
                })
            }
            StepKind::Exec(s) => {
                let held = self.held.as_mut().ok_or_else(closed)?;
                told::<DB, _>(held.exec(s).await, Fact::Affected)
            }
            StepKind::Query(s) => {
                let held = self.held.as_mut().ok_or_else(closed)?;
                told::<DB, _>(held.text(s).await, Fact::Text)
            }
            StepKind::Commit => {
                let held = self.held.as_mut().ok_or_else(closed)?;
                let committed = held.commit().await;
                self.ended(committed)
            }
            StepKind::Rollback => {
                let held = self.held.as_mut().ok_or_else(closed)?;
                let rolled_back = held.rollback().await;
                self.ended(rolled_back)
            }
            StepKind::Detach => {
                if let Some(mut held) = self.held.take() {
                    held.condemn();
                }
                Fact::Done
            }
            other => return Err(strange(&other)),
        })
    }
}

/// Spreads the pauses of those who try again; nothing else depends on it.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
