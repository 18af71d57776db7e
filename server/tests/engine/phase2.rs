//! TCC and XA: phase 2.

use super::net::{End, end, ok, status};
use super::world::{World, registration};
use amends::{ErrorKind, Status};
use serde_json::{Value, json};

fn body(trans_type: &str) -> Value {
    json!({"gid": "g", "trans_type": trans_type})
}

#[tokio::test(start_paused = true)]
async fn tcc_confirms_from_the_last_to_the_first_and_xa_the_other_way() {
    for (trans_type, wanted) in [
        ("tcc", "02 confirm, 01 confirm"),
        ("xa", "01 commit, 02 commit"),
    ] {
        let w = World::new(|_| ok(10));
        w.prepared(trans_type, "g", 2).await;
        w.submit(body(trans_type)).await.expect("submit");
        w.ends("g", Status::Succeed, 1_000).await;
        assert_eq!(w.net.calls("g"), wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn an_abort_undoes_every_branch() {
    for (trans_type, wanted) in [
        ("tcc", "02 cancel, 01 cancel"),
        ("xa", "01 rollback, 02 rollback"),
    ] {
        let w = World::new(|_| ok(10));
        w.prepared(trans_type, "g", 2).await;
        w.abort(json!({"gid": "g", "rollback_reason": "no stock"}))
            .await
            .expect("abort");
        let tx = w.ends("g", Status::Failed, 1_000).await;
        assert_eq!(w.net.calls("g"), wanted);
        assert_eq!(tx.state().reason, "no stock");
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirm_that_fails_is_repeated_and_holds_the_others() {
    let w = World::new(|call| {
        if call.branch == "02" && call.nth < 2 {
            status(409, 0)
        } else {
            ok(0)
        }
    });
    w.prepared("tcc", "g", 2).await;
    w.submit(body("tcc")).await.expect("submit");
    w.ends("g", Status::Succeed, 120_000).await;
    assert_eq!(
        w.net.calls("g"),
        "02 confirm, 02 confirm, 02 confirm, 01 confirm"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_not_heard_of_is_undone_at_the_timeout() {
    let w = World::new(|_| ok(10));
    w.prepared("tcc", "g", 1).await;
    w.pass(34_990).await;
    assert_eq!(w.net.calls("g"), "");
    w.ends("g", Status::Failed, 100).await;
    assert_eq!(w.net.times("g", "01 cancel"), [35_000]);
}

#[tokio::test(start_paused = true)]
async fn a_second_submit_makes_no_second_confirm() {
    let w = World::new(|_| status(425, 1_000));
    w.prepared("tcc", "g", 1).await;
    for _ in 0..5 {
        w.submit(body("tcc")).await.expect("submit");
        w.pass(500).await;
    }
    assert_eq!(w.net.calls("g"), "01 confirm");
    assert_eq!(w.stored("g").await.status(), Status::Submitted);
    w.net.behave(|_| ok(0));
    w.ends("g", Status::Succeed, 30_000).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_decided_refuses_the_opposite() {
    let w = World::new(|_| end(End::Silence));
    w.prepared("tcc", "g", 1).await;
    w.submit(body("tcc")).await.expect("submit");
    let refused = w.abort(json!({"gid": "g"})).await.expect_err("submitted");
    assert_eq!(
        (refused.kind(), refused.status()),
        (ErrorKind::Refused, Some(Status::Submitted))
    );
    let late = w.register(registration("tcc", "g", 2)).await;
    assert_eq!(late.expect_err("submitted").kind(), ErrorKind::Refused);
}

#[tokio::test(start_paused = true)]
async fn unknown_gids_are_refused_and_leave_nothing() {
    let w = World::new(|_| ok(0));
    let kind = |r: Result<(), amends::Error>| r.expect_err("unknown").kind();
    assert_eq!(kind(w.submit(body("tcc")).await), ErrorKind::UnknownGid);
    assert_eq!(kind(w.abort(body("tcc")).await), ErrorKind::UnknownGid);
    assert_eq!(kind(w.engine.reset_next("g").await), ErrorKind::UnknownGid);
    assert_eq!(
        kind(w.engine.force_stop("g", "", "").await),
        ErrorKind::UnknownGid
    );
    assert_eq!(
        kind(w.register(registration("tcc", "g", 1)).await),
        ErrorKind::Refused
    );
    assert_eq!(w.engine.driven(), 0);
    assert!(w.store.gids().is_empty());
}
