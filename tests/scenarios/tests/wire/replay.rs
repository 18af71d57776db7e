//! Every request that DTM's Go client was recorded sending (tests/vectors), sent to us; and what clients rely on in the answers
//! (dtm-server.md 18).

use amends_scenarios::{World, keys};
use http::Method;
use serde_json::json;

const RECORDED: &str = include_str!("../../../vectors/dtm-go-client-requests.txt");

/// The requests to the coordinator: section, path, body. What the client sent to branches in between is left out.
fn requests(base: &str) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    let (mut section, mut path) = (String::new(), None);
    for line in RECORDED.lines() {
        let line = line.trim_start();
        if let Some(name) = line.strip_prefix("== ") {
            section = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("POST ") {
            let target = rest.split(' ').next().unwrap_or_default();
            path = target.starts_with("/api/").then(|| target.to_owned());
        } else if let Some(body) = line.strip_prefix("body=")
            && let Some(path) = path.take()
        {
            all.push((section.clone(), path, body.replace("http://H", base)));
        }
    }
    all
}

#[tokio::test]
async fn s02_what_dtms_go_client_sends_is_understood() {
    let w = World::start().await;
    let topic = w.url("/busi/tp");
    w.dtm
        .get(&format!("/api/dtmsvr/subscribe?topic=tp&url={topic}"))
        .await
        .expect_success();
    // Recorded against a server that accepted it although g8 had been submitted.
    w.dtm
        .post("prepare", &json!({"gid": "nested", "trans_type": "tcc"}))
        .await
        .expect_success();
    let all = requests(&w.url(""));
    assert_eq!(all.len(), 40, "the recording was read to its end");
    for (section, path, body) in all {
        let body = if section == "nested tcc" {
            body.replace("\"g8\"", "\"nested\"")
        } else {
            body
        };
        let answer = w
            .dtm
            .send(Method::POST, &path, body.clone())
            .await
            .expect("an answer");
        let text = answer.text();
        assert_eq!(answer.status, 200, "{section}: {path} {body}: {text}");
        assert!(!text.contains("FAILURE"), "{section}: {text}");
        match path.rsplit('/').next() {
            Some("json-rpc") => {
                assert_eq!(
                    text,
                    r#"{"error":null,"id":"no-use","jsonrpc":"2.0","result":null}"#
                );
            }
            Some("prepareWorkflow") => {
                let json = answer.json();
                assert_eq!(keys(&text), ["progresses", "transaction"]);
                assert_eq!(
                    (&json["progresses"], &json["transaction"]["status"]),
                    (&json!([]), &json!("prepared"))
                );
            }
            _ => assert_eq!(text, r#"{"dtm_result":"SUCCESS"}"#, "{section}: {path}"),
        }
    }
    for (gid, status) in [
        ("g1", "succeed"),
        ("g2", "succeed"),
        ("g3", "submitted"),
        ("g4", "succeed"),
        ("g5", "succeed"),
        ("g6", "failed"),
        ("g6b", "prepared"),
        ("g7", "failed"),
        ("g8", "succeed"),
        ("g9", "failed"),
        ("g10", "succeed"),
        ("g11", "succeed"),
        ("g12", "failed"),
        ("g13", "failed"),
        ("g14", "prepared"),
        ("g15", "prepared"),
        ("g16", "succeed"),
    ] {
        let view = w.dtm.wait_status(gid, status).await;
        // What C#'s client decodes: ids of 32 bits, creation and update times, a finish time that is absent or a text.
        for json in view.branches().iter().chain([&view.json["transaction"]]) {
            assert!(
                json["id"]
                    .as_i64()
                    .is_some_and(|id| i32::try_from(id).is_ok()),
                "{json}"
            );
            assert!(
                json["create_time"].is_string() && json["update_time"].is_string(),
                "{json}"
            );
            assert!(
                json.get("finish_time").is_none_or(|t| t.is_string()),
                "{json}"
            );
        }
    }
    let g2 = w.dtm.query("g2").await;
    assert!(
        g2.field("options").contains(r#""timeout_to_fail":9"#),
        "{}",
        g2.text
    );
    assert_eq!(w.branches.calls("/busi/out")[1].header("x-bh"), "v");
    assert_eq!(
        w.dtm.query("g9").await.field("rollback_reason"),
        "no stock FAILURE"
    );
    let g11 = w.dtm.query("g11").await;
    assert_eq!((g11.field("result"), g11.rows().as_str()), ("cmVz", "ssss"));
    let g12 = w.dtm.query("g12").await;
    assert!(g12.field("rollback_reason").ends_with("nope FAILURE"));
    assert_eq!(g12.rows(), "ssfs");
    assert_eq!(
        w.dtm.query("g3").await.row_names(),
        ["01/action", "02/action"]
    );
}
