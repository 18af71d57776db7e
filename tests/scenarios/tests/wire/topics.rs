//! Scenario 21: messages to topics.

use amends_scenarios::{DURABLE, Reply, World, escape};
use serde_json::{Value, json};

async fn subscribe(w: &World, topic: &str, path: &str) {
    let url = escape(&w.url(path));
    w.dtm
        .get(&format!(
            "/api/dtmsvr/subscribe?topic={topic}&url={url}&remark=r"
        ))
        .await
        .expect_success();
}

async fn unsubscribe(w: &World, topic: &str, path: &str) {
    let url = escape(&w.url(path));
    w.dtm
        .get(&format!("/api/dtmsvr/unsubscribe?topic={topic}&url={url}"))
        .await
        .expect_success();
}

/// A message with these actions, each with its own payload.
fn msg(w: &World, gid: &str, actions: &[&str]) -> Value {
    let action = |a: &&str| json!({"action": if a.starts_with("topic:") { (*a).to_owned() } else { w.url(a) }});
    json!({
        "gid": gid,
        "trans_type": "msg",
        "steps": actions.iter().map(action).collect::<Vec<_>>(),
        "payloads": (1..=actions.len()).map(|n| format!("{{\"n\":{n}}}")).collect::<Vec<_>>(),
        "query_prepared": w.url("/check"),
        "wait_result": true,
    })
}

#[tokio::test]
async fn s21_a_topic_is_replaced_by_its_subscribers() {
    let w = World::start().await;
    for (topic, path) in [("two", "/s1"), ("two", "/s2"), ("one", "/s3")] {
        subscribe(&w, topic, path).await;
    }
    // Visible to the very next request.
    let body = msg(&w, "m", &["topic://two", "/plain", "topic://one"]);
    w.dtm.post("submit", &body).await.expect_success();
    let view = w.dtm.query("m").await;
    assert_eq!(
        view.row_names(),
        ["01-01/action", "01-02/action", "02/action", "03/action"]
    );
    assert_eq!(view.json["transaction"]["steps"], body["steps"]);
    assert_eq!(w.branches.trace(), ["/s1", "/s2", "/plain", "/s3"]);
    for (path, id, payload) in [
        ("/s1", "01-01", 1),
        ("/s2", "01-02", 1),
        ("/plain", "02", 2),
        ("/s3", "03", 3),
    ] {
        let call = &w.branches.calls(path)[0];
        assert_eq!(
            (call.param("branch_id").as_str(), call.json()),
            (id, json!({"n": payload}))
        );
    }
}

#[tokio::test]
async fn s21_a_topic_without_subscribers_is_not_found() {
    let w = World::start().await;
    subscribe(&w, "emptied", "/s").await;
    unsubscribe(&w, "emptied", "/s").await;
    subscribe(&w, "deleted", "/s").await;
    w.dtm
        .delete("/api/dtmsvr/topic/deleted")
        .await
        .expect_success();
    for topic in ["emptied", "deleted", "unknown"] {
        for route in ["prepare", "submit"] {
            let body = msg(&w, topic, &["/plain", &format!("topic://{topic}")]);
            w.dtm
                .post(route, &body)
                .await
                .expect(404, r#"{"message":"topic not found"}"#);
        }
        assert!(w.dtm.query(topic).await.json["transaction"].is_null());
    }
    assert_eq!(w.branches.trace().len(), 0);
}

#[tokio::test]
async fn s21_topics_are_resolved_once_by_prepare() {
    let w = World::start().await;
    subscribe(&w, "tp", "/s1").await;
    let body = msg(&w, "m", &["topic://tp"]);
    w.dtm.post("prepare", &body).await.expect_success();
    subscribe(&w, "tp", "/s2").await;
    unsubscribe(&w, "tp", "/s1").await;
    w.dtm.post("submit", &body).await.expect_success();
    assert_eq!(w.branches.trace(), ["/s1"]);

    w.dtm
        .post("prepare", &msg(&w, "n", &["topic://tp"]))
        .await
        .expect_success();
    w.dtm.delete("/api/dtmsvr/topic/tp").await.expect_success();
    w.dtm
        .post("submit", &msg(&w, "n", &["topic://tp"]))
        .await
        .expect_success();
    assert_eq!(w.branches.trace(), ["/s1", "/s2"]);
}

#[tokio::test]
async fn s21_a_topic_that_is_made_again_is_used_at_once() {
    let w = World::start().await;
    for (gid, path) in [("m1", "/s1"), ("m2", "/s2"), ("m3", "/s3")] {
        subscribe(&w, "tp", path).await;
        w.dtm
            .post("submit", &msg(&w, gid, &["topic://tp"]))
            .await
            .expect_success();
        w.dtm.delete("/api/dtmsvr/topic/tp").await.expect_success();
    }
    assert_eq!(w.branches.trace(), ["/s1", "/s2", "/s3"]);
}

#[tokio::test]
async fn s21_twenty_concurrent_subscribers() {
    let mut w = World::with(&[DURABLE]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20 {
        let (dtm, url) = (w.dtm.clone(), escape(&w.url(&format!("/s{n:02}"))));
        tasks.spawn(async move {
            dtm.get(&format!(
                "/api/dtmsvr/subscribe?topic=tp&url={url}&remark=r"
            ))
            .await
        });
    }
    while let Some(answer) = tasks.join_next().await {
        answer.expect("a task").expect_success();
    }
    w.crash().await;
    w.branches.script("/s07", [Reply::ok()]);
    w.dtm
        .post("submit", &msg(&w, "m", &["topic://tp"]))
        .await
        .expect_success();
    assert_eq!(w.dtm.query("m").await.rows(), "s".repeat(20));
    let mut called = w.branches.trace();
    called.sort();
    assert_eq!(
        called,
        (0..20).map(|n| format!("/s{n:02}")).collect::<Vec<_>>()
    );
    let kv = w
        .dtm
        .get("/api/dtmsvr/queryKV?cat=topics&key=tp")
        .await
        .json();
    assert_eq!(kv["kv"][0]["version"], 20);
}
