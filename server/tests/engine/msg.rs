//! Messages: check-back, delivery, topics, delay.

use super::net::{End, end, ok, status};
use super::world::{World, global, msg};
use amends::{ErrorKind, Status};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_submitted_message_is_delivered_in_order() {
    let w = World::new(|_| ok(10));
    w.prepare(msg("g", 3, json!({}))).await.expect("prepare");
    w.submit(msg("g", 3, json!({}))).await.expect("submit");
    w.ends("g", Status::Succeed, 1_000).await;
    assert_eq!(w.net.calls("g"), "01 action, 02 action, 03 action");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_not_submitted_is_asked_about() {
    let w = World::new(|call| match (call.op.as_str(), call.nth) {
        ("msg", 0) => status(500, 10),
        ("msg", 1) => status(425, 10),
        ("msg", _) => status(200, 10),
        _ => ok(10),
    });
    w.prepare(msg("g", 1, json!({}))).await.expect("prepare");
    w.ends("g", Status::Succeed, 120_000).await;
    assert_eq!(w.net.calls("g"), "00 msg, 00 msg, 00 msg, 01 action");
    assert_eq!(w.net.times("g", "00 msg")[0], 35_000);
    assert!(w.net.effect("g", "01").stays());
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_transaction_failed_is_never_delivered() {
    let w = World::new(|_| status(409, 10));
    w.prepare(msg("g", 1, json!({"timeout_to_fail": 5})))
        .await
        .expect("prepare");
    w.ends("g", Status::Failed, 10_000).await;
    assert_eq!(w.net.calls("g"), "00 msg");
    let late = w.submit(msg("g", 1, json!({}))).await;
    assert_eq!(late.expect_err("failed").kind(), ErrorKind::Refused);
}

#[tokio::test(start_paused = true)]
async fn a_submit_during_the_check_back_wins() {
    let w = World::new(|call| {
        if call.op == "msg" {
            status(409, 1_000)
        } else {
            ok(10)
        }
    });
    w.prepare(msg("g", 1, json!({"timeout_to_fail": 5})))
        .await
        .expect("prepare");
    w.pass(5_500).await;
    assert_eq!(w.net.calls("g"), "00 msg");
    w.submit(msg("g", 1, json!({}))).await.expect("submit");
    w.ends("g", Status::Succeed, 2_000).await;
    assert_eq!(w.net.times("g", "01 action"), [5_500]);
}

#[tokio::test(start_paused = true)]
async fn concurrent_deliveries_do_not_wait_for_each_other() {
    let w = World::new(|call| {
        if call.branch == "01" && call.nth == 0 {
            end(End::Silence)
        } else {
            ok(10)
        }
    });
    w.submit(msg("g", 3, json!({"concurrent": true})))
        .await
        .expect("submit");
    w.ends("g", Status::Succeed, 60_000).await;
    assert_eq!(w.net.times("g", "03 action"), [0]);
}

#[tokio::test(start_paused = true)]
async fn nothing_cuts_a_delay() {
    let w = World::new(|_| ok(0));
    w.submit(msg("g", 1, json!({"custom_data": "{\"delay\":20}"})))
        .await
        .expect("submit");
    w.pass(3_000).await;
    assert_eq!(w.engine.driven(), 0);
    w.engine.reset_next("g").await.expect("reset");
    w.submit(msg("g", 1, json!({})))
        .await
        .expect("submit again");
    w.ends("g", Status::Succeed, 20_000).await;
    assert_eq!(w.net.times("g", "01 action"), [20_000]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_resolved_once() {
    let w = World::new(|_| ok(10));
    for host in ["s1", "s2"] {
        let url = format!("http://{host}/on");
        w.topics.subscribe("t", &url, "").await.expect("subscribe");
    }
    let body = json!({"gid": "g", "trans_type": "msg", "steps": [{"action": "topic://t"}], "payloads": ["{}"],
        "query_prepared": "http://q/query"});
    w.prepare(body.clone()).await.expect("prepare");
    w.topics
        .subscribe("t", "http://s3/on", "")
        .await
        .expect("subscribe");
    w.topics
        .unsubscribe("t", "http://s1/on")
        .await
        .expect("unsubscribe");
    w.submit(body).await.expect("submit");
    w.ends("g", Status::Succeed, 1_000).await;
    let hosts: Vec<String> = w.net.log().into_iter().map(|c| c.host).collect();
    assert_eq!(hosts, ["http://s1", "http://s2"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_can_be_submitted_though_its_topic_is_gone() {
    let w = World::new(|_| ok(10));
    w.topics
        .subscribe("t", "http://s1/on", "")
        .await
        .expect("subscribe");
    let body = json!({"gid": "g", "trans_type": "msg", "steps": [{"action": "topic://t"}], "payloads": ["{}"],
        "query_prepared": "http://q/query"});
    w.prepare(body.clone()).await.expect("prepare");
    w.topics.delete("t").await.expect("delete");
    w.prepare(body.clone()).await.expect("prepare again");
    w.submit(body.clone()).await.expect("submit");
    w.ends("g", Status::Succeed, 1_000).await;
    let mut other = global(&body);
    other.gid = "h".to_owned();
    let unknown = w.engine.submit(other).await.expect_err("no topic");
    assert_eq!(unknown.kind(), ErrorKind::TopicNotFound);
}
