//! What an error of a database means to the machines: one table for every language and driver.

use super::dialect::Dialect;
use super::run::Place;
use crate::error::{Error, ErrorKind};

/// The class of a database's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DbError {
    /// A deadlock, a lock that could not be had in time, a conflict with another transaction: the same again may succeed.
    Conflict,
    /// A row with this key is there.
    Duplicate,
    /// The table, or its schema, is not there.
    MissingTable,
    /// PostgreSQL refuses everything, for a statement of this transaction had failed.
    Aborted,
    /// The connection is gone, or what it writes to fails; what was sent last may have been done.
    ConnectionLost,
    /// There is no transaction to be ended.
    NoTransaction,
    /// No such XA branch or prepared transaction.
    UnknownXid,
    /// There is an XA branch or prepared transaction of this name already.
    XidInUse,
    /// PostgreSQL says so where the server takes no prepared transactions (`max_prepared_transactions = 0`), and of one that another
    /// session is just ending.
    XaDisabled,
    /// Anything else.
    Other,
}

/// The class of an error by what a driver tells: SQLSTATE, and the database's own number (for SQLite its result code, extended or not).
pub fn classify_db_error(dialect: Dialect, sqlstate: Option<&str>, errno: Option<i64>) -> DbError {
    match dialect {
        Dialect::MySql => mysql(sqlstate, errno),
        Dialect::Postgres => postgres(sqlstate.unwrap_or_default()),
        Dialect::Sqlite => match errno.map(|code| code & 0xff) {
            // BUSY, LOCKED.
            Some(5 | 6) => DbError::Conflict,
            // IOERR: what a COMMIT has written may be found after a restart.
            Some(10) => DbError::ConnectionLost,
            Some(19) if matches!(errno, Some(1555 | 2067)) => DbError::Duplicate,
            _ => DbError::Other,
        },
        Dialect::SqlServer => match errno {
            Some(1205 | 1222 | 3960) => DbError::Conflict,
            Some(2601 | 2627) => DbError::Duplicate,
            Some(208) => DbError::MissingTable,
            _ => DbError::Other,
        },
        Dialect::Oracle => match errno {
            Some(60 | 8177 | 54) => DbError::Conflict,
            Some(1) => DbError::Duplicate,
            Some(942) => DbError::MissingTable,
            Some(3113 | 3114 | 12537) => DbError::ConnectionLost,
            Some(24756) => DbError::UnknownXid,
            _ => DbError::Other,
        },
    }
}

/// The error of a run whose statement failed; nothing of it was kept.
pub(super) fn error(place: &Place, class: DbError, message: String) -> Error {
    match class {
        DbError::Conflict => Error::new(ErrorKind::Conflict, message),
        DbError::MissingTable => Error::invalid(format!(
            "the barrier's table {} is missing: create it with what `amends barrier ddl --dialect {}` prints ({message})",
            place.table, place.dialect
        )),
        _ => Error::new(ErrorKind::Database, message),
    }
}

fn mysql(sqlstate: Option<&str>, errno: Option<i64>) -> DbError {
    match errno {
        // Deadlock; lock wait timeout; record changed since last read; an XA branch that a deadlock rolled back.
        Some(1213 | 1205 | 1020 | 1614) => DbError::Conflict,
        Some(1062) => DbError::Duplicate,
        Some(1146 | 1049) => DbError::MissingTable,
        // Gone away; lost during query; server lost; shutdown; killed.
        Some(2006 | 2013 | 2055 | 1053 | 1927 | 3169) => DbError::ConnectionLost,
        Some(1397) => DbError::UnknownXid,
        Some(1440) => DbError::XidInUse,
        _ => match sqlstate {
            Some("40001") => DbError::Conflict,
            Some("XAE04") => DbError::UnknownXid,
            Some("XAE08") => DbError::XidInUse,
            Some(state) if state.starts_with("08") => DbError::ConnectionLost,
            _ => DbError::Other,
        },
    }
}

fn postgres(sqlstate: &str) -> DbError {
    match sqlstate {
        // Serialization failure, deadlock, lock not available.
        "40001" | "40P01" | "55P03" => DbError::Conflict,
        "23505" => DbError::Duplicate,
        "42P01" | "3F000" => DbError::MissingTable,
        "25P02" => DbError::Aborted,
        "25P01" => DbError::NoTransaction,
        // Statement completion unknown.
        "40003" => DbError::ConnectionLost,
        // Of a prepared transaction that does not exist.
        "42704" => DbError::UnknownXid,
        "42710" => DbError::XidInUse,
        "55000" => DbError::XaDisabled,
        // Connection exceptions; shutdown, crash, starting up, database dropped, idle for too long.
        state if state.starts_with("08") || state.starts_with("57P0") => DbError::ConnectionLost,
        _ => DbError::Other,
    }
}

/// The class of an error of COMMIT. Only what a database surely answered is a definite no: an error without any number, or one of the
/// driver's own, may hide a commit that was done.
pub fn classify_commit_error(
    dialect: Dialect,
    sqlstate: Option<&str>,
    errno: Option<i64>,
) -> DbError {
    match (dialect, sqlstate, errno) {
        // SQLite has only its general number for a COMMIT without a transaction.
        (Dialect::Sqlite, _, Some(1)) => DbError::NoTransaction,
        (Dialect::Sqlite, _, None) | (_, None, None) => DbError::ConnectionLost,
        // One of several engines failed at it; the client library's own.
        (Dialect::MySql, _, Some(1180 | 2000..=2999)) => DbError::ConnectionLost,
        _ => classify_db_error(dialect, sqlstate, errno),
    }
}
