//! A bank transfer in Rust, run by `cargo run -p amends-example-bank` beside a running server (`amends serve`): as a saga, as TCC, and as a
//! two-phase message. [`bank`] is the participant, this file the initiator.

pub mod bank;

use amends::client::Client;
use amends::initiator::{Message, Saga, Try};
use amends::machine::Calls;
use amends::{Error, ErrorKind, Options};
use bank::{Bank, Order, move_money};
use std::sync::Arc;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Everything that takes part.
pub struct World {
    client: Client,
    alice: Bank,
    bob: Bank,
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

impl World {
    /// Two banks with data in this folder, and a client of the coordinator at this address.
    ///
    /// # Errors
    ///
    /// Whatever keeps them from being opened.
    pub async fn open(coordinator: &str, folder: &std::path::Path) -> Result<World> {
        Ok(World {
            client: Client::new(coordinator)?,
            alice: Bank::open(&folder.join("alice.db"), "alice", 100).await?,
            bob: Bank::open(&folder.join("bob.db"), "bob", 0).await?,
            run: std::process::id().to_string(),
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
        saga.step(&withdraw, &withdraw, &order("alice", amount));
        saga.step(&deposit, &deposit, &order(to, amount));
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
            payload,
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
        message.send(&self.bob.url("/deposit"), &order("bob", amount));
        let calls: Arc<dyn Calls> = Arc::new(self.client.clone());
        let begun = message.begin(self.client.server(), calls, &self.alice.pool);
        let mut tx = begun.await?;
        match move_money(&mut tx, "alice", -amount, 0).await {
            Ok(None) => tx.commit().await.map(|_committed| ()),
            Ok(Some(no)) => Err(tx.refuse(no).await),
            Err(error) => Err(Error::new(ErrorKind::Database, error.to_string())),
        }
    }

    /// What Alice and Bob have: balance and frozen amount.
    ///
    /// # Errors
    ///
    /// Those of the databases.
    pub async fn balances(&self) -> Result<((i64, i64), (i64, i64))> {
        Ok((
            self.alice.account("alice").await?,
            self.bob.account("bob").await?,
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
        if (alice, bob) != ((40, 0), (60, 0)) {
            return Err(format!("the books do not add up: {lines:#?}").into());
        }
        Ok(lines)
    }
}
