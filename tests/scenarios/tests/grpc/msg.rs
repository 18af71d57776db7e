//! Scenarios 17 to 21: messages and topics.

use super::{ABORTED, ALREADY_EXISTS, INVALID_ARGUMENT, NOT_FOUND, refused, world};
use amends::wire::grpc::dtmgimp::DtmTopicRequest;
use amends_scenarios::{Reply, World};
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn s17_submitted_prepared_and_aborted() {
    let w = world().await;
    let direct = w.msg("m1", &["a", "b"], json!({"wait_result": true}));
    w.grpc.dtm_json("Submit", &direct).await.expect("delivered");
    assert_eq!(w.branches.trace(), ["/a", "/b"]);

    let body = w.msg("m2", &["c"], json!({}));
    for _ in 0..2 {
        w.grpc.dtm_json("Prepare", &body).await.expect("prepared");
    }
    assert_eq!(w.dtm.query("m2").await.status(), "prepared");
    // What was prepared counts, whatever the submit says.
    let other = w.msg("m2", &["other"], json!({}));
    w.grpc.dtm_json("Submit", &other).await.expect("submitted");
    w.dtm.wait_status("m2", "succeed").await;
    assert_eq!(w.branches.trace(), ["/a", "/b", "/c"]);

    let body = w.msg("m3", &["d"], json!({}));
    w.grpc.dtm_json("Prepare", &body).await.expect("prepared");
    w.grpc.dtm_json("Abort", &body).await.expect("aborted");
    assert_eq!(w.dtm.query("m3").await.status(), "failed");
    refused(
        w.grpc.dtm_json("Submit", &body).await,
        ABORTED,
        "current status 'failed', cannot sumbmit. FAILURE",
    );
}

#[tokio::test]
async fn s18_query_prepared_decides() {
    for (gid, reply, status) in [
        ("yes", Reply::ok(), "succeed"),
        ("no", Reply::failure("rolled back"), "failed"),
    ] {
        let w = world().await;
        w.branches
            .script("/check", [Reply::ongoing(), Reply::error(), reply]);
        let extra = json!({"timeout_to_fail": 1, "retry_interval": 1});
        let body = w.msg(gid, &["a"], extra);
        w.grpc.dtm_json("Prepare", &body).await.expect("prepared");
        let call = &w.branches.wait("/check", 1).await[0];
        assert_eq!(
            (call.header("dtm-branch_id"), call.header("dtm-op")),
            ("00", "msg")
        );
        assert!(call.body.is_empty());
        w.kick_until(gid, "/check", 3).await;
        w.dtm.wait_status(gid, status).await;
        let delivered = usize::from(status == "succeed");
        assert_eq!(w.branches.count("/a"), delivered);
    }
}

#[tokio::test]
async fn s19_a_delay_counts_from_submit() {
    let w = world().await;
    let body = w.msg("m", &["a"], json!({"custom_data": r#"{"delay":1}"#}));
    let start = Instant::now();
    w.grpc.dtm_json("Submit", &body).await.expect("accepted");
    let call = &w.branches.wait("/a", 1).await[0];
    assert!(call.at - start >= Duration::from_secs(1));
}

/// DTM has no concurrent message over gRPC (fault 57): its options lack the field.
#[tokio::test]
async fn s20_concurrent() {
    let w = world().await;
    w.branches.script("/a", [Reply::error(), Reply::ok()]);
    let extra = json!({"concurrent": true, "retry_interval": 1});
    let body = w.msg("m", &["a", "b"], extra);
    w.grpc.dtm_json("Submit", &body).await.expect("accepted");
    w.branches.wait("/b", 1).await;
    w.kick_until("m", "/a", 2).await;
    w.dtm.wait_status("m", "succeed").await;
    assert_eq!((w.branches.count("/a"), w.branches.count("/b")), (2, 1));
}

async fn topic(
    w: &World,
    method: &str,
    topic: &str,
    url: &str,
) -> Result<(), amends_scenarios::GrpcStatus> {
    let request = DtmTopicRequest {
        topic: topic.to_owned(),
        url: url.to_owned(),
        remark: "r".to_owned(),
    };
    w.grpc.dtm(method, &request).await
}

#[tokio::test]
async fn s21_topics() {
    let w = world().await;
    let steps = json!([{"action": "topic://tp"}]);
    let body = |gid: &str| {
        w.msg(
            gid,
            &["x"],
            json!({"steps": steps.clone(), "wait_result": true}),
        )
    };
    refused(
        w.grpc.dtm_json("Submit", &body("m0")).await,
        NOT_FOUND,
        "topic not found",
    );
    let (grpc, http) = (w.url("/a"), w.branches.url("/b"));
    topic(&w, "Subscribe", "tp", &grpc)
        .await
        .expect("subscribes");
    topic(&w, "Subscribe", "tp", &http)
        .await
        .expect("subscribes");
    refused(
        topic(&w, "Subscribe", "tp", &grpc).await,
        ALREADY_EXISTS,
        "this url exists",
    );
    assert_eq!(
        topic(&w, "Subscribe", "", &grpc)
            .await
            .expect_err("no topic")
            .code,
        INVALID_ARGUMENT
    );
    w.grpc
        .dtm_json("Submit", &body("m1"))
        .await
        .expect("delivered");
    assert_eq!(w.branches.trace(), ["/a", "/b"]);
    assert_eq!(
        w.branches.calls("/a")[0].header("dtm-branch_id"),
        "01-01",
        "called over gRPC"
    );
    assert_eq!(w.branches.calls("/b")[0].param("branch_id"), "01-02");
    // A subscriber without a scheme holds up nobody who publishes over HTTP.
    let check = json!({"query_prepared": w.branches.url("/check")});
    let over_http = amends_scenarios::merge(body("m2"), check);
    w.dtm.post("submit", &over_http).await.expect_success();
    assert_eq!(w.branches.count("/a"), 2);
    topic(&w, "Unsubscribe", "tp", &http)
        .await
        .expect("unsubscribes");
    refused(
        topic(&w, "Unsubscribe", "tp", &http).await,
        NOT_FOUND,
        "no such an url ",
    );
    topic(&w, "DeleteTopic", "tp", "").await.expect("deleted");
    refused(
        topic(&w, "DeleteTopic", "tp", "").await,
        NOT_FOUND,
        "storage: NotFound",
    );
}
