//! A coordinator whose connections live on threads of their own.

use super::bank::{Bank, accepted, request};
use super::dispatch_participant::ok;
use amends_server::Coordinator;
use amends_server::config::Config;
use serde_json::json;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Longer than any of this takes.
const LONG: Duration = Duration::from_secs(30);

async fn start(data: &Path) -> Coordinator {
    let config = Config {
        http_port: 0,
        grpc_port: 0,
        data: data.to_owned(),
        ..Config::default()
    };
    let deadline = Instant::now() + LONG;
    loop {
        let builder = Coordinator::builder().config(config.clone());
        match builder.connection_threads(2).start().await {
            Ok(coordinator) => return coordinator,
            // Whoever held the folder before lets go of it when its last task is gone.
            Err(e) if Instant::now() > deadline => panic!("it does not start: {e}"),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// Sagas of this name, submitted at the same time and waited for.
async fn submit_all(coordinator: &Coordinator, bank: &Bank, name: &str, count: usize) {
    let base = format!("http://{}", coordinator.http_addr());
    let submits = (0..count).map(|n| {
        let saga = bank.saga(&format!("{name}{n}"), 2, json!({"wait_result": true}));
        let base = base.clone();
        tokio::task::spawn_blocking(move || {
            let answer = request(&base, "POST", "/api/dtmsvr/submit", &saga.to_string());
            accepted(&answer);
        })
    });
    for submitted in futures_util::future::join_all(submits).await {
        submitted.expect("it is answered");
    }
}

#[tokio::test]
async fn transactions_run_and_the_next_process_takes_up_what_is_left() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let held = Arc::new((Mutex::new(true), Condvar::new()));
    let hold = held.clone();
    let bank = Bank::new(move |path, _| {
        if path == "/held/do1" {
            let (held, changed) = &*hold;
            let held = held.lock().expect("no panic");
            drop(changed.wait_timeout_while(held, LONG, |held| *held));
        }
        ok("")
    });
    let coordinator = start(folder.path()).await;
    submit_all(&coordinator, &bank, "first", 40).await;
    assert_eq!(bank.calls().len(), 80);

    // Its driver is a task of such a thread, and its call is on the wire while the coordinator stops.
    let saga = bank.saga("held", 2, json!({}));
    let base = format!("http://{}", coordinator.http_addr());
    let submit = move || request(&base, "POST", "/api/dtmsvr/submit", &saga.to_string());
    accepted(
        &tokio::task::spawn_blocking(submit)
            .await
            .expect("an answer"),
    );
    let deadline = Instant::now() + LONG;
    while bank.calls().len() < 81 && Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    let let_go = async {
        tokio::task::yield_now().await;
        *held.0.lock().expect("no panic") = false;
        held.1.notify_all();
    };
    tokio::join!(coordinator.shutdown(), let_go);
    drop(coordinator);

    let coordinator = start(folder.path()).await;
    submit_all(&coordinator, &bank, "second", 40).await;
    let engine = coordinator.engine();
    while Instant::now() < deadline {
        let held = engine.query("held").await.expect("a query");
        if held.expect("it is stored").status().is_final() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let calls = bank.calls();
    let of = |path: &str| calls.iter().filter(|p| *p == path).count();
    assert_eq!((of("/held/do1"), of("/held/do2")), (1, 1), "{calls:?}");
    coordinator.shutdown().await;
}
