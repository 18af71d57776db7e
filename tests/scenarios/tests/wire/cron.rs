//! Scenarios 25 and 28: what is due is looked at in time, whatever else is stuck.

use amends_scenarios::{Branches, Gate, Reply, World, free_port};
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn s25_stuck_transactions_do_not_delay_a_fresh_one() {
    let w = World::start().await;
    let nobody = format!("http://127.0.0.1:{}/a", free_port());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let steps = json!([{"action": nobody, "compensate": ""}]);
        let body = w.saga(
            &format!("stuck{n}"),
            &["a"],
            json!({"steps": steps, "retry_interval": 1}),
        );
        let dtm = w.dtm.clone();
        tasks.spawn(async move { dtm.post("submit", &body).await.expect_success() });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("submitted");
    }
    let mut slowest = Duration::ZERO;
    for n in 0..20 {
        let start = Instant::now();
        let body = w.saga(
            &format!("fresh{n}"),
            &["a", "b"],
            json!({"wait_result": true}),
        );
        w.dtm.post("submit", &body).await.expect_success();
        slowest = slowest.max(start.elapsed());
    }
    assert!(
        slowest < Duration::from_millis(1_500),
        "a fresh saga took {slowest:?}"
    );
    assert_eq!(w.dtm.query("stuck7").await.status(), "submitted");
}

#[tokio::test]
async fn s25_a_slow_participant_does_not_delay_others() {
    let w = World::start().await;
    let gate = Gate::new();
    w.branches.script("/slow", [Reply::ok().behind(&gate)]);
    let slow = |n: usize| {
        w.saga(
            &format!("slow{n}"),
            &["slow"],
            json!({"request_timeout": 30}),
        )
    };
    // More than the connections one host may have.
    for n in 0..300 {
        w.dtm.post("submit", &slow(n)).await.expect_success();
    }
    let other = Branches::start().await;
    let start = Instant::now();
    let steps = json!([{"action": other.url("/a"), "compensate": ""}]);
    let body = w.saga(
        "fresh",
        &["a"],
        json!({"steps": steps, "wait_result": true}),
    );
    w.dtm.post("submit", &body).await.expect_success();
    assert!(
        start.elapsed() < Duration::from_millis(1_500),
        "{:?}",
        start.elapsed()
    );
    assert!(
        w.branches.count("/slow") <= 256,
        "{} calls of one host at a time",
        w.branches.count("/slow")
    );
    gate.open();
    w.branches.wait("/slow", 300).await;
    w.dtm.wait_status("slow299", "succeed").await;
}

#[tokio::test]
async fn s25_beyond_what_may_be_in_flight_submits_are_stored_and_driven_later() {
    let w = World::with(&[("AMENDS_IN_FLIGHT_MAX", "2")]).await;
    let gate = Gate::new();
    w.branches.script("/a", [Reply::ok().behind(&gate)]);
    let extra = json!({"request_timeout": 20});
    for n in 0..6 {
        let body = w.saga(&format!("s{n}"), &["a"], extra.clone());
        w.dtm.post("submit", &body).await.expect_success();
    }
    w.branches.wait("/a", 2).await;
    let wait = amends_scenarios::merge(extra, json!({"wait_result": true}));
    let waiting = w.saga("waiting", &["b"], wait);
    let (answer, ()) = tokio::join!(w.dtm.post("submit", &waiting), async {
        let stored = |v: &amends_scenarios::View| v.status() == "submitted";
        w.dtm.wait_view("waiting", "record", stored).await;
        assert_eq!((w.branches.count("/a"), w.branches.count("/b")), (2, 0));
        gate.open();
    });
    answer.expect_success();
    for n in 0..6 {
        w.dtm.wait_status(&format!("s{n}"), "succeed").await;
    }
    assert_eq!((w.branches.count("/a"), w.branches.count("/b")), (6, 1));
}

#[tokio::test]
async fn s25_a_call_longer_than_the_interval_is_not_made_twice() {
    let w = World::start().await;
    w.branches
        .script("/a", [Reply::ok().after(Duration::from_millis(2_500))]);
    let extra = json!({"retry_interval": 1, "request_timeout": 10});
    w.dtm
        .post("submit", &w.saga("s", &["a"], extra))
        .await
        .expect_success();
    w.branches.wait("/a", 1).await;
    for _ in 0..3 {
        w.dtm.kick("s").await;
    }
    w.dtm.wait_status("s", "succeed").await;
    assert_eq!(w.branches.trace(), ["/a"]);
}

#[tokio::test]
async fn s25_a_host_that_recovers_is_called_at_once() {
    let w = World::start().await;
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/a");
    for n in 0..8 {
        let steps = json!([{"action": url, "compensate": ""}]);
        let extra = json!({"steps": steps, "retry_interval": if n == 0 { 1 } else { 600 }});
        w.dtm
            .post("submit", &w.saga(&format!("s{n}"), &["a"], extra))
            .await
            .expect_success();
    }
    for n in 0..8 {
        let called = |v: &amends_scenarios::View| v.json["transaction"]["last_error"].is_string();
        w.dtm
            .wait_view(&format!("s{n}"), "failed call", called)
            .await;
    }
    // The host answers now: the probe of the first one frees all others, whose own delay is ten minutes and more.
    let socket = tokio::net::TcpListener::bind(("127.0.0.1", port))
        .await
        .expect("the port is free");
    let serve = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
                    stream.write_all(answer).await.ok();
                }
            });
        }
    });
    for n in 0..8 {
        w.dtm.wait_status(&format!("s{n}"), "succeed").await;
    }
    serve.abort();
}

#[tokio::test]
async fn s28_reset_next_cron_time_is_at_once() {
    let w = World::start().await;
    w.branches
        .script("/a", [Reply::error(), Reply::error(), Reply::ok()]);
    w.dtm
        .post(
            "submit",
            &w.saga("s", &["a"], json!({"retry_interval": 300})),
        )
        .await
        .expect_success();
    w.dtm.wait_interval("s", 600).await;
    let kicked = Instant::now();
    w.kick_until("s", "/a", 2).await;
    assert!(
        kicked.elapsed() < Duration::from_secs(3),
        "{:?}",
        kicked.elapsed()
    );
    w.kick_until("s", "/a", 3).await;
    w.dtm.wait_status("s", "succeed").await;
    w.dtm.kick("s").await;
    assert_eq!(w.branches.trace().len(), 3);
}

#[tokio::test]
async fn s28_reset_cron_time_takes_what_is_due_later() {
    let w = World::start().await;
    let stuck = |gid: &str| w.saga(gid, &[gid], json!({"retry_interval": 300}));
    for gid in ["a", "b", "c"] {
        w.branches
            .script(&format!("/{gid}"), [Reply::error(), Reply::ok()]);
        w.dtm.post("submit", &stuck(gid)).await.expect_success();
    }
    for gid in ["a", "b", "c"] {
        w.dtm.wait_interval(gid, 600).await;
    }
    // Nothing is due later than in a day.
    let none = w
        .dtm
        .get("/api/dtmsvr/resetCronTime?timeout=86400&limit=10")
        .await;
    none.expect(200, r#"{"has_remaining":false,"succeed_count":0}"#);
    let two = w
        .dtm
        .get("/api/dtmsvr/resetCronTime?timeout=10&limit=2")
        .await;
    two.expect(200, r#"{"has_remaining":true,"succeed_count":2}"#);
    let done = async |n: usize| {
        let succeeded = async || {
            let all = w.dtm.get("/api/dtmsvr/all?status=succeed").await.json();
            all["transactions"].as_array().map(Vec::len) == Some(n)
        };
        amends_scenarios::eventually("sagas that succeed", amends_scenarios::DEADLINE, succeeded)
            .await;
    };
    done(2).await;
    let last = w
        .dtm
        .get("/api/dtmsvr/resetCronTime?timeout=10&limit=10")
        .await;
    last.expect(200, r#"{"has_remaining":false,"succeed_count":1}"#);
    done(3).await;
}
