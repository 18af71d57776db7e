//! What differs between the databases of sqlx.

use crate::machine::Statement;
use crate::participant::{Dialect, ParamStyle};
use sqlx::error::DatabaseError;
use sqlx::{AssertSqlSafe, Database, Error, Pool, Row, Transaction};
use std::future::Future;

/// A database that barriers can be run on.
pub trait Backend: Database<Connection: Send> + Sized {
    /// Its kind.
    const DIALECT: Dialect;
    /// How it writes parameters.
    const STYLE: ParamStyle;

    /// The database's own number of an error, where it has one beside the SQLSTATE.
    fn errno(error: &dyn DatabaseError) -> Option<i64>;

    /// Begins a transaction on a connection of the pool.
    fn begin(
        pool: &Pool<Self>,
        immediate: bool,
    ) -> impl Future<Output = Result<Transaction<'static, Self>, Error>> + Send;

    /// Runs a statement; how many rows it changed.
    fn exec(
        conn: &mut Self::Connection,
        statement: Statement,
    ) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Runs a statement; the text in the first column of its first row.
    fn text(
        conn: &mut Self::Connection,
        statement: Statement,
    ) -> impl Future<Output = Result<Option<String>, Error>> + Send;
}

macro_rules! backend {
    ($feature:literal, $db:ty, $dialect:expr, $style:expr, $errno:expr, $immediate:literal) => {
        #[cfg(feature = $feature)]
        impl Backend for $db {
            const DIALECT: Dialect = $dialect;
            const STYLE: ParamStyle = $style;

            fn errno(error: &dyn DatabaseError) -> Option<i64> {
                ($errno)(error)
            }

            async fn begin(
                pool: &Pool<Self>,
                immediate: bool,
            ) -> Result<Transaction<'static, Self>, Error> {
                let pool = pool.clone();
                // In a task of its own: whoever gives up while it begins would hand a connection back with a transaction open on it.
                let begun = tokio::spawn(async move {
                    if immediate {
                        pool.begin_with($immediate).await
                    } else {
                        pool.begin().await
                    }
                });
                begun.await.unwrap_or(Err(Error::WorkerCrashed))
            }

            async fn exec(conn: &mut Self::Connection, s: Statement) -> Result<u64, Error> {
                // Texts of our own; what comes from outside is a parameter.
                let mut query = sqlx::query(AssertSqlSafe(s.sql));
                for param in s.params {
                    query = query.bind(param);
                }
                Ok(query.execute(conn).await?.rows_affected())
            }

            async fn text(
                conn: &mut Self::Connection,
                s: Statement,
            ) -> Result<Option<String>, Error> {
                let mut query = sqlx::query(AssertSqlSafe(s.sql));
                for param in s.params {
                    query = query.bind(param);
                }
                let row = query.fetch_optional(conn).await?;
                row.map_or(Ok(None), |row| row.try_get(0))
            }
        }
    };
}

backend!(
    "sqlx-mysql",
    sqlx::MySql,
    Dialect::MySql,
    ParamStyle::Question,
    |error: &dyn DatabaseError| {
        let error = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()?;
        Some(i64::from(error.number()))
    },
    "BEGIN"
);
backend!(
    "sqlx-postgres",
    sqlx::Postgres,
    Dialect::Postgres,
    ParamStyle::Dollar,
    |_: &dyn DatabaseError| None,
    "BEGIN"
);
backend!(
    "sqlx-sqlite",
    sqlx::Sqlite,
    Dialect::Sqlite,
    ParamStyle::Question,
    |error: &dyn DatabaseError| error.code()?.parse().ok(),
    "BEGIN IMMEDIATE"
);
