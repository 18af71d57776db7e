//! A host of a machine whose transaction is on a connection of its own: each of its steps is an effect at which it may stop, or not hear what
//! came of it. Dropped, it is a process that died: its connection is closed with whatever is open on it.

use crate::{CrashingCalls, plain};
use amends::adapters::sqlx::Backend;
use amends::machine::{Calls, Fact, Machine, Output, Step, StepKind};
use amends::{Error, ErrorKind};
use bytes::Bytes;
use sqlx::{Connection, Pool};
use std::time::Duration;

/// The user's code in a machine's transaction.
pub trait User<DB: Backend>: Sync {
    /// Runs it.
    ///
    /// # Errors
    ///
    /// Whatever it ends with.
    fn run(&self, conn: &mut DB::Connection) -> impl Future<Output = Result<Bytes, Error>> + Send;
}

/// The host, and the connection that its run has borrowed.
#[derive(Debug)]
pub struct Host<'a, DB: Backend> {
    pool: &'a Pool<DB>,
    calls: CrashingCalls,
    conn: Option<DB::Connection>,
    /// There was a connection, and what needs it fails from now on; only a transaction is begun on another.
    lost: bool,
    haste: u32,
}

impl<'a, DB: Backend> Host<'a, DB> {
    /// Its transactions are effects of the same crash as its calls.
    pub fn new(pool: &'a Pool<DB>, calls: CrashingCalls) -> Host<'a, DB> {
        Host {
            pool,
            calls,
            conn: None,
            lost: false,
            haste: 1,
        }
    }

    /// Makes its pauses so many times shorter, for a machine that has many and does not depend on their length.
    #[must_use]
    pub fn haste(self, haste: u32) -> Host<'a, DB> {
        Host { haste, ..self }
    }

    /// Carries out a machine.
    ///
    /// # Errors
    ///
    /// What the machine ends with.
    ///
    /// # Panics
    ///
    /// When the machine has no end, or the database cannot be reached.
    pub async fn drive(
        mut self,
        mut machine: impl Machine,
        user: &impl User<DB>,
    ) -> Result<Output, Error> {
        while let Some(Step { id, kind }) = machine.poll() {
            let fact = match kind {
                StepKind::Done(result) => return result,
                StepKind::Call(request) => self.calls.call(request).await,
                StepKind::Sleep(pause) => {
                    let pause = Duration::from_millis(pause.unsigned_abs());
                    tokio::time::sleep(pause / self.haste).await;
                    Fact::Done
                }
                StepKind::Detach => {
                    if let Some(open) = self.conn.take() {
                        // A connection that is broken is closed as well.
                        let _ = open.close().await;
                    }
                    self.lost = false;
                    Fact::Done
                }
                kind => self.in_database(kind, user).await,
            };
            machine.resolve(id, fact).expect("it fits");
        }
        panic!("a machine without an end");
    }

    async fn in_database(&mut self, kind: StepKind, user: &impl User<DB>) -> Fact {
        let message = "the connection was lost".to_owned();
        let lost = match kind {
            StepKind::RunUser(_) => Fact::UserFailed {
                kind: ErrorKind::Database,
                message,
            },
            _ => Fact::DbFailed {
                sqlstate: Some("08006".to_owned()),
                errno: None,
                message,
            },
        };
        let crash = self.calls.crash.clone();
        let heard = crash.heard(self.carry_out(kind, user)).await.flatten();
        if heard.is_none() {
            self.conn = None;
            self.lost = true;
        }
        heard.unwrap_or(lost)
    }

    /// `None` if there is no connection any more.
    async fn carry_out(&mut self, kind: StepKind, user: &impl User<DB>) -> Option<Fact> {
        let begins = matches!(kind, StepKind::Begin { .. });
        if self.conn.is_none() && (begins || !self.lost) {
            let own = self.pool.acquire().await.expect("a connection");
            self.conn = Some(own.detach());
        }
        let conn = self.conn.as_mut()?;
        let sql = match kind {
            StepKind::Begin { .. } => DB::BEGIN.unwrap_or("begin"),
            StepKind::Commit => "commit",
            StepKind::Rollback => "rollback",
            StepKind::Exec(s) => {
                return Some(told::<DB, _>(DB::exec(conn, s).await, Fact::Affected));
            }
            StepKind::Query(s) => return Some(told::<DB, _>(DB::text(conn, s).await, Fact::Text)),
            StepKind::RunUser(_) => return Some(user.run(conn).await.into()),
            other => panic!("{other:?}"),
        };
        let done = DB::exec(conn, plain(sql)).await;
        Some(told::<DB, _>(done, |_| Fact::Done))
    }
}

fn told<DB: Backend, T>(result: Result<T, sqlx::Error>, fact: impl FnOnce(T) -> Fact) -> Fact {
    result.map_or_else(|error| refused::<DB>(&error), fact)
}

/// A statement that the database refused.
///
/// # Panics
///
/// When it was something else that failed.
pub fn refused<DB: Backend>(error: &sqlx::Error) -> Fact {
    let sqlx::Error::Database(e) = error else {
        panic!("{error}");
    };
    Fact::DbFailed {
        sqlstate: e.code().map(|code| code.into_owned()),
        errno: DB::errno(&**e),
        message: error.to_string(),
    }
}
