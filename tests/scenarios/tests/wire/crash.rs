//! Scenario 26: kill -9 while each call of a transaction is on its way, so that every write has been the last one before a crash.

use amends_scenarios::{DURABLE, Gate, Reply, World};
use serde_json::json;

/// With a short timeout, because what was on its way before a crash counts as such until it has passed.
async fn durable() -> World {
    World::with(&[DURABLE, ("AMENDS_REQUEST_TIMEOUT", "1")]).await
}

#[tokio::test]
async fn s26_a_saga_crashes_at_each_action() {
    for at in ["/a", "/b", "/c"] {
        let mut w = durable().await;
        let gate = Gate::new();
        w.branches
            .script(at, [Reply::ok().behind(&gate), Reply::ok()]);
        w.dtm
            .post("submit", &w.saga("s", &["a", "b", "c"], json!({})))
            .await
            .expect_success();
        w.branches.wait(at, 1).await;
        w.crash().await;
        gate.open();
        assert_eq!(
            w.dtm.wait_status("s", "succeed").await.rows(),
            "pspsps",
            "{at}"
        );
        let first: Vec<String> = first_calls(&w);
        assert_eq!(
            first,
            ["/a", "/b", "/c"],
            "{at}: an action was skipped or moved"
        );
        // The call that was cut off, and at most the results of two more that were on their way to the disk.
        assert!(
            w.branches.trace().len() <= 6,
            "{at}: {:?}",
            w.branches.trace()
        );
    }
}

#[tokio::test]
async fn s26_a_failing_saga_crashes_at_each_call() {
    for at in ["/a", "/b", "/c", "/c-undo", "/b-undo", "/a-undo"] {
        let mut w = durable().await;
        let reply = if at == "/c" {
            Reply::failure("no")
        } else {
            Reply::ok()
        };
        let gate = Gate::new();
        w.branches.script("/c", [Reply::failure("no")]);
        w.branches.script(at, [reply.clone().behind(&gate), reply]);
        w.dtm
            .post("submit", &w.saga("s", &["a", "b", "c"], json!({})))
            .await
            .expect_success();
        w.branches.wait(at, 1).await;
        w.crash().await;
        gate.open();
        let view = w.dtm.wait_status("s", "failed").await;
        assert_eq!(view.rows(), "sssssf", "{at}: {:?}", w.branches.trace());
        assert_eq!(
            first_calls(&w),
            ["/a", "/b", "/c", "/c-undo", "/b-undo", "/a-undo"],
            "{at}"
        );
        let trace = w.branches.trace();
        let decided = trace
            .iter()
            .position(|p| p.ends_with("-undo"))
            .expect("compensated");
        assert!(
            trace[decided..].iter().all(|p| p.ends_with("-undo")),
            "{at}: an action after the decision: {trace:?}"
        );
    }
}

#[tokio::test]
async fn s26_a_tcc_crashes_at_each_confirm_and_cancel() {
    for (route, op, status) in [
        ("submit", "confirm", "succeed"),
        ("abort", "cancel", "failed"),
    ] {
        for at in ["03", "02", "01"] {
            let mut w = durable().await;
            let tcc = json!({"gid": "t", "trans_type": "tcc"});
            w.dtm.post("prepare", &tcc).await.expect_success();
            for id in ["01", "02", "03"] {
                w.register_tcc("t", id).await.expect_success();
            }
            let path = format!("/{at}-{op}");
            let gate = Gate::new();
            w.branches
                .script(&path, [Reply::ok().behind(&gate), Reply::ok()]);
            w.dtm.post(route, &tcc).await.expect_success();
            w.branches.wait(&path, 1).await;
            w.crash().await;
            gate.open();
            w.dtm.wait_status("t", status).await;
            let order = ["03", "02", "01"].map(|id| format!("/{id}-{op}"));
            assert_eq!(first_calls(&w), order, "{path}");
        }
    }
}

#[tokio::test]
async fn s26_what_was_acknowledged_survives() {
    let mut w = durable().await;
    let tcc = json!({"gid": "t", "trans_type": "tcc"});
    w.dtm.post("prepare", &tcc).await.expect_success();
    w.crash().await;
    w.register_tcc("t", "01").await.expect_success();
    w.crash().await;
    w.dtm
        .post("prepareWorkflow", &w.workflow("w", json!({})))
        .await
        .expect_status(200);
    w.crash().await;
    let row = json!({"gid": "w", "trans_type": "workflow", "branch_id": "01", "op": "action", "status": "succeed", "data": "x"});
    w.dtm.post("registerBranch", &row).await.expect_success();
    let url = w.url("/s");
    w.dtm
        .get(&format!("/api/dtmsvr/subscribe?topic=tp&url={url}"))
        .await
        .expect_success();
    w.crash().await;
    assert_eq!(
        w.dtm.query("t").await.row_names(),
        ["01/cancel", "01/confirm"]
    );
    assert_eq!(w.dtm.query("w").await.row_names(), ["01/action"]);
    assert_eq!(
        w.dtm
            .get("/api/dtmsvr/queryKV?cat=topics&key=tp")
            .await
            .json()["kv"][0]["version"],
        1
    );
    w.dtm.post("abort", &tcc).await.expect_success();
    w.crash().await;
    w.dtm.wait_status("t", "failed").await;
    w.dtm
        .post("forceStop", &json!({"gid": "w"}))
        .await
        .expect_success();
    w.crash().await;
    assert_eq!(w.dtm.query("w").await.status(), "failed");
}

#[tokio::test]
async fn s26_a_message_crashes_at_its_check_back_and_at_its_branch() {
    let mut w = durable().await;
    let gates = [Gate::new(), Gate::new()];
    for (path, gate) in ["/check", "/b"].iter().zip(&gates) {
        w.branches
            .script(path, [Reply::ok().behind(gate), Reply::ok()]);
    }
    let body = w.msg(
        "m",
        &["a", "b"],
        json!({"timeout_to_fail": 1, "retry_interval": 1}),
    );
    w.dtm.post("prepare", &body).await.expect_success();
    for (path, gate) in ["/check", "/b"].iter().zip(&gates) {
        w.branches.wait(path, 1).await;
        w.crash().await;
        gate.open();
    }
    assert_eq!(w.dtm.wait_status("m", "succeed").await.rows(), "ss");
    assert_eq!(first_calls(&w), ["/check", "/a", "/b"]);
}

/// Each path once, in the order of its first call.
fn first_calls(w: &World) -> Vec<String> {
    let mut seen = Vec::new();
    for path in w.branches.trace() {
        if !seen.contains(&path) {
            seen.push(path);
        }
    }
    seen
}
