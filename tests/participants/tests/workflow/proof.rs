//! The proof of rules.md 10.3: stopped at each effect, and everything that is not recorded answers the opposite when it goes on.

use crate::transfer::{Moods, Says, World};
use amends::adapters::sqlx::Backend;
use amends::client::{Client, Workflows};
use amends::{Error, ErrorKind, Options};
use amends_interop::Databases;
use amends_participants::{Crash, CrashingCalls, Stop, mariadb, postgres, sqlite};
use amends_scenarios::World as Coordinator;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// It dies; or, at last, an answer is lost, and it goes on.
const STOPS: [Stop; 4] = [Stop::Before, Stop::Unheard, Stop::After, Stop::Lost];

/// What is answered at first, and what when it goes on.
const TURNS: [(Moods, Moods); 4] = [
    (Moods::FINE, Moods::REFUSED),
    (refused_at_last(Says::No), Moods::FINE),
    (refused_at_last(Says::What), Moods::FINE),
    (
        Moods {
            withdraw: Says::Yes,
            reserve: Says::What,
            deposit: Says::Yes,
        },
        Moods::FINE,
    ),
];

const fn refused_at_last(deposit: Says) -> Moods {
    Moods {
        withdraw: Says::Yes,
        reserve: Says::Yes,
        deposit,
    }
}

struct Proof<'a, DB: Backend> {
    coordinator: &'a Coordinator,
    world: &'a World<DB>,
    /// Whether decisions are stored.
    decisions: bool,
    runs: usize,
    wrong: Vec<String>,
}

impl<DB: Backend> Proof<'_, DB> {
    fn workflows(&self, crash: &Arc<Crash>) -> Workflows {
        let client =
            Client::new(&format!("http://{}", self.coordinator.server.addr())).expect("a client");
        let calls = CrashingCalls {
            calls: Arc::new(client.clone()),
            crash: crash.clone(),
            decisions: self.decisions,
        };
        // Called back by nobody: the test itself goes on.
        let options = Options {
            retry_interval: 3_600,
            ..Options::default()
        };
        let workflows = Workflows::with(
            client.server(),
            Arc::new(calls),
            "http://127.0.0.1:9/nobody",
            options,
        );
        self.world.register(&workflows, crash);
        workflows
    }

    /// Another run, and again until it has ended.
    async fn to_the_end(&self, gid: &str) -> Result<Bytes, Error> {
        let workflows = self.workflows(&Crash::never());
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let result = workflows.execute("transfer", gid, b"").await;
            match &result {
                Err(error) if error.kind() != ErrorKind::Failure => {
                    assert!(
                        error.is_retryable() && Instant::now() < deadline,
                        "{gid}: {error}"
                    );
                }
                _ => return result,
            }
        }
    }

    /// A run that was told how it ended was told the same as the run that went on.
    fn agree(
        &mut self,
        gid: &str,
        own: Option<&Result<Bytes, Error>>,
        result: &Result<Bytes, Error>,
    ) {
        let agrees = match own {
            None => true,
            Some(Ok(value)) => result.as_ref() == Ok(value),
            Some(Err(error)) => error.kind() != ErrorKind::Failure || result.is_err(),
        };
        if !agrees {
            self.wrong.push(format!("{gid}: {own:?} and {result:?}"));
        }
    }

    async fn check(&mut self, gid: &str, result: &Result<Bytes, Error>) {
        self.runs += 1;
        let status = self.coordinator.dtm.query(gid).await.status().to_owned();
        let book = self.world.book(gid).await;
        let count = |line: &str| {
            book.iter()
                .find(|(name, _)| name == line)
                .map_or(0, |(_, n)| *n)
        };
        let done = [
            "withdraw action",
            "reserve action",
            "deposit action",
            "reserve commit",
        ];
        let right = match (&result, status.as_str()) {
            (Ok(_), "succeed") => {
                done.iter().all(|line| count(line) == 1) && book.len() == done.len()
            }
            (Err(_), "failed") => {
                ["withdraw", "reserve", "deposit"].iter().all(|what| {
                    let acted = count(&format!("{what} action"));
                    acted <= 1 && acted == count(&format!("{what} rollback"))
                }) && count("reserve commit") == 0
            }
            _ => false,
        };
        if !right {
            self.wrong
                .push(format!("{gid} is {status}, {result:?}: {book:?}"));
        }
    }

    /// Stopped at each effect; and another run goes on. Then paused at each, until another run has ended.
    async fn run(&mut self, name: &str) {
        for (turn, (first, later)) in TURNS.iter().enumerate() {
            for stop in STOPS {
                for at in 0.. {
                    let gid = format!("{name}-{turn}-{stop:?}-{at}");
                    let crash = Crash::at(at, stop);
                    let workflows = self.workflows(&crash);
                    self.world.feel(*first);
                    let own = crash.cut(workflows.execute("transfer", &gid, b"")).await;
                    if !crash.happened() {
                        assert!(at >= 10, "{gid}");
                        break;
                    }
                    self.world.feel(*later);
                    let result = self.to_the_end(&gid).await;
                    self.agree(&gid, own.as_ref(), &result);
                    self.check(&gid, &result).await;
                }
            }
            for stop in [Stop::Before, Stop::Unheard] {
                for at in 0.. {
                    let gid = format!("{name}-{turn}-paused-{stop:?}-{at}");
                    let crash = Crash::pause(at, stop);
                    let workflows = self.workflows(&crash);
                    self.world.feel(*first);
                    let paused = async {
                        crash.reached().await;
                        self.world.feel(*later);
                        let result = self.to_the_end(&gid).await;
                        crash.go_on();
                        result
                    };
                    let mut run = Box::pin(workflows.execute("transfer", &gid, b""));
                    let result = tokio::select! {
                        biased;
                        _ = &mut run => None,
                        result = paused => Some(result),
                    };
                    let Some(result) = result else {
                        assert!(at >= 10, "{gid}");
                        break;
                    };
                    let own = run.await;
                    self.agree(&gid, Some(&own), &result);
                    self.check(&gid, &result).await;
                }
            }
        }
    }
}

async fn prove<DB: Backend>(
    coordinator: &Coordinator,
    world: &World<DB>,
    name: &str,
    decisions: bool,
) -> Vec<String> {
    let mut proof = Proof {
        coordinator,
        world,
        decisions,
        runs: 0,
        wrong: Vec::new(),
    };
    proof.run(name).await;
    println!(
        "{name}: {} runs that were stopped or paused, {} ended wrong",
        proof.runs,
        proof.wrong.len()
    );
    assert!(proof.runs > 150);
    proof.wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn never_committed_and_rolled_back_in_one_on_sqlite_but_without_decisions() {
    let dir = tempfile::tempdir().expect("a folder");
    let world = World::new(sqlite(dir.path()).await).await;
    let coordinator = Coordinator::start().await;
    let wrong = prove(&coordinator, &world, "sqlite", true).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    let wrong = prove(&coordinator, &world, "undecided", false).await;
    assert!(
        !wrong.is_empty(),
        "a build without decisions must be found out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn never_committed_and_rolled_back_in_one_on_mariadb_and_postgresql() {
    let databases = Databases::start();
    let coordinator = Coordinator::start().await;
    let world =
        World::new(mariadb(databases.mariadb(), "repeatable read", "dtm_barrier").await).await;
    let wrong = prove(&coordinator, &world, "mariadb", true).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    let world = World::new(postgres(databases.postgres(), "dtm_barrier").await).await;
    let wrong = prove(&coordinator, &world, "postgresql", true).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}
