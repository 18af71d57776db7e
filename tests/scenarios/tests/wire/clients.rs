//! Scenario 2: whole transactions of the clients that cannot be run here, as their sources write them (dtm-server.md 18): Node's dtmcli,
//! PHP's dtmcli and dtm-client (Hyperf), and C#'s Dtmcli and Dtmworkflow. What each relies on in an answer is asserted with it.

use amends_scenarios::{Answer, Reply, World, keys};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// A client: how it writes JSON, and when it takes an answer for a success.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    /// axios: any 2xx; `Msg` also looks for the word.
    Node,
    /// json_encode, which escapes slashes; `dtm_result` must be there.
    Php,
    /// System.Text.Json, indented, quotes inside strings by number; exactly 200 and no `FAILURE`.
    CSharp,
}

impl Client {
    fn write(self, body: &Value) -> String {
        match self {
            Client::Node => body.to_string(),
            Client::Php => body.to_string().replace('/', r"\/"),
            Client::CSharp => format!("{body:#}").replace(r#"\""#, r"\u0022"),
        }
    }

    async fn post(self, w: &World, route: &str, body: &Value) -> Answer {
        let answer = w.dtm.post_text(route, &self.write(body)).await;
        assert_eq!(answer.status, 200, "{self:?} {route}: {}", answer.text());
        assert!(!answer.text().contains("FAILURE"), "{}", answer.text());
        if self == Client::Php {
            assert_eq!(answer.json()["dtm_result"], "SUCCESS");
        }
        answer
    }

    /// newGid: every client wants `gid`, some also `dtm_result`.
    async fn gid(self, w: &World) -> String {
        let answer = w.dtm.get("/api/dtmsvr/newGid").await.expect_status(200);
        assert_eq!(answer.json()["dtm_result"], "SUCCESS");
        let gid = answer.json()["gid"].as_str().unwrap_or_default().to_owned();
        assert!(!gid.is_empty(), "{self:?}: {}", answer.text());
        gid
    }
}

/// C#'s TransBase: every property is written, with null for what was never set.
fn trans_base(gid: &str, trans_type: &str, set: Value) -> Value {
    let unset = json!({
        "gid": gid, "trans_type": trans_type, "custom_data": null, "wait_result": false, "timeout_to_fail": 0,
        "retry_interval": 0, "passthrough_headers": null, "branch_headers": null, "steps": null, "payloads": null,
        "query_prepared": null,
    });
    amends_scenarios::merge(unset, set)
}

/// PHP's TransContext: what was set, and an empty branch id from the start.
fn trans_context(gid: &str, trans_type: &str, set: Value) -> Value {
    let always = json!({"gid": gid, "trans_type": trans_type, "branch_id": ""});
    amends_scenarios::merge(always, set)
}

/// What C#'s client decodes a transaction of /query into: numbers of 32 bits; what may be absent must not be null.
#[derive(Debug, Deserialize)]
struct CsTransaction {
    #[expect(dead_code, reason = "only decoded")]
    id: i32,
    create_time: String,
    update_time: String,
    status: String,
    #[serde(default)]
    finish_time: String,
    #[serde(default)]
    next_cron_interval: i32,
    #[serde(default)]
    #[expect(dead_code, reason = "only decoded")]
    next_cron_time: String,
    concurrent: bool,
}

/// The same for a branch.
#[derive(Debug, Deserialize)]
struct CsBranch {
    #[expect(dead_code, reason = "only decoded")]
    id: i32,
    create_time: String,
    update_time: String,
    url: String,
    branch_id: String,
    op: String,
    status: String,
}

/// The answer of /query.
#[derive(Debug, Deserialize)]
struct CsQuery {
    branches: Vec<CsBranch>,
    transaction: Option<CsTransaction>,
}

/// C#'s QueryAsync of a transaction that is there.
async fn cs_query(w: &World, gid: &str) -> (CsTransaction, Vec<CsBranch>) {
    let text = w.dtm.query(gid).await.text;
    let found: CsQuery = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let transaction = found.transaction.expect("a transaction");
    let times = found
        .branches
        .iter()
        .flat_map(|b| [&b.create_time, &b.update_time])
        .chain([&transaction.create_time, &transaction.update_time]);
    for time in times {
        assert!(time.contains('T') && time.ends_with('Z'), "{time}");
    }
    (transaction, found.branches)
}

/// The answer of prepareWorkflow as C#'s client decodes it.
#[derive(Debug, Deserialize)]
struct CsProgresses {
    transaction: CsProgress,
    progresses: Vec<CsStep>,
}

#[derive(Debug, Deserialize)]
struct CsProgress {
    gid: String,
    status: String,
    rollback_reason: Option<String>,
    result: Option<String>,
}

#[derive(Debug, Deserialize)]
struct CsStep {
    status: String,
    branch_id: String,
    op: String,
}

async fn cs_prepare_workflow(w: &World, body: &Value) -> CsProgresses {
    let text = Client::CSharp.post(w, "prepareWorkflow", body).await.text();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[tokio::test]
async fn s02_a_saga_of_node() {
    let w = World::start().await;
    let gid = Client::Node.gid(&w).await;
    let step = |name: &str| json!({"action": w.url(&format!("/{name}")), "compensate": w.url(&format!("/{name}-undo"))});
    let body = json!({
        "gid": gid, "trans_type": "saga", "steps": [step("a"), step("b")],
        "payloads": [r#"{"amount":30}"#, r#"{"amount":30}"#],
        "custom_data": r#"{"concurrent":true,"orders":{"0":[1]}}"#,
    });
    w.branches.script("/a", [Reply::failure("no stock")]);
    Client::Node.post(&w, "submit", &body).await;
    let view = w.dtm.wait_status(&gid, "failed").await;
    assert_eq!(w.branches.trace(), ["/b", "/a", "/a-undo", "/b-undo"]);
    assert_eq!(view.rows(), "sfss");
    assert_eq!(w.branches.calls("/b")[0].text(), r#"{"amount":30}"#);
}

#[tokio::test]
async fn s02_tcc_of_node_and_of_phps_dtmcli() {
    // PHP's dtmcli pads its ids on the wrong side.
    for (client, ids) in [(Client::Node, ["01", "02"]), (Client::Php, ["10", "20"])] {
        for (end, status) in [("submit", "succeed"), ("abort", "failed")] {
            let w = World::start().await;
            let gid = client.gid(&w).await;
            let body = json!({"gid": gid, "trans_type": "tcc"});
            client.post(&w, "prepare", &body).await;
            for id in ids {
                let url = |verb: &str| w.url(&format!("/{id}-{verb}"));
                let branch = json!({
                    "gid": gid, "branch_id": id, "trans_type": "tcc", "status": "prepared", "data": r#"{"amount":30}"#,
                    "try": url("try"), "confirm": url("confirm"), "cancel": url("cancel"),
                });
                client.post(&w, "registerTccBranch", &branch).await;
            }
            client.post(&w, end, &body).await;
            w.dtm.wait_status(&gid, status).await;
            let verb = if end == "submit" { "confirm" } else { "cancel" };
            // The client calls the tries itself; the coordinator goes through the rest in reverse.
            let called = [ids[1], ids[0]].map(|id| format!("/{id}-{verb}"));
            assert_eq!(w.branches.trace(), called);
            let call = &w.branches.calls(&called[0])[0];
            assert_eq!(
                (call.method.clone(), call.text()),
                (Method::POST, r#"{"amount":30}"#.to_owned())
            );
            let query = format!("branch_id={}&gid={gid}&op={verb}&trans_type=tcc", ids[1]);
            assert_eq!(call.query, query);
        }
    }
}

#[tokio::test]
async fn s02_a_message_of_node() {
    let w = World::start().await;
    let gid = Client::Node.gid(&w).await;
    let mut body = json!({
        "gid": gid, "trans_type": "msg", "steps": [{"action": w.url("/in")}], "payloads": [r#"{"amount":30}"#],
        "query_prepared": w.url("/check"),
    });
    Client::Node.post(&w, "prepare", &body).await;
    assert_eq!(w.dtm.query(&gid).await.status(), "prepared");
    // Its template has a space, and only the submit says it.
    body["custom_data"] = r#"{"delay": 1}"#.into();
    let submitted = std::time::Instant::now();
    Client::Node.post(&w, "submit", &body).await;
    w.dtm.wait_status(&gid, "succeed").await;
    assert!(w.branches.calls("/in")[0].at - submitted >= Duration::from_secs(1));
    assert_eq!(w.branches.trace(), ["/in"]);
}

#[tokio::test]
async fn s02_a_saga_of_phps_dtm_client() {
    let w = World::start().await;
    let gid = Client::Php.gid(&w).await;
    let step = |name: &str| json!({"action": w.url(&format!("/{name}")), "compensate": w.url(&format!("/{name}-undo"))});
    // PHP writes orders whose keys begin at 0 as a list, however short, and an empty map as one too.
    let set = json!({
        "steps": [step("a"), step("b"), step("c")], "payloads": [r#"{"n":1}"#, "[]", r#"{"n":3}"#],
        "custom_data": r#"{"concurrent":true,"orders":[[1],[2]]}"#, "branch_headers": [], "passthrough_headers": [],
    });
    let body = trans_context(&gid, "saga", set);
    Client::Php.post(&w, "submit", &body).await;
    let view = w.dtm.wait_status(&gid, "succeed").await;
    assert_eq!(w.branches.trace(), ["/c", "/b", "/a"]);
    assert_eq!(view.rows(), "pspsps");
    assert_eq!(w.branches.calls("/b")[0].text(), "[]");
}

#[tokio::test]
async fn s02_a_message_and_xa_of_phps_dtm_client() {
    let w = World::start().await;
    let gid = Client::Php.gid(&w).await;
    let set = json!({
        "steps": [{"action": w.url("/in")}], "payloads": [r#"{"amount":30}"#], "query_prepared": w.url("/check"),
    });
    let body = trans_context(&gid, "msg", set);
    Client::Php.post(&w, "prepare", &body).await;
    let abort = json!({"gid": gid, "trans_type": "msg"});
    Client::Php.post(&w, "abort", &abort).await;
    assert_eq!(w.dtm.query(&gid).await.status(), "failed");
    assert_eq!(w.branches.trace().len(), 0);

    let gid = Client::Php.gid(&w).await;
    let mut body = trans_context(&gid, "xa", json!({"op": "action"}));
    Client::Php.post(&w, "prepare", &body).await;
    let branch = json!({"url": w.url("/xa"), "branch_id": "01", "gid": gid, "trans_type": "xa"});
    Client::Php.post(&w, "registerBranch", &branch).await;
    // By now its context has counted the branch.
    body["sub_branch_id"] = 1.into();
    Client::Php.post(&w, "submit", &body).await;
    w.dtm.wait_status(&gid, "succeed").await;
    let call = &w.branches.calls("/xa")[0];
    assert_eq!((call.param("op"), call.body.len()), ("commit".into(), 0));
}

/// One call of Hyperf's JSON-RPC client, which takes `result` whenever that key is there, and wants its id back.
async fn hyperf(w: &World, id: &str, method: &str, params: &Value) -> Value {
    let frame =
        json!({"jsonrpc": "2.0", "method": method, "params": params, "id": id, "context": []});
    let text = Client::Php.write(&frame);
    let answer = w.dtm.send(Method::POST, "/api/json-rpc", text).await;
    let answer = answer.expect("an answer").expect_status(200);
    let text = answer.text();
    assert_eq!(keys(&text), ["error", "id", "jsonrpc", "result"], "{text}");
    let mut json = answer.json();
    assert_eq!((&json["id"], &json["error"]), (&json!(id), &Value::Null));
    json["result"].take()
}

#[tokio::test]
async fn s02_phps_dtm_client_over_json_rpc() {
    let w = World::start().await;
    let nothing = json!([]);
    for (trans_type, n) in [("saga", 1), ("msg", 2), ("tcc", 3), ("xa", 4)] {
        let id = format!("65a1b2c3d4e5{n}");
        let result = hyperf(&w, &id, "newGid", &nothing).await;
        let gid = result["gid"].as_str().expect("a gid");
        let url = |name: &str| w.url(&format!("/{trans_type}-{name}"));
        let set = match trans_type {
            "saga" => {
                json!({"steps": [{"action": url("a"), "compensate": url("undo")}], "payloads": ["{}"]})
            }
            "msg" => {
                json!({"steps": [{"action": url("a")}], "payloads": ["{}"], "query_prepared": url("check")})
            }
            _ => json!({}),
        };
        let body = trans_context(gid, trans_type, set);
        if trans_type != "saga" {
            assert!(hyperf(&w, &id, "prepare", &body).await.is_null());
        }
        let branch = match trans_type {
            "tcc" => {
                json!({"data": "{}", "branch_id": "01", "confirm": url("a"), "cancel": url("undo"), "gid": gid, "trans_type": "tcc"})
            }
            _ => json!({"url": url("a"), "branch_id": "01", "gid": gid, "trans_type": "xa"}),
        };
        if matches!(trans_type, "tcc" | "xa") {
            assert!(hyperf(&w, &id, "registerBranch", &branch).await.is_null());
        }
        assert!(hyperf(&w, &id, "submit", &body).await.is_null());
        w.dtm.wait_status(gid, "succeed").await;
        assert_eq!(w.branches.count(&format!("/{trans_type}-a")), 1);
        assert_eq!(w.branches.trace().len(), n);
    }
}

#[tokio::test]
async fn s02_a_saga_of_csharp() {
    let w = World::start().await;
    let gid = Client::CSharp.gid(&w).await;
    let step = |name: &str| json!({"action": w.url(&format!("/{name}")), "compensate": w.url(&format!("/{name}-undo"))});
    // `concurrent` is in the custom data only.
    let set = json!({
        "steps": [step("a"), step("b")], "payloads": [r#"{"Amount":30}"#, "null"],
        "custom_data": r#"{"orders":{"0":[1]},"concurrent":true}"#,
    });
    let body = trans_base(&gid, "saga", set);
    w.branches.script("/a", [Reply::ongoing(), Reply::ok()]);
    Client::CSharp.post(&w, "submit", &body).await;
    w.branches.wait("/a", 1).await;
    let (open, _) = cs_query(&w, &gid).await;
    assert_eq!(
        (open.status.as_str(), open.finish_time.as_str()),
        ("submitted", "")
    );
    assert!(!open.concurrent && open.next_cron_interval > 0, "{open:?}");

    w.dtm.wait_status(&gid, "succeed").await;
    let (done, branches) = cs_query(&w, &gid).await;
    assert!(done.finish_time.contains('T'), "{done:?}");
    let rows: Vec<_> = branches
        .iter()
        .map(|b| (b.branch_id.as_str(), b.op.as_str(), b.status.as_str()))
        .collect();
    assert_eq!(
        rows,
        [
            ("01", "compensate", "prepared"),
            ("01", "action", "succeed"),
            ("02", "compensate", "prepared"),
            ("02", "action", "succeed"),
        ]
    );
    assert_eq!(branches[1].url, w.url("/a"));
    assert_eq!(w.branches.trace(), ["/b", "/a", "/a"]);
    assert_eq!(w.branches.calls("/a")[0].text(), r#"{"Amount":30}"#);
    assert_eq!(w.branches.calls("/b")[0].text(), "null");

    let unknown = w.dtm.query("unknown").await.text;
    let unknown: CsQuery = serde_json::from_str(&unknown).expect("an answer it can decode");
    assert!(unknown.transaction.is_none() && unknown.branches.is_empty());
}

#[tokio::test]
async fn s02_tcc_xa_and_a_topic_message_of_csharp() {
    let w = World::start().await;
    let gid = Client::CSharp.gid(&w).await;
    let body = trans_base(&gid, "tcc", json!({}));
    Client::CSharp.post(&w, "prepare", &body).await;
    let branch = json!({
        "gid": gid, "trans_type": "tcc", "data": r#"{"Amount":30}"#, "branch_id": "01",
        "confirm": w.url("/confirm"), "cancel": w.url("/cancel"),
    });
    Client::CSharp.post(&w, "registerBranch", &branch).await;
    let (prepared, rows) = cs_query(&w, &gid).await;
    assert_eq!((prepared.status.as_str(), rows.len()), ("prepared", 2));
    Client::CSharp.post(&w, "submit", &body).await;
    w.dtm.wait_status(&gid, "succeed").await;
    assert_eq!(w.branches.calls("/confirm")[0].text(), r#"{"Amount":30}"#);

    let gid = Client::CSharp.gid(&w).await;
    let body = trans_base(&gid, "xa", json!({}));
    Client::CSharp.post(&w, "prepare", &body).await;
    let branch = json!({"gid": gid, "trans_type": "xa", "branch_id": "01", "url": w.url("/xa")});
    Client::CSharp.post(&w, "registerBranch", &branch).await;
    Client::CSharp.post(&w, "abort", &body).await;
    w.dtm.wait_status(&gid, "failed").await;
    assert_eq!(w.branches.calls("/xa")[0].param("op"), "rollback");

    let topic = w.url("/subscriber");
    w.dtm
        .get(&format!("/api/dtmsvr/subscribe?topic=paid&url={topic}"))
        .await
        .expect_success();
    let gid = Client::CSharp.gid(&w).await;
    let set = json!({
        "steps": [{"action": "topic://paid"}], "payloads": [r#"{"Amount":30}"#], "query_prepared": w.url("/check"),
    });
    let body = trans_base(&gid, "msg", set);
    Client::CSharp.post(&w, "prepare", &body).await;
    Client::CSharp.post(&w, "submit", &body).await;
    w.dtm.wait_status(&gid, "succeed").await;
    assert_eq!(w.branches.trace(), ["/confirm", "/xa", "/subscriber"]);
}

#[tokio::test]
async fn s02_a_workflow_of_csharp_that_another_runner_ends() {
    let w = World::start().await;
    let gid = "wf-1";
    let set = json!({
        "custom_data": r#"{"name":"transfer","data":"eyJhIjoxfQ=="}"#, "query_prepared": w.url("/resume"), "protocol": "http",
    });
    let body = trans_base(gid, "workflow", set);
    let first = cs_prepare_workflow(&w, &body).await;
    assert_eq!(
        (
            first.transaction.gid.as_str(),
            first.transaction.status.as_str()
        ),
        (gid, "prepared")
    );
    assert!(first.progresses.is_empty() && first.transaction.result.is_none());
    let row = |branch_id: &str, op: &str, status: &str, data: &str| json!({"gid": gid, "trans_type": "workflow", "data": data, "branch_id": branch_id, "op": op, "status": status});
    let action = row("01", "action", "succeed", r#"{"reply":1}"#);
    Client::CSharp.post(&w, "registerBranch", &action).await;

    // The runner is gone. ExecuteByQS takes the workflow's name from `op` and its input from the body.
    let call = &w.branches.wait("/resume", 1).await[0];
    assert_eq!(
        (call.param("gid"), call.param("op"), call.text()),
        (gid.into(), "transfer".into(), r#"{"a":1}"#.into())
    );
    let resumed = cs_prepare_workflow(&w, &body).await;
    let steps: Vec<_> = resumed
        .progresses
        .iter()
        .map(|p| (p.branch_id.as_str(), p.op.as_str(), p.status.as_str()))
        .collect();
    assert_eq!(steps, [("01", "action", "succeed")]);
    for row in [
        row("02", "action", "failed", "no stock"),
        row("01", "rollback", "succeed", ""),
    ] {
        Client::CSharp.post(&w, "registerBranch", &row).await;
    }
    let extra = json!({"status": "failed", "rollback_reason": "no stock", "result": ""});
    let end = json!({"gid": gid, "trans_type": "workflow", "req_extra": extra});
    Client::CSharp.post(&w, "submit", &end).await;
    let ended = cs_prepare_workflow(&w, &body).await;
    assert_eq!(ended.transaction.status, "failed");
    assert_eq!(
        ended.transaction.rollback_reason.as_deref(),
        Some("no stock")
    );
}

#[tokio::test]
async fn s02_a_workflow_of_csharp_that_succeeds() {
    let w = World::start().await;
    let set = json!({"custom_data": r#"{"name":"empty","data":null}"#, "query_prepared": w.url("/resume"), "protocol": "http"});
    let body = trans_base("wf-2", "workflow", set);
    cs_prepare_workflow(&w, &body).await;
    let extra = json!({"status": "succeed", "rollback_reason": "", "result": "ZG9uZQ=="});
    let end = json!({"gid": "wf-2", "trans_type": "workflow", "req_extra": extra});
    Client::CSharp.post(&w, "submit", &end).await;
    let ended = cs_prepare_workflow(&w, &body).await.transaction;
    assert_eq!(
        (ended.status.as_str(), ended.result.as_deref()),
        ("succeed", Some("ZG9uZQ=="))
    );
    let (queried, rows) = cs_query(&w, "wf-2").await;
    assert_eq!((queried.status.as_str(), rows.len()), ("succeed", 0));
}
