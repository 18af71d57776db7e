//! wait_result: when it is answered, and with what (rules.md 2.3).

use super::net::{End, end, ok, status};
use super::world::{World, merged, msg, saga};
use amends::{ErrorKind, Status};
use futures_util::FutureExt;
use serde_json::json;
use std::time::Duration;

fn waiting() -> serde_json::Value {
    json!({"wait_result": true})
}

#[tokio::test(start_paused = true)]
async fn success_is_answered_when_it_is_durable() {
    let w = World::new(|_| ok(100));
    let (answer, at) = w.submitting(saga("g", 2, waiting())).await.expect("answer");
    answer.expect("success");
    assert_eq!(at, 200);
    assert_eq!(w.store.record("g").index.status, Status::Succeed);
}

#[tokio::test(start_paused = true)]
async fn a_failed_saga_is_answered_with_its_reason() {
    let w = World::new(|call| {
        if call.name() == "02 action" {
            status(409, 10)
        } else {
            ok(10)
        }
    });
    let (answer, at) = w.submitting(saga("g", 2, waiting())).await.expect("answer");
    let error = answer.expect_err("failed");
    assert_eq!(error.kind(), ErrorKind::Failure);
    assert!(error.message().contains("http://b2/do"), "{error}");
    assert_eq!(at, 40, "after the last compensation");
}

#[tokio::test(start_paused = true)]
async fn a_saga_whose_compensation_is_not_due_soon_is_answered_as_failed() {
    let w = World::new(|call| match call.op.as_str() {
        "compensate" => status(500, 10),
        _ => status(409, 10),
    });
    let (answer, at) = w.submitting(saga("g", 1, waiting())).await.expect("answer");
    assert_eq!(answer.expect_err("aborting").kind(), ErrorKind::Failure);
    assert_eq!(at, 20, "the next attempt is beyond the wait");
    assert_eq!(w.store.record("g").index.status, Status::Aborting);
}

#[tokio::test(start_paused = true)]
async fn what_is_due_later_than_the_wait_is_answered_as_ongoing_at_once() {
    let w = World::new(|_| status(500, 10));
    let (answer, at) = w.submitting(saga("g", 1, waiting())).await.expect("answer");
    assert_eq!(answer.expect_err("not ended").kind(), ErrorKind::Ongoing);
    assert_eq!(at, 10);
}

#[tokio::test(start_paused = true)]
async fn a_retry_within_the_wait_is_waited_for() {
    let w = World::new(|call| if call.nth == 0 { status(500, 0) } else { ok(0) });
    let (answer, at) = w
        .submitting(saga(
            "g",
            1,
            merged(waiting(), json!({"retry_interval": 1})),
        ))
        .await
        .expect("answer");
    answer.expect("success");
    assert!((2_000..=2_200).contains(&at), "{at}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_branch_is_waited_for_until_the_wait_is_over() {
    let w = World::new(|_| end(End::Silence));
    let slow = merged(waiting(), json!({"request_timeout": 10}));
    let (answer, at) = w.submitting(saga("g", 1, slow)).await.expect("answer");
    assert_eq!(answer.expect_err("not ended").kind(), ErrorKind::Ongoing);
    assert_eq!(
        at, 10_000,
        "when the call has ended, for the next is later than 12 s"
    );
    // Without an end of the call before it, the wait itself ends.
    w.net.behave(|call| {
        if call.branch == "01" {
            ok(2_500)
        } else {
            end(End::Silence)
        }
    });
    let (answer, at) = w.submitting(saga("h", 2, waiting())).await.expect("answer");
    assert_eq!(answer.expect_err("not ended").kind(), ErrorKind::Ongoing);
    assert_eq!(at - 10_000, 5_000);
}

#[tokio::test(start_paused = true)]
async fn a_second_submit_attaches_to_the_driver() {
    let w = World::new(|_| ok(1_000));
    let first = w.submitting(saga("g", 2, waiting()));
    w.pass(500).await;
    let second = w.submitting(saga("g", 2, waiting()));
    let third = w.submitting(saga("g", 2, json!({})));
    assert_eq!(third.await.expect("answer").1, 500);
    for waiter in [first, second] {
        let (answer, at) = waiter.await.expect("answer");
        answer.expect("success");
        assert_eq!(at, 2_000);
    }
    assert_eq!(w.net.calls("g"), "01 action, 02 action");
    w.idle(0).await;
    w.check();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_changes_nothing() {
    let w = World::new(|_| ok(1_000));
    let client = w.submitting(saga("g", 2, waiting()));
    w.pass(100).await;
    client.abort();
    w.ends("g", Status::Succeed, 5_000).await;
    // Nor does one that is gone before its saga is stored, or while the second call is on its way.
    let at_once = w.submit(saga("at once", 2, waiting())).now_or_never();
    assert!(at_once.is_none(), "{at_once:?}");
    let second = Duration::from_millis(1_500);
    let gone = tokio::time::timeout(second, w.submit(saga("second", 2, waiting())));
    gone.await.expect_err("not answered yet");
    for gid in ["at once", "second"] {
        w.ends(gid, Status::Succeed, 5_000).await;
        assert_eq!(w.net.calls(gid), "01 action, 02 action");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_goes_on_over_a_delayed_message_only_if_the_delay_is_short() {
    let w = World::new(|_| ok(0));
    let delayed = |s: u64| {
        merged(
            waiting(),
            json!({"custom_data": format!("{{\"delay\":{s}}}")}),
        )
    };
    let (answer, at) = w
        .submitting(msg("short", 1, delayed(2)))
        .await
        .expect("answer");
    answer.expect("success");
    assert_eq!(at, 2_000);
    let (answer, at) = w
        .submitting(msg("long", 1, delayed(60)))
        .await
        .expect("answer");
    assert_eq!(answer.expect_err("not ended").kind(), ErrorKind::Ongoing);
    assert_eq!(at, 2_000);
    w.ends("long", Status::Succeed, 60_001).await;
    assert_eq!(w.net.times("long", "01 action"), [62_000]);
}

#[tokio::test(start_paused = true)]
async fn aborts_wait_where_the_request_or_the_prepare_says_so() {
    let w = World::new(|_| ok(500));
    for (gid, prepare, abort) in [("a", waiting(), json!({})), ("b", json!({}), waiting())] {
        let body = merged(json!({"gid": gid, "trans_type": "tcc"}), prepare);
        w.prepare(body).await.expect("prepare");
        w.register(super::world::registration("tcc", gid, 1))
            .await
            .expect("register");
        let before = w.now();
        w.abort(merged(json!({"gid": gid, "trans_type": "tcc"}), abort))
            .await
            .expect("an abort that ended in failed is a success");
        assert_eq!(w.now() - before, 500);
        w.ends(gid, Status::Failed, 0).await;
    }
}
