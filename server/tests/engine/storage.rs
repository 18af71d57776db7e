//! A store that is full, out of reach or slow, or whose answers are lost.

use super::net::{Act, End, ok, status};
use super::store::{Fault, Kind, What};
use super::world::{Setup, World, saga};
use amends::{ErrorKind, Status};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn only(
    wanted: impl Fn(Kind) -> bool + Send + 'static,
    what: What,
) -> impl FnMut(Kind, &amends::Gid) -> Fault + Send {
    move |kind, _| Fault {
        delay: 0,
        what: if wanted(kind) { what } else { What::Nothing },
    }
}

/// The n-th (from 0) of the wanted operations fails.
fn nth(
    n: usize,
    wanted: impl Fn(Kind) -> bool + Send + 'static,
    what: What,
) -> impl FnMut(Kind, &amends::Gid) -> Fault + Send {
    let mut seen = 0;
    move |kind, _| {
        let hit = wanted(kind) && {
            seen += 1;
            seen == n + 1
        };
        Fault {
            delay: 0,
            what: if hit { what } else { What::Nothing },
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_store_refuses_requests_and_resumes_by_itself() {
    let w = World::new(|_| ok(1_000));
    w.submit(saga("g", 3, json!({}))).await.expect("submit");
    w.pass(100).await;
    w.store.fail(only(Kind::writes, What::Full));
    let refused = w.submit(saga("h", 1, json!({}))).await.expect_err("full");
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.message().contains("disk_full"), "{refused}");
    let (again, _) = w
        .submitting(saga("h", 1, json!({"wait_result": true})))
        .await
        .expect("an answer");
    assert_eq!(again.expect_err("full").kind(), ErrorKind::Unavailable);
    w.pass(10_000).await;
    w.store.heal();
    w.ends("g", Status::Succeed, 5_000).await;
    assert_eq!(
        w.net.calls("g"),
        "01 action, 02 action, 03 action",
        "no call is repeated for it"
    );
    assert!(!w.store.gids().iter().any(|g| g.as_str() == "h"));
    w.submit(saga("h", 1, json!({})))
        .await
        .expect("there is room");
    w.ends("h", Status::Succeed, 2_000).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_called_before_its_decision_is_stored() {
    let w = World::new(|call| {
        if call.op == "action" {
            status(409, 10)
        } else {
            ok(10)
        }
    });
    w.submit(saga("g", 1, json!({}))).await.expect("submit");
    w.store
        .fail(only(|kind| matches!(kind, Kind::Save { .. }), What::Full));
    w.pass(20_000).await;
    assert_eq!(w.net.calls("g"), "01 action");
    w.store.heal();
    w.ends("g", Status::Failed, 1_000).await;
    assert_eq!(w.net.calls("g"), "01 action, 01 compensate");
}

#[tokio::test(start_paused = true)]
async fn every_write_may_fail_once_in_every_way() {
    for what in [What::Full, What::Unavailable, What::AnswerLost] {
        for n in 0..6 {
            let w = World::new(|call| match (call.name().as_str(), call.nth) {
                ("03 action", 0) => status(500, 10),
                ("03 action", _) => status(409, 10),
                _ => ok(10),
            });
            w.submit(saga("g", 3, json!({"retry_interval": 5})))
                .await
                .expect("submit");
            w.store.fail(nth(n, Kind::writes, what));
            w.ends("g", Status::Failed, 60_000).await;
            let wanted = "01 action, 02 action, 03 action, 03 action, 03 compensate, 02 compensate, 01 compensate";
            assert_eq!(w.net.calls("g"), wanted, "{what:?} at write {n}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_read_may_fail_once() {
    for what in [What::Unavailable, What::AnswerLost] {
        for n in 0..4 {
            let w = World::new(|call| {
                if call.nth < 2 {
                    status(425, 10)
                } else {
                    ok(10)
                }
            });
            w.submit(saga("g", 2, json!({"retry_interval": 5})))
                .await
                .expect("submit");
            let reads = |kind| kind == Kind::Claim;
            w.store.fail(nth(n, reads, what));
            for _ in 0..2 {
                let _ = w.engine.reset_next("g").await;
                w.pass(700).await;
            }
            w.ends("g", Status::Succeed, 120_000).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_is_lost_is_driven_all_the_same() {
    let w = World::new(|_| ok(10));
    w.store
        .fail(nth(0, |kind| kind == Kind::Create, What::AnswerLost));
    let lost = w.submit(saga("g", 1, json!({}))).await.expect_err("lost");
    assert_eq!(lost.kind(), ErrorKind::Unavailable);
    // Its client never asks again.
    w.ends("g", Status::Succeed, 60_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_is_lost_is_driven_all_the_same() {
    let w = World::new(|call| {
        if call.nth == 0 {
            status(500, 0)
        } else {
            ok(10)
        }
    });
    w.submit(saga("g", 1, json!({}))).await.expect("submit");
    w.pass(1_000).await;
    w.store
        .fail(nth(0, |kind| kind == Kind::Claim, What::AnswerLost));
    let lost = w.engine.reset_next("g").await.expect_err("lost");
    assert_eq!(lost.kind(), ErrorKind::Unavailable);
    w.ends("g", Status::Succeed, 120_000).await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_while_the_store_is_out_of_reach_is_told() {
    let w = World::new(|_| ok(1_000));
    let waiting = w.submitting(saga("g", 2, json!({"wait_result": true})));
    w.prepared("tcc", "t", 1).await;
    w.pass(900).await;
    w.store.fail(only(|_| true, What::Unavailable));
    w.pass(1_500).await;
    for gid in ["g", "t"] {
        let begun = w.now();
        let engine = w.engine.clone();
        let asked = tokio::time::timeout(std::time::Duration::from_secs(5), async move {
            engine.force_stop(gid, "ops", "").await
        });
        let refused = asked
            .await
            .expect("an answer within 5 s")
            .expect_err("no store");
        assert_eq!(refused.kind(), ErrorKind::Unavailable, "{gid}: {refused}");
        assert!(w.now() - begun <= 5_000);
    }
    w.pass(30_000).await;
    assert!(
        waiting.is_finished(),
        "a wait has an end, also without a store"
    );
    w.store.heal();
    w.ends("g", Status::Succeed, 60_000).await;
    w.ends("t", Status::Failed, 60_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_repeated_submit_whose_first_was_refused_is_refused_as_retryable() {
    let w = World::new(|_| ok(10));
    w.store.fail(|kind, _| Fault {
        delay: 100,
        what: if kind == Kind::Create {
            What::Full
        } else {
            What::Nothing
        },
    });
    let first = w.submitting(saga("g", 1, json!({})));
    w.pass(50).await;
    let second = w.submitting(saga("g", 1, json!({})));
    for client in [first, second] {
        let refused = client.await.expect("an answer").0.expect_err("full");
        assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_submit_that_finds_its_gid_and_then_no_store_is_refused_as_retryable() {
    let w = World::new(|_| ok(10));
    w.prepare(saga("g", 1, json!({}))).await.expect("prepare");
    w.store
        .fail(only(|kind| kind == Kind::Claim, What::Unavailable));
    let refused = w
        .submit(saga("g", 1, json!({})))
        .await
        .expect_err("no claim");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn slow_writes_hold_answers_and_decisions_and_nothing_else() {
    let w = World::new(|_| ok(10));
    w.store.fail(|kind, _| Fault {
        delay: if kind.writes() { 100 } else { 0 },
        ..Fault::default()
    });
    let (answer, at) = w
        .submitting(saga("g", 2, json!({"wait_result": true})))
        .await
        .expect("an answer");
    answer.expect("success");
    // Stored at 100, called at 100 and 110 (two steps wait for no write between them), decided at 120, durable at 220.
    assert_eq!(w.net.times("g", "02 action"), [110]);
    assert_eq!(at, 220);
}

#[tokio::test(start_paused = true)]
async fn claims_go_on_after_the_store_was_out_of_reach() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let w = World::new(move |_| {
        if counted.fetch_add(1, Ordering::Relaxed) < 10 {
            status(500, 0)
        } else {
            ok(0)
        }
    });
    for k in 0..10 {
        w.submit(saga(&format!("g{k}"), 1, json!({})))
            .await
            .expect("submit");
    }
    w.pass(5_000).await;
    w.store.fail(only(|_| true, What::Unavailable));
    w.pass(60_000).await;
    w.store.heal();
    for k in 0..10 {
        w.ended(&format!("g{k}"), 3_000).await;
    }
    w.check();
}

#[tokio::test(start_paused = true)]
async fn a_result_is_written_at_the_latest_100_ms_after_it() {
    let w = World::new(|call| ok(if call.branch == "01" { 10 } else { 2_000 }));
    w.submit(saga(
        "g",
        2,
        json!({"custom_data": "{\"concurrent\":true}"}),
    ))
    .await
    .expect("submit");
    w.pass(105).await;
    assert_eq!(w.store.writes(), 1, "it may be merged with what follows");
    w.pass(10).await;
    assert_eq!(w.store.writes(), 2);
    assert_eq!(
        w.stored("g").await.rows()[1].state.status.as_str(),
        "succeed"
    );
    w.ends("g", Status::Succeed, 5_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_goes_on_after_a_lost_answer_makes_the_record_inexact() {
    let mut setup = Setup::default();
    setup.slots.total = 1;
    let w = World::with(setup, |call| {
        match (call.gid.as_str(), call.name().as_str(), call.nth) {
            ("first", ..) => ok(1_100),
            (_, "01 action", 1) => status(409, 0),
            // It works, and nobody learns of it.
            (_, "02 action", 0) => Act {
                runs: Some(0),
                twice: false,
                end: End::PanicAtOnce,
            },
            _ => ok(0),
        }
    });
    w.submit(saga("first", 1, json!({}))).await.expect("submit");
    // It finds no slot and is let go of; it goes on because the answer of that write is lost, and gets its slot.
    let mut saves = 0;
    w.store.fail(move |kind, gid| {
        saves += usize::from(gid.as_str() == "g" && matches!(kind, Kind::Save { .. }));
        let lost = gid.as_str() == "g" && saves == 1 && kind == (Kind::Save { last: true });
        Fault {
            delay: if lost { 650 } else { 0 },
            what: if lost {
                What::AnswerLost
            } else {
                What::Nothing
            },
        }
    });
    w.submit(saga("g", 2, json!({}))).await.expect("submit");
    w.ends("g", Status::Failed, 60_000).await;
    assert!(!w.net.effect("g", "02").stays(), "{}", w.net.calls("g"));
}
