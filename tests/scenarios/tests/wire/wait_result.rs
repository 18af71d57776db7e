//! Scenario 11: `wait_result` for every outcome.

use amends_scenarios::{Gate, Reply, World};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

fn ongoing(answer: &amends_scenarios::Answer) {
    assert_eq!(
        (answer.status, answer.json()["dtm_result"].as_str()),
        (425, Some("ONGOING")),
        "{}",
        answer.text()
    );
    assert!(!answer.text().contains("FAILURE"), "{}", answer.text());
}

#[tokio::test]
async fn s11_retries_within_the_wait_are_waited_for() {
    let w = World::start().await;
    w.branches.script("/a", [Reply::ongoing(), Reply::ok()]);
    let extra = json!({"wait_result": true, "retry_interval": 1});
    w.dtm
        .post("submit", &w.saga("s", &["a"], extra))
        .await
        .expect_success();
    assert_eq!(
        (w.dtm.query("s").await.status(), w.branches.count("/a")),
        ("succeed", 2)
    );
}

#[tokio::test]
async fn s11_not_ended_is_425_for_every_mode() {
    let w = World::start().await;
    w.branches.script("/later", [Reply::ongoing()]);
    w.branches.script("/boom", [Reply::error()]);
    w.branches.script("/no", [Reply::failure("no")]);
    let extra = || json!({"wait_result": true, "retry_interval": 20});
    let start = Instant::now();
    for (gid, step) in [("s1", "later"), ("s2", "boom")] {
        ongoing(&w.dtm.post("submit", &w.saga(gid, &[step], extra())).await);
    }
    // A message never rolls back, so a branch that says no is asked again.
    for (gid, step) in [("m1", "later"), ("m2", "boom"), ("m3", "no")] {
        ongoing(&w.dtm.post("submit", &w.msg(gid, &[step], extra())).await);
    }
    for (gid, path) in [("t1", "/later"), ("t2", "/boom"), ("t3", "/no")] {
        let tcc = json!({"gid": gid, "trans_type": "tcc", "retry_interval": 20});
        w.dtm.post("prepare", &tcc).await.expect_success();
        let urls = json!({"confirm": w.url(path), "cancel": w.url(path)});
        w.dtm
            .post("registerBranch", &w.tcc_branch(gid, "01", urls))
            .await
            .expect_success();
        let request = json!({"gid": gid, "trans_type": "tcc", "wait_result": true});
        let route = if gid == "t2" { "abort" } else { "submit" };
        ongoing(&w.dtm.post(route, &request).await);
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "an answer waited although nothing was due"
    );
}

#[tokio::test]
async fn s11_a_slow_branch_is_waited_for_until_the_limit() {
    let w = World::with(&[("AMENDS_REQUEST_TIMEOUT", "1")]).await;
    let gate = Gate::new();
    w.branches
        .script("/quick", [Reply::ok().after(Duration::from_millis(500))]);
    w.dtm
        .post(
            "submit",
            &w.saga("q", &["quick"], json!({"wait_result": true})),
        )
        .await
        .expect_success();
    // The third call is still on its way when 2 + 2 s have passed.
    let slow = Reply::ok().behind(&gate);
    w.branches
        .script("/slow", [Reply::ongoing(), Reply::ongoing(), slow]);
    let start = Instant::now();
    let extra = json!({"wait_result": true, "retry_interval": 1, "request_timeout": 2});
    ongoing(&w.dtm.post("submit", &w.saga("s", &["slow"], extra)).await);
    let waited = start.elapsed();
    assert!((3_900..5_500).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!(w.branches.count("/slow"), 3);
    gate.open();
    w.dtm.wait_status("s", "succeed").await;
}

#[tokio::test]
async fn s11_aborts_that_end_are_200() {
    let w = World::start().await;
    // Asked for by the abort itself, or stored by prepare.
    for (gid, prepare, abort) in [("t1", false, true), ("t2", true, false)] {
        let tcc = |wait: bool| json!({"gid": gid, "trans_type": "tcc", "wait_result": wait});
        w.dtm.post("prepare", &tcc(prepare)).await.expect_success();
        w.register_tcc(gid, "01").await.expect_success();
        w.branches.script(
            "/01-cancel",
            [Reply::ok().after(Duration::from_millis(200))],
        );
        w.dtm.post("abort", &tcc(abort)).await.expect_success();
        assert_eq!(w.dtm.query(gid).await.status(), "failed", "{gid}");
    }
}

#[tokio::test]
async fn s11_stopped_by_an_operator_while_waited_for() {
    let w = World::start().await;
    let gate = Gate::new();
    w.branches.script("/a", [Reply::ok().behind(&gate)]);
    let extra = json!({"wait_result": true, "request_timeout": 10});
    for (gid, body) in [
        ("s", w.saga("s", &["a"], extra.clone())),
        ("m", w.msg("m", &["a"], extra)),
    ] {
        let calls = w.branches.count("/a");
        let (submitted, ()) = tokio::join!(w.dtm.post("submit", &body), async {
            w.branches.wait("/a", calls + 1).await;
            w.dtm
                .post("forceStop", &json!({"gid": gid}))
                .await
                .expect_success();
        });
        assert_eq!(submitted.status, 409, "{gid}: {}", submitted.text());
    }
    gate.open();
}

#[tokio::test]
async fn s11_a_client_that_hangs_up_changes_nothing() {
    let w = World::start().await;
    let gate = Gate::new();
    w.branches.script("/a", [Reply::ok().behind(&gate)]);
    let body = w
        .saga(
            "s",
            &["a", "b"],
            json!({"wait_result": true, "request_timeout": 10}),
        )
        .to_string();
    let mut stream = tokio::net::TcpStream::connect(w.server.addr())
        .await
        .expect("connects");
    let request = format!(
        "POST /api/dtmsvr/submit HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sends");
    w.branches.wait("/a", 1).await;
    drop(stream);
    assert_eq!(w.dtm.query("s").await.status(), "submitted");
    gate.open();
    w.dtm.wait_status("s", "succeed").await;
    assert_eq!(w.branches.trace(), ["/a", "/b"]);
}

#[tokio::test]
async fn s11_a_second_submit_attaches_to_the_first() {
    let w = World::start().await;
    let gate = Gate::new();
    w.branches.script("/a", [Reply::ok().behind(&gate)]);
    let body = w.saga(
        "s",
        &["a", "b"],
        json!({"wait_result": true, "request_timeout": 10}),
    );
    let first = w.dtm.post("submit", &body);
    let others = async {
        w.branches.wait("/a", 1).await;
        // Without wait_result a repeated submit just says that it is known.
        let plain: Value = json!({"gid": "s", "trans_type": "saga"});
        w.dtm.post("submit", &plain).await.expect_success();
        let (second, ()) = tokio::join!(w.dtm.post("submit", &body), async {
            w.dtm.kick("s").await;
            gate.open();
        });
        second
    };
    let (first, second) = tokio::join!(first, others);
    first.expect_success();
    // It may also arrive after the end, when a submit is refused for the stored status.
    assert!(
        second.status == 200 || second.message().contains("cannot sumbmit"),
        "{}",
        second.text()
    );
    assert_eq!(w.branches.trace(), ["/a", "/b"]);
}
