//! Sagas: forward, backward, order, force.

use super::net::{Act, End, Seen, end, ok, status};
use super::world::{World, saga};
use amends::{ErrorKind, Status};
use serde_json::json;

fn fails(name: &'static str) -> impl Fn(&Seen) -> Act + Send + Sync {
    move |call| {
        if call.name() == name {
            status(409, 10)
        } else {
            ok(10)
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_steps_are_two_calls_and_two_writes() {
    let w = World::new(|_| ok(10));
    w.submit(saga("g", 2, json!({}))).await.expect("submit");
    assert_eq!(
        w.now(),
        0,
        "the answer waits for the store and for nothing else"
    );
    w.ends("g", Status::Succeed, 1_000).await;
    assert_eq!(w.net.calls("g"), "01 action, 02 action");
    assert_eq!(w.net.times("g", "02 action"), [10]);
    assert_eq!(
        w.store.history("g").len(),
        2,
        "one insert, one update (architecture 4)"
    );
}

#[tokio::test(start_paused = true)]
async fn many_steps_write_only_where_a_later_level_waits() {
    let w = World::new(|_| ok(10));
    w.submit(saga("g", 5, json!({}))).await.expect("submit");
    w.ends("g", Status::Succeed, 1_000).await;
    assert_eq!(w.net.times("g", "05 action"), [40]);
    assert!(w.store.history("g").len() <= 5);
}

#[tokio::test(start_paused = true)]
async fn a_refused_action_is_undone_in_reverse_after_the_decision_is_stored() {
    let w = World::new(fails("02 action"));
    w.submit(saga("g", 3, json!({}))).await.expect("submit");
    let tx = w.ends("g", Status::Failed, 1_000).await;
    assert_eq!(
        w.net.calls("g"),
        "01 action, 02 action, 02 compensate, 01 compensate"
    );
    assert!(
        tx.state().reason.contains("http://b2/do"),
        "{}",
        tx.state().reason
    );
    let statuses: Vec<Status> = w
        .store
        .history("g")
        .iter()
        .map(|r| r.index.status)
        .collect();
    assert!(statuses.contains(&Status::Aborting), "{statuses:?}");
    assert!(!w.net.effect("g", "01").stays());
}

#[tokio::test(start_paused = true)]
async fn a_compensation_waits_for_its_action_to_end() {
    let w = World::new(|call| match call.name().as_str() {
        "01 action" => ok(2_000),
        "02 action" => status(409, 10),
        _ => ok(10),
    });
    w.submit(saga(
        "g",
        2,
        json!({"custom_data": "{\"concurrent\":true}"}),
    ))
    .await
    .expect("submit");
    w.ends("g", Status::Failed, 10_000).await;
    assert_eq!(w.net.times("g", "02 compensate"), [10]);
    assert_eq!(w.net.times("g", "01 compensate"), [2_000]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_got_no_answer_is_undone_although_it_runs_late() {
    let late = |call: &Seen| match call.name().as_str() {
        "01 action" => Act {
            runs: Some(60_000),
            twice: true,
            end: End::Silence,
        },
        _ => ok(10),
    };
    let w = World::new(late);
    w.submit(saga("g", 2, json!({"timeout_to_fail": 2})))
        .await
        .expect("submit");
    w.ends("g", Status::Failed, 10_000).await;
    assert_eq!(
        w.net.times("g", "01 compensate"),
        [3_000],
        "after the call's timeout, not before"
    );
    w.pass(120_000).await;
    assert!(!w.net.effect("g", "01").stays());
    assert_eq!(w.net.calls("g"), "01 action, 01 compensate");
}

#[tokio::test(start_paused = true)]
async fn concurrent_steps_follow_their_orders() {
    let w = World::new(|call| ok(if call.branch == "01" { 500 } else { 10 }));
    let data = json!({"concurrent": true, "orders": {"2": [0, 1]}}).to_string();
    w.submit(saga("g", 3, json!({"custom_data": data})))
        .await
        .expect("submit");
    w.ends("g", Status::Succeed, 2_000).await;
    assert_eq!(w.net.times("g", "02 action"), [0]);
    assert_eq!(w.net.times("g", "03 action"), [500]);
}

#[tokio::test(start_paused = true)]
async fn a_saga_that_is_only_prepared_fails_at_its_timeout_and_runs_nothing() {
    let w = World::new(|_| ok(10));
    w.prepare(saga("g", 1, json!({"timeout_to_fail": 50})))
        .await
        .expect("prepare");
    w.pass(49_900).await;
    assert_eq!(w.stored("g").await.status(), Status::Prepared);
    w.ends("g", Status::Failed, 200).await;
    assert_eq!(w.net.calls("g"), "");
}

#[tokio::test(start_paused = true)]
async fn a_prepared_saga_runs_when_it_is_submitted() {
    let w = World::new(|_| ok(10));
    w.prepare(saga("g", 2, json!({}))).await.expect("prepare");
    w.pass(1_000).await;
    w.submit(saga("g", 2, json!({"wait_result": true})))
        .await
        .expect("submit");
    w.ends("g", Status::Succeed, 0).await;
    assert_eq!(w.net.calls("g"), "01 action, 02 action");
    assert_eq!(w.now(), 1_020);
}

#[tokio::test(start_paused = true)]
async fn force_stop_lets_the_call_end_and_makes_no_other() {
    let w = World::new(|call| {
        if call.branch == "01" {
            ok(1_000)
        } else {
            ok(10)
        }
    });
    let waiting = w.submitting(saga("g", 2, json!({"wait_result": true})));
    w.until("call", 100, || !w.net.log().is_empty()).await;
    w.pass(100).await;
    w.engine
        .force_stop("g", "ops", "stuck")
        .await
        .expect("forceStop");
    let (answer, at) = waiting.await.expect("an answer");
    assert_eq!(answer.expect_err("stopped").kind(), ErrorKind::Failure);
    assert!(at < 500, "answered at {at}");
    w.idle(2_000).await;
    let tx = w.stored("g").await;
    assert_eq!(tx.status(), Status::Failed);
    assert_eq!(
        tx.state().forced.as_ref().map(|f| f.actor.as_str()),
        Some("ops")
    );
    assert_eq!(
        tx.rows()[1].state.status.as_str(),
        "succeed",
        "the call's result is recorded"
    );
    w.pass(60_000).await;
    assert_eq!(w.net.calls("g"), "01 action");
    w.check();
    let again = w.engine.force_stop("g", "ops", "").await;
    assert_eq!(again.expect_err("it has ended").kind(), ErrorKind::Refused);
}

#[tokio::test(start_paused = true)]
async fn force_stop_while_it_waits_for_its_retry() {
    let w = World::new(|_| end(End::Unreachable));
    w.submit(saga("g", 1, json!({}))).await.expect("submit");
    w.pass(5_000).await;
    assert_eq!(w.engine.driven(), 0, "a waiting transaction is no task");
    w.engine
        .force_stop("g", "ops", "")
        .await
        .expect("forceStop");
    w.ends("g", Status::Failed, 0).await;
    w.pass(100_000).await;
    assert_eq!(w.net.calls("g"), "01 action");
}
