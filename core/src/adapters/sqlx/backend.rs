//! What differs between the databases of sqlx.

use crate::machine::Statement;
use crate::participant::{Dialect, ParamStyle};
use sqlx::error::DatabaseError;
use sqlx::{AssertSqlSafe, Database, Error, Row};
use std::future::Future;

/// A database that barriers can be run on.
pub trait Backend: Database<Connection: Send> + Sized {
    /// Its kind.
    const DIALECT: Dialect;
    /// How it writes parameters.
    const STYLE: ParamStyle;

    /// Begins a transaction where a plain `BEGIN` is not enough: SQLite takes its write lock, MySQL is not to commit by itself what follows
    /// a rollback that the user's code has not noticed.
    const BEGIN: Option<&'static str>;
    /// What is to be set back when it has ended.
    const RESTORE: Option<&'static str>;
    /// Returns its parameter.
    const ECHO: &'static str;

    /// The database's own number of an error, where it has one beside the SQLSTATE.
    fn errno(error: &dyn DatabaseError) -> Option<i64>;

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
    ($feature:literal, $db:ty, $dialect:expr, $style:expr, $errno:expr, $begin:expr, $restore:expr, $echo:literal) => {
        #[cfg(feature = $feature)]
        impl Backend for $db {
            const DIALECT: Dialect = $dialect;
            const STYLE: ParamStyle = $style;
            const BEGIN: Option<&'static str> = $begin;
            const RESTORE: Option<&'static str> = $restore;
            const ECHO: &'static str = $echo;

            fn errno(error: &dyn DatabaseError) -> Option<i64> {
                ($errno)(error)
            }

            async fn exec(conn: &mut Self::Connection, s: Statement) -> Result<u64, Error> {
                // MySQL prepares no XA statements, they go by the text protocol.
                if s.params.is_empty() {
                    let done = sqlx::raw_sql(AssertSqlSafe(s.sql)).execute(conn).await?;
                    return Ok(done.rows_affected());
                }
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
    Some("set @amends_autocommit = @@autocommit, autocommit = 0; begin"),
    Some("set autocommit = @amends_autocommit"),
    "select ?"
);
backend!(
    "sqlx-postgres",
    sqlx::Postgres,
    Dialect::Postgres,
    ParamStyle::Dollar,
    |_: &dyn DatabaseError| None,
    None,
    None,
    "select $1"
);
backend!(
    "sqlx-sqlite",
    sqlx::Sqlite,
    Dialect::Sqlite,
    ParamStyle::Question,
    |error: &dyn DatabaseError| error.code()?.parse().ok(),
    Some("BEGIN IMMEDIATE"),
    None,
    "select ?"
);
