//! An orderly end: calls end, everything is let go of exactly, nothing new begins, and the next engine goes on.

use super::net::{End, end, ok, status};
use super::store::{Fault, Kind};
use super::world::{EPOCH, Setup, World, msg, saga};
use amends::{ErrorKind, Status};
use serde_json::json;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// The next engine on the same store and network.
fn next(w: &World) -> World {
    World::on(Setup::default(), w.store.clone(), w.net.clone())
}

#[tokio::test(start_paused = true)]
async fn calls_end_and_everything_is_let_go_of() {
    let w = World::new(|_| ok(2_000));
    for k in 0..50 {
        w.submit(saga(&format!("g{k}"), 3, json!({})))
            .await
            .expect("submit");
    }
    let waiting = w.submitting(saga("waits", 3, json!({"wait_result": true})));
    w.pass(2_500).await;
    w.engine.shutdown(LIMIT).await;
    assert_eq!(w.now(), 4_000, "when the second calls have ended");
    assert_eq!((w.engine.driven(), w.engine.calls_in_flight()), (0, 0));
    let (answer, _) = waiting.await.expect("an answer");
    assert_eq!(answer.expect_err("not ended").kind(), ErrorKind::Ongoing);
    let calls = w.net.log().len();
    assert_eq!(calls, 2 * 51, "no third call was made");
    for gid in w.store.gids() {
        let record = w.store.record(gid.as_str());
        assert!(!record.index.driven, "{gid} is let go of");
        let tx = amends::coordinator::Transaction::load(&record, 0, w.engine.policy())
            .expect("a record");
        assert_eq!(
            tx.rows()[3].state.status.as_str(),
            "succeed",
            "what is known is stored"
        );
        assert!(!tx.rows()[5].state.started, "the third was never started");
    }
    w.pass(60_000).await;
    assert_eq!(w.net.log().len(), calls, "nothing begins after the end");

    let after = next(&w);
    for gid in w.store.gids() {
        after.ended(gid.as_str(), 3_000).await;
    }
    assert_eq!(w.net.log().len(), 3 * 51);
    after.idle(100).await;
    after.check();
}

#[tokio::test(start_paused = true)]
async fn what_was_withheld_is_due_at_once_in_the_next_engine() {
    let w = World::new(|_| ok(2_000));
    w.submit(saga("timeout", 3, json!({"timeout_to_fail": 600})))
        .await
        .expect("submit");
    let concurrent = json!({"concurrent": true, "orders": {"2": [0]}}).to_string();
    w.net.behave(|call| {
        if call.name() == "02 action" {
            status(425, 10)
        } else {
            ok(2_000)
        }
    });
    w.submit(saga(
        "other",
        3,
        json!({"custom_data": concurrent, "retry_interval": 300}),
    ))
    .await
    .expect("submit");
    w.pass(100).await;
    w.net.behave(|_| ok(2_000));
    w.engine.shutdown(LIMIT).await;
    let after = next(&w);
    after.pass(100).await;
    assert_eq!(w.net.calls("timeout"), "01 action, 02 action");
    assert_eq!(w.net.times("other", "03 action"), [2_000]);
    after.ends("timeout", Status::Succeed, 5_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_without_anything_to_do_takes_no_time() {
    let w = World::new(|_| ok(0));
    w.submit(msg("later", 1, json!({"custom_data": "{\"delay\":100}"})))
        .await
        .expect("submit");
    w.prepared("tcc", "open", 1).await;
    w.pass(10).await;
    w.engine.shutdown(LIMIT).await;
    assert_eq!(w.now(), 10);
    w.pass(200_000).await;
    assert_eq!(w.net.log().len(), 0);
    let after = next(&w);
    after.ends("later", Status::Succeed, 100).await;
    after.ends("open", Status::Failed, 100).await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_ends_a_shutdown_and_what_hangs_is_left_to_the_next_engine() {
    let w = World::new(|_| end(End::Silence));
    w.submit(saga("g", 1, json!({"request_timeout": 60})))
        .await
        .expect("submit");
    w.pass(100).await;
    w.engine.shutdown(LIMIT).await;
    assert_eq!(w.now(), 10_100);
    assert!(
        w.store.record("g").index.driven,
        "a call of it may still be on the wire"
    );
}

#[tokio::test(start_paused = true)]
async fn requests_during_a_shutdown_are_decided_or_refused() {
    let w = World::new(|_| ok(3_000));
    w.submit(saga("g", 2, json!({}))).await.expect("submit");
    w.prepared("tcc", "t", 1).await;
    w.pass(100).await;
    let stopping = {
        let engine = w.engine.clone();
        tokio::spawn(async move { engine.shutdown(LIMIT).await })
    };
    w.pass(100).await;
    let refused = w
        .submit(saga("new", 1, json!({})))
        .await
        .expect_err("stopping");
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    let (again, _) = w
        .submitting(saga("g", 2, json!({"wait_result": true})))
        .await
        .expect("an answer");
    assert_eq!(
        again.expect_err("it does not end here").kind(),
        ErrorKind::Ongoing
    );
    w.abort(json!({"gid": "t"})).await.expect("decided");
    stopping.await.expect("the shutdown ends");
    assert_eq!(w.net.calls("t"), "");
    let after = next(&w);
    after.ends("g", Status::Succeed, 10_000).await;
    after.ends("t", Status::Failed, 10_000).await;
    assert_eq!(w.net.calls("g"), "01 action, 02 action");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_turn_is_answered_by_the_shutdown() {
    let setup = Setup {
        in_flight_max: 1,
        ..Setup::default()
    };
    let w = World::with(setup, |_| ok(1_000));
    let waiting: Vec<_> = (0..3)
        .map(|k| w.submitting(saga(&format!("g{k}"), 1, json!({"wait_result": true}))))
        .collect();
    w.pass(100).await;
    w.engine.shutdown(LIMIT).await;
    assert_eq!(w.now(), 1_000);
    for waiting in waiting {
        let (answer, at) = waiting.await.expect("an answer");
        assert!(at <= 1_000, "answered at {at}: {answer:?}");
        assert!(answer.is_ok() || answer.is_err_and(|e| e.kind() == ErrorKind::Ongoing));
    }
    let after = next(&w);
    for k in 0..3 {
        after.ended(&format!("g{k}"), 2_000).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_the_store_is_the_clock_of_records() {
    let w = World::new(|_| ok(10));
    w.pass(1_234).await;
    w.submit(saga("g", 1, json!({}))).await.expect("submit");
    let tx = w.ends("g", Status::Succeed, 100).await;
    assert_eq!(tx.state().created, EPOCH + 1_234);
    assert_eq!(tx.state().finished, Some(EPOCH + 1_244));
}

#[tokio::test(start_paused = true)]
async fn what_is_being_claimed_when_the_end_comes_is_not_driven() {
    let w = World::new(|_| status(425, 0));
    for k in 0..20 {
        w.submit(saga(&format!("g{k}"), 1, json!({})))
            .await
            .expect("submit");
    }
    w.pass(5_000).await;
    w.store.fail(|kind, _| Fault {
        delay: if kind == Kind::ClaimDue { 500 } else { 0 },
        ..Fault::default()
    });
    w.pass(5_200).await;
    w.engine.shutdown(LIMIT).await;
    let (calls, before) = (w.net.log().len(), w.store.writes());
    assert_eq!(calls, 20);
    w.pass(60_000).await;
    assert_eq!(w.net.log().len(), calls);
    assert_eq!(
        w.store.writes(),
        before,
        "the store was released: nothing is written after it"
    );
    w.store.heal();
    w.net.behave(|_| ok(0));
    let after = next(&w);
    for k in 0..20 {
        after.ended(&format!("g{k}"), 5_000).await;
    }
}
