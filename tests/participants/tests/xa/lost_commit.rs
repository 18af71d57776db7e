//! MariaDB says "unknown xid" of a branch that is prepared, as long as the session that prepared it is not gone. Taken for "done", such a
//! commit is lost (dtm-clients.md 2.9). In the moment in which that session lets go, it even says that it has committed, and has not: the
//! branch is then held until MariaDB is started again.

use crate::support::{begun, change, phase2, who};
use amends::ErrorKind;
use amends::adapters::sqlx::Backend;
use amends::machine::{Fact, Machine, StepKind};
use amends::participant::{Dialect, ParamStyle, Place, XaPhase2};
use amends_interop::{Databases, WithXa};
use amends_participants::{Bank, mariadb, refused};
use amends_scenarios::{DEADLINE, eventually};
use sqlx::MySql;

const ROUNDS: u32 = 300;

/// What a commit met that did not wait for the session that prepared.
#[derive(Debug, Default)]
struct Met {
    proved: bool,
    unknown_xid: bool,
}

async fn commit_at_once(bank: &Bank<MySql>, gid: &str) -> Met {
    let place = Place {
        dialect: Dialect::MySql,
        table: bank.table().clone(),
        style: ParamStyle::Question,
    };
    let mut machine = XaPhase2::new(place, who(gid, "commit")).expect("legal");
    let mut conn = bank.pool.acquire().await.expect("a connection");
    let mut met = Met::default();
    loop {
        let step = machine.poll().expect("a step");
        let fact = match step.kind {
            // "The session is gone", whether it is or not.
            StepKind::Query(s) if s.sql.contains("get_lock") => Fact::Text(Some("1".to_owned())),
            StepKind::Sleep(_) => Fact::Done,
            StepKind::Query(s) => Fact::Text(MySql::text(&mut conn, s).await.expect("a row")),
            StepKind::Exec(s) => match MySql::exec(&mut conn, s).await {
                Ok(rows) => Fact::Affected(rows),
                Err(error) => {
                    met.unknown_xid = true;
                    refused::<MySql>(&error)
                }
            },
            StepKind::Done(result) => {
                met.proved = result.is_ok();
                let kind = result.err().map(|error| error.kind());
                assert!(kind.is_none() || kind == Some(ErrorKind::Ongoing));
                return met;
            }
            other => panic!("{other:?}"),
        };
        machine.resolve(step.id, fact).expect("it fits");
    }
}

/// An account for each round: one that MariaDB holds must not stop the others.
async fn accounts(bank: &Bank<MySql>) {
    for round in 0..ROUNDS {
        let id = 100 + round;
        bank.execute(&format!("insert into account(id, balance) values({id}, 0)"))
            .await;
    }
}

async fn prepare(bank: &Bank<MySql>, gid: &str, round: u32) {
    let mut run = begun(bank, gid).await;
    change(&mut run, 100 + round, -1).await.expect("taken");
    let _done = run.prepare().await.expect("prepared");
}

async fn committed(bank: &Bank<MySql>, gid: &str) -> bool {
    match phase2(bank, gid, "commit").await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Ongoing, "{error}");
            false
        }
    }
}

async fn all_committed(bank: Bank<MySql>) {
    let sum = bank.number("select sum(balance) from account").await;
    assert_eq!(sum, -i64::from(ROUNDS));
    assert!(MySql::prepared(&bank.pool).await.is_empty());
    bank.pool.close().await;
}

/// Without the wait: what is reported as committed is committed, whatever MariaDB says. What it holds can be committed after its restart, as
/// the coordinator would, which calls until then.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_reported_only_if_it_was_made() {
    const ATTEMPTS: usize = 20;
    let mut databases = Databases::start();
    let bank = mariadb(databases.mariadb(), "repeatable read", "dtm_barrier").await;
    accounts(&bank).await;
    let (mut unknown, mut held) = (0, Vec::new());
    for round in 1..ROUNDS {
        let gid = format!("at-once-{round}");
        prepare(&bank, &gid, round).await;
        let mut proved = false;
        for attempt in 0..ATTEMPTS {
            let met = commit_at_once(&bank, &gid).await;
            unknown += u32::from(met.unknown_xid && attempt == 0);
            proved = met.proved;
            if proved {
                break;
            }
        }
        let id = 100 + round;
        let balance = bank
            .number(&format!("select balance from account where id = {id}"))
            .await;
        assert_eq!(balance, if proved { -1 } else { 0 }, "a lost commit");
        if !proved {
            held.push(gid);
        }
    }
    println!(
        "without the wait: {unknown} of {ROUNDS} met an unknown xid first, {} are held by MariaDB and reported as ongoing",
        held.len()
    );
    assert!(held.len() < 100, "commits are tried at all");
    // There is one at least.
    prepare(&bank, "over-a-restart", 0).await;
    held.push("over-a-restart".to_owned());
    databases.restart_mariadb();
    assert_eq!(databases.prepared().len(), held.len());
    for gid in held {
        eventually("committed", DEADLINE, || committed(&bank, &gid)).await;
    }
    all_committed(bank).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_commit_is_lost_right_after_the_preparing_connection_closes() {
    let databases = Databases::start();
    let bank = mariadb(databases.mariadb(), "repeatable read", "dtm_barrier").await;
    accounts(&bank).await;
    let mut again = 0;
    for round in 0..ROUNDS {
        let gid = format!("round-{round}");
        prepare(&bank, &gid, round).await;
        if !committed(&bank, &gid).await {
            again += 1;
            eventually("committed", DEADLINE, || committed(&bank, &gid)).await;
        }
    }
    println!("{again} of {ROUNDS} commits had to be asked for again");
    all_committed(bank).await;
}
