//! Scenarios 7 to 9: the way back, orders, and the timeout.

use amends_scenarios::{Gate, Reply, World};
use serde_json::json;
use std::time::{Duration, Instant};

const DIAMOND: &str = r#"{"concurrent":true,"orders":{"1":[0],"2":[0],"3":[1,2]}}"#;

#[tokio::test]
async fn s07_only_unfinished_compensations_are_retried() {
    let w = World::start().await;
    w.branches.script("/c", [Reply::failure("no")]);
    w.branches.script("/b-undo", [Reply::error(), Reply::ok()]);
    // A failure is no answer to a compensation: it is asked again like an error.
    w.branches.script(
        "/a-undo",
        [Reply::failure("no"), Reply::ongoing(), Reply::ok()],
    );
    let extra = json!({"retry_interval": 1});
    w.dtm
        .post("submit", &w.saga("s", &["a", "b", "c"], extra))
        .await
        .expect_success();
    w.branches.wait("/b-undo", 1).await;
    let view = w
        .dtm
        .wait_view("s", "rows", |v| v.rows().starts_with("pspss"))
        .await;
    assert_eq!(view.status(), "aborting");
    assert!(view.field("rollback_reason").contains("no FAILURE"));
    let view = w.dtm.wait_status("s", "failed").await;
    assert_eq!(view.rows(), "sssssf");
    let trace = w.branches.trace();
    let back = [
        "/c-undo", "/b-undo", "/b-undo", "/a-undo", "/a-undo", "/a-undo",
    ];
    assert_eq!(
        (&trace[..3], &trace[3..]),
        (
            &["/a", "/b", "/c"].map(String::from)[..],
            &back.map(String::from)[..]
        )
    );
}

#[tokio::test]
async fn s07_a_kick_retries_a_compensation_at_once() {
    let w = World::start().await;
    w.branches.script("/a", [Reply::failure("no")]);
    w.branches.script("/a-undo", [Reply::error(), Reply::ok()]);
    let extra = json!({"retry_interval": 300, "wait_result": true});
    // Still aborting when nothing more is due within the wait: the decision stands, so it is a failure.
    let answer = w
        .dtm
        .post("submit", &w.saga("s", &["a"], extra))
        .await
        .expect_status(409);
    assert!(
        answer.message().contains("return failed: no"),
        "{}",
        answer.text()
    );
    assert_eq!(w.dtm.query("s").await.status(), "aborting");
    w.dtm.kick("s").await;
    w.dtm.wait_status("s", "failed").await;
    assert_eq!(w.branches.count("/a-undo"), 2);
}

#[tokio::test]
async fn s08_a_diamond_runs_in_order_and_side_by_side() {
    let w = World::start().await;
    let gate = Gate::new();
    w.branches.script("/b", [Reply::ok().behind(&gate)]);
    w.branches.script("/c", [Reply::ok().behind(&gate)]);
    let extra = json!({"custom_data": DIAMOND});
    w.dtm
        .post("submit", &w.saga("s", &["a", "b", "c", "d"], extra))
        .await
        .expect_success();
    let (b, c) = (
        w.branches.wait("/b", 1).await,
        w.branches.wait("/c", 1).await,
    );
    assert!(
        b[0].ended.is_none() && c[0].ended.is_none(),
        "not at the same time"
    );
    gate.open();
    assert_eq!(
        w.dtm.wait_status("s", "succeed").await.rows(),
        "psps".repeat(2)
    );
    let call = |path: &str| w.branches.calls(path)[0].clone();
    for (first, then) in [("/a", "/b"), ("/a", "/c"), ("/b", "/d"), ("/c", "/d")] {
        assert!(
            call(first).ended.expect("answered") <= call(then).at,
            "{then} before the end of {first}"
        );
    }
    assert_eq!(w.branches.trace().len(), 4);
}

#[tokio::test]
async fn s08_a_failure_inside_a_diamond() {
    let w = World::start().await;
    let gate = Gate::new();
    w.branches.script("/b", [Reply::failure("no")]);
    w.branches.script("/c", [Reply::ok().behind(&gate)]);
    let extra = json!({"custom_data": DIAMOND, "request_timeout": 10});
    w.dtm
        .post("submit", &w.saga("s", &["a", "b", "c", "d"], extra))
        .await
        .expect_success();
    w.branches.wait("/c", 1).await;
    w.branches.wait("/b-undo", 1).await;
    w.dtm.wait_status("s", "aborting").await;
    assert_eq!(
        (w.branches.count("/c-undo"), w.branches.count("/a-undo")),
        (0, 0),
        "c is still on its way"
    );
    gate.open();
    let view = w.dtm.wait_status("s", "failed").await;
    assert_eq!(view.rows(), "sssfsspp");
    let call = |path: &str| w.branches.calls(path)[0].clone();
    assert!(call("/c").ended.expect("answered") <= call("/c-undo").at);
    for (first, then) in [("/b-undo", "/a-undo"), ("/c-undo", "/a-undo")] {
        assert!(
            call(first).ended.expect("answered") <= call(then).at,
            "{then} before the end of {first}"
        );
    }
    assert_eq!(
        (w.branches.count("/d"), w.branches.count("/d-undo")),
        (0, 0),
        "d never started"
    );
    assert_eq!(w.branches.trace().len(), 6);
}

#[tokio::test]
async fn s08_orders_bind_without_concurrent_too() {
    let w = World::start().await;
    w.branches.script("/a", [Reply::failure("no")]);
    let extra =
        json!({"custom_data": r#"{"concurrent":true,"orders":{"1":[0]}}"#, "wait_result": true});
    w.dtm
        .post("submit", &w.saga("s", &["a", "b"], extra))
        .await
        .expect_status(409);
    assert_eq!(w.dtm.query("s").await.rows(), "sfpp");
    let extra =
        json!({"custom_data": r#"{"concurrent":false,"orders":{"1":[0]}}"#, "wait_result": true});
    w.dtm
        .post("submit", &w.saga("t", &["b", "c"], extra))
        .await
        .expect_success();
    assert_eq!(w.branches.trace(), ["/a", "/a-undo", "/b", "/c"]);
}

#[tokio::test]
async fn s09_a_timeout_compensates_what_was_started() {
    let w = World::start().await;
    w.branches.script("/a", [Reply::ongoing()]);
    let start = Instant::now();
    let extra = json!({"timeout_to_fail": 2, "retry_interval": 1});
    w.dtm
        .post("submit", &w.saga("s", &["a", "b"], extra))
        .await
        .expect_success();
    let view = w.dtm.wait_status("s", "failed").await;
    assert!(
        start.elapsed() >= Duration::from_millis(1_900),
        "{:?}",
        start.elapsed()
    );
    assert!(
        start.elapsed() < Duration::from_secs(6),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(view.rows(), "sppp");
    assert_eq!(view.field("rollback_reason"), "Timeout after 2 seconds");
    assert_eq!(
        (
            w.branches.count("/a-undo"),
            w.branches.count("/b"),
            w.branches.count("/b-undo")
        ),
        (1, 0, 0)
    );
    let last_action = w.branches.calls("/a").last().map(|c| c.at);
    assert!(last_action.expect("called") < w.branches.calls("/a-undo")[0].at);
}

#[tokio::test]
async fn s09_the_timeout_of_a_prepared_saga_counts_anew_from_its_submit() {
    let w = World::start().await;
    let extra = json!({"timeout_to_fail": 3, "retry_interval": 1});
    let saga = w.saga("s", &["a"], extra);
    w.dtm.post("prepare", &saga).await.expect_success();
    let prepared = Instant::now();
    w.branches.script("/a", [Reply::ongoing()]);
    amends_scenarios::until(prepared + Duration::from_millis(1_500)).await;
    w.dtm.post("submit", &saga).await.expect_success();
    w.dtm.wait_status("s", "failed").await;
    assert!(
        prepared.elapsed() >= Duration::from_millis(4_400),
        "{:?}",
        prepared.elapsed()
    );
}

#[tokio::test]
async fn s09_a_saga_that_is_only_prepared_fails_at_its_timeout_without_a_call() {
    let w = World::start().await;
    let extra = json!({"timeout_to_fail": 1});
    w.dtm
        .post("prepare", &w.saga("s", &["a"], extra))
        .await
        .expect_success();
    let view = w.dtm.wait_status("s", "failed").await;
    assert_eq!(
        (view.rows().as_str(), view.field("rollback_reason")),
        ("pp", "Timeout after 1 seconds")
    );
    w.dtm
        .post("prepare", &w.saga("t", &["a"], json!({})))
        .await
        .expect_success();
    assert_eq!(w.dtm.query("t").await.status(), "prepared");
    assert_eq!(w.branches.trace().len(), 0);
}
