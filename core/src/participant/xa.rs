//! XA: the branch's change is prepared in its database, and made or undone in phase 2 (dtm-clients.md 2.9 and 4.5, rules.md 9.8). Two
//! machines: [`XaBranch`] for the action that prepares, [`XaPhase2`] for the commit or rollback that the coordinator calls.
//!
//! The barrier's row is written inside the XA branch, so that it is durable exactly if the branch is committed. MariaDB says "unknown xid"
//! of a branch that is prepared, as long as the session that prepared it is not gone: a commit that hears so looks for the row, and is not
//! done without it. A rollback leaves a row of its own, which waits for an action that still runs, and refuses one that comes later.

mod action;
mod phase2;
mod xid;

pub use action::{Registration, XaBranch};
pub use phase2::XaPhase2;
pub use xid::Xid;

use super::barrier::{Sql, Statement};
use super::dialect::Dialect;
use super::run::Place;
use crate::error::Error;
use crate::machine::Fact;

/// The barrier id of an XA branch: it has no parts.
const BARRIER_ID: &str = "01";

/// Only MySQL and PostgreSQL have what XA needs, in a form that could be tested.
fn is_mysql(place: &Place) -> Result<bool, Error> {
    match place.dialect {
        Dialect::MySql => Ok(true),
        Dialect::Postgres => Ok(false),
        Dialect::Sqlite => Err(Error::invalid(
            "SQLite cannot prepare a transaction: use a saga or a tcc for it instead of xa",
        )),
        other => Err(Error::invalid(format!(
            "xa is there for MySQL, MariaDB and PostgreSQL, not for {other}"
        ))),
    }
}

/// A query with the xid as its only parameter, which stands where `?` is.
fn with_xid(place: &Place, text: &str, xid: &Xid) -> Statement {
    let mut sql = Sql::new(place.style);
    for (n, part) in text.split('?').enumerate() {
        if n > 0 {
            sql.param(xid.as_str());
        }
        sql.text(part);
    }
    sql.done()
}

/// What a database's refusal was, if the fact is one.
fn refusal(place: &Place, fact: &Fact) -> Option<(super::db_error::DbError, String)> {
    match fact {
        Fact::DbFailed {
            sqlstate,
            errno,
            message,
        } => {
            let class =
                super::db_error::classify_db_error(place.dialect, sqlstate.as_deref(), *errno);
            Some((class, message.clone()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
