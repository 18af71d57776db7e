//! Scenarios 12 to 16: TCC and XA.

use super::{ABORTED, NOT_FOUND, refused, register, world};
use amends_scenarios::{Reply, World, merge};
use serde_json::{Value, json};

async fn tcc(w: &World, gid: &str, ids: &[&str], extra: Value) {
    let body = merge(json!({"gid": gid, "trans_type": "tcc"}), extra);
    w.grpc.dtm_json("Prepare", &body).await.expect("prepared");
    for id in ids {
        register(w, &w.tcc_branch(gid, id, json!({})))
            .await
            .expect("registered");
    }
}

fn end(gid: &str, trans_type: &str, extra: Value) -> Value {
    merge(json!({"gid": gid, "trans_type": trans_type}), extra)
}

#[tokio::test]
async fn s12_confirm_and_cancel_in_reverse_order_of_registration() {
    let w = world().await;
    for (gid, method, op) in [("t1", "Submit", "confirm"), ("t2", "Abort", "cancel")] {
        tcc(&w, gid, &["01", "0101", "02"], json!({})).await;
        let body = end(
            gid,
            "tcc",
            json!({"wait_result": true, "rollback_reason": "no stock"}),
        );
        w.grpc.dtm_json(method, &body).await.expect(method);
        let calls: Vec<String> = w
            .branches
            .trace()
            .into_iter()
            .filter(|p| p.ends_with(op))
            .collect();
        let want = ["02", "0101", "01"].map(|id| format!("/{id}-{op}"));
        assert_eq!(calls, want);
        let call = &w.branches.calls(&format!("/0101-{op}"))[0];
        assert_eq!(
            (
                call.header("dtm-gid"),
                call.header("dtm-branch_id"),
                call.header("dtm-op")
            ),
            (gid, "0101", op)
        );
        assert_eq!(call.text(), r#"{"branch":"0101"}"#);
    }
    assert_eq!(w.dtm.query("t2").await.field("rollback_reason"), "no stock");
}

#[tokio::test]
async fn s13_every_request_after_the_decision() {
    let w = world().await;
    tcc(&w, "t", &["01"], json!({})).await;
    // Prepared again, and the same registration again: nothing changes.
    tcc(&w, "t", &["01"], json!({})).await;
    let other = w.tcc_branch("t", "01", json!({"data": "other"}));
    assert_eq!(
        register(&w, &other).await.expect_err("differs").code,
        ABORTED
    );
    let submit = end("t", "tcc", json!({"wait_result": true}));
    w.grpc.dtm_json("Submit", &submit).await.expect("submitted");
    refused(
        w.grpc.dtm_json("Abort", &submit).await,
        ABORTED,
        "trans type: 'tcc' current status 'succeed', cannot abort. FAILURE",
    );
    refused(
        w.grpc.dtm_json("Prepare", &submit).await,
        ABORTED,
        "current status 'succeed', cannot prepare. FAILURE",
    );
    refused(
        register(&w, &w.tcc_branch("t", "02", json!({}))).await,
        ABORTED,
        "no trans with gid: t status: prepared found FAILURE",
    );
    refused(
        w.grpc
            .dtm_json("Submit", &end("none", "tcc", json!({})))
            .await,
        NOT_FOUND,
        "no TransGlobal with gid: none found",
    );
}

#[tokio::test]
async fn s15_a_submit_again_while_confirm_is_pending_confirms() {
    let w = world().await;
    w.branches
        .script("/01-confirm", [Reply::ongoing(), Reply::ok()]);
    tcc(&w, "t", &["01"], json!({})).await;
    let submit = end("t", "tcc", json!({}));
    w.grpc.dtm_json("Submit", &submit).await.expect("submitted");
    w.branches.wait("/01-confirm", 1).await;
    w.grpc.dtm_json("Submit", &submit).await.expect("again");
    assert_eq!(w.dtm.query("t").await.status(), "submitted");
    w.kick_until("t", "/01-confirm", 2).await;
    w.dtm.wait_status("t", "succeed").await;
}

#[tokio::test]
async fn s14_a_timeout_cancels() {
    let w = world().await;
    tcc(&w, "t", &["01"], json!({"timeout_to_fail": 1})).await;
    let view = w.dtm.wait_status("t", "failed").await;
    assert_eq!(view.rows(), "sp");
    assert_eq!(w.branches.trace(), ["/01-cancel"]);
}

#[tokio::test]
async fn s16_xa_is_called_with_an_empty_message() {
    let w = world().await;
    for (gid, method, op) in [("x1", "Submit", "commit"), ("x2", "Abort", "rollback")] {
        let body = end(gid, "xa", json!({"wait_result": true}));
        w.grpc.dtm_json("Prepare", &body).await.expect("prepared");
        for id in ["01", "02"] {
            let url = w.url(&format!("/{gid}-{id}"));
            let branch = json!({"gid": gid, "trans_type": "xa", "branch_id": id, "url": url});
            register(&w, &branch).await.expect("registered");
        }
        w.grpc.dtm_json(method, &body).await.expect(method);
        let paths: Vec<String> = w
            .branches
            .trace()
            .into_iter()
            .filter(|p| p.contains(gid))
            .collect();
        assert_eq!(paths, [format!("/{gid}-01"), format!("/{gid}-02")]);
        let call = &w.branches.calls(&format!("/{gid}-01"))[0];
        assert_eq!((call.header("dtm-op"), call.body.len()), (op, 0));
    }
}
