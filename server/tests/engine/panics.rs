//! A panic stays with its transaction (faults.md D8).

use super::net::{End, end, ok, status};
use super::world::{World, saga};
use amends::{ErrorKind, Status};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_call_is_retried_after_the_base_interval_and_hurts_nobody_else() {
    for broken in [End::PanicAtOnce, End::Panic(50)] {
        let w = World::new(move |call| {
            if call.gid == "bad" && call.branch == "01" && call.nth == 0 {
                end(broken)
            } else {
                ok(10)
            }
        });
        w.submit(saga("bad", 2, json!({}))).await.expect("submit");
        for k in 0..20 {
            w.submit(saga(&format!("good{k}"), 2, json!({})))
                .await
                .expect("submit");
        }
        for k in 0..20 {
            w.ended(&format!("good{k}"), 100).await;
        }
        w.pass(100).await;
        let bad = w.stored("bad").await;
        assert!(bad.state().attention);
        assert_eq!(w.engine.driven(), 0);
        assert_eq!(w.engine.calls_in_flight(), 0);
        w.ends("bad", Status::Succeed, 20_000).await;
        let times = w.net.times("bad", "01 action");
        assert!((10_000..=10_100).contains(&times[1]), "{times:?}");
        assert!(!w.stored("bad").await.state().attention);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_transaction_that_panics_is_answered() {
    let w = World::new(|_| end(End::Panic(50)));
    let (answer, at) = w
        .submitting(saga("g", 1, json!({"wait_result": true})))
        .await
        .expect("an answer");
    assert_eq!(answer.expect_err("a panic").kind(), ErrorKind::Internal);
    assert_eq!(at, 50);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_always_panics_is_tried_at_the_base_interval_and_can_be_stopped() {
    let w = World::new(|_| end(End::PanicAtOnce));
    w.submit(saga("g", 1, json!({}))).await.expect("submit");
    w.pass(65_000).await;
    let times = w.net.times("g", "01 action");
    let gaps: Vec<u64> = times.windows(2).map(|t| t[1] - t[0]).collect();
    assert!(
        gaps.len() >= 5 && gaps.iter().all(|g| (10_000..=10_100).contains(g)),
        "{gaps:?}"
    );
    w.engine
        .force_stop("g", "ops", "poison")
        .await
        .expect("stop");
    w.ends("g", Status::Failed, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_short_base_interval_holds_for_panics_too() {
    let w = World::new(|_| end(End::PanicAtOnce));
    w.submit(saga("g", 1, json!({"retry_interval": 1})))
        .await
        .expect("submit");
    w.pass(5_500).await;
    let times = w.net.times("g", "01 action");
    let gaps: Vec<u64> = times.windows(2).map(|t| t[1] - t[0]).collect();
    assert!(
        gaps.len() >= 4 && gaps.iter().all(|g| (1_000..=1_100).contains(g)),
        "{gaps:?}"
    );
    w.engine
        .force_stop("g", "ops", "poison")
        .await
        .expect("stop");
    assert!(w.now() <= 5_600, "answered at {}", w.now());
}

#[tokio::test(start_paused = true)]
async fn a_panic_gives_its_slots_back() {
    let mut setup = super::world::Setup::default();
    setup.slots.total = 2;
    let w = World::with(setup, |call| match call.gid.as_str() {
        "bad" if call.nth == 0 => end(End::Panic(100)),
        _ => ok(10),
    });
    let data = json!({"custom_data": "{\"concurrent\":true}"});
    w.submit(saga("bad", 2, data)).await.expect("submit");
    for k in 0..10 {
        w.submit(saga(&format!("g{k}"), 1, json!({})))
            .await
            .expect("submit");
    }
    for k in 0..10 {
        w.ended(&format!("g{k}"), 1_000).await;
    }
    w.ends("bad", Status::Succeed, 60_000).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_panic_left_behind_is_undone() {
    let w = World::new(|call| match (call.name().as_str(), call.nth) {
        ("02 action", 0) => end(End::Panic(20)),
        ("02 action", _) => status(409, 0),
        _ => ok(10),
    });
    w.submit(saga("g", 2, json!({}))).await.expect("submit");
    w.ends("g", Status::Failed, 60_000).await;
    for branch in ["01", "02"] {
        assert!(!w.net.effect("g", branch).stays());
    }
}
