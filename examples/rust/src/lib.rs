//! A bank transfer in Rust, run by `cargo run -p amends-example-bank` beside a running server (`amends serve`): as a saga, as TCC, as a
//! two-phase message, and as a workflow. [`bank`] is the participant, this file the initiator. The banks are in a file of SQLite, or in the
//! database whose URL is given: `cargo run -p amends-example-bank postgres://…`, or `mysql://…` for MySQL and MariaDB.

pub mod bank;
pub mod database;
#[cfg(doctest)]
mod pages;

use amends::client::{Client, WorkflowRun, Workflows, new_gid};
use amends::initiator::{Message, Saga, Try};
use amends::machine::Calls;
use amends::participant::answer::Answer;
use amends::{Error, ErrorKind, Options};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::routing::post;
use bank::{Bank, Order, move_money};
use database::Database;
use std::sync::Arc;
use tokio::net::TcpListener;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Everything that takes part.
pub struct World<DB: Database> {
    client: Client,
    workflows: Workflows,
    alice: Bank<DB>,
    bob: Bank<DB>,
    /// Makes gids of one run different from those of another.
    run: String,
}

fn order(account: &str, amount: i64) -> String {
    let account = account.to_owned();
    serde_json::json!(Order { account, amount }).to_string()
}

fn waiting() -> Options {
    Options {
        wait_result: true,
        retry_interval: 1,
        ..Options::default()
    }
}

/// The coordinator asks for another run of a workflow.
async fn again(
    State(workflows): State<Workflows>,
    RawQuery(query): RawQuery,
    input: Bytes,
) -> Answer {
    workflows.callback(&query.unwrap_or_default(), &input).await
}

impl<DB: Database> World<DB> {
    /// Two banks in this database, and a client of the coordinator at this address.
    ///
    /// # Errors
    ///
    /// Whatever keeps them from being opened.
    pub async fn open(coordinator: &str, database: &str) -> Result<World<DB>> {
        let pool = DB::open(database).await?;
        DB::add(&pool, "alice", 100).await?;
        DB::add(&pool, "bob", 0).await?;
        let (alice, bob) = (Bank::serve(pool.clone()).await?, Bank::serve(pool).await?);
        let client = Client::new(coordinator)?;

        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let callback = format!("http://{}/workflow", listener.local_addr()?);
        let workflows = Workflows::new(&client, &callback);
        let (from, to) = (alice.clone(), bob.clone());
        workflows.register("transfer", move |wf, input| {
            transfer(wf, input, from.clone(), to.clone())
        })?;
        let routes = Router::new().route("/workflow", post(again));
        let routes = routes.with_state(workflows.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });

        Ok(World {
            client,
            workflows,
            alice,
            bob,
            run: new_gid()?,
        })
    }

    fn gid(&self, name: &str) -> String {
        format!("bank-{}-{name}", self.run)
    }

    /// A saga: withdraw, then deposit; a refusal compensates in reverse.
    ///
    /// # Errors
    ///
    /// `Failure` when it was rolled back.
    pub async fn by_saga(&self, to: &str, amount: i64) -> std::result::Result<(), Error> {
        let mut saga = Saga::new(&self.gid(&format!("saga-{to}")), waiting());
        let (withdraw, deposit) = (self.alice.url("/withdraw"), self.bob.url("/deposit"));
        saga.step(&withdraw, &withdraw, order("alice", amount));
        saga.step(&deposit, &deposit, order(to, amount));
        self.client.submit(&saga).await
    }

    /// TCC: both banks try, then the coordinator confirms both, or cancels both.
    ///
    /// # Errors
    ///
    /// `Failure` when a bank refused.
    pub async fn by_tcc(&self, amount: i64) -> std::result::Result<(), Error> {
        let gid = self.gid(&format!("tcc-{amount}"));
        let mut tcc = self.client.tcc(&gid, waiting()).await?;
        let branch = |url: String, payload: String| Try {
            try_url: url.clone(),
            confirm: url.clone(),
            cancel: url,
            payload: payload.into(),
        };
        let branches = [
            branch(self.alice.url("/withdraw"), order("alice", amount)),
            branch(self.bob.url("/deposit"), order("bob", amount)),
        ];
        for tried in tcc.branches(&branches).await? {
            if let Err(error) = tried {
                return Err(tcc.abort(error).await);
            }
        }
        tcc.submit().await
    }

    /// A message: Alice's bank commits its own withdrawal, and then Bob's bank hears of it, whatever happens in between.
    ///
    /// # Errors
    ///
    /// `Failure` when Alice's bank refused.
    pub async fn by_message(&self, amount: i64) -> std::result::Result<(), Error> {
        let gid = self.gid(&format!("message-{amount}"));
        let mut message = Message::new(&gid, &self.alice.url("/sent"), waiting());
        message.send(&self.bob.url("/deposit"), order("bob", amount));
        let calls: Arc<dyn Calls> = Arc::new(self.client.clone());
        let begun = message.begin(self.client.server(), calls, &self.alice.pool);
        let mut tx = begun.await?;
        match move_money::<DB>(&mut tx, "alice", -amount, 0).await? {
            None => tx.commit().await.map(|_committed| ()),
            Some(no) => Err(tx.refuse(no).await),
        }
    }

    /// A workflow: the function [`transfer`] is the transaction.
    ///
    /// # Errors
    ///
    /// `Failure` when it was rolled back.
    pub async fn by_workflow(&self, amount: i64) -> std::result::Result<(), Error> {
        let gid = self.gid(&format!("workflow-{amount}"));
        let amount = amount.to_string();
        let ended = self.workflows.execute("transfer", &gid, amount.as_bytes());
        ended.await.map(|_result| ())
    }

    /// What Alice and Bob have: balance and frozen amount.
    ///
    /// # Errors
    ///
    /// Those of the databases.
    pub async fn balances(&self) -> Result<((i64, i64), (i64, i64))> {
        Ok((
            DB::account(&self.alice.pool, "alice").await?,
            DB::account(&self.bob.pool, "bob").await?,
        ))
    }

    /// Transfers that go through and transfers that do not; each line says what came of it.
    ///
    /// # Errors
    ///
    /// When the books do not add up.
    pub async fn play(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let transfers = [
            ("a saga of 30", self.by_saga("bob", 30).await, true),
            ("a saga to nobody", self.by_saga("bobby", 30).await, false),
            ("tcc of 20", self.by_tcc(20).await, true),
            ("tcc of more than there is", self.by_tcc(2_000).await, false),
            ("a message of 10", self.by_message(10).await, true),
            (
                "a message of more than there is",
                self.by_message(3_000).await,
                false,
            ),
            ("a workflow of 5", self.by_workflow(5).await, true),
            (
                "a workflow of more than there is",
                self.by_workflow(4_000).await,
                false,
            ),
        ];
        for (what, result, goes_through) in transfers {
            let ended = match &result {
                Ok(()) => "went through".to_owned(),
                Err(error) => format!("{:?}: {error}", error.kind()),
            };
            let failed = result.err().map(|error| error.kind());
            if failed != (!goes_through).then_some(ErrorKind::Failure) {
                return Err(format!("{what}: {ended}").into());
            }
            lines.push(format!("{what}: {ended}"));
        }
        let (alice, bob) = self.balances().await?;
        lines.push(format!("alice {alice:?}, bob {bob:?}"));
        if (alice, bob) != ((35, 0), (65, 0)) {
            return Err(format!("the books do not add up: {lines:#?}").into());
        }
        Ok(lines)
    }
}

/// The workflow: deposit at Bob's bank by a call, then withdraw at Alice's, which is in this process. It runs again after a crash, and what it
/// has done is not done again.
async fn transfer<DB: Database>(
    wf: WorkflowRun,
    input: Bytes,
    alice: Bank<DB>,
    bob: Bank<DB>,
) -> std::result::Result<Bytes, Error> {
    let amount: i64 = String::from_utf8_lossy(&input)
        .parse()
        .map_err(|_| Error::new(ErrorKind::Failure, "the input is no amount"))?;
    wf.branch("deposit")?
        .on_rollback_call(&bob.url("/deposit"), order("bob", amount))
        .call(&bob.url("/deposit"), order("bob", amount))
        .await?;
    let undo = alice.clone();
    wf.branch("withdraw")?
        .on_rollback(async move |who| undo.change(who, "alice", amount, 0).await.map(|_done| ()))
        .run(async |who| {
            let _done = alice.change(who, "alice", -amount, 0).await?;
            Ok(Bytes::new())
        })
        .await
}
