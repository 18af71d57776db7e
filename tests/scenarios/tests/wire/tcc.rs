//! Scenarios 12 to 15: TCC.

use amends_scenarios::{Gate, Reply, World, merge};
use http::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn tcc(gid: &str, extra: Value) -> Value {
    merge(json!({"gid": gid, "trans_type": "tcc"}), extra)
}

async fn prepared(w: &World, gid: &str, ids: &[&str], extra: Value) {
    w.dtm
        .post("prepare", &tcc(gid, extra))
        .await
        .expect_success();
    for id in ids {
        w.register_tcc(gid, id).await.expect_success();
    }
}

#[tokio::test]
async fn s12_confirm_in_reverse_order_of_registration() {
    let w = World::start().await;
    let extra = json!({"branch_headers": {"X-Foo": "bar"}});
    prepared(&w, "t", &["01", "02", "0201", "03"], extra).await;
    assert_eq!(w.branches.trace().len(), 0);
    w.dtm
        .post("submit", &tcc("t", json!({"wait_result": true})))
        .await
        .expect_success();
    let view = w.dtm.query("t").await;
    assert_eq!(
        (view.status(), view.rows().as_str()),
        ("succeed", "psps".repeat(2).as_str())
    );
    assert_eq!(view.row_names()[..2], ["01/cancel", "01/confirm"]);
    assert_eq!(
        w.branches.trace(),
        ["/03-confirm", "/0201-confirm", "/02-confirm", "/01-confirm"]
    );
    let call = &w.branches.calls("/0201-confirm")[0];
    assert_eq!(call.query, "branch_id=0201&gid=t&op=confirm&trans_type=tcc");
    assert_eq!(
        (call.method.clone(), call.text().as_str()),
        (Method::POST, r#"{"branch":"0201"}"#)
    );
    // Stored by prepare, sent although submit did not repeat it.
    assert_eq!(call.header("x-foo"), "bar");
}

#[tokio::test]
async fn s12_cancel_in_reverse_order_of_registration() {
    let w = World::start().await;
    prepared(&w, "t", &["01", "02", "0201"], json!({})).await;
    let abort = tcc(
        "t",
        json!({"wait_result": true, "rollback_reason": "no stock FAILURE"}),
    );
    w.dtm.post("abort", &abort).await.expect_success();
    let view = w.dtm.query("t").await;
    assert_eq!((view.status(), view.rows().as_str()), ("failed", "spspsp"));
    assert_eq!(view.field("rollback_reason"), "no stock FAILURE");
    assert!(!view.field("rollback_time").is_empty());
    assert_eq!(
        w.branches.trace(),
        ["/0201-cancel", "/02-cancel", "/01-cancel"]
    );
    assert_eq!(
        w.branches.calls("/01-cancel")[0].query,
        "branch_id=01&gid=t&op=cancel&trans_type=tcc"
    );
}

#[tokio::test]
async fn s12_a_confirm_that_is_not_done_holds_up_the_ones_before_it() {
    let w = World::start().await;
    w.branches.script(
        "/02-confirm",
        [
            Reply::error(),
            Reply::failure("no"),
            Reply::ongoing(),
            Reply::ok(),
        ],
    );
    prepared(&w, "t", &["01", "02"], json!({"retry_interval": 1})).await;
    w.dtm
        .post("submit", &tcc("t", json!({})))
        .await
        .expect_success();
    w.kick_until("t", "/02-confirm", 4).await;
    w.dtm.wait_status("t", "succeed").await;
    assert_eq!(
        w.branches.trace(),
        [
            "/02-confirm",
            "/02-confirm",
            "/02-confirm",
            "/02-confirm",
            "/01-confirm"
        ]
    );
}

#[tokio::test]
async fn s12_without_branches_it_ends_at_once() {
    let w = World::start().await;
    for (gid, route, status) in [("t1", "submit", "succeed"), ("t2", "abort", "failed")] {
        prepared(&w, gid, &[], json!({})).await;
        w.dtm
            .post(route, &tcc(gid, json!({"wait_result": true})))
            .await
            .expect_success();
        assert_eq!(w.dtm.query(gid).await.status(), status);
    }
}

#[tokio::test]
async fn s13_abort_again_keeps_the_first_reason() {
    let w = World::start().await;
    w.branches.script("/01-cancel", [Reply::ongoing()]);
    prepared(&w, "t", &["01"], json!({"retry_interval": 30})).await;
    let reason = |text: &str| tcc("t", json!({"rollback_reason": text}));
    w.dtm.post("abort", &reason("first")).await.expect_success();
    w.branches.wait("/01-cancel", 1).await;
    w.dtm
        .post("abort", &reason("second"))
        .await
        .expect_success();
    let view = w.dtm.query("t").await;
    assert_eq!(
        (view.status(), view.field("rollback_reason")),
        ("aborting", "first")
    );

    let submit = w.dtm.post("submit", &tcc("t", json!({}))).await;
    submit.expect_wrong_state(
        "current status 'aborting', cannot sumbmit. FAILURE",
        "aborting",
    );
    let prepare = w.dtm.post("prepare", &tcc("t", json!({}))).await;
    prepare.expect_wrong_state(
        "current status 'aborting', cannot prepare. FAILURE",
        "aborting",
    );
    let late = w.register_tcc("t", "02").await;
    late.expect_wrong_state(
        "no trans with gid: t status: prepared found FAILURE",
        "aborting",
    );

    w.branches.script("/01-cancel", [Reply::ok()]);
    w.kick_until("t", "/01-cancel", 2).await;
    let view = w.dtm.wait_status("t", "failed").await;
    assert_eq!(
        (view.field("rollback_reason"), view.rows().as_str()),
        ("first", "sp")
    );
    let again = w.dtm.post("abort", &reason("third")).await;
    again.expect_wrong_state(
        "trans type: 'tcc' current status 'failed', cannot abort. FAILURE",
        "failed",
    );
    assert_eq!(w.branches.count("/01-confirm"), 0);
}

#[tokio::test]
async fn s13_register_after_submit_and_register_twice() {
    let w = World::start().await;
    w.branches.script("/01-confirm", [Reply::ongoing()]);
    prepared(&w, "t", &["01", "01"], json!({"retry_interval": 30})).await;
    assert_eq!(w.dtm.query("t").await.rows(), "pp");
    for other in [
        json!({"data": "other"}),
        json!({"confirm": w.url("/other")}),
        json!({"cancel": w.url("/other")}),
    ] {
        let answer = w
            .dtm
            .post("registerBranch", &w.tcc_branch("t", "01", other))
            .await;
        answer.expect_status(409);
    }
    w.dtm
        .post("submit", &tcc("t", json!({})))
        .await
        .expect_success();
    for id in ["01", "02"] {
        let late = w.register_tcc("t", id).await;
        late.expect_wrong_state(
            "no trans with gid: t status: prepared found FAILURE",
            "submitted",
        );
    }
    let abort = w.dtm.post("abort", &tcc("t", json!({}))).await;
    abort.expect_wrong_state(
        "trans type: 'tcc' current status 'submitted', cannot abort. FAILURE",
        "submitted",
    );
    assert_eq!(w.dtm.query("t").await.row_names().len(), 2);
}

#[tokio::test]
async fn s14_a_prepared_tcc_is_cancelled_at_its_timeout() {
    let w = World::start().await;
    let start = Instant::now();
    let gate = Gate::new();
    w.branches.script("/02-cancel", [Reply::ok().behind(&gate)]);
    prepared(
        &w,
        "t",
        &["01", "02"],
        json!({"timeout_to_fail": 2, "request_timeout": 20}),
    )
    .await;
    w.branches.wait("/02-cancel", 1).await;
    assert!(
        start.elapsed() >= Duration::from_millis(1_900),
        "{:?}",
        start.elapsed()
    );
    let view = w.dtm.query("t").await;
    assert_eq!(
        (view.status(), view.field("rollback_reason")),
        ("aborting", "Timeout after 2 seconds")
    );
    // The slow client comes too late, whatever it tries; and its abort does not start a second cancel beside the first.
    w.register_tcc("t", "03").await.expect_status(409);
    w.dtm
        .post("submit", &tcc("t", json!({})))
        .await
        .expect_status(409);
    w.dtm
        .post("abort", &tcc("t", json!({})))
        .await
        .expect_success();
    w.dtm.kick("t").await;
    gate.open();
    let view = w.dtm.wait_status("t", "failed").await;
    assert_eq!(view.rows(), "spsp");
    assert_eq!(w.branches.trace(), ["/02-cancel", "/01-cancel"]);
}

#[tokio::test]
async fn s14_the_default_timeout_names_its_seconds() {
    let w = World::with(&[("AMENDS_TIMEOUT_TO_FAIL", "1")]).await;
    prepared(&w, "t", &["01"], json!({})).await;
    let view = w.dtm.wait_status("t", "failed").await;
    assert_eq!(view.field("rollback_reason"), "Timeout after 1 seconds");
}

#[tokio::test]
async fn s15_submit_again_while_a_confirm_is_pending() {
    let w = World::start().await;
    w.branches
        .script("/02-confirm", [Reply::ongoing(), Reply::ok()]);
    prepared(&w, "t", &["01", "02"], json!({"retry_interval": 30})).await;
    for _ in 0..3 {
        w.dtm
            .post("submit", &tcc("t", json!({})))
            .await
            .expect_success();
        w.branches.wait("/02-confirm", 1).await;
        let view = w.dtm.query("t").await;
        assert_eq!((view.status(), view.rows().as_str()), ("submitted", "pppp"));
    }
    assert_eq!(
        w.branches.trace(),
        ["/02-confirm"],
        "only resets cut a delay"
    );
    w.kick_until("t", "/02-confirm", 2).await;
    let view = w.dtm.wait_status("t", "succeed").await;
    assert_eq!(view.rows(), "psps");
    assert_eq!(
        w.branches.trace(),
        ["/02-confirm", "/02-confirm", "/01-confirm"]
    );
}
