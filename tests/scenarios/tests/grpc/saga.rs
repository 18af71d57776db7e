//! Scenarios 4 to 11: sagas.

use super::{ABORTED, FAILED_PRECONDITION, refused, world};
use amends_scenarios::{Gate, Reply, merge};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn s04_two_steps_succeed() {
    let w = world().await;
    let extra = json!({"branch_headers": {"Test_Header": "t1", "X-Bin": "ü"}, "request_timeout": 7, "wait_result": true});
    let body = w.saga("gs1", &["a", "b"], extra);
    w.grpc.dtm_json("Submit", &body).await.expect("succeeds");
    let view = w.dtm.query("gs1").await;
    assert_eq!((view.status(), view.rows().as_str()), ("succeed", "psps"));
    assert_eq!(view.field("protocol"), "grpc");
    assert_eq!(w.branches.trace(), ["/a", "/b"]);
    let a = &w.branches.calls("/a")[0];
    for (name, want) in [
        ("dtm-gid", "gs1"),
        ("dtm-trans_type", "saga"),
        ("dtm-branch_id", "01"),
        ("dtm-op", "action"),
        ("dtm-dtm", ""),
        ("test_header", "t1"),
        ("x-bin", "w7w"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", "7000m"),
    ] {
        assert!(a.headers.contains_key(name), "{name}");
        assert_eq!(a.header(name), want, "{name}");
    }
    assert_eq!(a.text(), r#"{"step":"a"}"#);
    assert_eq!(w.branches.calls("/b")[0].header("dtm-branch_id"), "02");
}

#[tokio::test]
async fn s04_payloads_are_bytes() {
    let w = world().await;
    let mut request = amends_scenarios::dtm_request(&w.saga("s", &["a"], json!({})));
    request.bin_payloads = vec![b"\x00\xff\x08\x1e".as_slice().into()];
    w.grpc.dtm("Submit", &request).await.expect("accepted");
    w.dtm.wait_status("s", "succeed").await;
    assert_eq!(&w.branches.calls("/a")[0].body[..], b"\x00\xff\x08\x1e");
}

#[tokio::test]
async fn s05_a_failing_action_is_compensated_in_reverse() {
    let w = world().await;
    w.branches.script("/b", [Reply::failure("no stock")]);
    let body = w.saga("s", &["a", "b"], json!({"wait_result": true}));
    let reason = format!("url:{} return failed: no stock FAILURE", w.url("/b"));
    refused(w.grpc.dtm_json("Submit", &body).await, ABORTED, &reason);
    let view = w.dtm.wait_status("s", "failed").await;
    assert_eq!(view.rows(), "sssf");
    assert_eq!(view.field("rollback_reason"), reason);
    assert_eq!(w.branches.trace(), ["/a", "/b", "/b-undo", "/a-undo"]);
    assert_eq!(
        w.branches.calls("/a-undo")[0].header("dtm-op"),
        "compensate"
    );
}

#[tokio::test]
async fn s06_what_each_status_of_an_action_means() {
    const UNAVAILABLE: u16 = 14;
    const OLD_ONGOING: u16 = 10;
    for (gid, first, errors) in [
        ("ongoing", Reply::ongoing(), 0),
        ("old", Reply::new(OLD_ONGOING, "ONGOING"), 0),
        ("error", Reply::error(), 1),
        ("down", Reply::new(UNAVAILABLE, "later"), 1),
        ("reset", Reply::cut(), 1),
    ] {
        let w = world().await;
        w.branches.script("/a", [first, Reply::ok()]);
        let body = w.saga(gid, &["a"], json!({"retry_interval": 100}));
        w.grpc.dtm_json("Submit", &body).await.expect("accepted");
        w.branches.wait("/a", 1).await;
        // Ongoing keeps the interval, an error doubles it.
        let interval = 100 << errors;
        let view = w.dtm.wait_interval(gid, interval).await;
        let counted = &view.json["transaction"]["retry_count"];
        assert_eq!(counted.as_u64().unwrap_or(0), errors, "{gid}");
        assert_eq!(view.status(), "submitted", "{gid}");
        w.kick_until(gid, "/a", 2).await;
        w.dtm.wait_status(gid, "succeed").await;
    }
}

#[tokio::test]
async fn s06_the_error_of_a_call_is_shown() {
    let w = world().await;
    w.branches.script("/a", [Reply::new(14, "later, please")]);
    let body = w.saga("s", &["a"], json!({}));
    w.grpc.dtm_json("Submit", &body).await.expect("accepted");
    let shown = |v: &amends_scenarios::View| !v.field("last_error").is_empty();
    let view = w.dtm.wait_view("s", "an error", shown).await;
    assert!(
        view.field("last_error")
            .contains("answered UNAVAILABLE: later, please"),
        "{}",
        view.field("last_error")
    );
}

#[tokio::test]
async fn s07_only_what_is_not_compensated_yet_is_called_again() {
    let w = world().await;
    w.branches.script("/c", [Reply::failure("no")]);
    w.branches.script(
        "/b-undo",
        [Reply::error(), Reply::failure("never"), Reply::ok()],
    );
    let body = w.saga("s", &["a", "b", "c"], json!({"retry_interval": 1}));
    w.grpc.dtm_json("Submit", &body).await.expect("accepted");
    w.kick_until("s", "/b-undo", 3).await;
    let view = w.dtm.wait_status("s", "failed").await;
    assert_eq!(view.rows(), "sssssf");
    assert_eq!(
        w.branches.trace(),
        [
            "/a", "/b", "/c", "/c-undo", "/b-undo", "/b-undo", "/b-undo", "/a-undo"
        ]
    );
}

#[tokio::test]
async fn s08_concurrent_with_orders() {
    let w = world().await;
    let orders = r#"{"concurrent":true,"orders":{"1":[0],"2":[0],"3":[1,2]}}"#;
    w.branches.script("/d", [Reply::failure("no")]);
    let extra = json!({"custom_data": orders, "concurrent": true, "wait_result": true});
    let body = w.saga("s", &["a", "b", "c", "d"], extra);
    let refused = w.grpc.dtm_json("Submit", &body).await.expect_err("fails");
    assert_eq!(refused.code, ABORTED);
    w.dtm.wait_status("s", "failed").await;
    let trace = w.branches.trace();
    let at = |path: &str| trace.iter().position(|p| p == path).expect(path);
    assert_eq!((at("/a"), at("/d")), (0, 3), "{trace:?}");
    assert_eq!(at("/d-undo"), 4, "{trace:?}");
    assert_eq!(at("/a-undo"), 7, "{trace:?}");
}

#[tokio::test]
async fn s09_a_timeout_rolls_back() {
    let w = world().await;
    w.branches.script("/a", [Reply::ongoing()]);
    let extra = json!({"timeout_to_fail": 1, "retry_interval": 1});
    let body = w.saga("s", &["a"], extra);
    w.grpc.dtm_json("Submit", &body).await.expect("accepted");
    let view = w.dtm.wait_status("s", "failed").await;
    assert_eq!(view.field("rollback_reason"), "Timeout after 1 seconds");
    assert_eq!(w.branches.calls("/a-undo").len(), 1);
}

#[tokio::test]
async fn s10_retry_limit() {
    let w = world().await;
    w.branches.script("/a", [Reply::error()]);
    let extra = json!({"retry_limit": 2, "retry_interval": 1, "wait_result": true});
    let body = w.saga("s", &["a"], extra);
    refused(
        w.grpc.dtm_json("Submit", &body).await,
        ABORTED,
        "RetryCount is greater than RetryLimit, RetryLimit: 2 FAILURE",
    );
    assert_eq!(w.branches.count("/a"), 3);
}

#[tokio::test]
async fn s11_a_wait_without_an_end_is_no_failure() {
    let w = world().await;
    w.branches.script("/a", [Reply::ongoing(), Reply::ok()]);
    let extra = json!({"wait_result": true, "retry_interval": 100});
    let body = w.saga("s", &["a"], extra);
    let status = w.grpc.dtm_json("Submit", &body).await.expect_err("open");
    assert_eq!(status.code, FAILED_PRECONDITION);
    assert!(status.message.contains("ONGOING"), "{}", status.message);
    w.kick_until("s", "/a", 2).await;
    w.dtm.wait_status("s", "succeed").await;
    let again = w.grpc.dtm_json("Submit", &body).await;
    refused(
        again,
        ABORTED,
        "current status 'succeed', cannot sumbmit. FAILURE",
    );
}

#[tokio::test]
async fn s11_a_client_that_goes_away_changes_nothing() {
    let w = world().await;
    let gate = Gate::new();
    w.branches.script("/a", [Reply::ok().behind(&gate)]);
    let body = merge(
        w.saga("s", &["a", "b"], json!({})),
        json!({"wait_result": true}),
    );
    let client = w.grpc.clone();
    let waiting = tokio::spawn(async move { client.dtm_json("Submit", &body).await });
    w.branches.wait("/a", 1).await;
    waiting.abort();
    tokio::time::timeout(Duration::from_secs(5), waiting)
        .await
        .expect("gone")
        .expect_err("aborted");
    gate.open();
    w.dtm.wait_status("s", "succeed").await;
    assert_eq!(w.branches.trace(), ["/a", "/b"]);
}
