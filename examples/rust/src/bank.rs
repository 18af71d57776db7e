//! A bank: a participant. Its accounts and its barrier are in one SQLite file, so that one commit carries both.

use amends::adapters::sqlx::{Begun, Branch};
use amends::participant::{BranchResult, Dialect, Identity, ddl};
use amends::{Error, ErrorKind};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool};
use std::net::SocketAddr;
use std::path::Path;
use tokio::net::TcpListener;

/// What is to be moved: the payload of a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Whose account.
    pub account: String,
    /// How much.
    pub amount: i64,
}

/// A bank that serves its branches on a free port.
#[derive(Clone, Debug)]
pub struct Bank {
    /// Its database, for what it does by itself.
    pub pool: SqlitePool,
    address: SocketAddr,
}

impl Bank {
    /// Opens a bank with one account in a new file, and serves it.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being opened.
    pub async fn open(
        file: &Path,
        account: &str,
        balance: i64,
    ) -> Result<Bank, Box<dyn std::error::Error>> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        let pool = SqlitePool::connect_with(options).await?;
        // What `amends barrier ddl --dialect sqlite` prints.
        for statement in ddl::create(Dialect::Sqlite, &Dialect::Sqlite.default_table()) {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
                .execute(&pool)
                .await?;
        }
        sqlx::raw_sql("create table account(name text primary key, balance int, frozen int)")
            .execute(&pool)
            .await?;
        sqlx::query("insert into account values(?, ?, 0)")
            .bind(account)
            .bind(balance)
            .execute(&pool)
            .await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let bank = Bank {
            pool,
            address: listener.local_addr()?,
        };
        let routes = Router::new()
            .route("/withdraw", post(withdraw))
            .route("/deposit", post(deposit))
            .route("/sent", get(sent))
            .with_state(bank.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(bank)
    }

    /// The URL of a branch.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Balance and frozen amount of an account.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn account(&self, name: &str) -> Result<(i64, i64), sqlx::Error> {
        sqlx::query_as("select balance, frozen from account where name = ?")
            .bind(name)
            .fetch_one(&self.pool)
            .await
    }

    /// Carries out a branch behind the barrier: `take` of the balance and `freeze` change what the account has.
    async fn change(&self, who: Identity, name: &str, add: i64, freeze: i64) -> BranchResult {
        match Branch::new(who).begin(&self.pool).await? {
            Begun::Skip(why) => Ok(why.into()),
            Begun::Run(mut tx) => match move_money(&mut tx, name, add, freeze).await {
                Ok(None) => Ok(tx.commit().await?.into()),
                Ok(Some(no)) => Err(tx.refuse(no).await),
                // Dropped, the transaction is rolled back; the coordinator asks again.
                Err(error) => Err(Error::new(ErrorKind::Database, error.to_string())),
            },
        }
    }
}

/// Changes an account; the reason if it cannot be.
///
/// # Errors
///
/// Those of the database.
pub async fn move_money(
    tx: &mut SqliteConnection,
    name: &str,
    add: i64,
    freeze: i64,
) -> Result<Option<String>, sqlx::Error> {
    let changed = sqlx::query(
        "update account set balance = balance + ?, frozen = frozen + ? where name = ? and balance + ? >= 0",
    )
    .bind(add)
    .bind(freeze)
    .bind(name)
    .bind(add)
    .execute(tx)
    .await?;
    let refused = changed.rows_affected() == 0;
    Ok(refused.then(|| format!("{name} has no {} here", add.abs())))
}

async fn withdraw(
    who: Identity,
    State(bank): State<Bank>,
    Json(order): Json<Order>,
) -> BranchResult {
    let a = order.amount;
    let (add, freeze) = match who.op.as_str() {
        "action" => (-a, 0),
        "compensate" => (a, 0),
        "try" => (-a, a),
        "confirm" => (0, -a),
        "cancel" => (a, -a),
        other => return Err(Error::invalid(format!("no op {other} here"))),
    };
    bank.change(who, &order.account, add, freeze).await
}

async fn deposit(
    who: Identity,
    State(bank): State<Bank>,
    Json(order): Json<Order>,
) -> BranchResult {
    let add = match who.op.as_str() {
        "action" | "confirm" => order.amount,
        "compensate" => -order.amount,
        // Nothing is to be reserved, but that the account is there.
        "try" | "cancel" => 0,
        other => return Err(Error::invalid(format!("no op {other} here"))),
    };
    bank.change(who, &order.account, add, 0).await
}

/// The coordinator asks whether the local transaction of a message was committed.
async fn sent(who: Identity, State(bank): State<Bank>) -> BranchResult {
    Branch::new(who).check_back(&bank.pool).await
}
