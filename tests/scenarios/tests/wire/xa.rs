//! Scenario 16, and what scenarios 13 to 15 say of XA.

use amends_scenarios::{Reply, World, merge};
use http::Method;
use serde_json::{Value, json};

fn xa(gid: &str, extra: Value) -> Value {
    merge(json!({"gid": gid, "trans_type": "xa"}), extra)
}

async fn prepared(w: &World, gid: &str, ids: &[&str], extra: Value) {
    w.dtm
        .post("prepare", &xa(gid, extra))
        .await
        .expect_success();
    for id in ids {
        let branch = xa(
            gid,
            json!({"branch_id": id, "url": w.url(&format!("/{id}"))}),
        );
        w.dtm.post("registerBranch", &branch).await.expect_success();
    }
}

#[tokio::test]
async fn s16_commit_from_first_to_last() {
    let w = World::start().await;
    prepared(&w, "x", &["01", "02"], json!({})).await;
    w.dtm
        .post("submit", &xa("x", json!({"wait_result": true})))
        .await
        .expect_success();
    let view = w.dtm.query("x").await;
    assert_eq!((view.status(), view.rows().as_str()), ("succeed", "psps"));
    assert_eq!(
        view.row_names(),
        ["01/rollback", "01/commit", "02/rollback", "02/commit"]
    );
    assert_eq!(w.branches.trace(), ["/01", "/02"]);
    for id in ["01", "02"] {
        let call = &w.branches.calls(&format!("/{id}"))[0];
        assert_eq!(
            call.query,
            format!("branch_id={id}&gid=x&op=commit&trans_type=xa")
        );
        assert_eq!((call.method.clone(), call.body.len()), (Method::POST, 0));
    }
    let again = w.dtm.post("submit", &xa("x", json!({}))).await;
    again.expect_wrong_state(
        "current status 'succeed', cannot sumbmit. FAILURE",
        "succeed",
    );
    w.dtm.kick("x").await;
    assert_eq!(w.branches.trace().len(), 2);
}

#[tokio::test]
async fn s16_rollback_from_first_to_last() {
    let w = World::start().await;
    w.branches.script("/01", [Reply::error(), Reply::ok()]);
    prepared(&w, "x", &["01", "02"], json!({"retry_interval": 1})).await;
    w.dtm
        .post("abort", &xa("x", json!({"rollback_reason": "because"})))
        .await
        .expect_success();
    let view = w.dtm.wait_status("x", "failed").await;
    assert_eq!(
        (view.rows().as_str(), view.field("rollback_reason")),
        ("spsp", "because")
    );
    assert_eq!(w.branches.trace(), ["/01", "/01", "/02"]);
    for call in w.branches.calls("/02") {
        assert_eq!(call.query, "branch_id=02&gid=x&op=rollback&trans_type=xa");
        assert_eq!((call.method.clone(), call.body.len()), (Method::POST, 0));
    }
}

#[tokio::test]
async fn s16_a_payload_is_sent_too() {
    let w = World::start().await;
    prepared(&w, "x", &[], json!({})).await;
    let branch = xa(
        "x",
        json!({"branch_id": "01", "url": w.url("/01"), "data": "{\"a\":1}"}),
    );
    w.dtm.post("registerBranch", &branch).await.expect_success();
    w.dtm
        .post("submit", &xa("x", json!({"wait_result": true})))
        .await
        .expect_success();
    assert_eq!(w.branches.calls("/01")[0].text(), r#"{"a":1}"#);
}

#[tokio::test]
async fn s15_submit_again_while_a_commit_is_pending() {
    let w = World::start().await;
    w.branches.script("/01", [Reply::ongoing(), Reply::ok()]);
    prepared(&w, "x", &["01", "02"], json!({"retry_interval": 30})).await;
    for _ in 0..3 {
        w.dtm
            .post("submit", &xa("x", json!({})))
            .await
            .expect_success();
        w.branches.wait("/01", 1).await;
        assert_eq!(w.dtm.query("x").await.status(), "submitted");
    }
    w.kick_until("x", "/01", 2).await;
    w.dtm.wait_status("x", "succeed").await;
    assert_eq!(w.branches.trace(), ["/01", "/01", "/02"]);
}

#[tokio::test]
async fn s14_a_prepared_xa_is_rolled_back_at_its_timeout() {
    let w = World::start().await;
    prepared(&w, "x", &["01"], json!({"timeout_to_fail": 1})).await;
    let view = w.dtm.wait_status("x", "failed").await;
    assert_eq!(
        (view.rows().as_str(), view.field("rollback_reason")),
        ("sp", "Timeout after 1 seconds")
    );
    let late = xa("x", json!({"branch_id": "02", "url": w.url("/02")}));
    let answer = w.dtm.post("registerBranch", &late).await;
    answer.expect_wrong_state(
        "no trans with gid: x status: prepared found FAILURE",
        "failed",
    );
    assert_eq!(w.branches.calls("/01")[0].param("op"), "rollback");
}
