//! Transactions that end otherwise than the barrier meant: by the user's own code, by a statement that commits, by a COMMIT that the database
//! refuses, by a deadlock. Never `executed`, and the pool of one connection serves the next.

use amends::adapters::sqlx::{Backend, Begun, Run, db_error};
use amends::participant::{BarrierResult, Dialect};
use amends::{Error, ErrorKind};
use amends_interop::Databases;
use amends_participants::{Bank, call, mariadb, plain, postgres, sqlite};
use sqlx::Connection;
use std::collections::BTreeMap;

const TAKE: &str = "update account set balance = balance - 30 where id = 1";

async fn begun<DB: Backend>(bank: &Bank<DB>, gid: &str) -> Run<DB> {
    let branch = bank.branch(call(gid, "action"));
    match branch.begin(&bank.pool).await.expect("it begins") {
        Begun::Run(run) => run,
        Begun::Skip(why) => panic!("skipped: {why:?}"),
    }
}

/// A run that takes money, and then runs these statements.
async fn run_with<DB: Backend>(bank: &Bank<DB>, gid: &str, then: &[&str]) -> Result<(), Error> {
    let mut run = begun(bank, gid).await;
    for sql in [TAKE].iter().chain(then) {
        DB::exec(&mut run, plain(sql)).await?;
    }
    run.commit().await.map(|_| ())
}

/// Whoever has the one connection next begins a transaction of his own, and nobody else's.
async fn serves<DB: Backend>(bank: &Bank<DB>, gid: &str) {
    let before = bank.balance().await;
    let made = bank.carry_out(call(gid, "action")).await;
    assert_eq!(made, Ok(BarrierResult::Executed));
    let undone = bank.carry_out(call(gid, "compensate")).await;
    assert_eq!(undone, Ok(BarrierResult::Executed));
    assert_eq!(bank.balance().await, before);
}

async fn set_back<DB: Backend>(bank: &Bank<DB>) {
    bank.execute("update account set balance = 0 where id = 1")
        .await;
}

async fn by_the_users_code<DB: Backend>(wide: &Bank<DB>)
where
    <DB::Connection as Connection>::Options: Clone,
{
    let bank = wide.narrow().await;
    // Rolled back: the row is gone with the change.
    let error = run_with(&bank, "rolled-back", &["rollback"]).await;
    let error = error.expect_err("never executed");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
    assert_eq!(
        (wide.balance().await, wide.rows("rolled-back").await),
        (0, 0)
    );
    serves(&bank, "after-rollback").await;

    // Committed: it stays, and is no success.
    let mut ways = vec![vec!["commit"]];
    match DB::DIALECT {
        Dialect::Postgres => ways.push(vec!["commit", "begin"]),
        Dialect::MySql => {
            ways.push(vec!["create table if not exists other(id int)"]);
            ways.push(vec!["truncate table other"]);
            ways.push(vec![
                "commit",
                "update account set balance = balance where id = 1",
            ]);
        }
        _ => {}
    }
    for (n, then) in ways.iter().enumerate() {
        let gid = format!("committed-{n}");
        let error = run_with(&bank, &gid, then).await;
        let error = error.expect_err("not one change");
        assert_eq!(error.kind(), ErrorKind::HalfDone, "{then:?}: {error}");
        assert_eq!(error.kind().branch_answer().http, 500);
        assert_eq!((wide.balance().await, wide.rows(&gid).await), (-30, 1));
        set_back(wide).await;
        serves(&bank, &format!("after-{gid}")).await;
    }

    // A run that ended its transaction and then fails gives nothing back that is open or broken.
    for end in ["commit", "rollback"] {
        let gid = format!("dropped-after-{end}");
        let mut run = begun(&bank, &gid).await;
        DB::exec(&mut run, plain(end)).await.expect("ended");
        drop(run);
        serves(&bank, &format!("{gid}-next")).await;
        let mut run = begun(&bank, &format!("{gid}-again")).await;
        DB::exec(&mut run, plain(end)).await.expect("ended");
        let error = run.refuse("no").await;
        assert_eq!(error.kind(), ErrorKind::Failure, "the user's own answer");
        serves(&bank, &format!("{gid}-last")).await;
    }
    bank.pool.close().await;
}

/// A transaction within the run that its code left open belongs to it.
async fn nested_and_forgotten<DB: Backend>(wide: &Bank<DB>)
where
    <DB::Connection as Connection>::Options: Clone,
{
    let bank = wide.narrow().await;
    for commits in [true, false] {
        let gid = format!("nested-{commits}");
        let mut run = begun(&bank, &gid).await;
        std::mem::forget(run.begin().await.expect("a savepoint"));
        DB::exec(&mut run, plain(TAKE)).await.expect("taken");
        if commits {
            let _committed = run.commit().await.expect("committed");
        } else {
            drop(run);
        }
        let kept = i64::from(commits);
        assert_eq!(bank.balance().await, -30 * kept);
        assert_eq!(
            (wide.balance().await, wide.rows(&gid).await),
            (-30 * kept, kept)
        );
        set_back(wide).await;
        serves(&bank, &format!("after-{gid}")).await;
    }
    bank.pool.close().await;
}

/// A constraint that is checked at COMMIT refuses the change for sure.
async fn refused_at_commit<DB: Backend>(wide: &Bank<DB>)
where
    <DB::Connection as Connection>::Options: Clone,
{
    wide.execute("create table parent(id int primary key)")
        .await;
    wide.execute("create table child(id int references parent(id) deferrable initially deferred)")
        .await;
    let bank = wide.narrow().await;
    let error = run_with(&bank, "orphan", &["insert into child values(1)"]).await;
    let error = error.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Database, "definite: {error}");
    assert_eq!((wide.balance().await, wide.rows("orphan").await), (0, 0));
    serves(&bank, "after-orphan").await;

    // The same in a transaction of the user's own.
    let mut tx = wide.pool.begin().await.expect("begun");
    let branch = wide.branch(call("orphan", "action"));
    let joined = branch.join::<DB>(&mut tx).await.expect("joined");
    DB::exec(&mut tx, plain("insert into child values(1)"))
        .await
        .expect("not yet");
    let error = joined.commit(tx).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Database, "definite: {error}");
    bank.pool.close().await;
}

/// What `?` makes of an error of sqlx.
async fn errors_are_typed<DB: Backend>(bank: &Bank<DB>)
where
    Error: From<sqlx::Error>,
{
    let mut run = begun(bank, "refused-row").await;
    let error = DB::exec(&mut run, plain("insert into account values(1, 0)")).await;
    let error = error.expect_err("it is there");
    assert_eq!(db_error::<DB>(&error).kind(), ErrorKind::Database);
    assert_eq!(Error::from(error).kind(), ErrorKind::Database);
    drop(run);
    bank.execute("insert into account values(2, 0)").await;
    let mut one = begun(bank, "deadlock-1").await;
    let mut two = begun(bank, "deadlock-2").await;
    let touch = |id: u8| {
        plain(&format!(
            "update account set balance = balance + 1 where id = {id}"
        ))
    };
    DB::exec(&mut one, touch(1)).await.expect("changed");
    DB::exec(&mut two, touch(2)).await.expect("changed");
    let (a, b) = tokio::join!(
        async {
            let ended = DB::exec(&mut one, touch(2)).await;
            drop(one);
            ended
        },
        async {
            let ended = DB::exec(&mut two, touch(1)).await;
            drop(two);
            ended
        }
    );
    let error = a.err().or(b.err()).expect("one of them gives way");
    let by_name = db_error::<DB>(&error);
    let error = Error::from(error);
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(error.kind().branch_answer().http, 425);
    assert_eq!(by_name, error);
}

/// A deadlock rolls MySQL's whole transaction back. Code that tries the statement again and goes on makes that one alone: it must not stay,
/// for the coordinator calls again and all of it is made then.
async fn a_statement_tried_again_after_a_deadlock(bank: &Bank<sqlx::MySql>) {
    bank.execute("delete from account where id > 1").await;
    bank.execute("insert into account values(2, 0)").await;
    set_back(bank).await;
    let take = |id: u8| {
        plain(&format!(
            "update account set balance = balance - 30 where id = {id}"
        ))
    };
    let mut runs = Vec::new();
    for (gid, own) in [("retried-1", 1), ("retried-2", 2)] {
        let mut run = begun(bank, gid).await;
        sqlx::MySql::exec(&mut run, take(own)).await.expect("taken");
        runs.push((gid, own, run));
    }
    let stubborn = runs.into_iter().map(|(gid, own, mut run)| async move {
        let other = 3 - own;
        if sqlx::MySql::exec(&mut run, take(other)).await.is_err() {
            let again = sqlx::MySql::exec(&mut run, take(other)).await;
            again.expect("the other one has ended meanwhile");
        }
        (gid, run.commit().await.map(|_| ()).map_err(|e| e.kind()))
    });
    let ended: BTreeMap<_, _> = futures_util::future::join_all(stubborn)
        .await
        .into_iter()
        .collect();
    let (kept, lost): (Vec<_>, Vec<_>) = ended.iter().partition(|(_, result)| result.is_ok());
    assert_eq!((kept.len(), lost.len()), (1, 1), "{ended:?}");
    let (gid, error) = lost[0];
    assert_eq!(
        *error,
        Err(ErrorKind::Aborted),
        "the coordinator calls again"
    );
    let sum = plain("select cast(sum(balance) as char) from account where id in (1, 2)");
    let mut conn = bank.pool.acquire().await.expect("a connection");
    let sum = sqlx::MySql::text(&mut conn, sum).await.expect("told");
    assert_eq!(sum.as_deref(), Some("-60"), "only the other one's");
    assert_eq!(bank.rows(gid).await, 0);
}

/// What is set for a run is set back after it, however it ends.
async fn autocommit_is_as_it_was(wide: &Bank<sqlx::MySql>) {
    let bank = wide.narrow().await;
    let autocommit = async || {
        let mut conn = bank.pool.acquire().await.expect("a connection");
        sqlx::MySql::text(&mut conn, plain("select if(@@autocommit, '1', '0')")).await
    };
    for was in ["1", "0"] {
        bank.execute(&format!("set autocommit = {was}")).await;
        let gid = format!("autocommit-{was}");
        let committed = begun(&bank, &gid).await.commit().await.expect("committed");
        let _ = committed;
        assert_eq!(autocommit().await.expect("told").as_deref(), Some(was));
        let made = bank.carry_out(call(&gid, "action")).await;
        assert_eq!(made, Ok(BarrierResult::Duplicate));
        assert_eq!(autocommit().await.expect("told").as_deref(), Some(was));
        drop(begun(&bank, &format!("{gid}-dropped")).await);
        assert_eq!(autocommit().await.expect("told").as_deref(), Some(was));
        let refused = begun(&bank, &format!("{gid}-refused")).await;
        refused.refuse("no").await;
        assert_eq!(autocommit().await.expect("told").as_deref(), Some(was));
    }
    bank.pool.close().await;
}

/// The connection is gone before the commit: nothing was committed, and that is known.
async fn killed<DB: Backend>(wide: &Bank<DB>, who: &str, kill: &str)
where
    <DB::Connection as Connection>::Options: Clone,
{
    let bank = wide.narrow().await;
    let mut run = begun(&bank, "killed").await;
    DB::exec(&mut run, plain(TAKE)).await.expect("taken");
    let id = DB::text(&mut run, plain(who)).await.expect("its number");
    wide.execute(&format!("{kill}({})", id.expect("a number")))
        .await;
    let error = run.commit().await.expect_err("gone");
    assert_eq!(error.kind(), ErrorKind::Database, "{error}");
    assert_eq!((wide.balance().await, wide.rows("killed").await), (0, 0));
    serves(&bank, "after-kill").await;
    bank.pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mariadb() {
    let databases = Databases::start();
    let bank = mariadb(databases.mariadb(), "repeatable read", "dtm_barrier").await;
    by_the_users_code(&bank).await;
    nested_and_forgotten(&bank).await;
    errors_are_typed(&bank).await;
    a_statement_tried_again_after_a_deadlock(&bank).await;
    autocommit_is_as_it_was(&bank).await;
    bank.pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql() {
    let databases = Databases::start();
    let bank = postgres(databases.postgres(), "dtm_barrier").await;
    by_the_users_code(&bank).await;
    nested_and_forgotten(&bank).await;
    refused_at_commit(&bank).await;
    let who = "select cast(pg_backend_pid() as text)";
    killed(&bank, who, "select pg_terminate_backend").await;
    errors_are_typed(&bank).await;
    bank.pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() {
    let dir = tempfile::tempdir().expect("a folder");
    let bank = sqlite(dir.path()).await;
    by_the_users_code(&bank).await;
    nested_and_forgotten(&bank).await;
    refused_at_commit(&bank).await;
    bank.pool.close().await;
}
