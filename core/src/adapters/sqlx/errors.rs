//! What an error of sqlx means.

use super::backend::Backend;
use crate::error::{Error, ErrorKind};
use crate::machine::Fact;
use crate::participant::{DbError, Dialect, classify_commit_error, classify_db_error};

/// Who has classes for a database's errors.
type Classify = fn(Dialect, Option<&str>, Option<i64>) -> DbError;

/// An error of a statement of the user's: `Conflict` for a deadlock and the like, `Aborted` where PostgreSQL refuses everything after an
/// error, else `Database`. None of them is a definite no; refuse where that is what it means to you.
pub fn db_error<DB: Backend>(error: &sqlx::Error) -> Error {
    let kind = match class::<DB>(error, classify_db_error) {
        DbError::Conflict => ErrorKind::Conflict,
        DbError::Aborted => ErrorKind::Aborted,
        _ => ErrorKind::Database,
    };
    Error::new(kind, error.to_string())
}

/// An error of COMMIT in a transaction of the user's.
pub(super) fn commit_error<DB: Backend>(error: &sqlx::Error) -> Error {
    match class::<DB>(error, classify_commit_error) {
        DbError::ConnectionLost => Error::new(ErrorKind::OutcomeUnknown, error.to_string()),
        _ => db_error::<DB>(error),
    }
}

/// What a driver tells of an error: SQLSTATE, and the database's own number.
fn codes<DB: Backend>(error: &sqlx::Error) -> (Option<String>, Option<i64>) {
    match error {
        sqlx::Error::Database(e) => (e.code().map(|c| c.into_owned()), DB::errno(&**e)),
        // The connection is gone, or none could be had.
        _ => (Some("08006".to_owned()), None),
    }
}

fn class<DB: Backend>(error: &sqlx::Error, classify: Classify) -> DbError {
    let (sqlstate, errno) = codes::<DB>(error);
    classify(DB::DIALECT, sqlstate.as_deref(), errno)
}

/// What a step reports.
pub(super) fn told<DB: Backend, T>(
    result: Result<T, sqlx::Error>,
    fact: impl FnOnce(T) -> Fact,
) -> Fact {
    match result {
        Ok(value) => fact(value),
        Err(error) => {
            let (sqlstate, errno) = codes::<DB>(&error);
            Fact::DbFailed {
                sqlstate,
                errno,
                message: error.to_string(),
            }
        }
    }
}

/// As [`db_error`], for whichever database the error came from.
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        if let sqlx::Error::Database(e) = &error {
            #[cfg(feature = "sqlx-mysql")]
            if e.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()
                .is_some()
            {
                return db_error::<sqlx::MySql>(&error);
            }
            #[cfg(feature = "sqlx-postgres")]
            if e.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                .is_some()
            {
                return db_error::<sqlx::Postgres>(&error);
            }
            #[cfg(feature = "sqlx-sqlite")]
            if e.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
                return db_error::<sqlx::Sqlite>(&error);
            }
        }
        Error::new(ErrorKind::Database, error.to_string())
    }
}
