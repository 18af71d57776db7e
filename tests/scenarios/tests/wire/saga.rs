//! Scenarios 4 to 6: a saga that succeeds, one that fails, and what every answer of an action means.

use amends_scenarios::{Reply, World, merge};
use http::Method;
use serde_json::json;

#[tokio::test]
async fn s04_two_steps_succeed() {
    let w = World::start().await;
    let gid = "s 4/ü";
    let body = w.saga(
        gid,
        &["a", "b"],
        json!({"branch_headers": {"X-Foo": "bar", "Content-Type": "text/x"}}),
    );
    let mut steps = body["steps"].clone();
    steps[0]["action"] = json!(w.url("/a?x=1"));
    w.dtm
        .post("submit", &merge(body, json!({"steps": steps})))
        .await
        .expect_success();
    let view = w.dtm.wait_status(gid, "succeed").await;
    assert_eq!(
        view.row_names(),
        ["01/compensate", "01/action", "02/compensate", "02/action"]
    );
    assert_eq!(view.rows(), "psps");
    assert!(!view.field("finish_time").is_empty() && view.field("rollback_time").is_empty());
    assert_eq!(w.branches.trace(), ["/a", "/b"]);

    let (a, b) = (&w.branches.calls("/a")[0], &w.branches.calls("/b")[0]);
    assert_eq!(
        a.query,
        "x=1&branch_id=01&gid=s+4%2F%C3%BC&op=action&trans_type=saga"
    );
    assert_eq!(
        b.query,
        "branch_id=02&gid=s+4%2F%C3%BC&op=action&trans_type=saga"
    );
    for (call, payload) in [(a, r#"{"step":"a"}"#), (b, r#"{"step":"b"}"#)] {
        assert_eq!(
            (call.method.clone(), call.text().as_str()),
            (Method::POST, payload)
        );
        assert_eq!(
            (call.header("x-foo"), call.header("content-type")),
            ("bar", "text/x")
        );
    }
    assert!(a.ended.expect("answered") <= b.at);
}

#[tokio::test]
async fn s04_without_a_payload_it_is_a_get_with_a_content_type() {
    let w = World::start().await;
    let body = w.saga("s", &["a"], json!({"payloads": [""], "wait_result": true}));
    w.dtm.post("submit", &body).await.expect_success();
    let call = &w.branches.calls("/a")[0];
    assert_eq!((call.method.clone(), call.body.len()), (Method::GET, 0));
    assert_eq!(call.header("content-type"), "application/json");
}

#[tokio::test]
async fn s04_a_json_rpc_saga() {
    let w = World::start().await;
    w.branches.script("/rpc", [Reply::jsonrpc_ok()]);
    let steps = json!([{"action": w.url("/rpc?method=do%20it&x=1"), "compensate": w.url("/rpc?method=undo")}]);
    let body = w.saga(
        "j",
        &["a"],
        json!({"steps": steps, "protocol": "json-rpc", "wait_result": true}),
    );
    w.dtm.post("submit", &body).await.expect_success();
    let call = &w.branches.calls("/rpc")[0];
    assert_eq!(
        (call.method.clone(), call.query.as_str()),
        (Method::POST, "method=do%20it&x=1")
    );
    let frame = call.json();
    assert_eq!(
        (&frame["jsonrpc"], &frame["method"]),
        (&json!("2.0"), &json!("do it"))
    );
    assert!(frame["id"].as_str().is_some_and(|id| !id.is_empty()));
    let params =
        json!({"step": "a", "gid": "j", "trans_type": "saga", "branch_id": "01", "op": "action"});
    assert_eq!(frame["params"], params);
}

#[tokio::test]
async fn s04_many_clients_submit_the_same_saga() {
    let w = World::start().await;
    let delay = std::time::Duration::from_millis(100);
    w.branches.script("/a", [Reply::ok().after(delay)]);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let body = w.saga("s", &["a", "b"], json!({"wait_result": n % 2 == 0}));
        let dtm = w.dtm.clone();
        tasks.spawn(async move { dtm.post("submit", &body).await });
    }
    while let Some(answer) = tasks.join_next().await {
        let answer = answer.expect("a task");
        // The last ones may come after the end.
        let late = answer.message() == "current status 'succeed', cannot sumbmit. FAILURE";
        assert!(answer.status == 200 || late, "{}", answer.text());
    }
    w.dtm.wait_status("s", "succeed").await;
    assert_eq!(w.branches.trace(), ["/a", "/b"]);
}

#[tokio::test]
async fn s05_a_failing_action_is_compensated_in_reverse() {
    let w = World::start().await;
    w.branches.script("/b", [Reply::failure("no stock")]);
    let body = w.saga("s", &["a", "b"], json!({"wait_result": true}));
    let answer = w.dtm.post("submit", &body).await.expect_status(409);
    let reason = format!("url:{} return failed: no stock FAILURE", w.url("/b"));
    assert_eq!(
        (answer.json()["dtm_result"].as_str(), answer.message()),
        (Some("FAILURE"), reason.clone())
    );
    let view = w.dtm.query("s").await;
    assert_eq!((view.status(), view.rows().as_str()), ("failed", "sssf"));
    assert_eq!(view.field("rollback_reason"), reason);
    assert!(!view.field("rollback_time").is_empty() && view.field("finish_time").is_empty());
    assert_eq!(w.branches.trace(), ["/a", "/b", "/b-undo", "/a-undo"]);
    for (path, id, payload) in [
        ("/b-undo", "02", r#"{"step":"b"}"#),
        ("/a-undo", "01", r#"{"step":"a"}"#),
    ] {
        let call = &w.branches.calls(path)[0];
        assert_eq!(
            call.query,
            format!("branch_id={id}&gid=s&op=compensate&trans_type=saga")
        );
        assert_eq!(
            (call.method.clone(), call.text().as_str()),
            (Method::POST, payload)
        );
    }
}

#[tokio::test]
async fn s05_every_form_of_failure() {
    let w = World::start().await;
    let rpc = json!({"protocol": "json-rpc"});
    for (gid, reply, extra) in [
        ("conflict", Reply::failure("no FAILURE"), json!({})),
        (
            "member",
            Reply::new(200, r#"{"dtm_result":"FAILURE","why":"no"}"#),
            json!({}),
        ),
        (
            "created",
            Reply::new(201, r#"{"dtm_result":"FAILURE","why":"no"}"#),
            json!({}),
        ),
        ("rpc", Reply::jsonrpc_error(-32901, "no"), rpc),
    ] {
        w.branches.script(&format!("/{gid}"), [reply]);
        let mut body = w.saga(gid, &["first", gid], extra);
        if gid == "rpc" {
            body["steps"][1]["action"] = json!(w.url("/rpc?method=do"));
        }
        w.dtm.post("submit", &body).await.expect_success();
        let view = w.dtm.wait_status(gid, "failed").await;
        assert_eq!(view.rows(), "sssf", "{gid}");
        let reason = view.field("rollback_reason");
        assert!(
            reason.starts_with(&format!("url:{}", w.url(&format!("/{gid}")))),
            "{reason}"
        );
        assert!(
            reason.contains(" return failed: ") && reason.contains("no"),
            "{reason}"
        );
        assert!(
            reason.ends_with(" FAILURE") && !reason.ends_with("FAILURE FAILURE"),
            "{reason}"
        );
        assert_eq!(w.branches.count(&format!("/{gid}-undo")), 1, "{gid}");
    }
}

#[tokio::test]
async fn s05_the_first_action_fails() {
    let w = World::start().await;
    w.branches.script("/a", [Reply::failure("no")]);
    w.dtm
        .post("submit", &w.saga("s", &["a", "b"], json!({})))
        .await
        .expect_success();
    assert_eq!(w.dtm.wait_status("s", "failed").await.rows(), "sfpp");
    assert_eq!(w.branches.trace(), ["/a", "/a-undo"]);
}

#[tokio::test]
async fn s06_what_an_answer_of_an_action_means() {
    let w = World::start().await;
    // (status, body, what it is: success, failure, ongoing, error)
    let table = [
        (200, "", 's'),
        (200, "anything", 's'),
        (200, r#"{"dtm_result":"SUCCESS"}"#, 's'),
        (200, r#"{"note":"PAYMENT_FAILURE is ONGOING"}"#, 's'),
        (200, r#"{"inner":{"dtm_result":"FAILURE"}}"#, 's'),
        (201, "created", 's'),
        (204, "", 's'),
        (202, "accepted", 'o'),
        (425, "", 'o'),
        (200, r#"{"dtm_result":"ONGOING"}"#, 'o'),
        (409, "", 'f'),
        (200, r#"{"dtm_result":"FAILURE"}"#, 'f'),
        (500, "FAILURE", 'e'),
        (500, "ONGOING", 'e'),
        (500, r#"{"dtm_result":"FAILURE"}"#, 'e'),
        (400, "", 'e'),
        (404, "", 'e'),
        (301, "", 'e'),
        (302, "", 'e'),
        (503, "", 'e'),
    ];
    for (i, (status, body, want)) in table.into_iter().enumerate() {
        let gid = format!("s{i}");
        let reply = Reply::new(status, body).header("location", "/elsewhere");
        w.branches.script(&format!("/{gid}"), [reply]);
        // With an interval of 20 s nothing is due within the wait, so it answers at once.
        let extra = json!({"wait_result": true, "retry_interval": 20});
        let answer = w.dtm.post("submit", &w.saga(&gid, &[&gid], extra)).await;
        let interval = if want == 'e' { 40 } else { 20 };
        let view = w.dtm.wait_interval(&gid, interval).await;
        let shown = (answer.status, view.status(), view.rows());
        let row = format!("{status} {body}: {}", view.text);
        match want {
            's' => assert_eq!(shown, (200, "succeed", "ps".into()), "{row}"),
            'f' => assert_eq!(shown, (409, "failed", "sf".into()), "{row}"),
            _ => assert_eq!(shown, (425, "submitted", "pp".into()), "{row}"),
        }
        assert_eq!(w.branches.count(&format!("/{gid}")), 1, "{row}");
    }
    assert_eq!(w.branches.count("/elsewhere"), 0);
}

#[tokio::test]
async fn s06_json_rpc_answers() {
    let w = World::start().await;
    for (gid, reply, status) in [
        ("ok", Reply::jsonrpc_ok(), "succeed"),
        (
            "null",
            Reply::new(200, r#"{"jsonrpc":"2.0","id":"1","error":null,"result":1}"#),
            "succeed",
        ),
        ("no", Reply::jsonrpc_error(-32901, "no"), "failed"),
        ("later", Reply::jsonrpc_error(-32902, "later"), "submitted"),
        ("other", Reply::jsonrpc_error(-32603, "boom"), "submitted"),
        ("garbage", Reply::new(200, "garbage"), "submitted"),
        ("http", Reply::failure("no"), "failed"),
    ] {
        w.branches.script(&format!("/{gid}"), [reply]);
        let mut body = w.saga(
            gid,
            &[gid],
            json!({"protocol": "json-rpc", "wait_result": true, "retry_interval": 20}),
        );
        body["steps"][0]["action"] = json!(w.url(&format!("/{gid}?method=do")));
        w.dtm.post("submit", &body).await;
        let interval = if matches!(gid, "other" | "garbage") {
            40
        } else {
            20
        };
        let view = w.dtm.wait_interval(gid, interval).await;
        assert_eq!(view.status(), status, "{gid}: {}", view.text);
    }
}

#[tokio::test]
async fn s06_307_and_308_are_followed_with_method_and_body() {
    let w = World::start().await;
    for (gid, status) in [("temporary", 307), ("permanent", 308)] {
        let location = format!("/moved?who={gid}");
        w.branches.script(
            &format!("/{gid}"),
            [Reply::new(status, "").header("location", &location)],
        );
        w.dtm
            .post("submit", &w.saga(gid, &[gid], json!({"wait_result": true})))
            .await
            .expect_success();
    }
    for (call, gid) in w
        .branches
        .wait("/moved", 2)
        .await
        .iter()
        .zip(["temporary", "permanent"])
    {
        assert_eq!(
            (call.method.clone(), call.param("who").as_str()),
            (Method::POST, gid)
        );
        assert_eq!(call.text(), format!("{{\"step\":\"{gid}\"}}"));
    }
}

#[tokio::test]
async fn s06_an_empty_url_is_success_without_a_call() {
    let w = World::start().await;
    let steps = json!([
        {"action": "", "compensate": w.url("/a-undo")},
        {"action": w.url("/b"), "compensate": ""},
    ]);
    w.branches.script("/b", [Reply::failure("no")]);
    let body = w.saga(
        "s",
        &["a", "b"],
        json!({"steps": steps, "wait_result": true}),
    );
    w.dtm.post("submit", &body).await.expect_status(409);
    let view = w.dtm.query("s").await;
    assert_eq!((view.status(), view.rows().as_str()), ("failed", "sssf"));
    assert_eq!(w.branches.trace(), ["/b", "/a-undo"]);
}
