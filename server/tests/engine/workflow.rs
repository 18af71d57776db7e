//! Workflows: callbacks, progress, ends.

use super::net::{ok, status};
use super::world::{World, global};
use amends::{Error, ErrorKind, Status};
use serde_json::{Value, json};

/// `name` is the operation of callbacks, `data` is base64 of `in`.
fn body(gid: &str) -> Value {
    json!({"gid": gid, "trans_type": "workflow", "query_prepared": "http://wf/resume",
        "custom_data": json!({"name": "pay", "data": "aW4="}).to_string()})
}

fn step(gid: &str, branch: &str, op: &str, run: &str) -> Value {
    json!({"gid": gid, "trans_type": "workflow", "branch_id": branch, "op": op, "status": "succeed", "data": "r", "run": run})
}

async fn end(w: &World, gid: &str, status: &str) -> Result<(), Error> {
    let extra = json!({"status": status, "result": "b2s=", "rollback_reason": "why"});
    w.submit(json!({"gid": gid, "trans_type": "workflow", "req_extra": extra}))
        .await
}

#[tokio::test(start_paused = true)]
async fn a_workflow_that_ends_in_time_is_never_called_back() {
    let w = World::new(|_| ok(10));
    let tx = w.engine.prepare_workflow(global(&body("g"))).await;
    assert!(tx.expect("prepareWorkflow").rows().is_empty());
    w.register(step("g", "01", "action", ""))
        .await
        .expect("step");
    end(&w, "g", "succeed").await.expect("end");
    let tx = w.ends("g", Status::Succeed, 0).await;
    assert_eq!((tx.rows().len(), tx.result()), (1, "b2s="));
    w.pass(600_000).await;
    assert_eq!(w.net.calls("g"), "");
    end(&w, "g", "succeed").await.expect("the same end again");
    let other = end(&w, "g", "failed").await.expect_err("another end");
    assert_eq!(other.kind(), ErrorKind::RowRefused);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_called_back_and_every_sign_of_life_moves_it() {
    let w = World::new(|_| ok(10));
    w.engine
        .prepare_workflow(global(&body("g")))
        .await
        .expect("prepareWorkflow");
    w.pass(8_000).await;
    w.register(step("g", "01", "action", ""))
        .await
        .expect("step");
    w.pass(8_000).await;
    w.engine
        .prepare_workflow(global(&body("g")))
        .await
        .expect("prepareWorkflow");
    w.pass(9_900).await;
    assert_eq!(w.net.calls("g"), "");
    w.pass(200).await;
    assert_eq!(w.net.times("g", "00 pay"), [26_000]);
    let seen = &w.net.log()[0];
    assert!(seen.post);
    assert_eq!(&seen.body[..], b"in");
    w.pass(60_000).await;
    let times = w.net.times("g", "00 pay");
    assert!(
        (36_000..=37_020).contains(&times[1]),
        "a success keeps the base interval: {times:?}"
    );
    end(&w, "g", "failed").await.expect("end");
    let tx = w.ends("g", Status::Failed, 0).await;
    assert_eq!(tx.state().reason, "why");
}

#[tokio::test(start_paused = true)]
async fn errors_of_callbacks_back_off() {
    let w = World::new(|_| status(500, 0));
    w.engine
        .prepare_workflow(global(&body("g")))
        .await
        .expect("prepareWorkflow");
    w.pass(80_000).await;
    let times = w.net.times("g", "00 pay");
    let gaps: Vec<u64> = times.windows(2).map(|t| t[1] - t[0]).collect();
    assert!(
        (20_000..=22_000).contains(&gaps[0]) && (40_000..=44_000).contains(&gaps[1]),
        "{gaps:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_client_does_during_its_callback_counts() {
    let w = World::new(|_| ok(2_000));
    w.engine
        .prepare_workflow(global(&body("g")))
        .await
        .expect("prepareWorkflow");
    w.pass(10_500).await;
    assert_eq!(w.net.calls("g"), "00 pay");
    w.register(step("g", "01", "action", "r1"))
        .await
        .expect("a step while the callback runs");
    w.register(step("g", "01", "action", "r1"))
        .await
        .expect("the same run again");
    let lost = w.register(step("g", "01", "action", "r2")).await;
    assert_eq!(lost.expect_err("another run").kind(), ErrorKind::RowRefused);
    w.pass(5_000).await;
    assert_eq!(
        w.stored("g").await.rows().len(),
        1,
        "the callback's own result did not overwrite it"
    );
    end(&w, "g", "succeed").await.expect("end");
    w.ends("g", Status::Succeed, 0).await;
    assert_eq!(w.net.calls("g"), "00 pay");
}

#[tokio::test(start_paused = true)]
async fn an_end_during_the_callback_is_the_end() {
    let w = World::new(|_| status(500, 2_000));
    w.engine
        .prepare_workflow(global(&body("g")))
        .await
        .expect("prepareWorkflow");
    w.pass(11_000).await;
    end(&w, "g", "succeed").await.expect("end");
    w.pass(100_000).await;
    w.ends("g", Status::Succeed, 0).await;
    assert_eq!(w.net.calls("g"), "00 pay");
}

#[tokio::test(start_paused = true)]
async fn after_the_decision_row_nothing_more_is_executed() {
    let w = World::new(|_| ok(0));
    w.engine
        .prepare_workflow(global(&body("g")))
        .await
        .expect("prepareWorkflow");
    let mut decision = step("g", "00", "decision", "r1");
    decision["status"] = json!("failed");
    w.register(decision).await.expect("decision");
    let late = w.register(step("g", "01", "action", "r1")).await;
    assert_eq!(late.expect_err("decided").kind(), ErrorKind::RowRefused);
    w.register(step("g", "01", "rollback", "r1"))
        .await
        .expect("phase 2");
    let opposite = end(&w, "g", "succeed").await;
    assert_eq!(opposite.expect_err("decided").kind(), ErrorKind::RowRefused);
    end(&w, "g", "failed").await.expect("end");
    w.ends("g", Status::Failed, 0).await;
}
