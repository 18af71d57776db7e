//! Scenario 18: a prepared message whose initiator is silent is asked about.

use amends_scenarios::{Reply, World};
use http::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Prepares a message that is asked about after a second, with the check-back `/<gid>`.
async fn prepared(w: &World, gid: &str, replies: &[Reply], extra: Value) -> Instant {
    w.branches.script(&format!("/{gid}"), replies.to_vec());
    let base = json!({"timeout_to_fail": 1, "retry_interval": 1, "query_prepared": w.url(&format!("/{gid}"))});
    let body = w.msg(gid, &["a"], amends_scenarios::merge(base, extra));
    let start = Instant::now();
    w.dtm.post("prepare", &body).await.expect_success();
    start
}

#[tokio::test]
async fn s18_a_committed_initiator_has_its_message_delivered() {
    let w = World::start().await;
    let start = prepared(
        &w,
        "q",
        &[Reply::new(200, "")],
        json!({"branch_headers": {"X-Foo": "bar"}}),
    )
    .await;
    let view = w.dtm.wait_status("q", "succeed").await;
    assert_eq!(view.rows(), "s");
    let call = &w.branches.calls("/q")[0];
    let asked = call.at - start;
    assert!(
        (990..3_000).contains(&asked.as_millis()),
        "asked after {asked:?}"
    );
    assert_eq!((call.method.clone(), call.body.len()), (Method::GET, 0));
    assert_eq!(call.query, "branch_id=00&gid=q&op=msg&trans_type=msg");
    assert_eq!(call.header("x-foo"), "bar");
    assert_eq!(w.branches.trace(), ["/q", "/a"]);
}

#[tokio::test]
async fn s18_what_an_answer_to_the_check_back_means() {
    let w = World::start().await;
    let html = "<!DOCTYPE html><html><body>Please log in</body></html>";
    // (gid, answers, how it ends, how many check-backs that takes)
    let table: Vec<(&str, Vec<Reply>, &str, usize)> = vec![
        ("success", vec![Reply::ok()], "succeed", 1),
        ("text", vec![Reply::new(200, "anything")], "succeed", 1),
        ("conflict", vec![Reply::failure("rolled back")], "failed", 1),
        (
            "member",
            vec![Reply::new(200, r#"{"dtm_result":"FAILURE"}"#)],
            "failed",
            1,
        ),
        ("later", vec![Reply::ongoing(), Reply::ok()], "succeed", 2),
        (
            "accepted",
            vec![Reply::new(202, ""), Reply::failure("no")],
            "failed",
            2,
        ),
        ("boom", vec![Reply::error(), Reply::ok()], "succeed", 2),
        (
            "page",
            vec![Reply::new(200, html), Reply::failure("no")],
            "failed",
            2,
        ),
        (
            "nothing",
            vec![Reply::new(204, ""), Reply::failure("no")],
            "failed",
            2,
        ),
        (
            "missing",
            vec![Reply::new(404, ""), Reply::failure("no")],
            "failed",
            2,
        ),
        ("cut", vec![Reply::cut(), Reply::failure("no")], "failed", 2),
    ];
    for (gid, replies, _, _) in &table {
        prepared(&w, gid, replies, json!({})).await;
    }
    for (gid, _, status, times) in &table {
        let view = w
            .dtm
            .wait_view(gid, "a final status", |v| {
                matches!(v.status(), "succeed" | "failed")
            })
            .await;
        let calls = w.branches.calls(&format!("/{gid}"));
        assert_eq!((view.status(), calls.len()), (*status, *times), "{gid}");
        if let [first, second] = &calls[..] {
            // After the timeout of a second, ongoing is asked again after the interval, an error after twice that.
            let gap = (second.at - first.at).as_secs_f64();
            let wanted = if matches!(*gid, "later" | "accepted") {
                1.0
            } else {
                2.0
            };
            assert!(
                (wanted - 0.05..wanted * 1.1 + 0.8).contains(&gap),
                "{gid}: {gap} s instead of {wanted} s"
            );
        }
    }
    let delivered = table
        .iter()
        .filter(|(_, _, status, _)| *status == "succeed")
        .count();
    assert_eq!(w.branches.count("/a"), delivered);
}

#[tokio::test]
async fn s18_a_json_rpc_check_back() {
    let w = World::start().await;
    for (gid, reply, status) in [
        ("rpc1", Reply::jsonrpc_ok(), "succeed"),
        (
            "rpc2",
            Reply::jsonrpc_error(-32901, "rolled back"),
            "failed",
        ),
    ] {
        let query = w.url(&format!("/{gid}?method=query"));
        prepared(
            &w,
            gid,
            &[reply],
            json!({"protocol": "json-rpc", "query_prepared": query}),
        )
        .await;
        w.dtm.wait_status(gid, status).await;
        let call = &w.branches.calls(&format!("/{gid}"))[0];
        let frame = call.json();
        assert_eq!(
            (&frame["method"], call.method.clone()),
            (&json!("query"), Method::POST)
        );
        let params = json!({"gid": gid, "trans_type": "msg", "branch_id": "00", "op": "msg"});
        assert_eq!(frame["params"], params);
    }
}

#[tokio::test]
async fn s18_an_unreachable_initiator_is_asked_again() {
    let w = World::start().await;
    let nobody = format!("http://127.0.0.1:{}/q", amends_scenarios::free_port());
    prepared(&w, "q", &[], json!({"query_prepared": nobody})).await;
    let view = w.dtm.wait_interval("q", 2).await;
    assert_eq!((view.status(), w.branches.count("/a")), ("prepared", 0));
    // Its own submit still decides.
    w.dtm
        .post(
            "submit",
            &json!({"gid": "q", "trans_type": "msg", "wait_result": true}),
        )
        .await
        .expect_success();
}

#[tokio::test]
async fn s18_without_a_check_back_a_message_is_never_taken_for_committed() {
    let w = World::start().await;
    let body = w.msg(
        "q",
        &["a"],
        json!({"query_prepared": "", "timeout_to_fail": 1}),
    );
    let answer = w.dtm.post("prepare", &body).await;
    if answer.status != 400 {
        answer.expect_success();
        w.dtm.wait_status("q", "failed").await;
    }
    assert_eq!(w.branches.count("/a"), 0);
}

#[tokio::test]
async fn s18_the_timeout_counts_from_the_creation_and_a_kick_does_not_ask_early() {
    let w = World::start().await;
    let start = prepared(
        &w,
        "q",
        &[Reply::failure("no")],
        json!({"timeout_to_fail": 2}),
    )
    .await;
    w.dtm.kick("q").await;
    w.dtm.wait_status("q", "failed").await;
    let asked = w.branches.calls("/q")[0].at - start;
    assert!(
        (1_990..5_000).contains(&asked.as_millis()),
        "asked after {asked:?}"
    );
    assert!(asked < Duration::from_secs(5));
}
