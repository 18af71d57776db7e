//! Limits: transactions driven at a time, calls on the wire, hosts that do not answer (rules.md 4.5).

use super::net::{End, Seen, end, ok};
use super::store::{Fault, Kind, What};
use super::world::{Setup, World, saga};
use amends::{ErrorKind, Status};
use amends_server::dispatch::slots::SlotLimits;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn in_flight(max: usize) -> Setup {
    Setup {
        in_flight_max: max,
        ..Setup::default()
    }
}

/// A saga of one step at this host.
fn at(host: &str, gid: &str, more: Value) -> Value {
    let step =
        json!({"action": format!("http://{host}/do"), "compensate": format!("http://{host}/undo")});
    super::world::merged(
        json!({"gid": gid, "trans_type": "saga", "steps": [step], "payloads": ["{}"]}),
        more,
    )
}

#[tokio::test(start_paused = true)]
async fn two_hundred_submits_take_turns_of_two() {
    let most = Arc::new(AtomicUsize::new(0));
    let w = World::with(in_flight(2), |_| ok(10));
    let clients: Vec<_> = (0..200)
        .map(|k| {
            w.submitting(saga(
                &format!("g{k}"),
                2,
                json!({"wait_result": k % 2 == 0}),
            ))
        })
        .collect();
    let (watched, engine) = (most.clone(), w.engine.clone());
    let watch = tokio::spawn(async move {
        loop {
            watched.fetch_max(engine.driven(), Ordering::Relaxed);
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    });
    for client in clients {
        client.await.expect("an answer").0.expect("success");
    }
    for k in 0..200 {
        w.ended(&format!("g{k}"), 3_000).await;
    }
    watch.abort();
    assert_eq!(w.net.log().len(), 400);
    assert_eq!(most.load(Ordering::Relaxed), 2);
    assert!(w.now() <= 2_500, "{} ms for 100 turns of 20 ms", w.now());
    w.idle(0).await;
    w.check();
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_the_limit_ends_at_its_end() {
    let w = World::with(in_flight(1), |call| {
        ok(if call.gid == "slow" { 7_000 } else { 10 })
    });
    w.submit(saga("slow", 1, json!({"request_timeout": 10})))
        .await
        .expect("submit");
    let (answer, when) = w
        .submitting(saga("g", 1, json!({"wait_result": true})))
        .await
        .expect("an answer");
    assert_eq!(
        answer.expect_err("not its turn yet").kind(),
        ErrorKind::Ongoing
    );
    assert_eq!(when, 5_000);
    w.ends("g", Status::Succeed, 3_000).await;
    assert_eq!(w.net.times("g", "01 action"), [7_000]);
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_for_one_gid_beyond_the_limit_are_answered() {
    let w = World::with(in_flight(1), |call| {
        ok(if call.gid == "slow" { 2_000 } else { 10 })
    });
    w.submit(saga("slow", 1, json!({}))).await.expect("submit");
    let first = w.submitting(saga("g", 1, json!({"wait_result": true})));
    w.pass(100).await;
    let waiting = json!({"wait_result": true});
    let mut clients = vec![first];
    clients.extend((0..3).map(|_| w.submitting(saga("g", 1, waiting.clone()))));
    for client in clients {
        client.await.expect("an answer").0.expect("success");
    }
    w.ends("g", Status::Succeed, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_saga_with_a_timeout_that_was_put_off_runs_when_there_is_room() {
    let w = World::with(in_flight(1), |_| ok(100));
    w.submit(saga("first", 1, json!({}))).await.expect("submit");
    w.submit(saga("g", 1, json!({"timeout_to_fail": 30})))
        .await
        .expect("submit");
    w.ends("g", Status::Succeed, 1_000).await;
    assert_eq!(w.net.times("g", "01 action"), [100]);
}

#[tokio::test(start_paused = true)]
async fn what_was_put_off_is_not_overtaken_for_ever() {
    let w = World::with(in_flight(1), |_| ok(100));
    w.submit(saga("first", 1, json!({}))).await.expect("submit");
    w.submit(saga("g", 1, json!({}))).await.expect("submit");
    for k in 0..200 {
        w.submit(saga(&format!("fresh{k}"), 1, json!({})))
            .await
            .expect("submit");
        w.pass(25).await;
    }
    let times = w.net.times("g", "01 action");
    assert!(
        times.first().is_some_and(|t| *t < 1_000),
        "{times:?}, now {}",
        w.now()
    );
}

#[tokio::test(start_paused = true)]
async fn a_hanging_host_does_not_delay_transactions_of_others() {
    let setup = Setup {
        slots: SlotLimits {
            per_host: 2,
            ..SlotLimits::default()
        },
        ..Setup::default()
    };
    let w = World::with(setup, |call| {
        if call.host == "http://hangs" {
            end(End::Silence)
        } else {
            ok(10)
        }
    });
    for k in 0..50 {
        w.submit(at("hangs", &format!("h{k}"), json!({})))
            .await
            .expect("submit");
    }
    for k in 0..50 {
        let gid = format!("g{k}");
        let begun = w.now();
        let (answer, when) = w
            .submitting(at("fine", &gid, json!({"wait_result": true})))
            .await
            .expect("an answer");
        answer.expect("success");
        assert_eq!(when - begun, 10);
        w.pass(137).await;
    }
    assert_eq!(w.net.on_host("http://hangs").1, 2);
    assert!(
        w.engine.driven() <= 3,
        "{} tasks for what waits",
        w.engine.driven()
    );
    w.net.behave(|_| ok(10));
    for k in 0..50 {
        w.ended(&format!("h{k}"), 120_000).await;
    }
    w.idle(1_000).await;
    w.check();
}

#[tokio::test(start_paused = true)]
async fn everything_ends_through_few_slots() {
    let setup = Setup {
        slots: SlotLimits {
            total: 3,
            per_host: 2,
            ..SlotLimits::default()
        },
        ..Setup::default()
    };
    let w = World::with(setup, |_| ok(10));
    // Writes take longer than calls: drivers that found no slot are still letting go when one is free for them.
    w.store.fail(|kind, _| Fault {
        delay: if kind.writes() { 15 } else { 0 },
        ..Fault::default()
    });
    let data = json!({"concurrent": true}).to_string();
    for k in 0..100 {
        let more = json!({"custom_data": data, "wait_result": k % 3 == 0});
        drop(w.submitting(saga(&format!("g{k}"), 3, more)));
    }
    w.pass(20).await;
    for k in 0..100 {
        w.ended(&format!("g{k}"), 10_000).await;
    }
    assert!(
        w.now() < 6_000,
        "{} ms for 300 calls of 10 ms, three at a time",
        w.now()
    );
    assert_eq!(w.net.log().len(), 300);
    w.idle(1_000).await;
    w.check();
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_slot_ends_at_its_end() {
    let setup = Setup {
        slots: SlotLimits {
            total: 1,
            ..SlotLimits::default()
        },
        ..Setup::default()
    };
    let w = World::with(setup, |call| {
        ok(if call.gid == "slow" { 7_000 } else { 10 })
    });
    w.submit(at("a", "slow", json!({"request_timeout": 10})))
        .await
        .expect("submit");
    let (answer, when) = w
        .submitting(at("b", "g", json!({"wait_result": true})))
        .await
        .expect("an answer");
    assert_eq!(answer.expect_err("no slot yet").kind(), ErrorKind::Ongoing);
    assert_eq!(when, 5_000);
    w.ends("g", Status::Succeed, 3_000).await;
    assert_eq!(w.net.times("g", "01 action"), [7_000]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_back_gets_what_waits_for_it_within_three_seconds() {
    let up = Arc::new(AtomicBool::new(false));
    let answers = up.clone();
    let behave = move |call: &Seen| {
        if call.host == "http://down" && !answers.load(Ordering::Relaxed) {
            end(End::Unreachable)
        } else {
            ok(10)
        }
    };
    let w = World::new(behave);
    for k in 0..300 {
        w.submit(at("down", &format!("g{k}"), json!({})))
            .await
            .expect("submit");
    }
    // Each has failed a few times; without help, the next attempts are many minutes away.
    w.pass(400_000).await;
    let before = w.net.log().len();
    assert!(
        before >= 300 && w.net.on_host("http://down").1 <= 256,
        "{before} calls"
    );
    up.store(true, Ordering::Relaxed);
    w.submit(at("down", "probe", json!({})))
        .await
        .expect("submit");
    w.ended("probe", 100).await;
    let back = w.now();
    for k in 0..300 {
        w.ended(&format!("g{k}"), 5_000).await;
    }
    assert!(w.now() - back <= 3_500, "{} ms", w.now() - back);
    let during: Vec<u64> = w.net.log()[before..]
        .iter()
        .map(|c| c.at.saturating_sub(back))
        .collect();
    let first_second = during.iter().filter(|at| **at < 1_000).count();
    assert!(
        (50..200).contains(&first_second),
        "spread over three seconds: {first_second} in the first"
    );
    w.idle(1_000).await;
    w.check();
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_answer_gets_few_probes() {
    let setup = Setup {
        slots: SlotLimits {
            per_host: 50,
            probing: 4,
            failures: 5,
            ..SlotLimits::default()
        },
        ..Setup::default()
    };
    let w = World::with(setup, |_| end(End::Silence));
    for k in 0..100 {
        w.submit(at("down", &format!("g{k}"), json!({})))
            .await
            .expect("submit");
    }
    w.pass(3_100).await;
    let first = w.net.log().len();
    w.pass(3_000).await;
    assert!(first <= 54, "{first}");
    assert!(w.net.log().len() - first <= 8, "probes only");
    assert!(w.net.on_host("http://down").0 <= 4);
    w.net.behave(|_| ok(10));
    for k in 0..100 {
        w.ended(&format!("g{k}"), 20_000).await;
    }
    w.check();
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_comes_late_forgets_nothing() {
    let w = World::with(in_flight(3), |_| ok(10));
    w.store.fail(|kind, _| Fault {
        delay: if kind == Kind::ClaimDue { 40 } else { 0 },
        ..Fault::default()
    });
    for k in 0..60 {
        w.submit(saga(&format!("g{k}"), 1, json!({})))
            .await
            .expect("submit");
        w.pass(k % 7).await;
    }
    for k in 0..60 {
        w.ended(&format!("g{k}"), 5_000).await;
    }
    w.idle(100).await;
    w.check();
}

#[tokio::test(start_paused = true)]
async fn who_waited_first_is_called_first() {
    let setup = Setup {
        slots: SlotLimits {
            total: 1,
            ..SlotLimits::default()
        },
        ..Setup::default()
    };
    let w = World::with(setup, |_| ok(10));
    w.store.fail(|kind, _| Fault {
        delay: if kind.writes() { 35 } else { 0 },
        ..Fault::default()
    });
    for k in 0..40 {
        drop(w.submitting(at("h", &format!("g{k:02}"), json!({}))));
    }
    w.pass(100).await;
    for k in 0..40 {
        w.ended(&format!("g{k:02}"), 5_000).await;
    }
    let order: Vec<String> = w.net.log().into_iter().map(|c| c.gid).collect();
    let wanted: Vec<String> = (0..40).map(|k| format!("g{k:02}")).collect();
    assert_eq!(order, wanted);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_not_needed_any_more_is_given_to_the_next() {
    let setup = Setup {
        slots: SlotLimits {
            per_host: 1,
            ..SlotLimits::default()
        },
        ..Setup::default()
    };
    let w = World::with(setup, |call| {
        match (call.gid.as_str(), call.name().as_str()) {
            ("first", _) => ok(1_000),
            ("undone", "02 action") => super::net::status(409, 500),
            ("undone", "02 compensate") => ok(30_000),
            _ => ok(10),
        }
    });
    w.submit(at("b1", "first", json!({})))
        .await
        .expect("submit");
    let data = json!({"concurrent": true}).to_string();
    w.submit(saga(
        "undone",
        2,
        json!({"custom_data": data, "request_timeout": 60}),
    ))
    .await
    .expect("submit");
    w.submit(at("b1", "next", json!({}))).await.expect("submit");
    w.ended("next", 5_000).await;
    assert_eq!(w.net.times("next", "01 action"), [1_000]);
    w.ends("undone", Status::Failed, 60_000).await;
    assert_eq!(w.net.calls("undone"), "02 action, 02 compensate");
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_ended_while_it_waited_for_a_slot_leaves_none_taken() {
    let setup = Setup {
        slots: SlotLimits {
            total: 1,
            ..SlotLimits::default()
        },
        ..Setup::default()
    };
    let w = World::with(setup, |_| ok(1_000));
    for gid in ["first", "stopped", "last"] {
        w.submit(at("h", gid, json!({}))).await.expect("submit");
    }
    w.pass(100).await;
    w.engine
        .force_stop("stopped", "ops", "")
        .await
        .expect("forceStop");
    w.ends("last", Status::Succeed, 3_000).await;
    assert_eq!(w.net.times("last", "01 action"), [1_000]);
    assert_eq!(w.net.calls("stopped"), "");
}

#[tokio::test(start_paused = true)]
async fn a_slot_for_a_transaction_that_cannot_be_read_goes_to_the_next() {
    let setup = Setup {
        slots: SlotLimits {
            total: 1,
            ..SlotLimits::default()
        },
        ..Setup::default()
    };
    let w = World::with(setup, |_| ok(1_000));
    for gid in ["first", "unread", "last"] {
        w.submit(at("h", gid, json!({}))).await.expect("submit");
    }
    w.store.fail(|kind, gid| Fault {
        delay: 0,
        what: match (kind, gid.as_str()) {
            (Kind::Claim, "unread") => What::Unavailable,
            _ => What::Nothing,
        },
    });
    w.ended("last", 3_000).await;
    assert_eq!(w.net.times("last", "01 action"), [1_000]);
    w.store.heal();
    w.ends("unread", Status::Succeed, 65_000).await;
}

#[tokio::test(start_paused = true)]
async fn decisions_beyond_the_limit_are_taken_at_once_and_their_calls_take_turns() {
    let w = World::with(in_flight(2), |_| ok(100));
    for k in 0..40 {
        w.prepared("tcc", &format!("t{k}"), 1).await;
    }
    for k in 0..40 {
        let body = json!({"gid": format!("t{k}"), "trans_type": "tcc"});
        w.submit(body).await.expect("submit");
        assert_eq!(
            w.stored(&format!("t{k}")).await.status(),
            Status::Submitted,
            "durable when it is answered"
        );
    }
    assert!(w.engine.driven() <= 4, "{} are driven", w.engine.driven());
    for k in 0..40 {
        w.ends(&format!("t{k}"), Status::Succeed, 5_000).await;
    }
    assert_eq!(w.net.log().len(), 40, "each confirm once");
    w.idle(0).await;
    w.check();
}
