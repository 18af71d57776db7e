//! Scenario 2: what older and other languages' clients send.

use amends_scenarios::{World, merge};
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn s02_nulls_unknown_fields_and_any_case() {
    let w = World::start().await;
    let body = json!({
        "GID": "s1",
        "Trans_Type": "saga",
        "steps": [{"action": w.url("/a"), "compensate": null}, {"action": w.url("/b"), "compensate": w.url("/b-undo")}],
        "payloads": ["{}", null],
        "custom_data": null,
        "query_prepared": null,
        "protocol": null,
        "options": null,
        "branch_headers": null,
        "passthrough_headers": [],
        "req_extra": null,
        "result": null,
        "wait_result": true,
        "timeout_to_fail": null,
        "request_timeout": null,
        "retry_interval": null,
        "retry_limit": null,
        "concurrent": null,
        "subType": "x",
        "create_time": null,
        "nested": {"anything": [1, {"x": null}]},
    });
    w.dtm.post("submit", &body).await.expect_success();
    assert_eq!(w.dtm.query("s1").await.rows(), "psps");
    assert_eq!(w.branches.trace(), ["/a", "/b"]);
    // A null payload is an empty one.
    assert_eq!(
        (
            w.branches.calls("/b")[0].method.clone(),
            w.branches.calls("/b")[0].text()
        ),
        (Method::GET, String::new())
    );

    let tcc = json!({"gid": "t", "trans_type": "tcc", "steps": null, "payloads": null, "branch_headers": []});
    w.dtm.post("prepare", &tcc).await.expect_success();
    let branch = w.tcc_branch(
        "t",
        "01",
        json!({"try": w.url("/try"), "status": "prepared", "op": null, "extra": "x"}),
    );
    w.dtm
        .post("registerTccBranch", &branch)
        .await
        .expect_success();
    assert_eq!(
        w.dtm.query("t").await.row_names(),
        ["01/cancel", "01/confirm"]
    );
    w.dtm
        .post("submit", &merge(tcc, json!({"wait_result": true})))
        .await
        .expect_success();
    assert_eq!(w.dtm.query("t").await.rows(), "ps");
}

#[tokio::test]
async fn s02_register_xa_branch() {
    let w = World::start().await;
    let xa = json!({"gid": "x", "trans_type": "xa"});
    w.dtm.post("prepare", &xa).await.expect_success();
    let branch = json!({"gid": "x", "trans_type": "xa", "branch_id": "01", "url": w.url("/xa"), "data": null});
    w.dtm
        .post("registerXaBranch", &branch)
        .await
        .expect_success();
    w.dtm
        .post("submit", &merge(xa, json!({"wait_result": true})))
        .await
        .expect_success();
    assert_eq!(w.dtm.query("x").await.rows(), "ps");
}

#[tokio::test]
async fn s02_payloads_inside_the_steps() {
    let w = World::start().await;
    let body = json!({
        "gid": "s",
        "trans_type": "saga",
        "steps": [
            {"action": w.url("/a"), "compensate": "", "data": "{\"n\":1}"},
            {"action": w.url("/b"), "compensate": "", "data": "{\"n\":2}"},
        ],
        "wait_result": true,
    });
    w.dtm.post("submit", &body).await.expect_success();
    let bodies: Vec<Value> = ["/a", "/b"]
        .iter()
        .map(|p| w.branches.calls(p)[0].json())
        .collect();
    assert_eq!(bodies, [json!({"n": 1}), json!({"n": 2})]);
}

#[tokio::test]
async fn s02_orders_with_string_keys_and_as_a_list() {
    let w = World::start().await;
    for (gid, orders) in [
        ("map", r#"{"concurrent":true,"orders":{"1":[0],"2":[1]}}"#),
        ("list", r#"{"concurrent":true,"orders":[[],[0],[1]]}"#),
        ("null", r#"{"concurrent":true,"orders":null}"#),
        ("none", r#"{"concurrent":false}"#),
    ] {
        let steps: Vec<String> = (1..=3).map(|n| format!("{gid}{n}")).collect();
        let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
        let body = w.saga(
            gid,
            &steps,
            json!({"custom_data": orders, "wait_result": true}),
        );
        w.dtm.post("submit", &body).await.expect_success();
        let called: Vec<String> = w
            .branches
            .trace()
            .into_iter()
            .filter(|p| p.contains(gid))
            .collect();
        if gid == "null" {
            assert_eq!(called.len(), 3);
        } else {
            assert_eq!(
                called,
                steps.iter().map(|s| format!("/{s}")).collect::<Vec<_>>()
            );
        }
    }
}

#[tokio::test]
async fn s02_the_content_type_of_a_request_does_not_matter() {
    let w = World::start().await;
    let body = r#"{"gid":"t","trans_type":"tcc"}"#;
    let mut stream = tokio::net::TcpStream::connect(w.server.addr())
        .await
        .expect("connects");
    let request = format!(
        "POST /api/dtmsvr/prepare HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with(r#"{"dtm_result":"SUCCESS"}"#),
        "{answer}"
    );
}
