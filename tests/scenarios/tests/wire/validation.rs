//! Scenario 1: what can never succeed is refused with 400 and a message that names the field, and nothing of it is stored.

use amends_scenarios::{World, escape, merge};
use serde_json::{Value, json};

async fn refuse(w: &World, route: &str, body: &str, part: &str) {
    let answer = w.dtm.post_text(route, body).await;
    assert_eq!(answer.status, 400, "{route} {body}: {}", answer.text());
    assert!(
        answer.content_type.starts_with("application/json"),
        "{}",
        answer.content_type
    );
    let message = answer.message();
    assert!(
        message.contains(part),
        "{route} {body}: {message:?} does not name {part:?}"
    );
    // Clients search for this word to learn of a rollback.
    assert!(!answer.text().contains("FAILURE"), "{}", answer.text());
}

async fn nothing_stored(w: &World) {
    let all = w.dtm.get("/api/dtmsvr/all").await.expect_status(200);
    assert_eq!(
        all.json()["transactions"],
        json!([]),
        "a refused request was stored"
    );
}

#[tokio::test]
async fn s01_malformed_bodies_are_refused() {
    let w = World::start().await;
    for route in [
        "prepare",
        "submit",
        "abort",
        "prepareWorkflow",
        "forceStop",
        "resetNextCronTime",
    ] {
        for body in [
            "hello",
            "",
            "[]",
            "\"x\"",
            "{\"gid\":",
            r#"{"gid":1}"#,
            r#"{"gid":"g"} trailing"#,
        ] {
            refuse(&w, route, body, "").await;
        }
    }
    for (body, part) in [
        (r#"{"gid":"g","trans_type":1}"#, "trans_type"),
        (r#"{"gid":"g","trans_type":"saga","steps":{}}"#, "steps"),
        (
            r#"{"gid":"g","trans_type":"saga","payloads":[1]}"#,
            "payloads",
        ),
        (
            r#"{"gid":"g","trans_type":"saga","timeout_to_fail":"3"}"#,
            "timeout_to_fail",
        ),
        (
            r#"{"gid":"g","trans_type":"saga","branch_headers":["x"]}"#,
            "branch_headers",
        ),
        (
            r#"{"gid":"g","trans_type":"saga","wait_result":"yes"}"#,
            "wait_result",
        ),
    ] {
        refuse(&w, "submit", body, part).await;
    }
    nothing_stored(&w).await;
}

#[tokio::test]
async fn s01_gids_are_refused_not_rewritten() {
    let w = World::start().await;
    for gid in ["", "a;b", "a\nb", "a\rb", "a\u{0}b", "a\u{7f}"] {
        for route in ["prepare", "submit"] {
            refuse(
                &w,
                route,
                &w.saga(gid, &["a"], json!({})).to_string(),
                "gid",
            )
            .await;
        }
        let body = w.workflow(gid, json!({})).to_string();
        refuse(&w, "prepareWorkflow", &body, "gid").await;
    }
    nothing_stored(&w).await;
    for gid in ["quotes ' \" and spaces", "ünï/?&=#%2F"] {
        w.dtm
            .post("prepare", &json!({"gid": gid, "trans_type": "tcc"}))
            .await
            .expect_success();
        assert_eq!(w.dtm.query(gid).await.field("gid"), gid);
        let all = w
            .dtm
            .get(&format!("/api/dtmsvr/all?gid={}", escape(gid)))
            .await;
        assert_eq!(all.json()["transactions"][0]["gid"], gid);
    }
}

#[tokio::test]
async fn s01_inconsistent_transactions_are_refused() {
    let w = World::start().await;
    let saga = |extra: Value| w.saga("g", &["a", "b", "c"], extra);
    let orders = |text: &str| {
        saga(json!({"custom_data": format!(r#"{{"concurrent":true,"orders":{text}}}"#)}))
    };
    let step =
        |url: &str| saga(json!({"steps": [{"action": url, "compensate": ""}], "payloads": ["{}"]}));
    for (body, part) in [
        (
            merge(saga(json!({})), json!({"trans_type": "nope"})),
            "nope",
        ),
        (merge(saga(json!({})), json!({"trans_type": ""})), "trans"),
        (saga(json!({"payloads": ["{}"]})), "payload"),
        (
            saga(json!({"payloads": ["{}", "{}", "{}", "{}"]})),
            "payload",
        ),
        (orders(r#"{"1":[7]}"#), "7"),
        (orders(r#"{"9":[0]}"#), "9"),
        (orders(r#"{"x":[0]}"#), "x"),
        (orders(r#"{"0":[1],"1":[0]}"#), "cycle"),
        (orders(r#"{"1":[1]}"#), "cycle"),
        (orders(r#"{"1":"0"}"#), "orders"),
        (saga(json!({"custom_data": "hello"})), "custom_data"),
        (saga(json!({"retry_interval": -5})), "retry_interval"),
        (saga(json!({"timeout_to_fail": -1})), "timeout_to_fail"),
        (saga(json!({"request_timeout": -1})), "request_timeout"),
        (saga(json!({"retry_limit": -1})), "retry_limit"),
        (
            saga(json!({"branch_headers": {"a b": "c"}})),
            "branch_headers",
        ),
        (
            saga(json!({"branch_headers": {"a": "x\r\ny: z"}})),
            "branch_headers",
        ),
        (step("127.0.0.1:1/pkg.Service/Method"), "127.0.0.1:1"),
        (step("ftp://127.0.0.1/a"), "ftp"),
        (step("http://"), "http://"),
        (step("http://h/a b"), "a b"),
        (
            merge(
                w.msg("g", &["a"], json!({})),
                json!({"custom_data": r#"{"delay":-1}"#}),
            ),
            "delay",
        ),
        (
            merge(
                w.msg("g", &["a"], json!({})),
                json!({"custom_data": r#"{"delay":"x"}"#}),
            ),
            "custom_data",
        ),
        (
            merge(
                w.msg("g", &["a"], json!({})),
                json!({"query_prepared": "nonsense"}),
            ),
            "nonsense",
        ),
    ] {
        for route in ["prepare", "submit"] {
            refuse(&w, route, &body.to_string(), part).await;
        }
    }
    nothing_stored(&w).await;
}

#[tokio::test]
async fn s01_workflows_are_checked() {
    let w = World::start().await;
    for (extra, part) in [
        (json!({"query_prepared": "nonsense"}), "nonsense"),
        (json!({"custom_data": "hello"}), "custom_data"),
        (
            json!({"custom_data": r#"{"name":"wf","data":"%%"}"#}),
            "data",
        ),
    ] {
        let body = w.workflow("w", extra).to_string();
        refuse(&w, "prepareWorkflow", &body, part).await;
    }
    nothing_stored(&w).await;
    w.dtm
        .post("prepareWorkflow", &w.workflow("w", json!({})))
        .await
        .expect_status(200);
    for status in ["weird", "", "prepared", "submitted"] {
        let body = json!({"gid": "w", "trans_type": "workflow", "req_extra": {"status": status}});
        refuse(&w, "submit", &body.to_string(), "status").await;
    }
    assert_eq!(w.dtm.query("w").await.status(), "prepared");
}

#[tokio::test]
async fn s01_the_stored_type_decides() {
    let w = World::start().await;
    w.dtm
        .post("prepare", &w.saga("s", &["a"], json!({})))
        .await
        .expect_success();
    let answer = w
        .dtm
        .post("abort", &json!({"gid": "s", "trans_type": "tcc"}))
        .await;
    assert!(matches!(answer.status, 400 | 409), "{}", answer.text());
    assert_eq!(w.dtm.query("s").await.status(), "prepared");
    let answer = w
        .dtm
        .post("abort", &json!({"gid": "s", "trans_type": "saga"}))
        .await;
    answer.expect_wrong_state(
        "trans type: 'saga' current status 'prepared', cannot abort. FAILURE",
        "prepared",
    );
    let answer = w
        .dtm
        .post("submit", &json!({"gid": "s", "trans_type": "tcc"}))
        .await;
    assert!(matches!(answer.status, 400 | 409), "{}", answer.text());
    assert_eq!(
        (w.dtm.query("s").await.status(), w.branches.trace().len()),
        ("prepared", 0)
    );
}

#[tokio::test]
async fn s01_what_only_the_coordinator_sets_is_not_taken_from_requests() {
    let w = World::start().await;
    let forged = json!({
        "id": 77, "owner": "me", "result": "r", "rollback_reason": "because", "status": "succeed",
        "finish_time": "2000-01-01T00:00:00Z", "rollback_time": "2000-01-01T00:00:00Z",
        "create_time": "2000-01-01T00:00:00Z", "next_cron_interval": 1, "ext_data": "x", "options": "y",
    });
    w.dtm
        .post("prepare", &w.msg("m", &["a"], forged))
        .await
        .expect_success();
    let view = w.dtm.query("m").await;
    let shown = &view.json["transaction"];
    assert_eq!(view.status(), "prepared");
    for key in [
        "owner",
        "result",
        "rollback_reason",
        "finish_time",
        "rollback_time",
        "ext_data",
    ] {
        assert!(shown.get(key).is_none(), "{key}: {shown}");
    }
    assert!(shown["id"] != 77 && view.field("options") != "y", "{shown}");
    assert!(!view.field("create_time").starts_with("2000"), "{shown}");
}
