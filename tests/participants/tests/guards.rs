//! What a barrier guards against besides disorder: swallowed errors, forgotten commits, a missing table, a message asked about while it is
//! being committed; and the same inside a transaction of the user's own.

use amends::ErrorKind;
use amends::adapters::sqlx::{Backend, Begun, Branch, Run};
use amends::participant::{BarrierResult, Dialect, Identity, Table};
use amends_interop::Databases;
use amends_participants::{Bank, call, mariadb, plain, postgres, sqlite};
use std::time::Duration;

async fn begun<DB: Backend>(branch: &Branch, bank: &Bank<DB>) -> Run<DB> {
    match branch.begin(&bank.pool).await.expect("it begins") {
        Begun::Run(run) => run,
        Begun::Skip(why) => panic!("skipped: {why:?}"),
    }
}

const TAKE: &str = "update account set balance = balance - 30 where id = 1";

/// Dropped, refused, and then made: rows and money always go together.
async fn nothing_half<DB: Backend>(bank: &Bank<DB>) {
    let branch = bank.branch(call("half", "action"));
    let mut run = begun(&branch, bank).await;
    DB::exec(&mut run, plain(TAKE)).await.expect("taken");
    drop(run);
    let mut run = begun(&branch, bank).await;
    DB::exec(&mut run, plain(TAKE)).await.expect("taken");
    let error = run.refuse("no stock").await;
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Failure, "no stock")
    );
    assert_eq!((bank.balance().await, bank.rows("half").await), (0, 0));
    let mut run = begun(&branch, bank).await;
    DB::exec(&mut run, plain(TAKE)).await.expect("taken");
    let _committed = run.commit().await.expect("committed");
    assert_eq!((bank.balance().await, bank.rows("half").await), (-30, 1));
    let give = bank.carry_out(call("half", "compensate")).await;
    assert_eq!(give, Ok(BarrierResult::Executed));
    assert_eq!(bank.balance().await, 0);
}

/// How a user begins a transaction of his own.
fn begin<DB: Backend>() -> &'static str {
    match DB::DIALECT {
        Dialect::Sqlite => "BEGIN IMMEDIATE",
        _ => "BEGIN",
    }
}

/// In the user's own transaction: its commit decides, and its rollback takes the barrier's rows with it.
async fn joined<DB: Backend>(bank: &Bank<DB>) {
    let branch = bank.branch(call("joined", "action"));
    for (commits, want) in [
        (false, BarrierResult::Executed),
        (true, BarrierResult::Executed),
        (true, BarrierResult::Duplicate),
    ] {
        let tx = bank.pool.begin_with(begin::<DB>()).await;
        let mut tx = tx.expect("begun");
        let joined = branch.join::<DB>(&mut tx).await.expect("joined");
        assert_eq!(joined.result(), want);
        if commits {
            let _done = joined.commit(tx).await.expect("committed");
        } else {
            tx.rollback().await.expect("rolled back");
        }
    }
    assert_eq!(bank.rows("joined").await, 1);
    if DB::DIALECT == Dialect::Sqlite {
        return;
    }
    if DB::DIALECT == Dialect::Postgres {
        // Nothing of this branch is in it, but what else is would be rolled back without a word.
        let mut tx = bank.pool.begin().await.expect("begun");
        let joined = branch.join::<DB>(&mut tx).await.expect("joined");
        assert_eq!(joined.result(), BarrierResult::Duplicate);
        let swallowed = DB::exec(&mut tx, plain("select 1 / 0")).await;
        swallowed.expect_err("it fails, and nobody looks");
        let error = joined.commit(tx).await.expect_err("rolled back");
        assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
    }
    // Of two transactions, the one that was not joined.
    let mine = bank.pool.begin_with(begin::<DB>()).await;
    let mut mine = mine.expect("begun");
    let joined = bank
        .branch(call("other", "action"))
        .join::<DB>(&mut mine)
        .await;
    let other = bank.pool.begin_with(begin::<DB>()).await.expect("begun");
    let error = joined
        .expect("joined")
        .commit(other)
        .await
        .expect_err("another one");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
    // One that the user's code ended, and one in which PostgreSQL refuses everything.
    for (gid, fatal, kinds) in [
        (
            "ended",
            "rollback",
            [ErrorKind::Aborted, ErrorKind::HalfDone],
        ),
        (
            "swallowed",
            "select 1 / 0",
            [ErrorKind::Aborted, ErrorKind::Aborted],
        ),
    ] {
        let tx = bank.pool.begin_with(begin::<DB>()).await;
        let mut tx = tx.expect("begun");
        let joined = bank.branch(call(gid, "action")).join::<DB>(&mut tx).await;
        let swallowed = DB::exec(&mut tx, plain(fatal)).await;
        match joined.expect("joined").commit(tx).await {
            Err(error) => assert!(kinds.contains(&error.kind()), "{gid}: {error}"),
            // On MySQL a division by zero is null.
            Ok(_done) => assert!(swallowed.is_ok(), "{gid}"),
        }
        assert_eq!(
            bank.rows(gid).await,
            i64::from(swallowed.is_ok() && gid == "swallowed"),
            "{gid}"
        );
    }
}

/// A branch with two parts that commit apart.
async fn parts<DB: Backend>(bank: &Bank<DB>) {
    for part in ["orders", "stock"] {
        let branch = bank.branch(call("parts", "action")).part(part);
        let _committed = begun(&branch, bank)
            .await
            .commit()
            .await
            .expect("committed");
        let again = branch.begin(&bank.pool).await.expect("no error");
        let Begun::Skip(skipped) = again else {
            panic!("made twice");
        };
        assert_eq!(skipped.why(), BarrierResult::Duplicate);
    }
    assert_eq!(bank.rows("parts").await, 2);
}

async fn a_missing_table<DB: Backend>(bank: &Bank<DB>) {
    let table = Table::new("nothing_here").expect("a name");
    let branch = Branch::new(call("missing", "action")).table(table);
    let error = branch.begin(&bank.pool).await.expect_err("no table");
    // SQLite has one code for everything that is wrong with a statement.
    let named = error.message().contains("amends barrier ddl --dialect");
    let sqlite = error.kind() == ErrorKind::Database && error.message().contains("no such table");
    assert!(
        named && error.kind() == ErrorKind::Invalid || sqlite,
        "{error}"
    );
}

fn message(gid: &str) -> Identity {
    Identity::new("msg", gid, "00", "msg").expect("an identity")
}

async fn messages<DB: Backend>(bank: &Bank<DB>) {
    // Committed: asked as often as you like, and never again under this gid.
    let branch = bank.branch(message("m-1"));
    let _committed = begun(&branch, bank)
        .await
        .commit()
        .await
        .expect("committed");
    for _ in 0..2 {
        let _done = branch
            .check_back(&bank.pool)
            .await
            .expect("it was committed");
    }
    let error = branch.begin(&bank.pool).await.expect_err("used before");
    assert_eq!(
        (error.kind(), error.committed()),
        (ErrorKind::Duplicated, Some(true))
    );
    // Asked first: it was not, and cannot be any more.
    let branch = bank.branch(message("m-2"));
    for _ in 0..2 {
        let error = branch.check_back(&bank.pool).await.expect_err("never");
        assert_eq!(error.kind(), ErrorKind::Failure);
    }
    let error = branch.begin(&bank.pool).await.expect_err("too late");
    assert_eq!(
        (error.kind(), error.committed()),
        (ErrorKind::Duplicated, Some(false))
    );
    // It has one row, where the check-back looks.
    let part = bank.branch(message("m-3")).part("stock");
    let error = part.begin(&bank.pool).await.expect_err("no parts");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = part.check_back(&bank.pool).await.expect_err("no parts");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(bank.rows("m-3").await, 0);
}

/// A check-back waits for a local transaction that is still open, and then says what became of it.
async fn asked_while_it_is_open<DB: Backend>(bank: &Bank<DB>) {
    for commits in [true, false] {
        let branch = bank.branch(message(if commits { "open-1" } else { "open-2" }));
        let run = begun(&branch, bank).await;
        let asked = {
            let (branch, pool) = (branch.clone(), bank.pool.clone());
            tokio::spawn(async move { branch.check_back(&pool).await })
        };
        // It has no answer as long as there is none.
        let early = tokio::time::timeout(Duration::from_millis(300), async {
            while !asked.is_finished() {
                tokio::task::yield_now().await;
            }
        });
        assert!(early.await.is_err(), "answered while it was open");
        if commits {
            let _committed = run.commit().await.expect("committed");
        } else {
            drop(run);
        }
        let answer = asked.await.expect("no panic");
        let want = if commits {
            Ok(())
        } else {
            Err(ErrorKind::Failure)
        };
        assert_eq!(answer.map(|_| ()).map_err(|e| e.kind()), want);
    }
}

/// Given up while it begins: no connection goes back with a transaction open on it.
async fn dropped_while_it_begins<DB: Backend>(bank: &Bank<DB>) {
    for _ in 0..40 {
        let branch = bank.branch(call("given-up", "action"));
        let mut begins = Box::pin(branch.begin(&bank.pool));
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(begins.as_mut().poll(cx).is_ready()));
        let _ = polled.await;
        drop(begins);
    }
    // What is written by itself is there for everybody.
    bank.execute(TAKE).await;
    assert_eq!(bank.balance().await, -30);
    bank.execute("update account set balance = 0 where id = 1")
        .await;
    for _ in 0..40 {
        assert_eq!(bank.balance().await, 0);
    }
}

async fn everything<DB: Backend>(bank: &Bank<DB>) {
    nothing_half(bank).await;
    dropped_while_it_begins(bank).await;
    joined(bank).await;
    parts(bank).await;
    a_missing_table(bank).await;
    messages(bank).await;
    asked_while_it_is_open(bank).await;
    bank.pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mariadb() {
    let databases = Databases::start();
    let bank = mariadb(databases.mariadb(), "repeatable read", "dtm_barrier").await;
    everything(&bank).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql() {
    let databases = Databases::start();
    let bank = postgres(databases.postgres(), "dtm_barrier").await;
    everything(&bank).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() {
    let dir = tempfile::tempdir().expect("a folder");
    let bank = sqlite(dir.path()).await;
    everything(&bank).await;
}

/// PostgreSQL rolls back at COMMIT what had an error, without saying so (rules.md 9.1).
#[tokio::test(flavor = "multi_thread")]
async fn a_swallowed_error_on_postgresql_never_ends_as_executed() {
    let databases = Databases::start();
    let bank = postgres(databases.postgres(), "dtm_barrier").await;
    let branch = bank.branch(call("swallowed", "action"));
    let mut run = begun(&branch, &bank).await;
    sqlx::Postgres::exec(&mut run, plain(TAKE))
        .await
        .expect("taken");
    let swallowed = sqlx::Postgres::exec(&mut run, plain("select 1 / 0")).await;
    swallowed.expect_err("it fails, and nobody looks");
    let error = run.commit().await.expect_err("never executed");
    assert_eq!(error.kind(), ErrorKind::Aborted);
    assert_eq!(error.kind().branch_answer().http, 500, "it is called again");
    assert_eq!((bank.balance().await, bank.rows("swallowed").await), (0, 0));
    let again = bank.carry_out(call("swallowed", "action")).await;
    assert_eq!(again, Ok(BarrierResult::Executed));
}
