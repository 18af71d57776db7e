//! What an error of a database means to the machines: one table for every language and driver.

use super::dialect::Dialect;

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
    /// The connection is gone; what was sent last may have been done.
    ConnectionLost,
    /// No such XA branch or prepared transaction.
    UnknownXid,
    /// The server takes no prepared transactions (`max_prepared_transactions = 0`).
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

fn mysql(sqlstate: Option<&str>, errno: Option<i64>) -> DbError {
    match errno {
        // Deadlock; lock wait timeout; record changed since last read; an XA branch that a deadlock rolled back.
        Some(1213 | 1205 | 1020 | 1614) => DbError::Conflict,
        Some(1062) => DbError::Duplicate,
        Some(1146 | 1049) => DbError::MissingTable,
        // Gone away; lost during query; server lost; shutdown; killed.
        Some(2006 | 2013 | 2055 | 1053 | 1927 | 3169) => DbError::ConnectionLost,
        Some(1397) => DbError::UnknownXid,
        _ => match sqlstate {
            Some("40001") => DbError::Conflict,
            Some("XAE04") => DbError::UnknownXid,
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
        "57P01" | "57P02" | "57P03" => DbError::ConnectionLost,
        // Of a prepared transaction that does not exist.
        "42704" => DbError::UnknownXid,
        "55000" => DbError::XaDisabled,
        state if state.starts_with("08") => DbError::ConnectionLost,
        _ => DbError::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_by_dialect() {
        use DbError::*;
        let table: &[(Dialect, Option<&str>, Option<i64>, DbError)] = &[
            (Dialect::MySql, Some("40001"), Some(1213), Conflict),
            (Dialect::MySql, Some("HY000"), Some(1205), Conflict),
            (Dialect::MySql, Some("HY000"), Some(1020), Conflict),
            (Dialect::MySql, Some("23000"), Some(1062), Duplicate),
            (Dialect::MySql, Some("42S02"), Some(1146), MissingTable),
            (Dialect::MySql, None, Some(2013), ConnectionLost),
            (Dialect::MySql, Some("XAE04"), Some(1397), UnknownXid),
            (Dialect::MySql, Some("XAE04"), None, UnknownXid),
            (Dialect::MySql, Some("42000"), Some(1064), Other),
            (Dialect::Postgres, Some("40P01"), None, Conflict),
            (Dialect::Postgres, Some("40001"), None, Conflict),
            (Dialect::Postgres, Some("25P02"), None, Aborted),
            (Dialect::Postgres, Some("42P01"), None, MissingTable),
            (Dialect::Postgres, Some("08006"), None, ConnectionLost),
            (Dialect::Postgres, Some("42704"), None, UnknownXid),
            (Dialect::Postgres, Some("55000"), None, XaDisabled),
            (Dialect::Postgres, None, None, Other),
            (Dialect::Sqlite, None, Some(5), Conflict),
            (Dialect::Sqlite, None, Some(517), Conflict),
            (Dialect::Sqlite, None, Some(2067), Duplicate),
            (Dialect::Sqlite, None, Some(1), Other),
        ];
        for (dialect, sqlstate, errno, want) in table {
            assert_eq!(
                classify_db_error(*dialect, *sqlstate, *errno),
                *want,
                "{dialect} {sqlstate:?} {errno:?}"
            );
        }
    }
}
