//! The connection of a run. Whatever cuts the run off, no transaction goes back to the pool with its connection, no statement is left
//! half read on it, and the pool loses no place.

use super::backend::Backend;
use super::random;
use crate::machine::Statement;
use sqlx::pool::PoolConnection;
use sqlx::{Error, Pool, SqlSafeStr};
use sqlx_core::transaction::TransactionManager;
use std::ops::{Deref, DerefMut};
use std::time::Duration;
use tokio::runtime::Handle;

/// How long the rollback of a run that was dropped may take, until its connection is closed instead.
const SETTLE: Duration = Duration::from_secs(5);

/// A connection of the pool, and the transaction on it.
#[derive(Debug)]
pub(super) struct Held<DB: Backend> {
    /// There until it is given back.
    conn: Option<PoolConnection<DB>>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No transaction: it may go back.
    Free,
    /// A transaction is open, and nothing of ours is under way. The user's code may have dropped a statement of its own, though.
    Open,
    /// A statement of ours is under way or was cut off: only closing it is safe.
    Busy,
}

impl<DB: Backend> Held<DB> {
    /// Begins a transaction on a connection of the pool.
    pub(super) async fn begin(pool: &Pool<DB>) -> Result<Held<DB>, Error> {
        let mut held = Held {
            conn: Some(pool.acquire().await?),
            state: State::Busy,
        };
        let statement = DB::BEGIN.map(SqlSafeStr::into_sql_str);
        let begun = DB::TransactionManager::begin(&mut held, statement).await;
        held.state = match &begun {
            Ok(()) => State::Open,
            Err(error) if is_answer(error) && DB::RESTORE.is_none() => State::Free,
            Err(_) => State::Busy,
        };
        begun.map(|()| held)
    }

    /// Runs a statement of the barrier.
    pub(super) async fn exec(&mut self, s: Statement) -> Result<u64, Error> {
        self.state = State::Busy;
        let result = DB::exec(self, s).await;
        self.rest(result)
    }

    /// Runs a query of the barrier.
    pub(super) async fn text(&mut self, s: Statement) -> Result<Option<String>, Error> {
        self.state = State::Busy;
        let result = DB::text(self, s).await;
        self.rest(result)
    }

    /// Closes what the user's code left open within the transaction, as a part of it. Where that cannot be, the transaction is not what it
    /// was, which the barrier finds out.
    pub(super) async fn settle(&mut self) {
        while self.depth() > 1 {
            self.state = State::Busy;
            let result = DB::TransactionManager::commit(self).await;
            if self.rest(result).is_err() {
                return;
            }
        }
    }

    /// Commits. After an error that is the database's answer the transaction may be open still.
    pub(super) async fn commit(&mut self) -> Result<(), Error> {
        self.state = State::Busy;
        if self.depth() != 1 {
            return Err(Error::Protocol("there is no such transaction".to_owned()));
        }
        let result = DB::TransactionManager::commit(self).await;
        self.rest(result)?;
        self.state = State::Busy;
        self.restore().await;
        Ok(())
    }

    /// Sets back what beginning has set. A connection on which that fails is closed; what has ended has ended all the same.
    async fn restore(&mut self) {
        let restored = match DB::RESTORE {
            Some(sql) => DB::exec(self, Statement::plain(sql)).await.is_ok(),
            None => true,
        };
        if restored {
            self.state = State::Free;
        }
    }

    /// Rolls back, with what the user's code left open within the transaction.
    pub(super) async fn rollback(&mut self) -> Result<(), Error> {
        self.state = State::Busy;
        while self.depth() > 0 {
            DB::TransactionManager::rollback(self).await?;
        }
        self.restore().await;
        Ok(())
    }

    fn depth(&self) -> usize {
        DB::TransactionManager::get_transaction_depth(self)
    }

    /// Has the connection closed when it is dropped.
    pub(super) fn condemn(&mut self) {
        self.state = State::Busy;
    }

    fn rest<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if result.as_ref().err().is_none_or(is_answer) {
            self.state = State::Open;
        }
        result
    }

    /// Rolls back what its run left behind, and proves by a text that only now was thought of that no answer to anything else is to come
    /// on this connection: it is closed if not.
    async fn clean(mut self) {
        self.state = State::Busy;
        let text = random().to_string();
        let echo = Statement {
            sql: DB::ECHO.to_owned(),
            params: vec![text.clone()],
        };
        let cleaned = tokio::time::timeout(SETTLE, async {
            self.rollback().await?;
            if std::mem::replace(&mut self.state, State::Busy) != State::Free {
                return Ok(None);
            }
            DB::text(&mut self, echo).await
        });
        if matches!(cleaned.await, Ok(Ok(Some(echoed))) if echoed == text) {
            self.state = State::Free;
        }
    }
}

impl<DB: Backend> Drop for Held<DB> {
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else {
            return;
        };
        let Ok(runtime) = Handle::try_current() else {
            // Nobody can wait for anything here: its socket is closed.
            drop(conn.detach());
            return;
        };
        match self.state {
            State::Free => {}
            State::Open => {
                let left = Held {
                    conn: Some(conn),
                    state: State::Busy,
                };
                runtime.spawn(left.clean());
            }
            State::Busy => conn.close_on_drop(),
        }
    }
}

impl<DB: Backend> Deref for Held<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        self.conn.as_ref().expect("there until it is dropped")
    }
}

impl<DB: Backend> DerefMut for Held<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.conn.as_mut().expect("there until it is dropped")
    }
}

/// Whether the database itself said so, so that the connection is as good as before.
fn is_answer(error: &Error) -> bool {
    matches!(error, Error::Database(_))
}
