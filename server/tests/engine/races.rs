//! Requests that meet in one transaction.

use super::net::{ok, status};
use super::rng::Rng;
use super::store::{Fault, Kind};
use super::world::{World, merged, registration, saga};
use amends::{ErrorKind, Status};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Reads are answered after so many ms, so that what a driver claims is outdated when it gets it.
fn slow_claims(w: &World, ms: u64) {
    w.store.fail(move |kind, _| Fault {
        delay: if kind == Kind::Claim { ms } else { 0 },
        ..Fault::default()
    });
}

#[tokio::test(start_paused = true)]
async fn a_branch_registered_while_an_abort_is_on_its_way_is_undone() {
    let w = World::new(|_| ok(10));
    w.prepared("tcc", "g", 1).await;
    slow_claims(&w, 100);
    let engine = w.engine.clone();
    let abort = tokio::spawn(async move {
        engine
            .abort(super::world::global(&json!({"gid": "g"})))
            .await
    });
    w.pass(50).await;
    w.register(registration("tcc", "g", 2))
        .await
        .expect("it is still prepared");
    abort.await.expect("an answer").expect("aborted");
    w.ends("g", Status::Failed, 1_000).await;
    assert_eq!(w.net.calls("g"), "02 cancel, 01 cancel");
}

#[tokio::test(start_paused = true)]
async fn submit_and_abort_at_once_have_one_winner() {
    let rng = Arc::new(Rng::new(7));
    let w = World::new(|_| ok(3));
    let faults = rng.clone();
    w.store.fail(move |_, _| Fault {
        delay: faults.below(5),
        ..Fault::default()
    });
    for round in 0..200 {
        let gid = format!("g{round}");
        w.prepared("tcc", &gid, 1).await;
        let mut asked = Vec::new();
        for k in 0..4 {
            let (engine, body) = (w.engine.clone(), json!({"gid": gid, "trans_type": "tcc"}));
            let pause = rng.below(6);
            asked.push(tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let body = super::world::global(&body);
                let forward = k % 2 == 0;
                let answer = if forward {
                    engine.submit(body).await
                } else {
                    engine.abort(body).await
                };
                (forward, answer)
            }));
        }
        let extra = w.register(registration("tcc", &gid, 2)).await.is_ok();
        let mut won = Vec::new();
        for asked in asked {
            let (forward, answer) = asked.await.expect("an answer");
            match answer {
                Ok(()) => won.push(forward),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Refused, "{e}"),
            }
        }
        let tx = w.ended(&gid, 1_000).await;
        let forward = tx.status() == Status::Succeed;
        assert!(
            !won.is_empty() && won.iter().all(|f| *f == forward),
            "{gid}: {won:?}, {}",
            tx.status()
        );
        let calls = w.net.calls(&gid);
        assert_eq!(calls.contains("02"), extra, "{gid}: {calls}");
    }
    w.idle(1_000).await;
    w.check();
}

#[tokio::test(start_paused = true)]
async fn many_submits_of_one_gid_make_one_transaction() {
    let w = World::new(|_| ok(20));
    w.store.fail(|_, _| Fault {
        delay: 5,
        ..Fault::default()
    });
    let clients: Vec<_> = (0..50)
        .map(|k| w.submitting(saga("g", 2, json!({"wait_result": k % 2 == 0}))))
        .collect();
    for client in clients {
        client.await.expect("an answer").0.expect("success");
    }
    w.ends("g", Status::Succeed, 1_000).await;
    assert_eq!(w.net.calls("g"), "01 action, 02 action");
}

#[tokio::test(start_paused = true)]
async fn registering_the_same_branch_twice_is_one_branch() {
    let w = World::new(|_| ok(0));
    w.prepared("tcc", "g", 1).await;
    w.register(registration("tcc", "g", 1))
        .await
        .expect("the same again");
    let mut other = registration("tcc", "g", 1);
    other["confirm"] = json!("http://elsewhere/confirm");
    let differs = w.register(other).await.expect_err("other content");
    assert_eq!(differs.kind(), ErrorKind::Refused);
    assert_eq!(w.stored("g").await.rows().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn requests_meet_a_driver_that_is_just_letting_go() {
    let w = World::new(|_| status(500, 0));
    w.store.fail(|kind, _| Fault {
        delay: if kind == (Kind::Save { last: true }) {
            100
        } else {
            0
        },
        ..Fault::default()
    });
    w.submit(saga("g", 1, json!({}))).await.expect("submit");
    w.pass(50).await;
    w.net.behave(|_| ok(0));
    w.engine.reset_next("g").await.expect("reset");
    w.ends("g", Status::Succeed, 300).await;
    assert_eq!(w.net.calls("g"), "01 action, 01 action");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_request_changes_nothing() {
    let w = World::new(|_| ok(10_000));
    w.submit(saga("g", 1, json!({"request_timeout": 60})))
        .await
        .expect("submit");
    let writes = w.store.history("g").len();
    for trans_type in ["tcc", "msg"] {
        let mut body = saga("g", 1, json!({}));
        body["trans_type"] = json!(trans_type);
        if trans_type == "tcc" {
            body = json!({"gid": "g", "trans_type": "tcc"});
        }
        let refused = w.submit(body).await.expect_err("another type");
        assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    }
    assert_eq!(
        w.abort(json!({"gid": "g"}))
            .await
            .expect_err("a saga")
            .kind(),
        ErrorKind::Refused
    );
    assert_eq!(w.store.history("g").len(), writes);
    w.ends("g", Status::Succeed, 20_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_submit_of_what_was_prepared_need_not_repeat_its_steps() {
    let w = World::new(|_| ok(1));
    w.prepare(saga("s", 2, json!({}))).await.expect("prepare");
    let orders = r#"{"concurrent":true,"orders":{"1":[0]}}"#;
    let body = json!({"gid": "s", "trans_type": "saga", "custom_data": orders});
    w.submit(body.clone()).await.expect("submit");
    w.ends("s", Status::Succeed, 100).await;
    let unknown = merged(body, json!({"gid": "x"}));
    let error = w.submit(unknown).await.expect_err("no steps at all");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    w.check();
}
