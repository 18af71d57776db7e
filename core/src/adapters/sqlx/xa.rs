//! XA branches with sqlx, on MySQL, MariaDB and PostgreSQL.
//!
//! `docs/choosing-a-mode.md` has a handler: the action begins on a connection of its own and prepares, commit and rollback are
//! [`XaBranch::phase2`].

use super::driven::{Driven, Line, Reached, strange};
use super::{Backend, Skipped, place, told};
use crate::branch::Op;
use crate::error::{Error, ErrorKind};
use crate::machine::{Calls, Fact, Statement, StepId, StepKind};
use crate::participant::{self, BarrierResult, BranchResult, Done, Identity, Registration, Table};
use bytes::Bytes;
use sqlx::pool::PoolConnection;
use sqlx::{ConnectOptions, Connection, Pool};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A call of an XA branch as this participant received it: its action, or its phase 2.
#[derive(Clone, Debug)]
pub struct XaBranch {
    who: Identity,
    table: Option<Table>,
}

impl XaBranch {
    /// The branch with this identity.
    pub fn new(who: Identity) -> XaBranch {
        XaBranch { who, table: None }
    }

    /// Uses another table for the barrier than the dialect's default.
    pub fn table(self, table: Table) -> XaBranch {
        XaBranch {
            table: Some(table),
            ..self
        }
    }

    /// Whether it is to be begun; else it is phase 2.
    pub fn is_action(&self) -> bool {
        self.who.op == Op::ACTION
    }

    /// Begins the branch on a connection of its own, which is closed when the branch is prepared or undone: a connection that has prepared
    /// takes nothing else, so it must not come from a pool. `calls` registers the branch; it is a client, or a transport of your own.
    /// Errors: those of [`participant::XaBranch`].
    pub async fn begin<DB, O>(
        &self,
        options: &O,
        at: &Registration,
        calls: Arc<dyn Calls>,
    ) -> Result<XaBegun<DB>, Error>
    where
        DB: Backend<Connection = O::Connection>,
        O: ConnectOptions,
        O::Connection: Connection<Database = DB> + Sized,
    {
        let place = place::<DB>(self.table.as_ref());
        let machine = participant::XaBranch::new(place, self.who.clone(), at)?;
        let conn = options.connect().await.map_err(no_connection)?;
        let mut run = Box::new(Driven::new(machine, XaLine::Own(conn), Some(calls)));
        match run.drive().await? {
            Reached::User(step) => Ok(XaBegun::Run(XaRun { run, step })),
            Reached::End(output) => Ok(XaBegun::Skip(Skipped(
                output.barrier.unwrap_or(BarrierResult::Duplicate),
            ))),
        }
    }

    /// Carries out phase 2. Success is proved by the database or by the barrier's row. Errors: those of [`participant::XaPhase2`].
    pub async fn phase2<DB: Backend>(&self, pool: &Pool<DB>) -> BranchResult {
        let place = place::<DB>(self.table.as_ref());
        let machine = participant::XaPhase2::new(place, self.who.clone())?;
        let conn = pool.acquire().await.map_err(no_connection)?;
        let mut run = Driven::new(machine, XaLine::Lent(Lent(Some(conn))), None);
        run.drive_to_end().await?;
        Ok(Done(()))
    }
}

fn no_connection(error: sqlx::Error) -> Error {
    Error::new(ErrorKind::Database, error.to_string())
}

/// What came of the beginning of an XA branch.
#[derive(Debug)]
#[must_use = "a run that is dropped is rolled back"]
pub enum XaBegun<DB: Backend> {
    /// Make the change on this connection, and prepare it.
    Run(XaRun<DB>),
    /// An earlier call prepared it: answer success.
    Skip(Skipped),
}

/// An XA branch that was begun. It is sqlx's connection for every use; dropped, its connection is closed, and the database rolls back.
#[derive(Debug)]
#[must_use = "a run that is dropped is rolled back"]
pub struct XaRun<DB: Backend> {
    run: Box<Driven<participant::XaBranch, XaLine<DB>>>,
    step: StepId,
}

impl<DB: Backend> XaRun<DB> {
    /// Registers the branch and prepares it; the proof of that. Errors: those of [`participant::XaBranch`].
    pub async fn prepare(mut self) -> BranchResult {
        let ok = Fact::UserOk(Bytes::new());
        self.run.end(self.step, ok).await?;
        Ok(Done(()))
    }

    /// Rolls back and returns the definite no to answer with.
    pub async fn refuse(mut self, why: impl Into<String>) -> Error {
        self.run.refuse(self.step, why).await
    }
}

impl<DB: Backend> Deref for XaRun<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        match &self.run.line {
            XaLine::Own(conn) => conn,
            // A run is made with a connection of its own, which only what ends the run takes away.
            XaLine::Lent(_) | XaLine::Closed => unreachable!("the connection is open"),
        }
    }
}

impl<DB: Backend> DerefMut for XaRun<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.run.line.get().expect("the connection is open")
    }
}

/// The connection of an XA machine.
enum XaLine<DB: Backend> {
    Own(DB::Connection),
    Lent(Lent<DB>),
    Closed,
}

impl<DB: Backend> fmt::Debug for XaLine<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            XaLine::Own(_) => "Own",
            XaLine::Lent(_) => "Lent",
            XaLine::Closed => "Closed",
        })
    }
}

/// A connection of a pool. A run that is dropped before its end may leave settings or a transaction on it, so it does not go back.
struct Lent<DB: Backend>(Option<PoolConnection<DB>>);

impl<DB: Backend> Drop for Lent<DB> {
    fn drop(&mut self) {
        drop(self.0.take().map(PoolConnection::detach));
    }
}

impl<DB: Backend> XaLine<DB> {
    fn get(&mut self) -> Option<&mut DB::Connection> {
        match self {
            XaLine::Own(conn) => Some(conn),
            XaLine::Lent(lent) => lent.0.as_deref_mut(),
            XaLine::Closed => None,
        }
    }

    async fn close(&mut self) {
        let conn = match std::mem::replace(self, XaLine::Closed) {
            XaLine::Own(conn) => Some(conn),
            XaLine::Lent(mut lent) => lent.0.take().map(PoolConnection::detach),
            XaLine::Closed => None,
        };
        if let Some(conn) = conn {
            // What matters is that it is closed; one that is broken cannot say goodbye.
            let _ = conn.close().await;
        }
    }

    async fn exec(&mut self, s: Statement, fact: impl FnOnce(u64) -> Fact) -> Result<Fact, Error> {
        let result = DB::exec(self.conn()?, s).await;
        Ok(told::<DB, _>(result, fact))
    }

    fn conn(&mut self) -> Result<&mut DB::Connection, Error> {
        let closed = || Error::new(ErrorKind::Internal, "the connection is closed");
        self.get().ok_or_else(closed)
    }
}

impl<DB: Backend> Line for XaLine<DB> {
    async fn carry_out(&mut self, kind: StepKind) -> Result<Fact, Error> {
        Ok(match kind {
            StepKind::Begin { .. } => self.exec(Statement::plain("begin"), |_| Fact::Done).await?,
            StepKind::Commit => {
                self.exec(Statement::plain("commit"), |_| Fact::Done)
                    .await?
            }
            StepKind::Exec(s) => self.exec(s, Fact::Affected).await?,
            StepKind::Query(s) => told::<DB, _>(DB::text(self.conn()?, s).await, Fact::Text),
            StepKind::Detach => {
                self.close().await;
                Fact::Done
            }
            other => return Err(strange(&other)),
        })
    }

    fn over(&mut self) {
        if let XaLine::Lent(lent) = self {
            drop(lent.0.take());
        }
    }
}
