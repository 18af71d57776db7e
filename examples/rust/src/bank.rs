//! A bank: a participant. Its accounts and its barrier are in one database, so that one commit carries both.

use crate::database::Database;
use amends::Error;
use amends::adapters::sqlx::{Begun, Branch};
use amends::participant::{BranchResult, Identity};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sqlx::Pool;
use std::net::SocketAddr;
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
#[derive(Debug)]
pub struct Bank<DB: Database> {
    /// Its database, for what it does by itself.
    pub pool: Pool<DB>,
    address: SocketAddr,
}

impl<DB: Database> Clone for Bank<DB> {
    fn clone(&self) -> Self {
        Bank {
            pool: self.pool.clone(),
            address: self.address,
        }
    }
}

impl<DB: Database> Bank<DB> {
    /// Serves a bank whose accounts are in this database.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being served.
    pub async fn serve(pool: Pool<DB>) -> Result<Bank<DB>, Box<dyn std::error::Error>> {
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

    /// Carries out a branch behind the barrier: `add` and `freeze` change what the account has.
    ///
    /// # Errors
    ///
    /// `Failure` if there is too little, or no such account; those of the barrier.
    pub async fn change(&self, who: Identity, name: &str, add: i64, freeze: i64) -> BranchResult {
        match Branch::new(who).begin(&self.pool).await? {
            Begun::Skip(why) => Ok(why.into()),
            // An error leaves the run dropped, that is rolled back; the coordinator asks again.
            Begun::Run(mut tx) => match move_money::<DB>(&mut tx, name, add, freeze).await? {
                None => Ok(tx.commit().await?.into()),
                Some(no) => Err(tx.refuse(no).await),
            },
        }
    }
}

/// Changes an account; the reason if it cannot be.
///
/// # Errors
///
/// Those of the database.
pub async fn move_money<DB: Database>(
    tx: &mut DB::Connection,
    name: &str,
    add: i64,
    freeze: i64,
) -> Result<Option<String>, sqlx::Error> {
    let changed = DB::change(tx, name, add, freeze).await?;
    Ok((changed == 0).then(|| format!("{name} has no {} here", add.abs())))
}

async fn withdraw<DB: Database>(
    who: Identity,
    State(bank): State<Bank<DB>>,
    Json(order): Json<Order>,
) -> BranchResult {
    let a = order.amount;
    let (add, freeze) = match who.op.as_str() {
        "action" => (-a, 0),
        // The undo of a saga's step, and that of a workflow's.
        "compensate" | "rollback" => (a, 0),
        "try" => (-a, a),
        "confirm" => (0, -a),
        "cancel" => (a, -a),
        other => return Err(Error::invalid(format!("no op {other} here"))),
    };
    bank.change(who, &order.account, add, freeze).await
}

async fn deposit<DB: Database>(
    who: Identity,
    State(bank): State<Bank<DB>>,
    Json(order): Json<Order>,
) -> BranchResult {
    let add = match who.op.as_str() {
        "action" | "confirm" => order.amount,
        "compensate" | "rollback" => -order.amount,
        // Nothing is to be reserved, but that the account is there.
        "try" | "cancel" => 0,
        other => return Err(Error::invalid(format!("no op {other} here"))),
    };
    bank.change(who, &order.account, add, 0).await
}

/// The coordinator asks whether the local transaction of a message was committed.
async fn sent<DB: Database>(who: Identity, State(bank): State<Bank<DB>>) -> BranchResult {
    Branch::new(who).check_back(&bank.pool).await
}
