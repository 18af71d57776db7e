//! Scenarios 6 and 10: how long after an answer an action is called again, and how often.

use amends_scenarios::{Branches, DURABLE, Gate, Reply, World};
use serde_json::json;
use std::time::Duration;

/// Seconds between the calls of a path.
fn gaps(branches: &Branches, path: &str) -> Vec<f64> {
    let calls = branches.calls(path);
    calls
        .windows(2)
        .map(|pair| (pair[1].at - pair[0].at).as_secs_f64())
        .collect()
}

/// Each gap is at least what the rules say and not much more: 10 % of jitter and what a busy machine needs.
#[track_caller]
fn assert_gaps(actual: &[f64], wanted: &[f64]) {
    assert_eq!(actual.len(), wanted.len(), "{actual:?}");
    for (actual, wanted) in actual.iter().zip(wanted) {
        let most = wanted * 1.1 + 0.8;
        assert!(
            (wanted - 0.05..most).contains(actual),
            "{actual} s instead of {wanted} s"
        );
    }
}

#[tokio::test]
async fn s06_errors_double_the_interval_and_ongoing_keeps_it() {
    let w = World::start().await;
    let replies = [
        Reply::error(),
        Reply::error(),
        Reply::ongoing(),
        Reply::ongoing(),
        Reply::ok(),
    ];
    w.branches.script("/a", replies);
    w.dtm
        .post("submit", &w.saga("s", &["a"], json!({"retry_interval": 1})))
        .await
        .expect_success();
    w.dtm.wait_status("s", "succeed").await;
    assert_gaps(&gaps(&w.branches, "/a"), &[2.0, 4.0, 1.0, 1.0]);
}

#[tokio::test]
async fn s06_success_resets_the_interval() {
    let w = World::start().await;
    w.branches.script("/a", [Reply::error(), Reply::ok()]);
    w.branches.script("/b", [Reply::error(), Reply::ok()]);
    w.dtm
        .post(
            "submit",
            &w.saga("s", &["a", "b"], json!({"retry_interval": 1})),
        )
        .await
        .expect_success();
    w.dtm.wait_status("s", "succeed").await;
    assert_gaps(&gaps(&w.branches, "/a"), &[2.0]);
    assert_gaps(&gaps(&w.branches, "/b"), &[2.0]);
}

#[tokio::test]
async fn s06_failing_branches_do_not_multiply_each_others_interval() {
    let w = World::start().await;
    for path in ["/a", "/b", "/c"] {
        w.branches.script(path, [Reply::error()]);
    }
    let extra =
        json!({"retry_interval": 20, "custom_data": r#"{"concurrent":true}"#, "wait_result": true});
    w.dtm
        .post("submit", &w.saga("s", &["a", "b", "c"], extra))
        .await
        .expect_status(425);
    w.dtm.wait_interval("s", 40).await;
    assert_eq!(w.branches.trace().len(), 3);
}

#[tokio::test]
async fn s06_the_interval_has_a_cap() {
    let w = World::with(&[("AMENDS_RETRY_CAP", "30")]).await;
    w.branches.script("/a", [Reply::error()]);
    // A base above the cap is kept as it is.
    for (gid, base, shown) in [("s", 20, 30), ("t", 40, 40)] {
        let extra = json!({"retry_interval": base, "wait_result": true});
        w.dtm
            .post("submit", &w.saga(gid, &["a"], extra))
            .await
            .expect_status(425);
        let failed = w
            .dtm
            .wait_view(gid, "its error", |v| {
                v.json["transaction"]["last_error"].is_string()
            })
            .await;
        assert_eq!(
            failed.json["transaction"]["next_cron_interval"], shown,
            "{}",
            failed.text
        );
    }
}

#[tokio::test]
async fn s06_an_unreachable_participant_and_one_that_hangs_up() {
    let w = World::start().await;
    w.branches.script("/cut", [Reply::cut(), Reply::ok()]);
    w.dtm
        .post(
            "submit",
            &w.saga("cut", &["cut"], json!({"retry_interval": 1})),
        )
        .await
        .expect_success();
    let nobody = format!("http://127.0.0.1:{}/a", amends_scenarios::free_port());
    let steps = json!([{"action": nobody, "compensate": ""}]);
    let extra = json!({"steps": steps, "wait_result": true, "retry_interval": 20});
    w.dtm
        .post("submit", &w.saga("nobody", &["a"], extra))
        .await
        .expect_status(425);
    assert_eq!(w.dtm.query("nobody").await.status(), "submitted");
    w.dtm.wait_status("cut", "succeed").await;
    assert_gaps(&gaps(&w.branches, "/cut"), &[2.0]);
}

#[tokio::test]
async fn s06_a_call_that_takes_too_long_is_an_error() {
    let w = World::start().await;
    let gate = Gate::new();
    w.branches
        .script("/a", [Reply::ok().behind(&gate), Reply::ok()]);
    let extra = json!({"request_timeout": 1, "retry_interval": 1});
    w.dtm
        .post("submit", &w.saga("s", &["a"], extra))
        .await
        .expect_success();
    w.dtm.wait_status("s", "succeed").await;
    // One second for the call, then the doubled interval.
    assert_gaps(&gaps(&w.branches, "/a"), &[3.0]);
}

#[tokio::test]
async fn s10_success_within_the_retry_limit() {
    let w = World::start().await;
    w.branches.script(
        "/a",
        [Reply::error(), Reply::error(), Reply::error(), Reply::ok()],
    );
    let extra = json!({"retry_limit": 3, "wait_result": true, "retry_interval": 10});
    w.dtm
        .post("submit", &w.saga("s", &["a", "b"], extra))
        .await
        .expect_success();
    assert_eq!(w.branches.count("/a"), 4);
    assert!(
        gaps(&w.branches, "/a")
            .iter()
            .all(|gap| (0.05..2.0).contains(gap)),
        "{:?}",
        gaps(&w.branches, "/a")
    );
}

#[tokio::test]
async fn s10_abort_beyond_the_retry_limit() {
    let w = World::start().await;
    w.branches.script("/b", [Reply::error()]);
    let extra = json!({"retry_limit": 2, "wait_result": true, "retry_interval": 10});
    let answer = w
        .dtm
        .post("submit", &w.saga("s", &["a", "b"], extra))
        .await
        .expect_status(409);
    let reason = "RetryCount is greater than RetryLimit, RetryLimit: 2";
    // The answer of wait_result ends in the word that clients search for.
    assert!(answer.message().starts_with(reason), "{}", answer.text());
    let view = w.dtm.query("s").await;
    assert_eq!((view.status(), view.rows().as_str()), ("failed", "sssp"));
    assert_eq!(view.field("rollback_reason"), reason);
    assert_eq!(
        w.branches.trace(),
        ["/a", "/b", "/b", "/b", "/b-undo", "/a-undo"]
    );
}

#[tokio::test]
async fn s10_ongoing_does_not_count() {
    let w = World::start().await;
    let replies = [
        Reply::ongoing(),
        Reply::error(),
        Reply::ongoing(),
        Reply::error(),
        Reply::ok(),
    ];
    w.branches.script("/a", replies);
    let extra = json!({"retry_limit": 2, "retry_interval": 1});
    w.dtm
        .post("submit", &w.saga("s", &["a"], extra))
        .await
        .expect_success();
    let view = w
        .dtm
        .wait_view("s", "a final status", |v| v.status() != "submitted")
        .await;
    assert_eq!((view.status(), w.branches.count("/a")), ("succeed", 5));
}

#[tokio::test]
async fn s10_every_action_has_its_own_retries() {
    let w = World::start().await;
    for path in ["/a", "/b", "/c"] {
        w.branches
            .script(path, [Reply::error(), Reply::error(), Reply::ok()]);
    }
    let extra =
        json!({"retry_limit": 2, "custom_data": r#"{"concurrent":true}"#, "wait_result": true});
    w.dtm
        .post("submit", &w.saga("s", &["a", "b", "c"], extra))
        .await
        .expect_success();
    assert_eq!(w.branches.trace().len(), 9);
}

#[tokio::test]
async fn s10_a_restart_does_not_forget_what_was_spent() {
    let mut w = World::with(&[DURABLE, ("AMENDS_REQUEST_TIMEOUT", "1")]).await;
    let gate = Gate::new();
    let error = Reply::error;
    w.branches
        .script("/a", [error(), error(), error().behind(&gate), error()]);
    let extra = json!({"retry_limit": 3, "retry_interval": 1});
    w.dtm
        .post("submit", &w.saga("s", &["a"], extra))
        .await
        .expect_success();
    w.branches.wait("/a", 3).await;
    w.crash().await;
    gate.open();
    let view = w.dtm.wait_status("s", "failed").await;
    assert_eq!(
        view.field("rollback_reason"),
        "RetryCount is greater than RetryLimit, RetryLimit: 3"
    );
    // Four calls; one more for the call that the crash cut, and one whose result may have been on its way to the disk.
    let calls = w.branches.count("/a");
    assert!((4..=6).contains(&calls), "{calls} calls");
    assert_eq!(w.branches.count("/a-undo"), 1);
}

#[tokio::test]
async fn s10_an_action_is_never_retried_after_its_compensation() {
    let w = World::start().await;
    let gate = Gate::new();
    // `a` is on its way when `b` fails; its late error must not start another try beside the rollback.
    w.branches
        .script("/a", [Reply::error().behind(&gate), Reply::ok()]);
    w.branches.script("/b", [Reply::failure("no")]);
    let extra =
        json!({"retry_limit": 5, "custom_data": r#"{"concurrent":true}"#, "request_timeout": 10});
    w.dtm
        .post("submit", &w.saga("s", &["a", "b"], extra))
        .await
        .expect_success();
    w.branches.wait("/a", 1).await;
    w.dtm.wait_status("s", "aborting").await;
    assert_eq!(
        w.branches.count("/a-undo"),
        0,
        "compensated while its action was on its way"
    );
    gate.open();
    w.dtm.wait_status("s", "failed").await;
    assert_eq!(
        (w.branches.count("/a"), w.branches.count("/a-undo")),
        (1, 1)
    );
    let (action, undo) = (&w.branches.calls("/a")[0], &w.branches.calls("/a-undo")[0]);
    assert!(action.ended.expect("answered") <= undo.at);
    let age = undo.at.elapsed();
    assert!(age < Duration::from_secs(10), "{age:?}");
}
