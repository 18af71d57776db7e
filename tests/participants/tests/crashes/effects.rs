//! A message at each of its effects: its process dies before it or after it, or goes on without knowing whether it was done. It is delivered if,
//! and only if, its local transaction was committed (invariants 5 and 6 of faults.md), also where its gid is begun again, or the coordinator
//! asks in the midst of it.

use crate::place::{Place, write};
use amends::adapters::sqlx::Backend;
use amends::machine::Output;
use amends::{Error, ErrorKind};
use amends_interop::Databases;
use amends_participants::{
    Bank, Crash, CrashingCalls, Host, Stop, User, mariadb, postgres, sqlite,
};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Effects of a message that is committed: prepare, begin, insert, the user's code, guard, commit, submit.
const EFFECTS: usize = 7;

/// How long a check-back may come through before it is taken to wait for the transaction of the run that it asks about.
const COMES_THROUGH: Duration = Duration::from_millis(100);

/// What the local transaction ends with.
#[derive(Clone, Copy, Debug)]
enum Local {
    Commits,
    /// A definite no.
    Refuses,
    /// An error that says nothing.
    Breaks,
}

/// The user's code: a line in the book, and that end.
struct Line<'a> {
    gid: &'a str,
    local: Local,
}

impl<DB: Backend> User<DB> for Line<'_> {
    async fn run(&self, conn: &mut DB::Connection) -> Result<Bytes, Error> {
        write::<DB>(conn, self.gid, "local").await?;
        match self.local {
            Local::Commits => Ok(Bytes::new()),
            Local::Refuses => Err(Error::new(ErrorKind::Failure, "no")),
            Local::Breaks => Err(Error::new(ErrorKind::Database, "what?")),
        }
    }
}

/// `None` is a crash.
type Ended = Option<Result<Output, Error>>;

/// A run of this gid, to its end.
async fn drive<DB: Backend>(
    place: &Place<DB>,
    gid: &str,
    local: Local,
    crash: &Arc<Crash>,
) -> Result<Output, Error> {
    let calls = CrashingCalls {
        calls: Arc::new(place.client.clone()),
        crash: crash.clone(),
        decisions: true,
    };
    let at = amends::participant::Place {
        dialect: DB::DIALECT,
        table: place.bank.table().clone(),
        style: DB::STYLE,
    };
    let machine = place
        .message(gid)
        .commit_with(place.client.server(), at, 7)
        .expect("legal");
    Host::new(&place.bank.pool, calls)
        .haste(10)
        .drive(machine, &Line { gid, local })
        .await
}

/// The same, unless it stops before.
async fn run<DB: Backend>(place: &Place<DB>, gid: &str, local: Local, crash: &Arc<Crash>) -> Ended {
    crash.cut(drive(place, gid, local, crash)).await
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Committed and delivered, each once.
    Delivered,
    /// Neither.
    Withdrawn,
    /// Neither, and the coordinator never heard of it.
    Unknown,
}

/// How a message ended, now that nothing is left to be done for it. No run was told anything else.
async fn settled<DB: Backend>(place: &Place<DB>, gid: &str, runs: &[Ended]) -> End {
    let view = place.w.dtm.query(gid).await;
    let lines = place.lines(gid).await;
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let end = match (view.status(), &lines[..]) {
        ("succeed", ["local", "01 action"]) => End::Delivered,
        ("failed", []) => End::Withdrawn,
        ("", []) => End::Unknown,
        (status, lines) => panic!("{gid} is {status:?}: {lines:?}; {runs:?}"),
    };
    let committed = end == End::Delivered;
    for run in runs.iter().flatten() {
        let said = match run {
            Ok(_) => Some(true),
            Err(error) => match (error.kind(), error.committed()) {
                (ErrorKind::OutcomeUnknown, _) => None,
                (_, Some(committed)) => Some(committed),
                // It did not, but another run may have.
                _ if runs.len() > 1 => None,
                _ => Some(false),
            },
        };
        assert!(
            said.is_none_or(|said| said == committed),
            "{gid} is {end:?}, but a run ended with {run:?}"
        );
    }
    end
}

/// It stops at each effect or does not hear of it, and its gid is begun again by a new process: before the coordinator asks, or when it has asked.
async fn at_each_effect<DB: Backend>(place: &Place<DB>) {
    let never = Crash::never();
    let mut ends = Vec::new();
    for local in [Local::Commits, Local::Refuses, Local::Breaks] {
        for (stop, again) in Stop::ALL
            .iter()
            .flat_map(|stop| [(*stop, false), (*stop, true)])
        {
            for at in 0.. {
                let gid = format!("{local:?}-{stop:?}-{at}-{again}");
                let crash = Crash::at(at, stop);
                let mut runs = vec![run(place, &gid, local, &crash).await];
                if again {
                    runs.push(run(place, &gid, Local::Commits, &never).await);
                }
                place.ask().await;
                let end = settled(place, &gid, &runs).await;
                runs.push(run(place, &gid, Local::Commits, &never).await);
                place.ask().await;
                let still = settled(place, &gid, &runs).await;
                let want = if end == End::Unknown {
                    End::Delivered
                } else {
                    end
                };
                assert_eq!(still, want, "{gid}: {runs:?}");
                ends.push(end);
                if !crash.happened() {
                    assert!(at >= EFFECTS - 1, "{gid}: only {at} effects");
                    break;
                }
            }
        }
    }
    let count = |end| ends.iter().filter(|e| **e == end).count();
    let (delivered, withdrawn) = (count(End::Delivered), count(End::Withdrawn));
    println!(
        "{} messages: {delivered} delivered, {withdrawn} withdrawn",
        ends.len()
    );
    assert!(delivered > 50 && withdrawn > 50 && count(End::Unknown) > 0);
}

/// It is paused at each effect, and the coordinator asks meanwhile.
async fn asked_in_the_midst<DB: Backend>(place: &Place<DB>) {
    for stop in [Stop::Before, Stop::Unheard] {
        for at in 0.. {
            let gid = format!("midst-{stop:?}-{at}");
            let crash = Crash::pause(at, stop);
            let mut running = Box::pin(drive(place, &gid, Local::Commits, &crash));
            tokio::select! {
                biased;
                () = crash.reached() => {}
                _ = &mut running => {
                    assert!(at >= EFFECTS, "{gid}: only {at} effects");
                    return;
                }
            }
            let asked = async {
                let mut asked = Box::pin(place.ask());
                let through = tokio::time::timeout(COMES_THROUGH, &mut asked).await;
                crash.go_on();
                if through.is_err() {
                    asked.await;
                }
            };
            let (ended, ()) = tokio::join!(running, asked);
            place.ask().await;
            settled(place, &gid, &[Some(ended)]).await;
        }
    }
}

async fn everything<DB: Backend>(bank: Bank<DB>) {
    let place = Place::new(bank).await;
    at_each_effect(&place).await;
    asked_in_the_midst(&place).await;
    place.bank.pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_each_effect_on_mariadb_and_postgresql() {
    let databases = Databases::start();
    tokio::join!(
        everything(mariadb(databases.mariadb(), "repeatable read", "dtm_barrier").await),
        everything(postgres(databases.postgres(), "dtm_barrier").await)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn at_each_effect_on_sqlite() {
    let dir = tempfile::tempdir().expect("a folder");
    everything(sqlite(dir.path()).await).await;
}
