//! Scenario 1: every limit of rules.md 5, at the limit and one past it; nothing of a refused request is stored.

use amends_scenarios::{World, merge};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MIB: usize = 1 << 20;

/// The first body is at the limit, the second one past it. Both use their own gid where it is not the gid that is tried.
async fn edge(w: &World, route: &str, at: &Value, past: &Value, part: &str) {
    let answer = w.dtm.post(route, at).await;
    assert_eq!(answer.status, 200, "{part} at the limit: {}", answer.text());
    let answer = w.dtm.post(route, past).await;
    assert_eq!(
        answer.status,
        400,
        "{part} past the limit: {}",
        answer.text()
    );
    assert!(
        answer.message().contains(part),
        "{:?} does not name {part:?}",
        answer.message()
    );
    let gid = past["gid"].as_str().expect("a gid");
    if at["gid"] != past["gid"] {
        assert!(
            w.dtm.query(gid).await.json["transaction"].is_null(),
            "{part}: stored"
        );
    }
}

#[tokio::test]
async fn s01_limits_of_names_and_urls() {
    let w = World::start().await;
    let tcc = |gid: String| json!({"gid": gid, "trans_type": "tcc"});
    edge(
        &w,
        "prepare",
        &tcc("g".repeat(128)),
        &tcc("g".repeat(129)),
        "128",
    )
    .await;

    w.dtm
        .post("prepare", &tcc("t".into()))
        .await
        .expect_success();
    let branch = |n: usize| w.tcc_branch("t", &"1".repeat(n), json!({}));
    edge(
        &w,
        "registerBranch",
        &branch(128),
        &branch(129),
        "branch_id",
    )
    .await;

    w.dtm
        .post("prepareWorkflow", &w.workflow("w", json!({})))
        .await
        .expect_status(200);
    let row = |n: usize| json!({"gid": "w", "trans_type": "workflow", "branch_id": "01", "op": "o".repeat(n), "status": "succeed"});
    edge(&w, "registerBranch", &row(45), &row(46), "op").await;

    let url = |n: usize| {
        let base = w.url("/");
        format!("{base}{}", "u".repeat(n - base.len()))
    };
    let action = |gid: &str, n| w.msg(gid, &["a"], json!({"steps": [{"action": url(n)}]}));
    edge(
        &w,
        "prepare",
        &action("u1", 2048),
        &action("u2", 2049),
        "2048",
    )
    .await;
    let check = |gid: &str, n| w.msg(gid, &["a"], json!({"query_prepared": url(n)}));
    edge(
        &w,
        "prepare",
        &check("q1", 2048),
        &check("q2", 2049),
        "2048",
    )
    .await;
    let compensate = |gid: &str, n| {
        w.saga(
            gid,
            &["a"],
            json!({"steps": [{"action": w.url("/a"), "compensate": url(n)}]}),
        )
    };
    edge(
        &w,
        "prepare",
        &compensate("c1", 2048),
        &compensate("c2", 2049),
        "2048",
    )
    .await;
}

#[tokio::test]
async fn s01_limits_of_contents() {
    let w = World::start().await;
    let payload = |gid: &str, n: usize| w.msg(gid, &["a"], json!({"payloads": ["p".repeat(n)]}));
    edge(
        &w,
        "prepare",
        &payload("p1", MIB),
        &payload("p2", MIB + 1),
        "payload",
    )
    .await;

    let custom = |gid: &str, n: usize| {
        let empty = r#"{"name":"wf","pad":""}"#.len();
        let text = format!(r#"{{"name":"wf","pad":"{}"}}"#, "c".repeat(n - empty));
        w.workflow(gid, json!({"custom_data": text}))
    };
    edge(
        &w,
        "prepareWorkflow",
        &custom("c1", MIB),
        &custom("c2", MIB + 1),
        "custom_data",
    )
    .await;

    let headers = |gid: &str, n: usize| {
        let all: Value = (0..n)
            .map(|i| (format!("h{i}"), json!("v")))
            .collect::<serde_json::Map<_, _>>()
            .into();
        w.msg(gid, &["a"], json!({"branch_headers": all}))
    };
    edge(
        &w,
        "prepare",
        &headers("h1", 64),
        &headers("h2", 65),
        "branch_headers",
    )
    .await;
    let bytes = |gid: &str, n: usize| {
        w.msg(
            gid,
            &["a"],
            json!({"branch_headers": {"h": "v".repeat(n - 1)}}),
        )
    };
    edge(
        &w,
        "prepare",
        &bytes("b1", 8192),
        &bytes("b2", 8193),
        "branch_headers",
    )
    .await;

    for gid in ["r1", "r2"] {
        w.dtm
            .post("prepareWorkflow", &w.workflow(gid, json!({})))
            .await
            .expect_status(200);
    }
    let result = |gid: &str, n: usize| json!({"gid": gid, "trans_type": "workflow", "req_extra": {"status": "succeed", "result": "A".repeat(n)}});
    let answer = w
        .dtm
        .post("submit", &result("r2", MIB + 4))
        .await
        .expect_status(400);
    assert!(answer.message().contains("result"), "{}", answer.text());
    assert_eq!(w.dtm.query("r2").await.status(), "prepared");
    w.dtm
        .post("submit", &result("r1", MIB))
        .await
        .expect_success();
}

#[tokio::test]
async fn s01_limit_of_branches() {
    let w = World::start().await;
    let many = |gid: &str, trans_type: &str, n: usize| {
        let step = json!({"action": w.url("/a"), "compensate": w.url("/a-undo")});
        json!({
            "gid": gid,
            "trans_type": trans_type,
            "steps": vec![step; n],
            "payloads": vec!["{}"; n],
            "query_prepared": w.url("/check"),
        })
    };
    let saga = |gid: &str, n| merge(many(gid, "saga", n), json!({"query_prepared": ""}));
    edge(&w, "prepare", &saga("s1", 1000), &saga("s2", 1001), "1000").await;
    edge(
        &w,
        "prepare",
        &many("m1", "msg", 1000),
        &many("m2", "msg", 1001),
        "1000",
    )
    .await;
    let names = w.dtm.query("s1").await.row_names();
    assert_eq!((names.len(), names[1].as_str()), (2000, "01/action"));
    assert_eq!(
        (names[199].as_str(), names[1999].as_str()),
        ("100/action", "1000/action")
    );
}

#[tokio::test]
async fn s01_limits_of_topics() {
    let w = World::start().await;
    let url = w.url("/s");
    let topic = |n: usize| format!("/api/dtmsvr/subscribe?topic={}&url={url}", "t".repeat(n));
    w.dtm.get(&topic(128)).await.expect_success();
    let answer = w.dtm.get(&topic(129)).await.expect_status(400);
    assert!(answer.message().contains("topic"), "{}", answer.text());
    for n in 0..1000 {
        w.dtm
            .get(&format!("/api/dtmsvr/subscribe?topic=tp&url={url}{n}"))
            .await
            .expect_success();
    }
    let answer = w
        .dtm
        .get(&format!("/api/dtmsvr/subscribe?topic=tp&url={url}x"))
        .await;
    let answer = answer.expect_status(400);
    assert!(answer.message().contains("1000"), "{}", answer.text());
}

#[tokio::test]
async fn s01_long_reasons_are_cut_and_marked() {
    let w = World::start().await;
    w.dtm
        .post("prepare", &json!({"gid": "t", "trans_type": "tcc"}))
        .await
        .expect_success();
    let reason = "é".repeat(5_000);
    let body = json!({"gid": "t", "trans_type": "tcc", "rollback_reason": reason});
    w.dtm.post("abort", &body).await.expect_success();
    let view = w.dtm.wait_status("t", "failed").await;
    let kept = view.field("rollback_reason");
    assert!(
        kept.len() <= 4096 && kept.len() > 4000,
        "{} bytes",
        kept.len()
    );
    assert!(
        kept.starts_with('é') && !kept.ends_with('é'),
        "the cut is not marked: {kept}"
    );
}

#[tokio::test]
async fn s01_a_body_over_64_mib_is_413() {
    let w = World::start().await;
    let too_long = 64 * MIB + 1;
    for route in ["/api/dtmsvr/submit", "/api/json-rpc"] {
        let stream = tokio::net::TcpStream::connect(w.server.addr())
            .await
            .expect("connects");
        let (mut from, mut to) = stream.into_split();
        let send = async move {
            let head = format!(
                "POST {route} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {too_long}\r\n\r\n"
            );
            // An error here is the coordinator hanging up after its answer.
            let _ = to.write_all(head.as_bytes()).await;
            let chunk = vec![b' '; MIB];
            let mut left = too_long;
            while left > 0 && to.write_all(&chunk[..left.min(MIB)]).await.is_ok() {
                left -= left.min(MIB);
            }
            to
        };
        let receive = async move {
            let mut answer = Vec::new();
            let _ = from.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        let both = async { tokio::join!(send, receive).1 };
        let answer = tokio::time::timeout(amends_scenarios::DEADLINE, both)
            .await
            .expect("an answer");
        if route.ends_with("json-rpc") {
            assert!(
                answer.contains("-32602") && answer.contains(r#""jsonrpc":"2.0""#),
                "{answer}"
            );
        } else {
            assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        }
    }
}
