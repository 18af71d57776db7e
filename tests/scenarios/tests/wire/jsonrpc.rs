//! Scenario 1, JSON-RPC: every method and every framing error; four keys in every answer.

use amends_scenarios::{Answer, World, keys};
use http::Method;
use serde_json::{Value, json};

fn four_keys(answer: &Answer) {
    assert_eq!(
        keys(&answer.text()),
        ["error", "id", "jsonrpc", "result"],
        "{}",
        answer.text()
    );
}

#[track_caller]
fn refused(answer: &Answer, code: i64, part: &str) {
    four_keys(answer);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["error"]["code"], code, "{body}");
    assert_eq!(body["id"], "a");
    let message = body["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains(part), "{body} does not name {part}");
    assert!(
        body["result"].is_null() || body["result"] == json!({}),
        "{body}"
    );
}

#[tokio::test]
async fn s01_jsonrpc_framing() {
    let w = World::start().await;
    for (body, status, code, message) in [
        ("hello", 400, -32700, "Parse json error: "),
        ("", 400, -32700, "Parse json error: "),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"newGid"}"#,
            400,
            -32700,
            "Parse json error: ",
        ),
        (
            r#"{"jsonrpc":"1.0","id":"a","method":"newGid"}"#,
            200,
            -32600,
            "Bad json request: ",
        ),
        (
            r#"{"jsonrpc":"2.0","method":"newGid"}"#,
            200,
            -32600,
            "Bad json request: ",
        ),
        (
            r#"{"jsonrpc":"2.0","id":"","method":"newGid"}"#,
            200,
            -32600,
            "Bad json request: ",
        ),
        (
            r#"{"jsonrpc":"2.0","id":"a","method":"nope"}"#,
            200,
            -32601,
            "Method not found: nope",
        ),
        (
            r#"{"jsonrpc":"2.0","id":"a","method":"query","params":{}}"#,
            200,
            -32601,
            "Method not found: query",
        ),
    ] {
        let answer = w
            .dtm
            .send(Method::POST, "/api/json-rpc", body)
            .await
            .expect("an answer");
        four_keys(&answer);
        let json = answer.json();
        assert_eq!(
            (answer.status, json["error"]["code"].as_i64()),
            (status, Some(code)),
            "{body}"
        );
        assert!(
            json["error"]["message"]
                .as_str()
                .is_some_and(|m| m.starts_with(message)),
            "{json}"
        );
        assert!(json["result"].is_null(), "{json}");
        let id = if status == 400 || !body.contains(r#""id":"a""#) {
            ""
        } else {
            "a"
        };
        assert_eq!(json["id"], id, "{body}");
    }
}

#[tokio::test]
async fn s01_jsonrpc_methods() {
    let w = World::start().await;
    let ok = r#"{"error":null,"id":"a","jsonrpc":"2.0","result":null}"#;
    let gid = w.dtm.rpc("newGid", &Value::Null).await;
    four_keys(&gid);
    assert_eq!(gid.json()["result"]["gid"].as_str().map(str::len), Some(22));

    let j1 = json!({"gid": "j1", "trans_type": "tcc"});
    w.dtm.rpc("prepare", &j1).await.expect(200, ok);
    w.dtm.rpc("prepare", &j1).await.expect(200, ok);
    let branch = w.tcc_branch("j1", "01", json!({}));
    w.dtm.rpc("registerBranch", &branch).await.expect(200, ok);
    w.dtm.rpc("registerBranch", &branch).await.expect(200, ok);
    let wait = json!({"gid": "j1", "trans_type": "tcc", "wait_result": true});
    w.dtm.rpc("submit", &wait).await.expect(200, ok);
    assert_eq!(w.dtm.query("j1").await.status(), "succeed");

    let refusal = |message: &str| {
        format!(
            r#"{{"error":{{"code":-32901,"message":"{message}"}},"id":"a","jsonrpc":"2.0","result":{{}}}}"#
        )
    };
    let late = w.tcc_branch("j1", "02", json!({}));
    for (method, params, message) in [
        (
            "submit",
            &j1,
            "current status 'succeed', cannot sumbmit. FAILURE",
        ),
        (
            "prepare",
            &j1,
            "current status 'succeed', cannot prepare. FAILURE",
        ),
        (
            "abort",
            &j1,
            "trans type: 'tcc' current status 'succeed', cannot abort. FAILURE",
        ),
        (
            "registerBranch",
            &late,
            "no trans with gid: j1 status: prepared found FAILURE",
        ),
    ] {
        w.dtm
            .rpc(method, params)
            .await
            .expect(200, &refusal(message));
    }
}

#[tokio::test]
async fn s01_jsonrpc_refusals() {
    let w = World::start().await;
    let unknown = json!({"gid": "zz", "trans_type": "tcc"});
    refused(
        &w.dtm.rpc("abort", &unknown).await,
        -32603,
        "no TransGlobal with gid: zz found",
    );
    refused(
        &w.dtm.rpc("submit", &unknown).await,
        -32603,
        "no TransGlobal with gid: zz found",
    );
    let late = w.tcc_branch("zz", "01", json!({}));
    refused(
        &w.dtm.rpc("registerBranch", &late).await,
        -32901,
        "no trans with gid: zz",
    );
    for (method, params) in [
        ("prepare", json!({"gid": "", "trans_type": "tcc"})),
        ("prepare", json!({"gid": 1, "trans_type": "tcc"})),
        ("prepare", json!({"gid": "a;b", "trans_type": "tcc"})),
        ("prepare", json!({"gid": "a\nb", "trans_type": "tcc"})),
        ("submit", json!({"gid": "b", "trans_type": "nope"})),
        (
            "submit",
            json!({"gid": "b", "trans_type": "saga", "steps": [{"action": "ftp://h/a"}], "payloads": ["{}"]}),
        ),
        ("submit", json!([])),
        (
            "registerBranch",
            json!({"gid": "b", "trans_type": "tcc", "branch_id": 1}),
        ),
    ] {
        refused(&w.dtm.rpc(method, &params).await, -32602, "");
    }
    let topic = json!({"gid": "b", "trans_type": "msg", "steps": [{"action": "topic://none"}], "payloads": ["{}"]});
    refused(
        &w.dtm.rpc("submit", &topic).await,
        -32603,
        "topic not found",
    );
    assert!(w.dtm.query("b").await.json["transaction"].is_null());
}

#[tokio::test]
async fn s01_jsonrpc_wait_result() {
    let w = World::start().await;
    use amends_scenarios::Reply;
    w.branches.script("/a", [Reply::failure("no stock")]);
    w.branches.script("/b", [Reply::ongoing()]);
    let slow = json!({"wait_result": true, "retry_interval": 20, "request_timeout": 1});
    let failed = w
        .dtm
        .rpc("submit", &w.saga("f", &["a"], slow.clone()))
        .await;
    refused(&failed, -32901, "no stock");
    let open = w.dtm.rpc("submit", &w.saga("o", &["b"], slow)).await;
    refused(&open, -32603, "");
    assert_eq!(w.dtm.query("o").await.status(), "submitted");
}
