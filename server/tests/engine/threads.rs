//! The engine on several threads and in real time: what the paused clock, on one thread, cannot meet.

use super::net::{ok, status};
use super::rng::Rng;
use super::store::Fault;
use super::world::{Setup, World, saga};
use amends::Status;
use amends_server::dispatch::slots::SlotLimits;
use serde_json::json;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_transactions_end_through_narrow_limits() {
    let mut setup = Setup {
        in_flight_max: 50,
        slots: SlotLimits {
            total: 40,
            per_host: 16,
            ..SlotLimits::default()
        },
        ..Setup::default()
    };
    setup.policy.retry_interval = 20;
    setup.policy.retry_cap = 40;
    let rng = Arc::new(Rng::new(5));
    let luck = rng.clone();
    let w = World::with(setup, move |call| match luck.below(10) {
        0 => status(500, 0),
        1 => status(425, 1),
        _ if call.gid.ends_with('7') && call.name() == "02 action" => status(409, 1),
        _ => ok(luck.below(3)),
    });
    w.store.fail(move |_, _| Fault {
        delay: rng.below(3),
        ..Fault::default()
    });
    let clients: Vec<_> = (0..1_000)
        .map(|k| {
            w.submitting(saga(
                &format!("g{k}"),
                2,
                json!({"wait_result": k % 3 == 0}),
            ))
        })
        .collect();
    for (k, client) in clients.into_iter().enumerate() {
        let (answer, _) = client.await.expect("an answer");
        assert!(answer.is_ok() || k % 3 == 0, "{answer:?}");
    }
    for k in 0..1_000 {
        let tx = w.ended(&format!("g{k}"), 20_000).await;
        assert_eq!(tx.status() == Status::Failed, k % 10 == 7, "g{k}");
    }
    w.idle(5_000).await;
    w.check();
}
