//! Action, commit and rollback in every order that breaks naive code (faults.md D18).

use crate::support::{
    anywhere, begin, begun, change, client, ended, execute, phase2, two_accounts, waiting, who,
};
use amends::adapters::sqlx::{XaBegun, XaBranch};
use amends::participant::{BarrierResult, Registration, Table};
use amends::{Error, ErrorKind};
use amends_interop::Databases;
use amends_participants::{Bank, Books, mariadb, postgres};
use amends_scenarios::{DEADLINE, World, eventually};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn kind<T>(result: Result<T, Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// What comes of a call once the session of the one before is gone.
async fn settled<T>(mut call: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    let end = Instant::now() + DEADLINE;
    loop {
        match call().await {
            Err(error) if error.kind() == ErrorKind::Conflict && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            result => return result,
        }
    }
}

async fn orders<DB: Books>(bank: &Bank<DB>) {
    // The action twice: while the first is open, when it is prepared, and when it is committed.
    let mut run = begun(bank, "twice").await;
    change(&mut run, 1, -30).await.expect("taken");
    assert_eq!(kind(begin(bank, "twice").await), Some(ErrorKind::Conflict));
    let _done = run.prepare().await.expect("prepared");
    assert_eq!(DB::prepared(&bank.pool).await.len(), 1);
    let again = async || match begin(bank, "twice").await {
        Ok(XaBegun::Skip(why)) => why.why() == BarrierResult::Duplicate,
        // The session that prepared it is not gone yet.
        Err(error) if error.kind() == ErrorKind::Conflict => false,
        other => panic!("{other:?}"),
    };
    eventually("skipped", DEADLINE, again).await;
    let commit = async || match phase2(bank, "twice", "commit").await {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::Ongoing => false,
        Err(error) => panic!("{error}"),
    };
    eventually("committed", DEADLINE, commit).await;
    let _done = phase2(bank, "twice", "commit").await.expect("done before");
    eventually("skipped", DEADLINE, again).await;
    let error = settled(async || phase2(bank, "twice", "rollback").await).await;
    assert_eq!(kind(error), Some(ErrorKind::Refused));
    ended(bank, [-30, 0]).await;

    // The rollback first: the action is refused for good, also if it comes twice, and so is a commit.
    let _done = phase2(bank, "first", "rollback").await.expect("done");
    for _ in 0..2 {
        let refused = settled(async || begin(bank, "first").await).await;
        let error = refused.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Failure, "{error}");
        assert_eq!(error.kind().branch_answer().http, 409);
    }
    let done = settled(async || phase2(bank, "first", "rollback").await).await;
    let _done = done.expect("done");
    let error = settled(async || phase2(bank, "first", "commit").await).await;
    assert_eq!(kind(error), Some(ErrorKind::Refused));

    // The rollback in the middle waits for the action's end, whatever that is.
    let mut run = begun(bank, "middle").await;
    change(&mut run, 1, -30).await.expect("taken");
    let answer = phase2(bank, "middle", "rollback").await;
    assert_eq!(kind(answer), Some(ErrorKind::Conflict));
    let _done = run.prepare().await.expect("prepared");
    let rollback = async |gid: &str| match phase2(bank, gid, "rollback").await {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::Conflict => false,
        Err(error) => panic!("{error}"),
    };
    eventually("rolled back", DEADLINE, || rollback("middle")).await;
    ended(bank, [-30, 0]).await;
    let run = begun(bank, "dropped").await;
    drop(run);
    eventually("rolled back", DEADLINE, || rollback("dropped")).await;

    // A commit that comes too early is asked for again.
    let early = phase2(bank, "early", "commit").await;
    assert_eq!(kind(early), Some(ErrorKind::Ongoing));
    ended(bank, [-30, 0]).await;
}

/// The transaction ends while the action runs: its registration is refused, and so is the branch.
async fn too_late<DB: Books>(bank: &Bank<DB>) {
    let w = World::start().await;
    let client = client(&w);
    let xa = client.xa("late", waiting()).await.expect("prepared");
    let at = Registration {
        server: client.server().clone(),
        ..anywhere()
    };
    let options = bank.pool.connect_options();
    let branch = crate::support::branch(bank, who("late", "action"));
    let begun = branch.begin(&*options, &at, Arc::new(client.clone())).await;
    let Ok(XaBegun::Run(mut run)) = begun else {
        panic!("{begun:?}");
    };
    change(&mut run, 1, -30).await.expect("taken");
    xa.abort(Error::new(ErrorKind::Failure, "no")).await;
    let error = run.prepare().await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Failure, "{error}");
    ended(bank, [-30, 0]).await;
}

async fn a_missing_table<DB: Books>(bank: &Bank<DB>) {
    let table = Table::new("nowhere.barrier").expect("a name");
    let branch = XaBranch::new(who("missing", "action")).table(table);
    let options = bank.pool.connect_options();
    let calls = Arc::new(crate::support::TakesAll);
    let error = branch.begin(&*options, &anywhere(), calls).await;
    let error = error.expect_err("missing");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("amends barrier ddl"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mariadb() {
    let databases = Databases::start();
    for isolation in ["repeatable read", "read committed"] {
        let bank = mariadb(databases.mariadb(), isolation, "dtm_barrier").await;
        let bank = two_accounts(bank).await;
        bank.execute("delete from dtm_barrier.barrier").await;
        orders(&bank).await;
        too_late(&bank).await;
        a_missing_table(&bank).await;
        bank.pool.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql() {
    let databases = Databases::start();
    let bank = two_accounts(postgres(databases.postgres(), "dtm_barrier").await).await;
    orders(&bank).await;
    too_late(&bank).await;
    a_missing_table(&bank).await;
    bank.pool.close().await;
}

/// PostgreSQL rolls back at PREPARE TRANSACTION what had an error, or was ended by the user's code, without saying so (rules.md 9.1).
#[tokio::test(flavor = "multi_thread")]
async fn what_was_swallowed_is_never_prepared() {
    let databases = Databases::start();
    let bank = two_accounts(postgres(databases.postgres(), "dtm_barrier").await).await;
    for (gid, fatal, kind) in [
        ("swallowed", "select 1 / 0", ErrorKind::Aborted),
        ("ended", "rollback", ErrorKind::Aborted),
        // What was committed stays, and nothing undoes it.
        ("committed", "commit", ErrorKind::HalfDone),
    ] {
        let mut run = begun(&bank, gid).await;
        change(&mut run, 1, 0).await.expect("taken");
        let _swallowed = execute(&mut run, fatal).await;
        let error = run.prepare().await.expect_err("never prepared");
        assert_eq!(error.kind(), kind, "{gid}: {error}");
        ended(&bank, [0, 0]).await;
    }
    bank.pool.close().await;
}

/// MySQL rolls a branch back at a deadlock; a user's code that goes on is not believed.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_a_deadlock_rolled_back_is_never_prepared() {
    let databases = Databases::start();
    let bank = mariadb(databases.mariadb(), "repeatable read", "dtm_barrier").await;
    let bank = two_accounts(bank).await;
    let (mut a, mut b) = (begun(&bank, "a").await, begun(&bank, "b").await);
    change(&mut a, 1, -30).await.expect("taken");
    change(&mut b, 2, -30).await.expect("taken");
    let (of_a, of_b) = tokio::join!(change(&mut a, 2, 30), change(&mut b, 1, 30));
    assert!(
        of_a.is_ok() != of_b.is_ok(),
        "one is the victim: {of_a:?} {of_b:?}"
    );
    let (won, lost) = if of_a.is_ok() { (a, b) } else { (b, a) };
    let error = lost.prepare().await.expect_err("rolled back");
    assert!(error.is_retryable(), "{:?} {error}", error.kind());
    let error = won.refuse("enough").await;
    assert_eq!(error.message(), "enough");
    ended(&bank, [0, 0]).await;
    bank.pool.close().await;
}
