//! Scenario 3: paging and filters of `/all` and `/scanKV`.

use amends_scenarios::{World, escape};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads all pages and returns the named member of every element; checks that no page is longer than the limit and that it ends.
async fn pages(w: &World, path: &str, list: &str, key: &str, limit: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut position = String::new();
    for _ in 0..100 {
        let url = format!("{path}&limit={limit}&position={}", escape(&position));
        let answer = w.dtm.get(&url).await.expect_status(200).json();
        let page = answer[list].as_array().expect("a list").clone();
        assert!(page.len() <= limit, "{} on a page of {limit}", page.len());
        let text = |v: &Value| v[key].as_str().expect("a string").to_owned();
        all.extend(page.iter().map(text));
        position = answer["next_position"]
            .as_str()
            .expect("a string")
            .to_owned();
        if position.is_empty() {
            return all;
        }
    }
    panic!("{path} does not end");
}

fn sorted(mut all: Vec<String>) -> Vec<String> {
    all.sort();
    all
}

#[tokio::test]
async fn s03_pages_of_all_are_complete_and_disjoint() {
    let w = World::start().await;
    // Prefixes of each other, and of both kinds of page boundaries.
    let gids: Vec<String> = (0..25).map(|i| format!("g{}", "0".repeat(i))).collect();
    for (i, gid) in gids.iter().enumerate() {
        if i % 2 == 0 {
            w.dtm
                .post("prepare", &json!({"gid": gid, "trans_type": "tcc"}))
                .await
                .expect_success();
        } else {
            w.dtm
                .post("submit", &w.msg(gid, &["a"], json!({"wait_result": true})))
                .await
                .expect_success();
        }
    }
    let all = "/api/dtmsvr/all?x=1";
    for limit in [1, 4, 5, 25, 100] {
        assert_eq!(
            sorted(pages(&w, all, "transactions", "gid", limit).await),
            gids,
            "limit {limit}"
        );
    }
    let of = |parity: usize| -> Vec<String> {
        gids.iter()
            .enumerate()
            .filter(|(i, _)| i % 2 == parity)
            .map(|(_, g)| g.clone())
            .collect()
    };
    for (filter, want) in [
        ("status=succeed", of(1)),
        ("status=prepared", of(0)),
        ("status=failed", vec![]),
        ("transType=msg", of(1)),
        ("transType=tcc", of(0)),
        ("transType=msg&status=prepared", vec![]),
    ] {
        let path = format!("/api/dtmsvr/all?{filter}");
        assert_eq!(
            sorted(pages(&w, &path, "transactions", "gid", 4).await),
            want,
            "{filter}"
        );
    }
    // With a gid, the other filters do not count.
    let one = w
        .dtm
        .get("/api/dtmsvr/all?gid=g&status=failed&limit=1")
        .await
        .expect_status(200)
        .json();
    assert_eq!(one["transactions"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["next_position"], "");
}

#[tokio::test]
async fn s03_time_windows() {
    let w = World::start().await;
    let millis = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_millis()
    };
    // Bounds are read in whole seconds: two groups with a clear gap between them.
    for (gid, pause) in [
        ("old1", false),
        ("old2", false),
        ("new1", true),
        ("new2", false),
    ] {
        if pause {
            amends_scenarios::until(std::time::Instant::now() + Duration::from_millis(2_100)).await;
        }
        w.dtm
            .post("prepare", &json!({"gid": gid, "trans_type": "tcc"}))
            .await
            .expect_success();
    }
    let middle = millis() - 1_100;
    for (window, want) in [
        (format!("createTimeStart={middle}"), vec!["new1", "new2"]),
        (format!("createTimeEnd={middle}"), vec!["old1", "old2"]),
        (format!("createTimeStart={}", millis() + 10_000), vec![]),
        (
            format!("createTimeStart=1000&createTimeEnd={}", millis() + 5_000),
            vec!["new1", "new2", "old1", "old2"],
        ),
    ] {
        let path = format!("/api/dtmsvr/all?{window}");
        assert_eq!(
            sorted(pages(&w, &path, "transactions", "gid", 1).await),
            want,
            "{window}"
        );
    }
}

#[tokio::test]
async fn s03_pages_of_scan_kv() {
    let w = World::start().await;
    let mut topics: Vec<String> = (0..25).map(|i| format!("tp{i}")).collect();
    for topic in &topics {
        let url = w.url("/s");
        w.dtm
            .get(&format!(
                "/api/dtmsvr/subscribe?topic={topic}&url={url}&remark=r"
            ))
            .await
            .expect_success();
    }
    topics.sort();
    for limit in [1, 4, 25, 100] {
        let found = pages(&w, "/api/dtmsvr/scanKV?cat=topics", "kv", "k", limit).await;
        assert_eq!(sorted(found), topics, "limit {limit}");
    }
    assert_eq!(
        pages(&w, "/api/dtmsvr/scanKV?cat=nothing", "kv", "k", 4).await,
        Vec::<String>::new()
    );
    for (query, n) in [
        ("cat=topics&key=tp1", 1),
        ("cat=topics", 25),
        ("", 25),
        ("cat=topics&key=tp", 0),
    ] {
        let answer = w
            .dtm
            .get(&format!("/api/dtmsvr/queryKV?{query}"))
            .await
            .expect_status(200);
        assert_eq!(
            answer.json()["kv"].as_array().map(Vec::len),
            Some(n),
            "{query}"
        );
    }
    let one = w
        .dtm
        .get("/api/dtmsvr/queryKV?cat=topics&key=tp1")
        .await
        .text();
    let kv = &amends_scenarios::elements(&amends_scenarios::member(&one, "kv"))[0];
    let keys = amends_scenarios::keys(kv);
    assert_eq!(
        keys,
        [
            "id",
            "create_time",
            "update_time",
            "cat",
            "k",
            "v",
            "version"
        ]
    );
    let value: Value = serde_json::from_str(kv).expect("JSON");
    assert_eq!(
        value["v"],
        format!(r#"[{{"url":"{}","remark":"r"}}]"#, w.url("/s"))
    );
    assert_eq!(value["version"], 1);
}
