//! Transactions that mix: submitted over one protocol, with branches of another.

use super::{register, world};
use amends_scenarios::{Reply, World, merge};
use serde_json::json;

#[tokio::test]
async fn a_saga_over_grpc_with_branches_of_both() {
    let w = world().await;
    w.branches.script("/b", [Reply::failure("no stock")]);
    let steps = json!([
        {"action": w.branches.url("/a"), "compensate": w.branches.grpc_url("/a-undo")},
        {"action": format!("grpc://{}", w.branches.grpc_url("/b")), "compensate": w.branches.url("/b-undo")},
    ]);
    let body = w.saga("s", &["a", "b"], json!({"steps": steps}));
    w.grpc.dtm_json("Submit", &body).await.expect("accepted");
    let view = w.dtm.wait_status("s", "failed").await;
    assert_eq!(view.rows(), "sssf");
    assert_eq!(w.branches.trace(), ["/a", "/b", "/b-undo", "/a-undo"]);
    assert_eq!(w.branches.calls("/a")[0].param("branch_id"), "01");
    assert_eq!(
        w.branches.calls("/b")[0].header("dtm-branch_id"),
        "02",
        "over gRPC"
    );
    assert_eq!(w.branches.calls("/b-undo")[0].param("op"), "compensate");
    assert_eq!(
        w.branches.calls("/a-undo")[0].header("dtm-op"),
        "compensate"
    );
}

#[tokio::test]
async fn a_saga_over_http_with_grpc_branches() {
    let w = World::start().await;
    let url = |path: &str| format!("grpc://{}", w.branches.grpc_url(path));
    let steps = json!([
        {"action": url("/a"), "compensate": url("/a-undo")},
        {"action": w.url("/b"), "compensate": w.url("/b-undo")},
    ]);
    let extra = json!({"steps": steps, "wait_result": true});
    let body = w.saga("s", &["a", "b"], extra.clone());
    w.dtm.post("submit", &body).await.expect_success();
    assert_eq!(w.branches.trace(), ["/a", "/b"]);
    let a = &w.branches.calls("/a")[0];
    assert_eq!(
        (a.header("dtm-gid"), a.text().as_str()),
        ("s", r#"{"step":"a"}"#)
    );
    let body = w.saga("j", &["a", "b"], extra);
    w.dtm.rpc("submit", &body).await.expect_status(200);
    w.dtm.wait_status("j", "succeed").await;
    // With protocol grpc the scheme may be left out; without it, it is more likely a forgotten http://.
    let bare = json!([{"action": w.branches.grpc_url("/c")}]);
    let body = w.saga("b", &["c"], json!({"steps": bare, "wait_result": true}));
    let answer = w.dtm.post("submit", &body).await.expect_status(400);
    assert!(answer.message().contains("grpc://"), "{}", answer.message());
    let body = merge(body, json!({"protocol": "grpc"}));
    w.dtm.post("submit", &body).await.expect_success();
}

#[tokio::test]
async fn a_tcc_prepared_over_http_with_a_branch_registered_over_grpc() {
    let w = World::with_grpc_branches(&[]).await;
    let body = json!({"gid": "t", "trans_type": "tcc", "wait_result": true});
    w.dtm.post("prepare", &body).await.expect_success();
    register(&w, &w.tcc_branch("t", "01", json!({})))
        .await
        .expect("registered");
    let http =
        json!({"confirm": w.branches.url("/02-confirm"), "cancel": w.branches.url("/02-cancel")});
    let branch = w.tcc_branch("t", "02", http);
    w.dtm.post("registerBranch", &branch).await.expect_success();
    w.grpc.dtm_json("Submit", &body).await.expect("submitted");
    assert_eq!(w.branches.trace(), ["/02-confirm", "/01-confirm"]);
    assert_eq!(
        w.branches.calls("/01-confirm")[0].header("dtm-op"),
        "confirm"
    );
}

#[tokio::test]
async fn a_message_over_grpc_with_a_check_back_over_http() {
    let w = world().await;
    let extra = json!({"query_prepared": w.branches.url("/check"), "timeout_to_fail": 1, "retry_interval": 1});
    let body = w.msg("m", &["a"], extra);
    w.grpc.dtm_json("Prepare", &body).await.expect("prepared");
    w.dtm.wait_status("m", "succeed").await;
    assert_eq!(w.branches.trace(), ["/check", "/a"]);
    assert_eq!(w.branches.calls("/check")[0].param("op"), "msg");
}
