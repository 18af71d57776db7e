//! The barrier for sqlx: MySQL and MariaDB (`sqlx-mysql`), PostgreSQL (`sqlx-postgres`), SQLite (`sqlx-sqlite`).
//!
//! ```ignore
//! match Branch::new(identity).begin(&pool).await? {
//!     Begun::Run(mut tx) => {
//!         sqlx::query("update account set balance = balance - 30").execute(&mut *tx).await?;
//!         tx.commit().await?;
//!     }
//!     Begun::Skip(why) => {}      // done before, or never to be done: answer success
//! }
//! ```
//!
//! Dropping a [`Run`] rolls it back, and a later call runs the code again.

mod backend;

pub use backend::Backend;

use crate::error::{Error, ErrorKind};
use crate::initiator::msg::Commit;
use crate::initiator::{Message, Server};
use crate::machine::{Calls, Fact, Machine, Step, StepId, StepKind};
use crate::participant::barrier::barrier_id;
use crate::participant::{
    BarrierResult, BarrierRun, BranchResult, DbError, Done, Identity, Mode, Place, Table,
    classify_db_error,
};
use bytes::Bytes;
use sqlx::{Pool, Transaction};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

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
    /// The default is `01`.
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
        Place {
            dialect: DB::DIALECT,
            table: self
                .table
                .clone()
                .unwrap_or_else(|| DB::DIALECT.default_table()),
            style: DB::STYLE,
        }
    }

    /// Begins a transaction behind the barrier. Errors: `Conflict` after the last of several tries, `Database`, `Invalid` for a missing
    /// table, `Duplicated` for a message whose gid was used before, `Failure` for a workflow's step that was rolled back before it arrived.
    pub async fn begin<DB: Backend>(&self, pool: &Pool<DB>) -> Result<Begun<DB>, Error> {
        let machine = BarrierRun::new(
            self.place::<DB>(),
            self.who.clone(),
            &self.part,
            Mode::Managed,
            random(),
        )?;
        let mut run = Box::new(Driven::new(machine, pool, None));
        match run.drive().await? {
            Reached::User(step) => Ok(Begun::Run(Run { run, step })),
            Reached::End(outcome) => Ok(Begun::Skip(Skipped(
                outcome.barrier.unwrap_or(BarrierResult::Executed),
            ))),
        }
    }

    /// The same inside a transaction that the caller has begun and will commit, also when the business change is skipped: the barrier's
    /// rows must stay. Errors as of [`Branch::begin`]; a conflict is not tried again, for the transaction is the caller's.
    pub async fn join<DB: Backend>(&self, tx: &mut Transaction<'_, DB>) -> Result<Joined, Error> {
        let mut machine = BarrierRun::new(
            self.place::<DB>(),
            self.who.clone(),
            &self.part,
            Mode::Joined,
            random(),
        )?;
        while let Some(Step { id, kind }) = machine.poll() {
            let fact = match kind {
                StepKind::Done(result) => {
                    let outcome = result?;
                    let result = outcome.barrier.unwrap_or(BarrierResult::Executed);
                    return Ok(Joined(result));
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
    /// not and cannot be any more; any other error is no answer.
    pub async fn check_back<DB: Backend>(&self, pool: &Pool<DB>) -> BranchResult {
        let machine = BarrierRun::check_back(self.place::<DB>(), self.who.clone(), random());
        let mut run = Driven::new(machine, pool, None);
        match run.drive().await? {
            Reached::End(_) => Ok(Done(())),
            Reached::User(_) => Err(Error::new(
                ErrorKind::Internal,
                "a check-back runs no user's code",
            )),
        }
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
pub struct Joined(BarrierResult);

impl Joined {
    /// What it let happen: make the change if it is [`BarrierResult::Executed`], else not.
    pub fn result(&self) -> BarrierResult {
        self.0
    }

    /// Commits the caller's transaction. Error: `OutcomeUnknown` or `Conflict`, as of [`Run::commit`].
    pub async fn commit<DB: Backend>(self, tx: Transaction<'_, DB>) -> Result<Done, Error> {
        tx.commit().await.map_err(|error| {
            let conflict = match &error {
                sqlx::Error::Database(e) => {
                    let class =
                        classify_db_error(DB::DIALECT, e.code().as_deref(), DB::errno(&**e));
                    class == DbError::Conflict
                }
                _ => false,
            };
            let kind = if conflict {
                ErrorKind::Conflict
            } else {
                ErrorKind::OutcomeUnknown
            };
            Error::new(kind, error.to_string())
        })?;
        Ok(Done(()))
    }
}

/// A transaction that the barrier has begun. It is sqlx's connection for every use; dropped, it is rolled back.
#[derive(Debug)]
#[must_use = "a run that is dropped is rolled back"]
pub struct Run<DB: Backend, M: Machine = BarrierRun> {
    run: Box<Driven<DB, M>>,
    step: StepId,
}

/// The local transaction of a message. Dropped, it is rolled back, and the coordinator will learn that when it asks.
pub type MessageRun<DB> = Run<DB, Commit>;

impl Message {
    /// Prepares the message, and begins its local transaction. `calls` is a client, or a transport of your own. Errors: `WrongState`,
    /// `Invalid`, `Unavailable` from the coordinator, before anything was begun; `Duplicated` for a gid that was used before; those of
    /// [`Branch::begin`].
    pub async fn begin<DB: Backend>(
        &self,
        server: &Server,
        calls: Arc<dyn Calls>,
        pool: &Pool<DB>,
    ) -> Result<MessageRun<DB>, Error> {
        let place = Place {
            dialect: DB::DIALECT,
            table: self
                .barrier_table()
                .cloned()
                .unwrap_or_else(|| DB::DIALECT.default_table()),
            style: DB::STYLE,
        };
        let machine = self.commit_with(server, place, random())?;
        let mut run = Box::new(Driven::new(machine, pool, Some(calls)));
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
    /// Commits the change together with the barrier's row. Errors: `Aborted` if PostgreSQL had aborted the transaction because the error
    /// of a statement was swallowed; `Conflict` if it was rolled back for another's sake; `OutcomeUnknown` if the answer was lost.
    pub async fn commit(mut self) -> Result<Committed, Error> {
        self.end(Fact::UserOk(Bytes::new())).await?;
        Ok(Committed(()))
    }

    /// Rolls back and returns the definite no to answer with. No row stays, so that the refused op may come again.
    pub async fn refuse(mut self, why: impl Into<String>) -> Error {
        let refused = Fact::UserFailed {
            kind: ErrorKind::Failure,
            message: why.into(),
        };
        match self.end(refused).await {
            Err(error) => error,
            Ok(()) => Error::new(ErrorKind::Internal, "a refusal was committed"),
        }
    }

    async fn end(&mut self, fact: Fact) -> Result<(), Error> {
        self.run.machine.resolve(self.step, fact)?;
        match self.run.drive().await? {
            Reached::End(_) => Ok(()),
            Reached::User(_) => Err(Error::new(
                ErrorKind::Internal,
                "a barrier runs the user's code once",
            )),
        }
    }
}

impl<DB: Backend, M: Machine> Deref for Run<DB, M> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        // The machine reaches the user's code only behind Begin, and the transaction is taken only by what ends it.
        self.run.tx.as_ref().expect("the transaction is open")
    }
}

impl<DB: Backend, M: Machine> DerefMut for Run<DB, M> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.run.tx.as_mut().expect("the transaction is open")
    }
}

/// A machine with the connection that its run has borrowed.
#[derive(Debug)]
struct Driven<DB: Backend, M> {
    machine: M,
    pool: Pool<DB>,
    tx: Option<Transaction<'static, DB>>,
    calls: Option<Arc<dyn Calls>>,
}

/// Where a machine has come to.
enum Reached {
    User(StepId),
    End(crate::machine::Outcome),
}

impl<DB: Backend, M: Machine> Driven<DB, M> {
    fn new(machine: M, pool: &Pool<DB>, calls: Option<Arc<dyn Calls>>) -> Driven<DB, M> {
        Driven {
            machine,
            pool: pool.clone(),
            tx: None,
            calls,
        }
    }

    async fn drive(&mut self) -> Result<Reached, Error> {
        while let Some(Step { id, kind }) = self.machine.poll() {
            let fact = match kind {
                StepKind::RunUser(_) => return Ok(Reached::User(id)),
                StepKind::Done(result) => return result.map(Reached::End),
                kind => self.carry_out(kind).await?,
            };
            self.machine.resolve(id, fact)?;
        }
        Err(Error::new(ErrorKind::Internal, "a barrier without an end"))
    }

    async fn carry_out(&mut self, kind: StepKind) -> Result<Fact, Error> {
        let closed = || Error::new(ErrorKind::Internal, "there is no open transaction");
        let done = |()| Fact::Done;
        Ok(match kind {
            StepKind::Begin { immediate } => match DB::begin(&self.pool, immediate).await {
                Ok(tx) => {
                    self.tx = Some(tx);
                    Fact::Done
                }
                Err(error) => failed::<DB>(&error),
            },
            StepKind::Exec(s) => {
                let tx = self.tx.as_mut().ok_or_else(closed)?;
                told::<DB, _>(DB::exec(tx, s).await, Fact::Affected)
            }
            StepKind::Query(s) => {
                let tx = self.tx.as_mut().ok_or_else(closed)?;
                told::<DB, _>(DB::text(tx, s).await, Fact::Text)
            }
            StepKind::Commit => {
                let tx = self.tx.take().ok_or_else(closed)?;
                told::<DB, _>(tx.commit().await, done)
            }
            // After a commit that failed there is none any more.
            StepKind::Rollback => match self.tx.take() {
                Some(tx) => told::<DB, _>(tx.rollback().await, done),
                None => Fact::Done,
            },
            // sqlx closes a connection that is broken, and rolls back one that is dropped.
            StepKind::Detach => {
                drop(self.tx.take());
                Fact::Done
            }
            StepKind::Sleep(pause) => {
                let pause = u64::try_from(pause).unwrap_or(0);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                Fact::Done
            }
            StepKind::Call(request) => match &self.calls {
                Some(calls) => calls.call(request).await,
                None => return Err(strange(&StepKind::Call(request))),
            },
            other => return Err(strange(&other)),
        })
    }
}

fn told<DB: Backend, T>(result: Result<T, sqlx::Error>, fact: impl FnOnce(T) -> Fact) -> Fact {
    match result {
        Ok(value) => fact(value),
        Err(error) => failed::<DB>(&error),
    }
}

fn failed<DB: Backend>(error: &sqlx::Error) -> Fact {
    let (sqlstate, errno) = match error {
        sqlx::Error::Database(e) => (e.code().map(|c| c.into_owned()), DB::errno(&**e)),
        // The connection is gone, or none could be had.
        _ => (Some("08006".to_owned()), None),
    };
    Fact::DbFailed {
        sqlstate,
        errno,
        message: error.to_string(),
    }
}

fn strange(kind: &StepKind) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("a barrier does not ask for {kind:?}"),
    )
}

/// Spreads the pauses of those who try again; nothing else depends on it.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
