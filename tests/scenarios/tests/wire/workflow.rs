//! Scenarios 22 to 24, and the decision row of rules.md 2.7.

use amends_scenarios::{Answer, DURABLE, Reply, World, keys, merge};
use http::Method;
use serde_json::{Value, json};
use std::time::Instant;

fn row(gid: &str, branch_id: &str, op: &str, extra: Value) -> Value {
    let base = json!({"gid": gid, "trans_type": "workflow", "branch_id": branch_id, "op": op, "status": "succeed"});
    merge(base, extra)
}

fn end(gid: &str, status: &str, extra: Value) -> Value {
    json!({"gid": gid, "trans_type": "workflow", "req_extra": merge(json!({"status": status}), extra)})
}

/// A refused registerBranch or submit: 409 without the word that Go's clients take for a rollback.
#[track_caller]
fn refused(answer: &Answer, gid: &str, status: &str) {
    let body = format!(
        r#"{{"message":"no trans with gid: {gid} status: prepared found","status":"{status}"}}"#
    );
    answer.expect(409, &body);
}

#[tokio::test]
async fn s22_prepare_workflow_new_existing_and_finished() {
    let w = World::start().await;
    let body = w.workflow("w", json!({}));
    let new = w
        .dtm
        .post("prepareWorkflow", &body)
        .await
        .expect_status(200);
    assert_eq!(keys(&new.text()), ["progresses", "transaction"]);
    let (answer, transaction) = (new.json(), &new.json()["transaction"]);
    assert_eq!(answer["progresses"], json!([]));
    for (key, want) in [
        ("gid", "w"),
        ("trans_type", "workflow"),
        ("status", "prepared"),
        ("protocol", "http"),
        ("custom_data", r#"{"name":"wf","data":"eyJhIjoxfQ=="}"#),
    ] {
        assert_eq!(transaction[key], want, "{key}");
    }

    // DTM's Go client sends bytes that are no text as U+FFFD.
    let data = json!({"data": "\u{fffd}\u{1} res-data"});
    w.dtm
        .post("registerBranch", &row("w", "01", "action", data))
        .await
        .expect_success();
    w.dtm
        .post(
            "registerBranch",
            &row(
                "w",
                "02",
                "action",
                json!({"status": "failed", "data": "nope"}),
            ),
        )
        .await
        .expect_success();
    w.dtm
        .post(
            "registerBranch",
            &row("w", "01", "rollback", json!({"data": ""})),
        )
        .await
        .expect_success();
    let minimal = json!({"gid": "w", "trans_type": "workflow"});
    let existing = w
        .dtm
        .post("prepareWorkflow", &minimal)
        .await
        .expect_status(200)
        .json();
    let shown = |key: &str| -> Vec<String> {
        let rows = existing["progresses"].as_array().expect("a list");
        rows.iter()
            .map(|r| r[key].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(shown("branch_id"), ["01", "02", "01"]);
    assert_eq!(shown("op"), ["action", "action", "rollback"]);
    assert_eq!(shown("status"), ["succeed", "failed", "succeed"]);
    assert_eq!(shown("bin_data"), ["77+9ASByZXMtZGF0YQ==", "bm9wZQ==", ""]);
    assert_eq!(existing["transaction"]["status"], "prepared");
    assert_eq!(
        existing["transaction"]["query_prepared"],
        w.url("/callback")
    );

    w.dtm
        .post(
            "submit",
            &end(
                "w",
                "succeed",
                json!({"result": "cmVz", "rollback_reason": ""}),
            ),
        )
        .await
        .expect_success();
    let finished = w
        .dtm
        .post("prepareWorkflow", &minimal)
        .await
        .expect_status(200)
        .json();
    assert_eq!(finished["progresses"].as_array().map(Vec::len), Some(3));
    assert_eq!(finished["transaction"]["status"], "succeed");
    assert_eq!(finished["transaction"]["result"], "cmVz");
    assert_eq!(w.branches.trace().len(), 0);
}

#[tokio::test]
async fn s22_only_the_first_of_two_runners_goes_on() {
    let w = World::start().await;
    w.dtm
        .post("prepareWorkflow", &w.workflow("w", json!({})))
        .await
        .expect_status(200);
    let plain = row("w", "01", "action", json!({"data": "x"}));
    w.dtm.post("registerBranch", &plain).await.expect_success();
    // Even with the same content: the second runner must not act on its own result.
    refused(&w.dtm.post("registerBranch", &plain).await, "w", "prepared");
    refused(
        &w.dtm
            .post(
                "registerBranch",
                &row("w", "01", "action", json!({"data": "y"})),
            )
            .await,
        "w",
        "prepared",
    );
    // Our own clients name their run, so that a lost answer can be repeated.
    let run = |run: &str| {
        row(
            "w",
            "02",
            "action",
            json!({"data": "x", "run": run, "sync": "1"}),
        )
    };
    w.dtm
        .post("registerBranch", &run("r1"))
        .await
        .expect_success();
    w.dtm
        .post("registerBranch", &run("r1"))
        .await
        .expect_success();
    refused(
        &w.dtm.post("registerBranch", &run("r2")).await,
        "w",
        "prepared",
    );
    assert_eq!(
        w.dtm.query("w").await.row_names(),
        ["01/action", "02/action"]
    );

    let unknown = w
        .dtm
        .post("registerBranch", &row("none", "01", "action", json!({})))
        .await
        .expect_status(409);
    assert!(
        unknown.message().contains("no trans with gid: none"),
        "{}",
        unknown.text()
    );
    assert!(!unknown.text().contains("FAILURE"), "{}", unknown.text());
    let rpc = w.dtm.rpc("registerBranch", &plain).await.json();
    assert_eq!(rpc["error"]["code"], -32603, "{rpc}");
    assert!(!rpc.to_string().contains("FAILURE"), "{rpc}");
}

#[tokio::test]
async fn s23_the_callback() {
    let w = World::with(&[("AMENDS_REQUEST_TIMEOUT", "1")]).await;
    w.branches.script(
        "/callback",
        [
            Reply::ok(),
            Reply::ongoing(),
            Reply::failure("no"),
            Reply::ok(),
        ],
    );
    let start = Instant::now();
    let extra = json!({"retry_interval": 1, "branch_headers": {"X-Foo": "bar"}});
    w.dtm
        .post("prepareWorkflow", &w.workflow("w", extra))
        .await
        .expect_status(200);
    let calls = w.branches.wait("/callback", 4).await;
    for call in &calls {
        assert_eq!(call.query, "branch_id=00&gid=w&op=wf&trans_type=workflow");
        assert_eq!(
            (call.method.clone(), call.text().as_str()),
            (Method::POST, r#"{"a":1}"#)
        );
        assert_eq!(call.header("x-foo"), "bar");
    }
    // A 2xx and ongoing keep the interval; anything else backs off.
    let mut last = start;
    for (call, wanted) in calls.iter().zip([1.0, 1.0, 1.0, 2.0]) {
        let gap = (call.at - last).as_secs_f64();
        assert!(
            (wanted - 0.05..wanted * 1.1 + 0.8).contains(&gap),
            "{gap} s instead of {wanted} s"
        );
        last = call.at;
    }
    w.dtm
        .post("submit", &end("w", "succeed", json!({})))
        .await
        .expect_success();
    let asked = w.branches.count("/callback");
    w.dtm.kick("w").await;
    assert_eq!(
        (
            w.dtm.query("w").await.status(),
            w.branches.count("/callback")
        ),
        ("succeed", asked)
    );
}

#[tokio::test]
async fn s23_without_data_it_is_still_a_post() {
    let w = World::with(&[("AMENDS_REQUEST_TIMEOUT", "1")]).await;
    for (gid, data) in [
        ("null", r#"{"name":"wf","data":null}"#),
        ("none", r#"{"name":"w f"}"#),
    ] {
        let callback = w.url(&format!("/{gid}"));
        let extra = json!({"custom_data": data, "retry_interval": 1, "query_prepared": callback});
        w.dtm
            .post("prepareWorkflow", &w.workflow(gid, extra))
            .await
            .expect_status(200);
        let call = &w.branches.wait(&format!("/{gid}"), 1).await[0];
        assert_eq!((call.method.clone(), call.body.len()), (Method::POST, 0));
        assert_eq!(call.param("op"), if gid == "null" { "wf" } else { "w f" });
        w.dtm
            .post("forceStop", &json!({"gid": gid}))
            .await
            .expect_success();
    }
}

#[tokio::test]
async fn s23_a_runner_that_makes_progress_is_not_called_back() {
    let w = World::with(&[("AMENDS_REQUEST_TIMEOUT", "1")]).await;
    let extra = json!({"retry_interval": 2});
    w.dtm
        .post("prepareWorkflow", &w.workflow("w", extra))
        .await
        .expect_status(200);
    let start = Instant::now();
    for n in 1..=4 {
        amends_scenarios::until(start + std::time::Duration::from_millis(n * 800)).await;
        let progress = row("w", &format!("{n:02}"), "action", json!({"data": "x"}));
        w.dtm
            .post("registerBranch", &progress)
            .await
            .expect_success();
    }
    let last = Instant::now();
    assert_eq!(
        w.branches.count("/callback"),
        0,
        "called back while it made progress"
    );
    let silent = w.branches.wait("/callback", 1).await[0].at - last;
    assert!(
        (1_900..4_000).contains(&silent.as_millis()),
        "called back after {silent:?}"
    );
}

#[tokio::test]
async fn s24_submit_ends_a_workflow() {
    let w = World::start().await;
    for (gid, status, other) in [("w1", "succeed", "failed"), ("w2", "failed", "succeed")] {
        w.dtm
            .post("prepareWorkflow", &w.workflow(gid, json!({})))
            .await
            .expect_status(200);
        let before = w.dtm.query(gid).await;
        let extra = json!({"result": "cmVz", "rollback_reason": "because <x>"});
        w.dtm
            .post("submit", &end(gid, status, extra))
            .await
            .expect_success();
        let view = w.dtm.query(gid).await;
        assert_eq!(view.status(), status);
        assert_eq!(
            (view.field("result"), view.field("rollback_reason")),
            ("cmVz", "because <x>")
        );
        assert_eq!(view.field("finish_time").is_empty(), status == "failed");
        assert_eq!(view.field("rollback_time").is_empty(), status == "succeed");
        for kept in ["create_time", "query_prepared", "custom_data", "protocol"] {
            assert_eq!(view.field(kept), before.field(kept), "{kept}");
            assert!(!view.field(kept).is_empty(), "{kept}");
        }
        // Again with the same status: success, and what is stored stays.
        let again = json!({"result": "b3RoZXI=", "rollback_reason": "other"});
        w.dtm
            .post("submit", &end(gid, status, again))
            .await
            .expect_success();
        let after = w.dtm.query(gid).await;
        assert_eq!(
            (after.field("result"), after.field("rollback_reason")),
            ("cmVz", "because <x>")
        );
        refused(
            &w.dtm.post("submit", &end(gid, other, json!({}))).await,
            gid,
            status,
        );
        refused(
            &w.dtm
                .post("registerBranch", &row(gid, "09", "action", json!({})))
                .await,
            gid,
            status,
        );
        let abort = w
            .dtm
            .post("abort", &json!({"gid": gid, "trans_type": "workflow"}))
            .await
            .expect_status(409);
        assert!(abort.message().contains("cannot abort"), "{}", abort.text());
    }
    let all = w
        .dtm
        .get("/api/dtmsvr/all?createTimeStart=1000&transType=workflow")
        .await
        .expect_status(200);
    assert_eq!(all.json()["transactions"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn s24_abort_is_refused_and_stop_is_not() {
    let w = World::start().await;
    w.dtm
        .post("prepareWorkflow", &w.workflow("w", json!({})))
        .await
        .expect_status(200);
    let abort = w
        .dtm
        .post("abort", &json!({"gid": "w", "trans_type": "workflow"}))
        .await;
    abort.expect_wrong_state(
        "trans type: 'workflow' current status 'prepared', cannot abort. FAILURE",
        "prepared",
    );
    w.dtm
        .post("forceStop", &json!({"gid": "w"}))
        .await
        .expect_success();
    assert_eq!(w.dtm.query("w").await.status(), "failed");
    refused(
        &w.dtm.post("submit", &end("w", "succeed", json!({}))).await,
        "w",
        "failed",
    );
}

#[tokio::test]
async fn s24_after_the_decision_row_nothing_else_is_decided() {
    let mut w = World::with(&[DURABLE]).await;
    let decision = |status: &str, run: &str| {
        row(
            "w",
            "00",
            "decision",
            json!({"status": status, "sync": "1", "run": run, "data": "e30="}),
        )
    };
    w.dtm
        .post("prepareWorkflow", &w.workflow("w", json!({})))
        .await
        .expect_status(200);
    w.dtm
        .post("registerBranch", &row("w", "01", "action", json!({})))
        .await
        .expect_success();
    w.dtm
        .post("registerBranch", &decision("failed", "r1"))
        .await
        .expect_success();
    w.crash().await;
    w.dtm
        .post("registerBranch", &decision("failed", "r1"))
        .await
        .expect_success();
    for late in [
        row("w", "02", "action", json!({})),
        row("w", "02", "business", json!({})),
        decision("succeed", "r1"),
        decision("failed", "r2"),
    ] {
        refused(&w.dtm.post("registerBranch", &late).await, "w", "prepared");
    }
    refused(
        &w.dtm.post("submit", &end("w", "succeed", json!({}))).await,
        "w",
        "prepared",
    );
    // Phase 2 itself goes on being recorded, and the row is among the progresses.
    w.dtm
        .post("registerBranch", &row("w", "01", "rollback", json!({})))
        .await
        .expect_success();
    let view = w.dtm.query("w").await;
    assert_eq!(
        view.row_names(),
        ["01/action", "00/decision", "01/rollback"]
    );
    assert_eq!(
        (view.status(), view.branches()[1]["status"].as_str()),
        ("prepared", Some("failed"))
    );
    w.dtm
        .post(
            "submit",
            &end("w", "failed", json!({"rollback_reason": "no"})),
        )
        .await
        .expect_success();
    assert_eq!(w.dtm.query("w").await.status(), "failed");
}
