//! The barrier's table (dtm-clients.md 2.11): DTM's layout, so that its clients share it, with two repairs: a binary collation, for MySQL's
//! usual ones take `abc` and `ABC` for the same gid, and times that are always set, so that old rows can be purged.

use super::barrier::Statement;
use super::dialect::{Dialect, ParamStyle, Table};

/// The statements that create the table, and its schema if the name has one. Each is run by itself, outside of any transaction; none
/// changes what is there.
pub fn create(dialect: Dialect, table: &Table) -> Vec<String> {
    let mut all = Vec::new();
    let (schema, name) = (table.schema(), table.name());
    match dialect {
        Dialect::MySql => {
            all.extend(schema.map(|s| format!("create database if not exists {s}")));
            all.push(format!(
                "create table if not exists {table}(
  id bigint not null auto_increment primary key,
  trans_type varchar(45) not null default '',
  gid varchar(128) not null default '',
  branch_id varchar(128) not null default '',
  op varchar(45) not null default '',
  barrier_id varchar(45) not null default '',
  reason varchar(45) not null default '' comment 'the op that wrote this row',
  create_time datetime not null default current_timestamp,
  update_time datetime not null default current_timestamp,
  key (create_time),
  key (update_time),
  unique key (gid, branch_id, op, barrier_id)
) engine=InnoDB default charset=utf8mb4 collate=utf8mb4_bin"
            ));
        }
        Dialect::Postgres => {
            all.extend(schema.map(|s| format!("create schema if not exists {s}")));
            all.push(format!(
                "create table if not exists {table}(
  id bigserial primary key,
  trans_type varchar(45) not null default '',
  gid varchar(128) not null default '',
  branch_id varchar(128) not null default '',
  op varchar(45) not null default '',
  barrier_id varchar(45) not null default '',
  reason varchar(45) not null default '',
  create_time timestamp(0) with time zone not null default now(),
  update_time timestamp(0) with time zone not null default now(),
  constraint uniq_barrier unique (gid, branch_id, op, barrier_id)
)"
            ));
            all.push(format!(
                "create index if not exists {name}_create_time on {table}(create_time)"
            ));
        }
        Dialect::Sqlite => {
            all.push(format!(
                "create table if not exists {table}(
  id integer primary key autoincrement,
  trans_type text not null default '',
  gid text not null default '',
  branch_id text not null default '',
  op text not null default '',
  barrier_id text not null default '',
  reason text not null default '',
  create_time text not null default current_timestamp,
  update_time text not null default current_timestamp,
  unique (gid, branch_id, op, barrier_id)
)"
            ));
            let of = schema.map(|s| format!("{s}.")).unwrap_or_default();
            all.push(format!(
                "create index if not exists {of}{name}_create_time on {name}(create_time)"
            ));
        }
        Dialect::SqlServer => {
            all.extend(
                schema.map(|s| format!("if schema_id('{s}') is null exec('create schema {s}')")),
            );
            all.push(format!(
                "if object_id('{table}') is null create table {table}(
  id bigint identity primary key,
  trans_type nvarchar(45) collate Latin1_General_BIN2 not null default '',
  gid nvarchar(128) collate Latin1_General_BIN2 not null default '',
  branch_id nvarchar(128) collate Latin1_General_BIN2 not null default '',
  op nvarchar(45) collate Latin1_General_BIN2 not null default '',
  barrier_id nvarchar(45) collate Latin1_General_BIN2 not null default '',
  reason nvarchar(45) collate Latin1_General_BIN2 not null default '',
  create_time datetime not null default getutcdate(),
  update_time datetime not null default getutcdate(),
  unique (gid, branch_id, op, barrier_id)
)"
            ));
        }
        // A schema is a user there; an administrator makes it.
        Dialect::Oracle => all.push(format!(
            "create table {table}(
  id number generated always as identity primary key,
  trans_type varchar2(45 char),
  gid varchar2(128 char) not null,
  branch_id varchar2(128 char) not null,
  op varchar2(45 char) not null,
  barrier_id varchar2(45 char) not null,
  reason varchar2(45 char),
  create_time timestamp(0) default systimestamp not null,
  update_time timestamp(0) default systimestamp not null,
  unique (gid, branch_id, op, barrier_id)
)"
        )),
    }
    all
}

/// Deletes at most `limit` rows that are older than so many seconds by the database's clock; run it until it deletes fewer. Rows must
/// outlive every call that may still be repeated: longer than the longest retry of any transaction, weeks rather than days.
pub fn purge(
    dialect: Dialect,
    table: &Table,
    style: ParamStyle,
    older_than_seconds: u64,
    limit: u32,
) -> Statement {
    let mut age = String::new();
    style.write(1, &mut age);
    let sql = match dialect {
        Dialect::MySql => {
            format!(
                "delete from {table} where create_time < now() - interval {age} second limit {limit}"
            )
        }
        Dialect::Postgres => format!(
            "delete from {table} where id in (select id from {table} where create_time < now() - cast(cast({age} as text) as interval) order by create_time limit {limit})"
        ),
        Dialect::Sqlite => format!(
            "delete from {table} where id in (select id from {table} where create_time < datetime('now', '-' || {age} || ' seconds') order by create_time limit {limit})"
        ),
        Dialect::SqlServer => format!(
            "delete top ({limit}) from {table} where create_time < dateadd(second, -cast({age} as int), getutcdate())"
        ),
        Dialect::Oracle => format!(
            "delete from {table} where create_time < systimestamp - numtodsinterval(to_number({age}), 'SECOND') and rownum <= {limit}"
        ),
    };
    let age = match dialect {
        Dialect::Postgres => format!("{older_than_seconds} seconds"),
        _ => older_than_seconds.to_string(),
    };
    Statement {
        sql,
        params: vec![age],
    }
}
