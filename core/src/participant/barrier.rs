//! The barrier (dtm-clients.md 2.11): a row for each (gid, branch_id, op), written in the transaction of the business change. It makes a
//! repeated call do nothing, an undo without its action do nothing, and an action that arrives after its undo do nothing.

use super::dialect::{Dialect, ParamStyle, Table};
use super::identity::Identity;
use crate::branch::Op;
use crate::error::Error;

/// What a barrier let happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BarrierResult {
    /// The business change was made, now.
    Executed,
    /// It was made by an earlier call.
    Duplicate,
    /// There was nothing to undo, for the action never ran; from now on it cannot.
    NullCompensation,
    /// The undo came first: the change was not made and never will be.
    Suspended,
}

impl BarrierResult {
    /// Its name in every language.
    pub fn as_str(self) -> &'static str {
        match self {
            BarrierResult::Executed => "executed",
            BarrierResult::Duplicate => "duplicate",
            BarrierResult::NullCompensation => "null_compensation",
            BarrierResult::Suspended => "suspended",
        }
    }
}

/// A statement to run. All its parameters are text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The statement, its parameters in the style that was asked for.
    pub sql: String,
    /// Their values, in order.
    pub params: Vec<String>,
}

impl Statement {
    /// One without parameters.
    pub fn plain(sql: impl Into<String>) -> Statement {
        Statement {
            sql: sql.into(),
            params: Vec::new(),
        }
    }
}

/// The statements of one barrier call, to be run in this order in one transaction. `origin` and `current` report how many rows they
/// changed to [`decide`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Claims the row of what this op undoes; `None` if it undoes nothing.
    pub origin: Option<Statement>,
    /// Claims the op's own row.
    pub current: Statement,
    /// Reads who wrote the op's own row, where [`decide`] wants to know. It locks the row: under REPEATABLE READ a plain read may not see
    /// what the insert ran into (rules.md 9.3).
    pub reason: Statement,
    /// Proves, just before the commit, that the transaction is the one that wrote the op's own row: it reads what `reason` reads, nothing if
    /// the row is gone, and an empty text if it was the work of another transaction. That is seen on PostgreSQL and on MariaDB; SQLite
    /// says so at COMMIT; on MySQL a managed run has a savepoint, by which it is seen, and a joined one cannot tell. `None` for a check-back, which has no code of the user's.
    pub guard: Option<Statement>,
}

/// What comes after the statements of a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Make the business change, and commit both together.
    Run,
    /// Make no change; commit, for the rows must stay.
    Skip(BarrierResult),
    /// Run `reason` and ask [`by_reason`].
    NeedReason,
    /// A message's local transaction under a gid that was used before: run `reason`, which tells what became of it, and roll back.
    Duplicated,
}

/// The op whose row an undo claims as well.
pub fn origin_of(op: &Op) -> Option<Op> {
    match op.as_str() {
        "cancel" => Some(Op::TRY),
        "compensate" | "rollback" => Some(Op::ACTION),
        _ => None,
    }
}

/// The barrier id of the nth part of a branch that has several, from 1: `01`, `02`, …
pub fn barrier_id(n: u32) -> String {
    format!("{n:02}")
}

/// Longest barrier id: the column's length.
const BARRIER_ID_MAX: usize = 45;

pub(super) fn check_barrier_id(barrier_id: &str) -> Result<(), Error> {
    crate::gid::check_id("barrier_id", barrier_id, BARRIER_ID_MAX)
}

/// The statements of a barrier call. `barrier_id` tells parts of one branch apart; the action and its undo use the same. Error: `Invalid`.
pub fn plan(
    dialect: Dialect,
    table: &Table,
    style: ParamStyle,
    who: &Identity,
    barrier_id: &str,
) -> Result<Plan, Error> {
    check_barrier_id(barrier_id)?;
    if who.op == Op::MSG {
        check_message(&who.branch_id, barrier_id)?;
    }
    let insert = |op: &Op| insert(dialect, table, style, who, op, barrier_id, who.op.as_str());
    Ok(Plan {
        origin: origin_of(&who.op).map(|origin| insert(&origin)),
        current: insert(&who.op),
        reason: reason(dialect, table, style, who, barrier_id, true),
        guard: Some(guard(dialect, table, style, who, barrier_id)),
    })
}

/// The row of a message's local transaction is always the same, for the check-back looks at no other. Error: `Invalid`.
pub(crate) fn check_message(branch_id: &str, part: &str) -> Result<(), Error> {
    if branch_id == crate::branch::ROOT_BRANCH && part == barrier_id(1) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the local transaction of a message is branch {} and part {}, not branch {branch_id} and part {part}: a check-back looks at no \
         other row",
        crate::branch::ROOT_BRANCH,
        barrier_id(1)
    )))
}

/// The verdict on how many rows `origin` (if there is one) and `current` changed.
pub fn decide(op: &Op, origin_rows: Option<u64>, current_rows: u64) -> Verdict {
    if *op == Op::MSG && current_rows == 0 {
        return Verdict::Duplicated;
    }
    if origin_rows.is_some_and(|rows| rows > 0) {
        return Verdict::Skip(BarrierResult::NullCompensation);
    }
    if current_rows == 0 {
        return Verdict::NeedReason;
    }
    Verdict::Run
}

/// Why the op's own row was there: written by the op itself before, or by its undo.
pub fn by_reason(op: &Op, reason: &str) -> BarrierResult {
    if reason == op.as_str() {
        BarrierResult::Duplicate
    } else {
        BarrierResult::Suspended
    }
}

/// The statements of a check-back (query-prepared), in a transaction of their own that is committed before the answer (rules.md 9.4):
/// `current` claims the row of the message for a rollback, `reason` reads who has it.
pub fn query_prepared(dialect: Dialect, table: &Table, style: ParamStyle, who: &Identity) -> Plan {
    let who = who.of_message();
    let id = barrier_id(1);
    Plan {
        origin: None,
        current: insert(
            dialect,
            table,
            style,
            &who,
            &Op::MSG,
            &id,
            Op::ROLLBACK.as_str(),
        ),
        reason: reason(dialect, table, style, &who, &id, true),
        guard: None,
    }
}

/// Whether the message's local transaction was committed, by what the check-back read.
pub fn was_committed(reason: &str) -> bool {
    reason != Op::ROLLBACK.as_str()
}

pub(super) fn insert(
    dialect: Dialect,
    table: &Table,
    style: ParamStyle,
    who: &Identity,
    op: &Op,
    barrier_id: &str,
    reason: &str,
) -> Statement {
    const COLUMNS: &str = "trans_type, gid, branch_id, op, barrier_id, reason";
    let values = [
        who.trans_type.as_str(),
        who.gid.as_str(),
        &who.branch_id,
        op.as_str(),
        barrier_id,
        reason,
    ];
    let key = [who.gid.as_str(), &who.branch_id, op.as_str(), barrier_id];
    let mut sql = Sql::new(style);
    match dialect {
        // Not `on duplicate key update`: with CLIENT_FOUND_ROWS it reports a row that it did not write.
        Dialect::MySql => {
            sql.text(&format!("insert ignore into {table}({COLUMNS}) values("));
            sql.list(&values, ", ");
            sql.text(")");
        }
        // No conflict target, so that a table with another name for its constraint works as well.
        Dialect::Postgres | Dialect::Sqlite => {
            sql.text(&format!("insert into {table}({COLUMNS}) values("));
            sql.list(&values, ", ");
            sql.text(") on conflict do nothing");
        }
        Dialect::SqlServer => {
            sql.text(&format!("insert into {table}({COLUMNS}) select "));
            sql.list(&values, ", ");
            sql.text(&format!(
                " where not exists (select 1 from {table} with (updlock, holdlock) where "
            ));
            sql.key(&key);
            sql.text(")");
        }
        Dialect::Oracle => {
            sql.text(&format!("merge into {table} t using (select "));
            for (name, value) in ["gid", "branch_id", "op", "barrier_id"].iter().zip(key) {
                if *name != "gid" {
                    sql.text(", ");
                }
                sql.param(value);
                sql.text(&format!(" {name}"));
            }
            sql.text(
                " from dual) s on (t.gid = s.gid and t.branch_id = s.branch_id and t.op = s.op and t.barrier_id = s.barrier_id) \
                 when not matched then insert(",
            );
            sql.text(COLUMNS);
            sql.text(") values(");
            sql.list(&values, ", ");
            sql.text(")");
        }
    }
    sql.done()
}

/// `locking`: under REPEATABLE READ a plain read does not see what was committed meanwhile.
pub(super) fn reason(
    dialect: Dialect,
    table: &Table,
    style: ParamStyle,
    who: &Identity,
    barrier_id: &str,
    locking: bool,
) -> Statement {
    let (hint, lock) = match dialect {
        _ if !locking => ("", ""),
        Dialect::Sqlite => ("", ""),
        Dialect::SqlServer => (" with (updlock)", ""),
        _ => ("", " for update"),
    };
    let mut sql = Sql::new(style);
    sql.text(&format!("select reason from {table}{hint} where "));
    sql.own_key(who, barrier_id);
    sql.text(lock);
    sql.done()
}

fn guard(
    dialect: Dialect,
    table: &Table,
    style: ParamStyle,
    who: &Identity,
    barrier_id: &str,
) -> Statement {
    let reason = match dialect {
        // For MySQL a comment: it has no such variable.
        Dialect::MySql => "/*M! if(@@in_transaction = 1, */ reason /*M! , '') */",
        // Casts without colons, which are parameters to some drivers. xmin has no epoch.
        Dialect::Postgres => {
            "case when cast(cast(xmin as text) as bigint) = txid_current_if_assigned() & 4294967295 then reason else '' end"
        }
        _ => "reason",
    };
    let mut sql = Sql::new(style);
    sql.text(&format!("select {reason} from {table} where "));
    sql.own_key(who, barrier_id);
    sql.done()
}

/// A statement in the making.
pub(super) struct Sql {
    style: ParamStyle,
    sql: String,
    params: Vec<String>,
}

impl Sql {
    pub(super) fn new(style: ParamStyle) -> Sql {
        Sql {
            style,
            sql: String::with_capacity(160),
            params: Vec::with_capacity(6),
        }
    }

    pub(super) fn text(&mut self, text: &str) {
        self.sql.push_str(text);
    }

    pub(super) fn param(&mut self, value: &str) {
        self.params.push(value.to_owned());
        self.style.write(self.params.len(), &mut self.sql);
    }

    fn list(&mut self, values: &[&str], separator: &str) {
        for (i, value) in values.iter().enumerate() {
            if i > 0 {
                self.text(separator);
            }
            self.param(value);
        }
    }

    fn own_key(&mut self, who: &Identity, barrier_id: &str) {
        self.key(&[
            who.gid.as_str(),
            &who.branch_id,
            who.op.as_str(),
            barrier_id,
        ]);
    }

    fn key(&mut self, [gid, branch_id, op, barrier_id]: &[&str; 4]) {
        let columns = [
            ("gid = ", gid),
            (" and branch_id = ", branch_id),
            (" and op = ", op),
            (" and barrier_id = ", barrier_id),
        ];
        for (column, value) in columns {
            self.text(column);
            self.param(value);
        }
    }

    pub(super) fn done(self) -> Statement {
        Statement {
            sql: self.sql,
            params: self.params,
        }
    }
}

#[cfg(test)]
mod tests;
