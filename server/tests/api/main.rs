//! The HTTP and JSON-RPC routes over a socket: status codes and bodies as recorded from DTM, and where rules.md 2 differs, as it says.
//! The coordinator keeps its transactions in memory; none of them has a branch that is called.

mod support;

use amends_server::config::Secret;
use serde_json::{Value, json};
use support::{JSON, Server, start};

/// Requests and their answers, in the order they are made: a line with method, path and body, a line with status and body.
const ANSWERS: &str = include_str!("answers.txt");
const SUCCESS: &str = r#"{"dtm_result":"SUCCESS"}"#;

#[tokio::test]
async fn answers_are_as_recorded() {
    let server = start(|_| {}).await;
    let mut lines = ANSWERS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    while let (Some(request), Some(answer)) = (lines.next(), lines.next()) {
        let mut words = request.splitn(3, ' ');
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().expect("a path"),
        );
        let reply = server
            .send(method, path, "", words.next().unwrap_or_default())
            .await;
        assert_eq!(
            format!("{} {}", reply.status, reply.body),
            answer,
            "{request}"
        );
        assert_eq!(reply.content_type(), JSON, "{request}");
    }
    server.coordinator.shutdown().await;
}

#[tokio::test]
async fn what_is_no_route_is_a_404_in_plain_text() {
    let server = start(|_| {}).await;
    for (method, path) in [
        ("GET", "/nothing"),
        ("POST", "/api/dtmsvr/newGid"),
        ("GET", "/api/dtmsvr/submit"),
        ("GET", "/"),
    ] {
        let reply = server.send(method, path, "", "").await;
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (404, "404 page not found"),
            "{method} {path}"
        );
        assert_eq!(reply.content_type(), "text/plain");
    }
    server.coordinator.shutdown().await;
}

#[tokio::test]
async fn malformed_requests_are_refused_with_a_reason_and_without_the_word_failure() {
    let server = start(|_| {}).await;
    for (route, body, reason) in [
        ("submit", "hello", "malformed JSON"),
        ("submit", "", "malformed JSON"),
        ("submit", r#"{"gid":1}"#, "gid"),
        (
            "submit",
            r#"{"gid":"x1","trans_type":"nope-FAILURE"}"#,
            "unknow trans type: nope",
        ),
        (
            "prepare",
            r#"{"gid":"","trans_type":"tcc"}"#,
            "no gid specified",
        ),
        ("prepare", r#"{"gid":"a;b","trans_type":"tcc"}"#, "';'"),
        (
            "prepare",
            r#"{"gid":"t","trans_type":"tcc","retry_interval":-1}"#,
            "retry_interval is -1",
        ),
        (
            "submit",
            r#"{"gid":"s","trans_type":"saga","steps":[{"action":"http://h/"}]}"#,
            "0 payloads for 1 steps",
        ),
        ("registerBranch", "hello", "registerBranch"),
        ("registerBranch", r#"{"gid":"t1","data":1}"#, "data"),
        (
            "registerBranch",
            r#"{"gid":"t1","trans_type":"zzz","branch_id":"01"}"#,
            "unknow trans type: zzz",
        ),
        ("resetNextCronTime", "[]", "malformed JSON"),
    ] {
        let reply = server.post(route, body).await;
        assert_eq!(reply.status, 400, "{route} {body}: {}", reply.body);
        assert_eq!(reply.content_type(), JSON);
        assert!(!reply.body.contains("FAILURE"), "{}", reply.body);
        let text = reply.json()["message"]
            .as_str()
            .map(str::to_owned)
            .unwrap_or_default();
        assert!(text.contains(reason), "{route} {body}: {text}");
    }
    for path in [
        "all?status=weird",
        "all?transType=weird",
        "all?createTimeStart=x",
        "resetCronTime?timeout=-1",
        "scanKV?limit=0",
    ] {
        let reply = server.get(&format!("/api/dtmsvr/{path}")).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.body);
    }
    assert_eq!(
        server.get("/api/dtmsvr/all").await.json()["transactions"],
        json!([]),
        "nothing was stored"
    );
    server.coordinator.shutdown().await;
}

#[tokio::test]
async fn bodies_are_limited() {
    let limit = 1_000;
    let server = start(|config| config.limits.body = limit).await;
    let padded = |bytes: usize| {
        let body = r#"{"gid":"b","trans_type":"tcc"}"#;
        format!("{body}{}", " ".repeat(bytes - body.len()))
    };
    assert_eq!(server.post("prepare", &padded(limit)).await.status, 200);
    let over = server.post("prepare", &padded(limit + 1)).await;
    assert_eq!(
        (over.status, over.json()["dtm_result"].clone()),
        (413, Value::Null)
    );
    let over = server.rpc(&padded(limit + 1)).await;
    assert_eq!(
        (over.status, over.json()["error"]["code"].clone()),
        (200, json!(-32602))
    );
    server.coordinator.shutdown().await;
}

#[tokio::test]
async fn gids_and_versions() {
    let server = start(|_| {}).await;
    let gid = server.get("/api/dtmsvr/newGid").await.json();
    assert_eq!(
        (&gid["dtm_result"], gid["gid"].as_str().map(str::len)),
        (&json!("SUCCESS"), Some(22))
    );
    let version = server.get("/api/dtmsvr/version").await;
    assert!(
        version.body.starts_with(r#"{"version":"v"#),
        "{}",
        version.body
    );
    server.coordinator.shutdown().await;
}

#[tokio::test]
async fn json_rpc_answers_with_four_keys() {
    let server = start(|_| {}).await;
    let frame = |method: &str, params: Value| {
        json!({"jsonrpc": "2.0", "id": "a", "method": method, "params": params}).to_string()
    };
    let ok = r#"{"error":null,"id":"a","jsonrpc":"2.0","result":null}"#.to_owned();
    let error = |code: i64, message: &str, result: &str| {
        format!(
            r#"{{"error":{{"code":{code},"message":"{message}"}},"id":"a","jsonrpc":"2.0","result":{result}}}"#
        )
    };
    let tcc = json!({"gid": "j1", "trans_type": "tcc"});
    let branch =
        json!({"gid": "j1", "trans_type": "tcc", "branch_id": "01", "confirm": "", "cancel": null});
    for (body, expected) in [
        (
            frame("nope", json!({})),
            error(-32601, "Method not found: nope", "null"),
        ),
        (frame("prepare", tcc.clone()), ok.clone()),
        (frame("registerBranch", branch.clone()), ok.clone()),
        (
            frame("abort", json!({"gid": "zz"})),
            error(-32603, "no TransGlobal with gid: zz found", "{}"),
        ),
        (
            frame("prepare", Value::Null),
            error(-32602, "no gid specified", "{}"),
        ),
    ] {
        let reply = server.rpc(&body).await;
        assert_eq!((reply.status, &reply.body), (200, &expected), "{body}");
        assert_eq!(reply.content_type(), JSON);
    }
    server.post("forceStop", r#"{"gid":"j1"}"#).await;
    for (method, params, message) in [
        (
            "submit",
            tcc.clone(),
            "current status 'failed', cannot sumbmit. FAILURE",
        ),
        (
            "abort",
            tcc,
            "trans type: 'tcc' current status 'failed', cannot abort. FAILURE",
        ),
        (
            "registerBranch",
            branch,
            "no trans with gid: j1 status: prepared found FAILURE",
        ),
    ] {
        assert_eq!(
            server.rpc(&frame(method, params)).await.body,
            error(-32901, message, "{}")
        );
    }
    let gid = server.rpc(&frame("newGid", json!({}))).await.json();
    assert_eq!(gid["result"]["gid"].as_str().map(str::len), Some(22));
    for (body, status, code) in [
        ("hello", 400, -32700),
        ("", 400, -32700),
        (r#"{"jsonrpc":"2.0","id":1,"method":"newGid"}"#, 400, -32700),
        (
            r#"{"jsonrpc":"1.0","id":"a","method":"newGid"}"#,
            200,
            -32600,
        ),
    ] {
        let reply = server.rpc(body).await;
        let answer = reply.json();
        assert_eq!(
            (reply.status, &answer["error"]["code"]),
            (status, &json!(code)),
            "{body}"
        );
        assert_eq!(answer.as_object().map(|a| a.len()), Some(4), "{answer}");
    }
    server.coordinator.shutdown().await;
}

#[tokio::test]
async fn pages_of_all_and_scan_kv_hold_everything_once() {
    let server = start(|_| {}).await;
    let mut gids: Vec<String> = (0..25).map(|n| format!("g{}", n * 7)).collect();
    for (n, gid) in gids.iter().enumerate() {
        let ty = if n % 5 == 0 { "xa" } else { "tcc" };
        assert_eq!(
            server
                .post(
                    "prepare",
                    &json!({"gid": gid, "trans_type": ty}).to_string()
                )
                .await
                .status,
            200
        );
        let topic = format!("/api/dtmsvr/subscribe?topic=t-{gid}&url=http://127.0.0.1:1/");
        assert_eq!(server.get(&topic).await.status, 200);
    }
    let mut seen = pages(&server, "all?limit=7", "transactions", "gid").await;
    let mut keys = pages(&server, "scanKV?cat=topics&limit=10", "kv", "k").await;
    for list in [&mut gids, &mut seen, &mut keys] {
        list.sort();
    }
    assert_eq!(seen, gids);
    assert_eq!(
        keys,
        gids.iter().map(|g| format!("t-{g}")).collect::<Vec<_>>()
    );
    assert_eq!(
        pages(
            &server,
            "all?limit=2&transType=xa&status=prepared",
            "transactions",
            "gid"
        )
        .await
        .len(),
        5
    );
    assert!(
        pages(&server, "all?status=failed", "transactions", "gid")
            .await
            .is_empty()
    );
    let from = "all?createTimeStart=4102444800000";
    assert!(pages(&server, from, "transactions", "gid").await.is_empty());
    assert_eq!(
        pages(
            &server,
            "all?createTimeEnd=4102444800000",
            "transactions",
            "gid"
        )
        .await
        .len(),
        25
    );
    let one = server
        .get("/api/dtmsvr/all?gid=g7&status=failed")
        .await
        .json();
    assert_eq!(
        (&one["transactions"][0]["gid"], &one["next_position"]),
        (&json!("g7"), &json!(""))
    );
    let topic = server
        .get("/api/dtmsvr/queryKV?cat=topics&key=t-g7")
        .await
        .json();
    assert_eq!(
        topic["kv"][0]["v"],
        r#"[{"url":"http://127.0.0.1:1/","remark":""}]"#
    );
    assert_eq!(
        server.get("/api/dtmsvr/queryKV?cat=topics").await.json()["kv"]
            .as_array()
            .map(Vec::len),
        Some(25)
    );
    server.coordinator.shutdown().await;
}

/// What a paged route shows, page by page.
async fn pages(server: &Server, path: &str, list: &str, key: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut position = String::new();
    for _ in 0..30 {
        let page = server
            .get(&format!("/api/dtmsvr/{path}&position={position}"))
            .await
            .json();
        all.extend(
            page[list]
                .as_array()
                .expect("a list")
                .iter()
                .map(|one| one[key].as_str().expect("a key").to_owned()),
        );
        let mut next = String::new();
        amends::wire::url::escape(
            page["next_position"].as_str().expect("a position"),
            &mut next,
        );
        if next.is_empty() {
            return all;
        }
        position = next;
    }
    panic!("{path} does not end");
}

#[tokio::test]
async fn a_workflow_is_prepared_once_and_shows_its_progress() {
    let server = start(|_| {}).await;
    let body = r#"{"gid":"w1","trans_type":"workflow","query_prepared":"http://127.0.0.1:1/wf","custom_data":"{\"name\":\"n1\",\"data\":\"eyJhIjoxfQ==\"}"}"#;
    let new = server.post("prepareWorkflow", body).await;
    assert_eq!(new.status, 200, "{}", new.body);
    assert!(
        new.body
            .starts_with(r#"{"progresses":[],"transaction":{"id":0,"create_time":"#),
        "{}",
        new.body
    );
    let row = r#"{"gid":"w1","trans_type":"workflow","branch_id":"01","op":"action","status":"succeed","data":"res-data"}"#;
    assert_eq!(server.post("registerBranch", row).await.status, 200);
    let again = server.post("prepareWorkflow", body).await.json();
    assert_eq!(again["progresses"][0]["bin_data"], "cmVzLWRhdGE=");
    let end =
        r#"{"gid":"w1","trans_type":"workflow","req_extra":{"status":"succeed","result":"cmVz"}}"#;
    assert_eq!(server.post("submit", end).await.body, SUCCESS);
    let shown = server.get("/api/dtmsvr/query?gid=w1").await.json();
    assert_eq!(
        (
            &shown["transaction"]["status"],
            &shown["transaction"]["result"]
        ),
        (&json!("succeed"), &json!("cmVz"))
    );
    server.coordinator.shutdown().await;
}

#[tokio::test]
async fn operator_routes_want_the_token_where_there_is_one() {
    let server = start(|config| config.operator_token = Secret::from("s3cret".to_owned())).await;
    let routes = [
        ("POST", "forceStop"),
        ("POST", "resetNextCronTime"),
        ("GET", "resetCronTime"),
        ("GET", "subscribe?topic=t&url=http://h"),
        ("GET", "unsubscribe?topic=t&url=http://h"),
        ("DELETE", "topic/t"),
    ];
    for (method, route) in routes {
        let path = format!("/api/dtmsvr/{route}");
        for authorization in [
            "",
            "Bearer wrong",
            "Bearer s3cret1",
            "Basic s3cret",
            "s3cret",
        ] {
            let reply = server
                .send(method, &path, authorization, r#"{"gid":"g"}"#)
                .await;
            assert_eq!(reply.status, 401, "{route} {authorization}: {}", reply.body);
            assert_eq!(reply.headers["www-authenticate"], "Bearer");
            assert!(reply.body.contains("Authorization: Bearer"));
        }
        let reply = server
            .send(method, &path, "bearer s3cret", r#"{"gid":"g"}"#)
            .await;
        assert_ne!(reply.status, 401, "{route}");
    }
    assert_eq!(
        server
            .post("prepare", r#"{"gid":"g","trans_type":"tcc"}"#)
            .await
            .status,
        200
    );
    server.coordinator.shutdown().await;
}

#[tokio::test]
async fn requests_are_counted_by_route() {
    let server = start(|_| {}).await;
    for path in [
        "/api/dtmsvr/query?gid=a",
        "/api/dtmsvr/query?gid=b",
        "/api/dtmsvr/query",
        "/api/ping",
        "/nothing",
    ] {
        server.get(path).await;
    }
    let metrics = server.get("/api/metrics").await;
    assert_eq!(
        metrics.content_type(),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    for line in [
        r#"dtm_server_process_total{api="query",status="ok",type="http"} 2"#,
        r#"dtm_server_process_total{api="query",status="fail",type="http"} 1"#,
        r#"dtm_server_process_total{api="other",status="fail",type="http"} 1"#,
        r#"dtm_server_response_duration_count{api="query",type="http"} 3"#,
    ] {
        assert!(metrics.body.contains(line), "{line}\n{}", metrics.body);
    }
    assert!(!metrics.body.contains("ping"));
    server.coordinator.shutdown().await;
}
