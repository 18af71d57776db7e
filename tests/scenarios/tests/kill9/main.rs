//! kill -9 under load: the coordinator is killed at random moments and started again on the same folder, while sagas, TCC transactions
//! and messages run against a bank with barriers. In the end nothing acknowledged is lost, everything has ended, no branch was skipped,
//! everything that failed was undone, and the books add up.
//!
//! `KILL_ROUNDS` sets the number of kills (default 30), `KILL_SEED` repeats a run's random choices.

mod bank;
mod load;
mod random;

use amends_scenarios::{DURABLE, Server, eventually, until};
use bank::Bank;
use load::{Load, Plan};
use random::Random;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WORKERS: u64 = 8;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let rounds = number("KILL_ROUNDS").unwrap_or(30);
    let seed = number("KILL_SEED").unwrap_or_else(random::seed);
    println!("KILL_SEED={seed} KILL_ROUNDS={rounds}");
    let mut random = Random::new(seed);
    let bank = Bank::start(seed).await;
    let settings = [
        DURABLE,
        ("AMENDS_TIMEOUT_TO_FAIL", "2"),
        ("AMENDS_REQUEST_TIMEOUT", "1"),
    ];
    let mut server = Server::start(&settings).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let load = Load::new(
            worker,
            server.client(),
            bank.clone(),
            Random::new(seed ^ (worker + 1)),
        );
        workers.spawn(load.run(stop.clone()));
    }
    for _ in 0..rounds {
        until(Instant::now() + Duration::from_millis(50 + random.below(1_000))).await;
        server.kill();
        server.restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut plans: Vec<Plan> = Vec::new();
    while let Some(worker) = workers.join_next().await {
        plans.extend(worker.expect("a worker that did not panic"));
    }
    let dtm = server.client();
    for status in ["prepared", "submitted", "aborting"] {
        let none = async || {
            dtm.get("/api/dtmsvr/resetCronTime?timeout=0&limit=1000")
                .await
                .expect_status(200);
            let open = dtm
                .get(&format!("/api/dtmsvr/all?status={status}&limit=1"))
                .await
                .json();
            open["transactions"].as_array().is_some_and(Vec::is_empty)
        };
        eventually(
            &format!("no transaction {status}"),
            Duration::from_secs(60),
            none,
        )
        .await;
    }
    let mut counts = std::collections::BTreeMap::new();
    for plan in &plans {
        let view = dtm.query(&plan.gid).await;
        plan.check(&view, &bank);
        let known = if view.status().is_empty() {
            "unknown"
        } else {
            view.status()
        };
        *counts
            .entry((plan.kind.name(), known.to_owned()))
            .or_insert(0) += 1;
    }
    bank.check_books();
    println!(
        "{} transactions: {counts:?}; {} calls of the bank",
        plans.len(),
        bank.calls()
    );
    assert!(
        plans.iter().filter(|p| p.acknowledged()).count() as u64 > rounds,
        "too little load to prove anything"
    );
}
