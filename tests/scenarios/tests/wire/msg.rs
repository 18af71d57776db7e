//! Scenarios 17, 19 and 20: two-phase messages.

use amends_scenarios::{DURABLE, Gate, Reply, World, merge};
use serde_json::json;
use std::time::{Duration, Instant};

fn only(gid: &str) -> serde_json::Value {
    json!({"gid": gid, "trans_type": "msg"})
}

#[tokio::test]
async fn s17_submit_directly_and_again() {
    let w = World::start().await;
    let gate = Gate::new();
    w.branches.script("/b", [Reply::ok().behind(&gate)]);
    let body = w.msg("m", &["a", "b"], json!({"request_timeout": 10}));
    w.dtm.post("submit", &body).await.expect_success();
    w.branches.wait("/b", 1).await;
    w.dtm.post("submit", &body).await.expect_success();
    let prepare = w.dtm.post("prepare", &body).await;
    prepare.expect_wrong_state(
        "current status 'submitted', cannot prepare. FAILURE",
        "submitted",
    );
    let abort = w.dtm.post("abort", &only("m")).await;
    abort.expect_wrong_state(
        "trans type: 'msg' current status 'submitted', cannot abort. FAILURE",
        "submitted",
    );
    gate.open();
    let view = w.dtm.wait_status("m", "succeed").await;
    assert_eq!(
        (view.row_names(), view.rows().as_str()),
        (vec!["01/action".to_owned(), "02/action".to_owned()], "ss")
    );
    assert_eq!(w.branches.trace(), ["/a", "/b"]);
    assert_eq!(
        w.branches.calls("/a")[0].query,
        "branch_id=01&gid=m&op=action&trans_type=msg"
    );
    let again = w.dtm.post("submit", &body).await;
    again.expect_wrong_state(
        "current status 'succeed', cannot sumbmit. FAILURE",
        "succeed",
    );
}

#[tokio::test]
async fn s17_prepare_then_submit_with_other_content() {
    let w = World::start().await;
    let headers = json!({"branch_headers": {"X-Foo": "bar"}});
    w.dtm
        .post("prepare", &w.msg("m", &["a", "b"], headers))
        .await
        .expect_success();
    w.dtm
        .post("prepare", &w.msg("m", &["x"], json!({})))
        .await
        .expect_success();
    let created = w.dtm.query("m").await.field("create_time").to_owned();
    assert_eq!(w.branches.trace().len(), 0);
    let other = w.msg(
        "m",
        &["x", "y", "z"],
        json!({"query_prepared": "", "wait_result": true}),
    );
    w.dtm.post("submit", &other).await.expect_success();
    let view = w.dtm.query("m").await;
    assert_eq!(w.branches.trace(), ["/a", "/b"]);
    assert_eq!(w.branches.calls("/a")[0].header("x-foo"), "bar");
    assert_eq!(w.branches.calls("/b")[0].text(), r#"{"step":"b"}"#);
    assert_eq!(
        (view.field("create_time"), view.field("query_prepared")),
        (created.as_str(), w.url("/check").as_str())
    );
    assert_eq!(
        view.json["transaction"]["steps"].as_array().map(Vec::len),
        Some(2)
    );
}

#[tokio::test]
async fn s17_what_a_submit_adds_replaces_what_was_stored() {
    let w = World::start().await;
    let stored = json!({"branch_headers": {"X-Foo": "old"}, "retry_interval": 7});
    w.dtm
        .post("prepare", &w.msg("m", &["a"], stored))
        .await
        .expect_success();
    w.branches.script("/a", [Reply::ongoing()]);
    let added = merge(
        only("m"),
        json!({"branch_headers": {"X-Foo": "new"}, "retry_interval": 9}),
    );
    w.dtm.post("submit", &added).await.expect_success();
    assert_eq!(w.branches.wait("/a", 1).await[0].header("x-foo"), "new");
    // A repeated submit changes nothing stored.
    let again = merge(
        only("m"),
        json!({"branch_headers": {"X-Foo": "third"}, "retry_interval": 99}),
    );
    w.dtm.post("submit", &again).await.expect_success();
    w.kick_until("m", "/a", 2).await;
    assert_eq!(w.branches.calls("/a")[1].header("x-foo"), "new");
    let view = w.dtm.query("m").await;
    assert_eq!(
        view.json["transaction"]["retry_interval"], 9,
        "{}",
        view.text
    );
}

#[tokio::test]
async fn s17_abort_and_again() {
    let w = World::start().await;
    w.dtm
        .post("prepare", &w.msg("m", &["a"], json!({})))
        .await
        .expect_success();
    w.dtm
        .post(
            "abort",
            &merge(only("m"), json!({"rollback_reason": "changed my mind"})),
        )
        .await
        .expect_success();
    let view = w.dtm.query("m").await;
    assert_eq!((view.status(), view.rows().as_str()), ("failed", "p"));
    assert_eq!(view.field("rollback_reason"), "changed my mind");
    assert!(!view.field("rollback_time").is_empty());
    let again = w.dtm.post("abort", &only("m")).await;
    again.expect_wrong_state(
        "trans type: 'msg' current status 'failed', cannot abort. FAILURE",
        "failed",
    );
    let submit = w.dtm.post("submit", &only("m")).await;
    submit.expect_wrong_state("current status 'failed', cannot sumbmit. FAILURE", "failed");
    assert_eq!(w.branches.trace().len(), 0);
}

#[tokio::test]
async fn s17_without_steps_it_succeeds_at_once() {
    let w = World::start().await;
    w.dtm
        .post("submit", &merge(only("m"), json!({"wait_result": true})))
        .await
        .expect_success();
    let view = w.dtm.query("m").await;
    assert_eq!((view.status(), view.rows().as_str()), ("succeed", ""));
}

#[tokio::test]
async fn s17_a_submitted_message_never_rolls_back() {
    let w = World::start().await;
    w.branches
        .script("/a", [Reply::failure("no"), Reply::error(), Reply::ok()]);
    w.dtm
        .post(
            "submit",
            &w.msg(
                "m",
                &["a"],
                json!({"retry_interval": 1, "timeout_to_fail": 1}),
            ),
        )
        .await
        .expect_success();
    w.branches.wait("/a", 1).await;
    w.dtm.wait_status("m", "succeed").await;
    assert_eq!(w.branches.trace(), ["/a", "/a", "/a"]);
}

#[tokio::test]
async fn s19_the_delay_counts_from_the_submit() {
    let w = World::start().await;
    let body = w.msg("m", &["a"], json!({"custom_data": r#"{"delay":2}"#}));
    w.dtm.post("prepare", &body).await.expect_success();
    amends_scenarios::until(Instant::now() + Duration::from_millis(1_200)).await;
    let submitted = Instant::now();
    w.dtm.post("submit", &body).await.expect_success();
    // Neither an operator nor a repeated submit cuts the delay.
    w.dtm.kick("m").await;
    w.dtm.post("submit", &body).await.expect_success();
    w.dtm
        .get("/api/dtmsvr/resetCronTime?timeout=0")
        .await
        .expect_status(200);
    let called = w.branches.wait("/a", 1).await[0].at - submitted;
    assert!(
        (1_990..4_000).contains(&called.as_millis()),
        "called after {called:?}"
    );
    w.dtm.wait_status("m", "succeed").await;
    assert_eq!(w.branches.trace(), ["/a"]);
}

#[tokio::test]
async fn s19_a_restart_neither_shortens_nor_repeats_the_delay() {
    let mut w = World::with(&[DURABLE]).await;
    let submitted = Instant::now();
    let body = w.msg("m", &["a"], json!({"custom_data": r#"{"delay":3}"#}));
    w.dtm.post("submit", &body).await.expect_success();
    w.crash().await;
    let called = w.branches.wait("/a", 1).await[0].at - submitted;
    assert!(
        (2_990..6_000).contains(&called.as_millis()),
        "called after {called:?}"
    );
    w.dtm.wait_status("m", "succeed").await;
}

#[tokio::test]
async fn s20_the_branches_of_a_concurrent_message_are_independent() {
    let w = World::start().await;
    let gate = Gate::new();
    w.branches.script("/a", [Reply::ok().behind(&gate)]);
    w.branches
        .script("/b", [Reply::error(), Reply::ongoing(), Reply::ok()]);
    let extra = json!({"concurrent": true, "retry_interval": 1, "request_timeout": 20});
    w.dtm
        .post("submit", &w.msg("m", &["a", "b", "c"], extra))
        .await
        .expect_success();
    // `b` is asked again while `a` is still on its way.
    w.branches.wait("/b", 3).await;
    w.branches.wait("/c", 1).await;
    assert!(w.branches.calls("/a")[0].ended.is_none());
    gate.open();
    assert_eq!(w.dtm.wait_status("m", "succeed").await.rows(), "sss");
    let counts = ["/a", "/b", "/c"].map(|path| w.branches.count(path));
    assert_eq!(counts, [1, 3, 1]);
}

#[tokio::test]
async fn s20_a_sequential_message_stops_at_the_first_that_is_not_done() {
    let w = World::start().await;
    w.branches.script("/b", [Reply::error(), Reply::ok()]);
    w.dtm
        .post(
            "submit",
            &w.msg("m", &["a", "b", "c"], json!({"retry_interval": 1})),
        )
        .await
        .expect_success();
    w.dtm.wait_status("m", "succeed").await;
    assert_eq!(w.branches.trace(), ["/a", "/b", "/b", "/c"]);
}
