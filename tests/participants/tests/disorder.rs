//! Every order and every overlap of {action, action, compensate, compensate}, and a storm of pairs: whatever happens, the books are those of
//! one serial order, and nobody sees a conflict that came from the barrier's own statements.

use amends::adapters::sqlx::Backend;
use amends::participant::BarrierResult::{self, Duplicate, Executed, NullCompensation, Suspended};
use amends_interop::Databases;
use amends_participants::{Bank, call, mariadb, postgres, sqlite};
use tokio::task::JoinSet;

/// The orders of two actions and two compensations, and what each call must report.
const ORDERS: [([&str; 4], [BarrierResult; 4]); 6] = [
    (
        ["action", "action", "compensate", "compensate"],
        [Executed, Duplicate, Executed, Duplicate],
    ),
    (
        ["action", "compensate", "action", "compensate"],
        [Executed, Executed, Duplicate, Duplicate],
    ),
    (
        ["action", "compensate", "compensate", "action"],
        [Executed, Executed, Duplicate, Duplicate],
    ),
    (
        ["compensate", "action", "action", "compensate"],
        [NullCompensation, Suspended, Suspended, Duplicate],
    ),
    (
        ["compensate", "action", "compensate", "action"],
        [NullCompensation, Suspended, Duplicate, Suspended],
    ),
    (
        ["compensate", "compensate", "action", "action"],
        [NullCompensation, Duplicate, Suspended, Suspended],
    ),
];

async fn orders<DB: Backend>(bank: &Bank<DB>) {
    for (n, (calls, want)) in ORDERS.iter().enumerate() {
        let gid = format!("order-{n}");
        for (i, (op, want)) in calls.iter().zip(want).enumerate() {
            let got = bank.carry_out(call(&gid, op)).await.expect("no error");
            assert_eq!(got, *want, "{calls:?}, call {i}");
        }
        assert_eq!(bank.rows(&gid).await, 2);
    }
    assert_eq!(bank.balance().await, 0);
}

/// The four calls at the same time, many times over.
async fn overlaps<DB: Backend>(bank: &Bank<DB>, rounds: usize) {
    for round in 0..rounds {
        let gid = format!("overlap-{round}");
        let mut calls = JoinSet::new();
        // Each time in another order, for those that start first mostly come first.
        let (ops, _) = &ORDERS[round % ORDERS.len()];
        for op in ops {
            let (bank, who) = (bank.clone(), call(&gid, op));
            calls.spawn(async move { (who.op.clone(), bank.carry_out(who).await) });
        }
        let (mut taken, mut given, mut null) = (0, 0, 0);
        while let Some(done) = calls.join_next().await {
            let (op, result) = done.expect("no panic");
            match (op.as_str(), result.expect("no error that a user sees")) {
                ("action", Executed) => taken += 1,
                ("compensate", Executed) => given += 1,
                ("compensate", NullCompensation) => null += 1,
                ("action", Suspended | Duplicate) | ("compensate", Duplicate) => {}
                (op, result) => panic!("{op} was {result:?}"),
            }
        }
        assert!(
            (taken, given, null) == (1, 1, 0) || (taken, given, null) == (0, 0, 1),
            "{gid}: taken {taken}, given back {given}, nothing to undo {null}"
        );
    }
    assert_eq!(bank.balance().await, 0);
}

/// Many pairs at a time: 0 conflicts that the user sees from barrier statements (rules.md 9.2).
async fn storm<DB: Backend>(bank: &Bank<DB>, pairs: usize) {
    let mut calls = JoinSet::new();
    let mut errors = Vec::new();
    for n in 0..pairs {
        for op in ["action", "compensate"] {
            let (bank, who) = (bank.clone(), call(&format!("storm-{n}"), op));
            calls.spawn(async move { bank.carry_out(who).await });
        }
        while calls.len() > 64 {
            errors.extend(
                calls
                    .join_next()
                    .await
                    .expect("a call")
                    .expect("no panic")
                    .err(),
            );
        }
    }
    while let Some(done) = calls.join_next().await {
        errors.extend(done.expect("no panic").err());
    }
    assert!(
        errors.is_empty(),
        "{} of {}: {:?}",
        errors.len(),
        2 * pairs,
        errors[0]
    );
    assert_eq!(bank.balance().await, 0);
}

async fn everything<DB: Backend>(bank: &Bank<DB>, rounds: usize, pairs: usize) {
    orders(bank).await;
    overlaps(bank, rounds).await;
    storm(bank, pairs).await;
    bank.pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mariadb_with_both_isolations() {
    let databases = Databases::start();
    for isolation in ["repeatable read", "read committed"] {
        let schema = format!("barrier_{}", isolation.replace(' ', "_"));
        let bank = mariadb(databases.mariadb(), isolation, &schema).await;
        everything(&bank, 100, 1_000).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql() {
    let databases = Databases::start();
    let bank = postgres(databases.postgres(), "dtm_barrier").await;
    everything(&bank, 100, 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() {
    let dir = tempfile::tempdir().expect("a folder");
    let bank = sqlite(dir.path()).await;
    everything(&bank, 50, 200).await;
}
