//! A bank: a pool of connections, an account, and what a participant does with both.

use amends::Error;
use amends::adapters::sqlx::{Backend, Begun, Branch};
use amends::machine::Statement;
use amends::participant::{BarrierResult, Dialect, Identity, ParamStyle, Table, ddl};
use amends_interop::Login;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::pool::PoolOptions;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Connection, MySql, Pool, Postgres, Sqlite};
use std::path::Path;
use std::time::Duration;

/// Connections at a time: calls overlap.
const CONNECTIONS: u32 = 16;

/// A bank with one account.
#[derive(Debug)]
pub struct Bank<DB: Backend> {
    /// Its connections.
    pub pool: Pool<DB>,
    table: Table,
}

impl<DB: Backend> Clone for Bank<DB> {
    fn clone(&self) -> Self {
        Bank {
            pool: self.pool.clone(),
            table: self.table.clone(),
        }
    }
}

/// [`Statement::plain`], by a short name.
pub fn plain(sql: &str) -> Statement {
    Statement::plain(sql)
}

/// A statement of the tests' own, whose parameters are written `?`. A text that names its values would be another one each time, and those
/// drive each other out of sqlx's cache, which costs 40 ms each on MariaDB.
pub fn with<DB: Backend, const N: usize>(sql: &str, params: [&str; N]) -> Statement {
    let mut sql = sql.to_owned();
    if DB::STYLE == ParamStyle::Dollar {
        for n in 1..=N {
            sql = sql.replacen('?', &format!("${n}"), 1);
        }
    }
    Statement {
        sql,
        params: params.map(str::to_owned).to_vec(),
    }
}

impl<DB: Backend> Bank<DB> {
    async fn open(pool: Pool<DB>, isolated: &str) -> Bank<DB> {
        let table = match DB::DIALECT {
            Dialect::Sqlite => DB::DIALECT.default_table(),
            _ => Table::new(&format!("{isolated}.barrier")).expect("a name"),
        };
        let bank = Bank { pool, table };
        let mut setup = ddl::create(DB::DIALECT, &bank.table);
        setup.push("drop table if exists account".to_owned());
        setup.push("create table account(id int primary key, balance bigint not null)".to_owned());
        setup.push("insert into account(id, balance) values(1, 0)".to_owned());
        for sql in setup {
            bank.execute(&sql).await;
        }
        bank
    }

    /// Runs a statement by itself.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub async fn execute(&self, sql: &str) -> u64 {
        let mut conn = self.pool.acquire().await.expect("a connection");
        DB::exec(&mut conn, plain(sql))
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// A number that a query returns.
    ///
    /// # Panics
    ///
    /// When it returns none.
    pub async fn number(&self, sql: &str) -> i64 {
        self.number_with(sql, []).await
    }

    /// The same of a query with parameters, as [`with`] writes them.
    ///
    /// # Panics
    ///
    /// When it returns none.
    pub async fn number_with<const N: usize>(&self, sql: &str, params: [&str; N]) -> i64 {
        let mut conn = self.pool.acquire().await.expect("a connection");
        let cast = match DB::DIALECT {
            Dialect::MySql => "char",
            _ => "text",
        };
        let query = with::<DB, N>(&format!("select cast(({sql}) as {cast})"), params);
        let text = DB::text(&mut conn, query).await.expect("a row");
        text.expect("a value").parse().expect("a number")
    }

    /// What is on the account.
    pub async fn balance(&self) -> i64 {
        self.number("select balance from account where id = 1")
            .await
    }

    /// Rows of the barrier for a gid.
    pub async fn rows(&self, gid: &str) -> i64 {
        let table = &self.table;
        self.number(&format!("select count(*) from {table} where gid = '{gid}'"))
            .await
    }

    /// The barrier's table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The branch of a call, at this bank's table.
    pub fn branch(&self, who: Identity) -> Branch {
        Branch::new(who).table(self.table.clone())
    }

    /// The same bank through one connection at a time.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub async fn narrow(&self) -> Bank<DB>
    where
        <DB::Connection as Connection>::Options: Clone,
    {
        let options = (*self.pool.connect_options()).clone();
        let pool = PoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(20));
        Bank {
            pool: pool.connect_with(options).await.expect("a connection"),
            table: self.table.clone(),
        }
    }

    /// A branch call: an action or a try takes 30, its undo gives it back, and a confirm changes nothing.
    ///
    /// # Errors
    ///
    /// As of [`Branch::begin`] and [`amends::adapters::sqlx::Run::commit`]; `Conflict` or `Database` if the change fails.
    pub async fn carry_out(&self, who: Identity) -> Result<BarrierResult, Error> {
        let amount = match who.op.as_str() {
            "action" | "try" => -30,
            "compensate" | "cancel" => 30,
            _ => 0,
        };
        match self.branch(who).begin(&self.pool).await? {
            Begun::Skip(skipped) => Ok(skipped.why()),
            Begun::Run(mut run) => {
                let sql = format!("update account set balance = balance + {amount} where id = 1");
                DB::exec(&mut run, plain(&sql)).await?;
                let _committed = run.commit().await?;
                Ok(BarrierResult::Executed)
            }
        }
    }
}

/// A bank in MariaDB whose transactions have this isolation (`READ COMMITTED`, `REPEATABLE READ`). sqlx always asks for FOUND_ROWS.
pub async fn mariadb(login: &Login, isolation: &'static str, schema: &str) -> Bank<MySql> {
    let options = MySqlConnectOptions::new()
        .host(&login.host)
        .port(login.port)
        .username(&login.user)
        .password(&login.password)
        .database(&login.database);
    let set = format!("set session transaction isolation level {isolation}");
    let pool = MySqlPoolOptions::new()
        .max_connections(CONNECTIONS)
        .after_connect(move |conn, _| {
            let set = set.clone();
            Box::pin(async move {
                sqlx::query(AssertSqlSafe(set)).execute(conn).await?;
                Ok(())
            })
        });
    let pool = pool.connect_with(options).await.expect("MariaDB");
    Bank::open(pool, schema).await
}

/// A bank in PostgreSQL.
pub async fn postgres(login: &Login, schema: &str) -> Bank<Postgres> {
    let options = PgConnectOptions::new()
        .host(&login.host)
        .port(login.port)
        .username(&login.user)
        .password(&login.password)
        .database(&login.database);
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS);
    let pool = pool.connect_with(options).await.expect("PostgreSQL");
    Bank::open(pool, schema).await
}

/// A bank in a file of SQLite in this folder.
pub async fn sqlite(dir: &Path) -> Bank<Sqlite> {
    let options = SqliteConnectOptions::new()
        .filename(dir.join("bank.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(30));
    let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS);
    let pool = pool.connect_with(options).await.expect("SQLite");
    Bank::open(pool, "").await
}
