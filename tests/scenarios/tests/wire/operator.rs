//! Scenarios 27 and 29, and the operator's token.

use amends_scenarios::{Branches, Client, DURABLE, Gate, Reply, World, keys};
use http::Method;
use serde_json::json;
use std::time::Duration;

async fn stop(w: &World, gid: &str) {
    w.dtm
        .post(
            "forceStop",
            &json!({"gid": gid, "actor": "me", "reason": "test"}),
        )
        .await
        .expect_success();
    let view = w.dtm.query(gid).await;
    assert_eq!(view.status(), "failed");
    assert!(!view.field("rollback_time").is_empty(), "{}", view.text);
    let again = w.dtm.post("forceStop", &json!({"gid": gid})).await;
    again.expect_wrong_state(
        "global transaction force stop error. status: failed. error: FAILURE",
        "failed",
    );
}

#[tokio::test]
async fn s27_force_stop_in_every_state() {
    let mut w = World::with(&[DURABLE]).await;
    w.branches.script("/later", [Reply::ongoing()]);
    w.branches.script("/no", [Reply::failure("no")]);
    w.branches.script("/no-undo", [Reply::ongoing()]);
    let often = json!({"retry_interval": 1});
    w.dtm
        .post("prepare", &json!({"gid": "prepared", "trans_type": "tcc"}))
        .await
        .expect_success();
    w.register_tcc("prepared", "01").await.expect_success();
    w.dtm
        .post("submit", &w.saga("submitted", &["later"], often.clone()))
        .await
        .expect_success();
    w.dtm
        .post("submit", &w.msg("message", &["later"], often.clone()))
        .await
        .expect_success();
    w.dtm
        .post("submit", &w.saga("aborting", &["no"], often.clone()))
        .await
        .expect_success();
    w.dtm
        .post("prepareWorkflow", &w.workflow("workflow", often))
        .await
        .expect_status(200);
    w.dtm.wait_status("aborting", "aborting").await;
    w.branches.wait("/later", 2).await;
    let gids = ["prepared", "submitted", "message", "aborting", "workflow"];
    for gid in gids {
        stop(&w, gid).await;
    }
    let reached = w.branches.trace().len();
    for gid in gids {
        w.dtm.kick(gid).await;
    }
    w.crash().await;
    // Longer than the interval at which each of them would have been called again.
    amends_scenarios::until(std::time::Instant::now() + Duration::from_millis(1_500)).await;
    for gid in gids {
        assert_eq!(w.dtm.query(gid).await.status(), "failed");
    }
    // One call of each kind may have been on its way when it was stopped.
    assert!(
        w.branches.trace().len() <= reached + 3,
        "{:?}",
        &w.branches.trace()[reached..]
    );
}

#[tokio::test]
async fn s27_force_stop_while_a_call_is_in_flight() {
    let w = World::start().await;
    for (gid, reply, letter) in [
        ("ok", Reply::ok(), 's'),
        ("boom", Reply::error(), 'p'),
        ("no", Reply::failure("no"), 'f'),
    ] {
        let gate = Gate::new();
        w.branches.script(&format!("/{gid}"), [reply.behind(&gate)]);
        let extra = json!({"request_timeout": 10, "retry_interval": 1});
        w.dtm
            .post("submit", &w.saga(gid, &[gid, "next"], extra))
            .await
            .expect_success();
        w.branches.wait(&format!("/{gid}"), 1).await;
        stop(&w, gid).await;
        gate.open();
        // The call ends and its result is recorded, nothing else.
        let recorded = |v: &amends_scenarios::View| v.rows().chars().nth(1) == Some(letter);
        let view = w.dtm.wait_view(gid, "its result", recorded).await;
        assert_eq!(view.status(), "failed");
        w.dtm.kick(gid).await;
    }
    amends_scenarios::until(std::time::Instant::now() + Duration::from_millis(2_300)).await;
    let mut trace = w.branches.trace();
    trace.sort();
    assert_eq!(
        trace,
        ["/boom", "/no", "/ok"],
        "something was called after the stop"
    );
    for gid in ["ok", "boom", "no"] {
        assert_eq!(w.dtm.query(gid).await.status(), "failed");
    }
}

/// Kicks a failing saga until the hook was called `n` times.
async fn alerts(w: &World, hook: &Branches, gid: &str, n: usize) {
    let called = async || {
        w.dtm.kick(gid).await;
        hook.count("/hook") >= n
    };
    amends_scenarios::eventually("alerts", amends_scenarios::DEADLINE, called).await;
}

#[tokio::test]
async fn s29_the_alert_fires_at_the_limit_and_at_each_doubling() {
    let hook = Branches::start().await;
    let w = World::with(&[
        ("AMENDS_ALERT_WEB_HOOK", &hook.url("/hook")),
        ("AMENDS_ALERT_RETRY_LIMIT", "2"),
    ])
    .await;
    w.branches.script("/a", [Reply::error()]);
    w.dtm
        .post(
            "submit",
            &w.saga("s", &["a"], json!({"retry_interval": 300})),
        )
        .await
        .expect_success();
    alerts(&w, &hook, "s", 3).await;
    let calls = hook.calls("/hook");
    let counts: Vec<_> = calls
        .iter()
        .map(|c| c.json()["retry_count"].as_u64())
        .collect();
    assert_eq!(counts[..3], [Some(2), Some(4), Some(8)]);
    for call in &calls {
        assert_eq!(
            (call.method.clone(), call.header("content-type")),
            (Method::POST, "application/json")
        );
        assert_eq!(
            keys(&call.text()),
            ["branch", "error", "gid", "retry_count", "status"]
        );
        let body = call.json();
        assert_eq!(body["branch"], w.url("/a"));
        assert_eq!(
            (&body["gid"], &body["status"]),
            (&json!("s"), &json!("submitted"))
        );
        assert!(
            body["error"].as_str().is_some_and(|e| e.contains("boom")),
            "{body}"
        );
    }
    assert_eq!(
        w.dtm.query("s").await.json["transaction"]["attention"],
        true
    );
    w.branches.script("/a", [Reply::ok()]);
    w.dtm.kick("s").await;
    let view = w.dtm.wait_status("s", "succeed").await;
    assert_ne!(
        view.json["transaction"]["attention"], true,
        "cleared by success"
    );
}

#[tokio::test]
async fn s29_a_failing_or_slow_webhook_does_not_matter() {
    let (hook, gate) = (Branches::start().await, Gate::new());
    hook.script(
        "/hook",
        [Reply::error(), Reply::cut(), Reply::ok().behind(&gate)],
    );
    let w = World::with(&[
        ("AMENDS_ALERT_WEB_HOOK", &hook.url("/hook")),
        ("AMENDS_ALERT_RETRY_LIMIT", "1"),
    ])
    .await;
    w.branches.script(
        "/a",
        [Reply::error(), Reply::error(), Reply::error(), Reply::ok()],
    );
    w.dtm
        .post(
            "submit",
            &w.saga("s", &["a"], json!({"retry_interval": 300})),
        )
        .await
        .expect_success();
    // It has its own retry, and while it hangs the saga goes on.
    hook.wait("/hook", 1).await;
    w.kick_until("s", "/a", 4).await;
    w.dtm.wait_status("s", "succeed").await;
    hook.wait("/hook", 2).await;
    gate.open();
}

#[tokio::test]
async fn s29_ongoing_is_no_alert() {
    let hook = Branches::start().await;
    let w = World::with(&[
        ("AMENDS_ALERT_WEB_HOOK", &hook.url("/hook")),
        ("AMENDS_ALERT_RETRY_LIMIT", "1"),
    ])
    .await;
    w.branches.script(
        "/a",
        [
            Reply::ongoing(),
            Reply::ongoing(),
            Reply::ongoing(),
            Reply::ok(),
        ],
    );
    w.dtm
        .post(
            "submit",
            &w.saga("s", &["a"], json!({"retry_interval": 300})),
        )
        .await
        .expect_success();
    w.kick_until("s", "/a", 4).await;
    w.dtm.wait_status("s", "succeed").await;
    assert_eq!(hook.count("/hook"), 0);
}

#[tokio::test]
async fn s27_operator_verbs_want_the_token() {
    let w = World::with(&[("AMENDS_OPERATOR_TOKEN", "secret")]).await;
    let operator = w.dtm.with_token("secret");
    let url = w.url("/s");
    // Applications need none.
    w.dtm
        .post("prepare", &json!({"gid": "t", "trans_type": "tcc"}))
        .await
        .expect_success();
    w.register_tcc("t", "01").await.expect_success();
    let attempt = async |who: &Client| {
        let gid = json!({"gid": "t"});
        [
            who.post("resetNextCronTime", &gid).await,
            who.get("/api/dtmsvr/resetCronTime").await,
            who.get(&format!("/api/dtmsvr/subscribe?topic=tp&url={url}"))
                .await,
            who.get(&format!("/api/dtmsvr/unsubscribe?topic=tp&url={url}"))
                .await,
            who.delete("/api/dtmsvr/topic/tp").await,
            who.post("forceStop", &gid).await,
        ]
    };
    for who in [&w.dtm, &w.dtm.with_token("wrong"), &w.dtm.with_token("")] {
        for answer in attempt(who).await {
            assert_eq!(answer.status, 401, "{}", answer.text());
            assert!(
                !answer.message().is_empty() && !answer.text().contains("secret"),
                "{}",
                answer.text()
            );
        }
    }
    assert_eq!(w.dtm.query("t").await.status(), "prepared");
    for answer in attempt(&operator).await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(w.dtm.query("t").await.status(), "failed");
}
