//! Whole transactions, by the client and the coordinator.

use crate::support::{begun, client, ended, participant, phase2, two_accounts, waiting};
use amends::initiator::xa::Action;
use amends::{ErrorKind, Options};
use amends_interop::Databases;
use amends_participants::{Bank, Books, mariadb, postgres};
use amends_scenarios::World;

async fn outcomes<DB: Books>(bank: Bank<DB>) {
    let bank = two_accounts(bank).await;
    let w = World::start().await;
    let client = client(&w);
    let participant = participant(&bank, &client).await;
    let url = |path: &str| format!("http://{}/{path}", participant.addr);
    let action = |path: &str| Action {
        url: url(path),
        payload: "{}".into(),
    };

    let mut xa = client.xa("ok", waiting()).await.expect("prepared");
    let both = xa.calls(&[action("out"), action("in")]).await;
    for answer in both.expect("legal") {
        answer.expect("prepared");
    }
    assert_eq!(DB::prepared(&bank.pool).await.len(), 2);
    xa.submit().await.expect("committed");
    assert_eq!(w.dtm.query("ok").await.status(), "succeed");
    ended(&bank, [-30, 30]).await;

    // Refused: whoever submits all the same is not believed.
    let mut xa = client.xa("no", waiting()).await.expect("prepared");
    xa.call(url("in"), "{}").await.expect("prepared");
    let error = xa.call(url("refuse"), "{}").await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Failure);
    let error = xa.submit().await.expect_err("aborted");
    assert!(error.message().contains("no money"), "{error}");
    w.dtm.wait_status("no", "failed").await;
    ended(&bank, [-30, 30]).await;

    // Dropped, as by a crash: rolled back by its timeout.
    let short = Options {
        timeout_to_fail: 1,
        retry_interval: 1,
        ..Options::default()
    };
    let mut xa = client.xa("dropped", short).await.expect("prepared");
    xa.call(url("out"), "{}").await.expect("prepared");
    drop(xa);
    w.dtm.wait_status("dropped", "failed").await;
    ended(&bank, [-30, 30]).await;

    for path in ["dies-open", "dies-prepared"] {
        let mut xa = client.xa(path, waiting()).await.expect("prepared");
        let error = xa.call(url(path), "{}").await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
        xa.abort(error).await;
        w.dtm.wait_status(path, "failed").await;
        ended(&bank, [-30, 30]).await;
    }

    let long = "g".repeat(128);
    for gid in [long.as_str(), "it's \"ü\" \\ 100% `x`", "{a}.b:c_D-e"] {
        for (commits, amount) in [(true, 30), (false, 0)] {
            let gid = if commits { gid } else { &gid[1..] };
            let before = crate::support::accounts(&bank).await;
            let mut xa = client.xa(gid, waiting()).await.expect("prepared");
            xa.call(url("in"), "{}").await.expect("prepared");
            if commits {
                xa.submit().await.expect("committed");
            } else {
                let why = amends::Error::new(ErrorKind::Failure, "changed my mind");
                assert_eq!(xa.abort(why).await.message(), "changed my mind");
                w.dtm.wait_status(gid, "failed").await;
            }
            ended(&bank, [before[0], before[1] + amount]).await;
        }
    }

    let error = client.xa("ok", waiting()).await.expect_err("used before");
    assert_eq!(error.kind(), ErrorKind::Refused);
    bank.pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mariadb_and_postgresql() {
    let databases = Databases::start();
    outcomes(mariadb(databases.mariadb(), "repeatable read", "dtm_barrier").await).await;
    outcomes(postgres(databases.postgres(), "dtm_barrier").await).await;
}

async fn prepare<DB: Books>(bank: &Bank<DB>, gid: &str) {
    let run = begun(bank, gid).await;
    let _done = run.prepare().await.expect("prepared");
}

async fn roll_back<DB: Books>(bank: &Bank<DB>, gid: &str) {
    let _done = phase2(bank, gid, "rollback").await.expect("rolled back");
}

/// What every test is asked at its end.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_named() {
    let databases = Databases::start();
    let maria = mariadb(databases.mariadb(), "repeatable read", "dtm_barrier").await;
    let pg = postgres(databases.postgres(), "dtm_barrier").await;
    prepare(&maria, "left-in-mariadb").await;
    assert_eq!(databases.prepared(), ["left-in-mariadb-01"]);
    prepare(&pg, "left-in-postgresql").await;
    let both = ["left-in-mariadb-01", "left-in-postgresql-01"];
    assert_eq!(databases.prepared(), both);
    roll_back(&maria, "left-in-mariadb").await;
    roll_back(&pg, "left-in-postgresql").await;
}
