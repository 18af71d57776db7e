//! Every order and every overlap of {action, action, compensate, compensate} and of {try, try, confirm or cancel, cancel}, and a storm of
//! pairs: whatever happens, the books are those of one serial order, and nobody sees a conflict that came from the barrier's own statements.

use amends::adapters::sqlx::Backend;
use amends::participant::BarrierResult::{self, Duplicate, Executed, NullCompensation, Suspended};
use amends_interop::Databases;
use amends_participants::{
    Bank, ORDERS, TCC_ORDERS, call, cancel_orders, mariadb, postgres, sqlite, storm,
};
use tokio::task::JoinSet;

type Order = ([&'static str; 4], [BarrierResult; 4]);

/// Every order, and what each of its calls reports.
fn all_orders() -> Vec<Order> {
    let of_tcc = TCC_ORDERS.into_iter().chain(cancel_orders());
    ORDERS.into_iter().chain(of_tcc).collect()
}

async fn orders<DB: Backend>(bank: &Bank<DB>) {
    for (n, (calls, want)) in all_orders().iter().enumerate() {
        let gid = format!("order-{n}");
        for (i, (op, want)) in calls.iter().zip(want).enumerate() {
            let got = bank.carry_out(call(&gid, op)).await.expect("no error");
            assert_eq!(got, *want, "{calls:?}, call {i}");
        }
        let rows = if calls.contains(&"confirm") { 3 } else { 2 };
        assert_eq!(bank.rows(&gid).await, rows, "{calls:?}");
        assert_eq!(bank.balance().await, 0, "{calls:?}");
    }
}

/// The four calls at the same time, many times over.
async fn overlaps<DB: Backend>(bank: &Bank<DB>, rounds: usize) {
    let orders = all_orders();
    for round in 0..rounds {
        let gid = format!("overlap-{round}");
        let mut calls = JoinSet::new();
        // Each time in another order, for those that start first mostly come first.
        let (ops, _) = orders[round % orders.len()];
        let confirms = ops.iter().filter(|op| **op == "confirm").count();
        for op in &ops {
            let (bank, who) = (bank.clone(), call(&gid, op));
            calls.spawn(async move { (who.op.clone(), bank.carry_out(who).await) });
        }
        let (mut taken, mut given, mut null, mut confirmed) = (0, 0, 0, 0);
        while let Some(done) = calls.join_next().await {
            let (op, result) = done.expect("no panic");
            match (op.as_str(), result.expect("no error that a user sees")) {
                ("action" | "try", Executed) => taken += 1,
                ("compensate" | "cancel", Executed) => given += 1,
                ("compensate" | "cancel", NullCompensation) => null += 1,
                ("confirm", Executed) => confirmed += 1,
                ("action" | "try", Suspended | Duplicate) => {}
                ("compensate" | "cancel", Duplicate) => {}
                (op, result) => panic!("{op} was {result:?}"),
            }
        }
        assert!(
            (taken, given, null) == (1, 1, 0) || (taken, given, null) == (0, 0, 1),
            "{gid}: taken {taken}, given back {given}, nothing to undo {null}"
        );
        assert_eq!(confirmed, confirms, "{gid}");
    }
    assert_eq!(bank.balance().await, 0);
}

async fn everything<DB: Backend>(bank: &Bank<DB>, rounds: usize, pairs: usize) {
    orders(bank).await;
    overlaps(bank, rounds).await;
    storm(pairs, |who| {
        let bank = bank.clone();
        async move { bank.carry_out(who).await }
    })
    .await;
    assert_eq!(bank.balance().await, 0);
    bank.pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mariadb_with_both_isolations() {
    let databases = Databases::start();
    for isolation in ["repeatable read", "read committed"] {
        let schema = format!("barrier_{}", isolation.replace(' ', "_"));
        let bank = mariadb(databases.mariadb(), isolation, &schema).await;
        everything(&bank, 240, 1_000).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql() {
    let databases = Databases::start();
    let bank = postgres(databases.postgres(), "dtm_barrier").await;
    everything(&bank, 240, 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() {
    let dir = tempfile::tempdir().expect("a folder");
    let bank = sqlite(dir.path()).await;
    everything(&bank, 96, 1_000).await;
}
