//! Scenario 30: metrics, health, configuration, command line, retention, stopping. (The admin page is not part of this build.)

use amends_scenarios::{DEADLINE, DURABLE, Gate, Reply, Server, World, eventually, run};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// The value of a series whose name and labels contain all of these.
fn series(text: &str, parts: &[&str]) -> Option<f64> {
    let line = text
        .lines()
        .find(|l| !l.starts_with('#') && parts.iter().all(|p| l.contains(p)))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn s30_metrics_have_dtms_names_and_bounded_labels() {
    let w = World::start().await;
    w.branches.script("/no", [Reply::failure("no")]);
    for n in 0..20 {
        let gid = format!("gid-{n}");
        w.dtm
            .post(
                "submit",
                &w.saga(&gid, &["a"], json!({"wait_result": true})),
            )
            .await
            .expect_success();
        w.dtm.query(&gid).await;
        w.dtm
            .get(&format!("/unknown/{gid}"))
            .await
            .expect_status(404);
    }
    w.dtm
        .post(
            "submit",
            &w.saga("failing", &["no"], json!({"wait_result": true})),
        )
        .await
        .expect_status(409);
    w.dtm.post_text("submit", "hello").await.expect_status(400);
    let metrics = w.dtm.get("/api/metrics").await.expect_status(200);
    assert!(
        metrics.content_type.starts_with("text/plain"),
        "{}",
        metrics.content_type
    );
    let text = metrics.text();
    for (name, kind) in [
        ("dtm_server_info", "gauge"),
        ("dtm_server_process_total", "counter"),
        ("dtm_server_response_duration", "histogram"),
        ("dtm_transaction_process_total", "counter"),
        ("dtm_transaction_handled_duration", "histogram"),
        ("dtm_branch_process_total", "counter"),
        ("amends_transactions_unfinished", "gauge"),
        ("amends_transactions_finished_total", "counter"),
        ("amends_branch_attempts_total", "counter"),
        ("amends_store_syncs_total", "counter"),
    ] {
        assert!(
            text.contains(&format!("# TYPE {name} {kind}\n")),
            "no {name} of type {kind} in\n{text}"
        );
    }
    let api = ["dtm_server_process_total{", r#"type="http""#];
    let count = |more: &[&str]| series(&text, &[&api[..], more].concat());
    assert_eq!(count(&[r#"api="submit""#, r#"status="ok""#]), Some(20.0));
    assert_eq!(count(&[r#"api="submit""#, r#"status="fail""#]), Some(2.0));
    assert_eq!(count(&[r#"api="query""#, r#"status="ok""#]), Some(20.0));
    assert!(!text.contains("gid-"), "a gid in the metrics");
    let buckets: Vec<&str> = text
        .lines()
        .filter(|l| {
            l.starts_with("dtm_server_response_duration_bucket{") && l.contains(r#"api="submit""#)
        })
        .filter_map(|l| l.split("le=\"").nth(1)?.split('"').next())
        .collect();
    assert_eq!(
        buckets,
        [
            "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"
        ]
    );
    let branch = [
        "dtm_branch_process_total{",
        r#"branchtype="action""#,
        r#"model="saga""#,
        r#"branchid="01""#,
    ];
    assert_eq!(
        series(&text, &[&branch[..], &[r#"status="ok""#]].concat()),
        Some(20.0)
    );
    assert_eq!(
        series(&text, &[&branch[..], &[r#"status="fail""#]].concat()),
        Some(1.0)
    );
    let finished = [
        "amends_transactions_finished_total{",
        r#"trans_type="saga""#,
    ];
    assert_eq!(
        series(&text, &[&finished[..], &[r#"status="succeed""#]].concat()),
        Some(20.0)
    );
    assert_eq!(
        series(&text, &[&finished[..], &[r#"status="failed""#]].concat()),
        Some(1.0)
    );

    // As many series after more of the same, and the probe is not counted.
    let names = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|l| !l.starts_with('#'));
        lines
            .filter_map(|l| l.rsplit_once(' '))
            .map(|(name, _)| name.to_owned())
            .collect()
    };
    for n in 20..40 {
        w.dtm.query(&format!("gid-{n}")).await;
        w.dtm.get(&format!("/unknown/{n}")).await.expect_status(404);
        w.dtm.get("/api/ping").await.expect_status(200);
    }
    let again = w.dtm.get("/api/metrics").await.text();
    let new: Vec<_> = names(&again).difference(&names(&text)).cloned().collect();
    assert!(
        new.iter().all(|n| n.contains(r#"api="metrics""#)),
        "new series: {new:?}"
    );
    assert!(!again.contains(r#"api="ping""#));
}

#[tokio::test]
async fn s30_gauges_tell_the_truth() {
    let w = World::start().await;
    for gid in ["a", "b", "c"] {
        w.dtm
            .post("prepare", &json!({"gid": gid, "trans_type": "tcc"}))
            .await
            .expect_success();
    }
    w.dtm
        .post(
            "abort",
            &json!({"gid": "c", "trans_type": "tcc", "wait_result": true}),
        )
        .await
        .expect_success();
    let text = w.dtm.get("/api/metrics").await.text();
    let parts = [
        "amends_transactions_unfinished{",
        r#"status="prepared""#,
        r#"trans_type="tcc""#,
    ];
    assert_eq!(series(&text, &parts), Some(2.0), "{text}");
}

#[tokio::test]
async fn s30_health() {
    let w = World::start().await;
    w.dtm.get("/livez").await.expect_status(200);
    w.dtm.get("/readyz").await.expect_status(200);
}

#[tokio::test]
async fn s30_a_disk_that_is_nearly_full_refuses_writes() {
    let server = Server::start_alive(&[DURABLE, ("AMENDS_DISK_RESERVE_MIB", "1000000000")]).await;
    let dtm = server.client();
    let tcc = json!({"gid": "t", "trans_type": "tcc"});
    for answer in [dtm.get("/readyz").await, dtm.post("prepare", &tcc).await] {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.message().contains("disk_full"), "{}", answer.text());
    }
    let rpc = dtm.rpc("prepare", &tcc).await;
    assert_eq!(
        (rpc.status, rpc.json()["error"]["code"].as_i64()),
        (200, Some(-32000)),
        "{}",
        rpc.text()
    );
    dtm.get("/livez").await.expect_status(200);
    assert!(dtm.query("t").await.json["transaction"].is_null());
}

#[tokio::test]
async fn s30_finished_transactions_expire_and_unfinished_ones_do_not() {
    let w = World::with(&[DURABLE, ("AMENDS_DATA_EXPIRE", "4")]).await;
    w.branches.script("/later", [Reply::ongoing()]);
    w.dtm
        .post(
            "submit",
            &w.saga("open", &["later"], json!({"retry_interval": 60})),
        )
        .await
        .expect_success();
    w.dtm
        .post(
            "submit",
            &w.saga("done", &["a"], json!({"wait_result": true})),
        )
        .await
        .expect_success();
    assert_eq!(w.dtm.query("done").await.status(), "succeed");
    let gone = async || w.dtm.query("done").await.json["transaction"].is_null();
    eventually("expiry", Duration::from_secs(30), gone).await;
    assert_eq!(w.dtm.query("open").await.status(), "submitted");
    // The gid of what is gone is free again.
    w.dtm
        .post(
            "submit",
            &w.saga("done", &["a"], json!({"wait_result": true})),
        )
        .await
        .expect_success();
}

#[tokio::test]
async fn s30_one_stuck_transaction_does_not_flood_the_log() {
    let w = World::with(&[("AMENDS_LOG_LEVEL", "info")]).await;
    w.branches.script("/a", [Reply::error()]);
    w.dtm
        .post(
            "submit",
            &w.saga("stuck-gid", &["a"], json!({"retry_interval": 300})),
        )
        .await
        .expect_success();
    w.kick_until("stuck-gid", "/a", 100).await;
    let lines = w
        .server
        .stderr()
        .lines()
        .filter(|l| l.contains("stuck-gid"))
        .count();
    assert!(
        lines <= 20,
        "{lines} lines about 100 calls of one transaction"
    );
    for line in w.server.stderr().lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok_and(|l| l.is_object()),
            "no JSON object: {line}"
        );
    }
}

#[tokio::test]
async fn s30_a_graceful_stop_hands_over() {
    let mut w = World::with(&[DURABLE]).await;
    let gate = Gate::new();
    w.branches
        .script("/a", [Reply::ok().after(Duration::from_millis(300))]);
    w.branches
        .script("/b", [Reply::ok().behind(&gate), Reply::ok()]);
    let body = w.saga("s", &["a"], json!({"wait_result": true}));
    let (answer, ()) = tokio::join!(w.dtm.post("submit", &body), async {
        w.branches.wait("/a", 1).await;
        w.dtm
            .post(
                "submit",
                &w.saga("t", &["b"], json!({"request_timeout": 20})),
            )
            .await
            .expect_success();
        w.branches.wait("/b", 1).await;
        w.server.terminate();
    });
    // What was asked before the stop is answered; what is not done by then goes on after the next start.
    assert!(matches!(answer.status, 200 | 425), "{}", answer.text());
    let status = w.server.ended(DEADLINE).await;
    assert_eq!(status.code(), Some(0), "{}", w.server.stderr());
    gate.open();
    w.server.restart().await;
    for gid in ["s", "t"] {
        w.dtm.wait_status(gid, "succeed").await;
    }
}

#[tokio::test]
async fn s30_a_taken_port_or_folder_is_one_clear_line() {
    let server = Server::start(&[DURABLE]).await;
    let dir = tempfile::TempDir::new().expect("a folder");
    let port = server.addr().port().to_string();
    let other = amends_scenarios::free_port().to_string();
    let data = server.data().to_string_lossy().into_owned();
    for (args, names) in [
        (
            ["serve", "--data", "data", "--http-port", &port],
            port.as_str(),
        ),
        (
            ["serve", "--data", &data, "--http-port", &other],
            data.as_str(),
        ),
    ] {
        let ended = run(dir.path(), &args, &[("AMENDS_GRPC_PORT", "0")]);
        assert_eq!(ended.code, Some(1), "{args:?}: {}", ended.stderr);
        let lines: Vec<&str> = ended.stderr.lines().filter(|l| l.contains(names)).collect();
        assert!(!lines.is_empty(), "{args:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
    server.client().get("/readyz").await.expect_status(200);
}

#[test]
fn s30_command_line() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let amends = |args: &[&str]| run(dir.path(), args, &[]);
    let version = amends(&["-v"]);
    assert_eq!(version.code, Some(0));
    assert!((version.stdout + &version.stderr).contains("amends version: "));
    let help = amends(&["-h"]);
    assert_eq!(help.code, Some(0));
    assert!((help.stdout + &help.stderr).contains("serve"));
    let drop = amends(&["-r"]);
    assert!(drop.code.is_some_and(|code| code != 0), "{drop:?}");
    assert!(drop.stderr.contains("-r"), "{drop:?}");
    let unknown = amends(&["no-such-command"]);
    assert!(unknown.code.is_some_and(|code| code != 0), "{unknown:?}");
    assert!(
        std::fs::read_dir(dir.path())
            .expect("the folder")
            .next()
            .is_none(),
        "something was created"
    );
}

#[test]
fn s30_the_configuration_comes_from_default_file_environment_and_flags() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let file = dir.path().join("amends.toml");
    std::fs::write(
        &file,
        "retry_interval = 7\nrequest_timeout = 8\nalert_web_hook = \"http://h/x?token=secret\"\n",
    )
    .expect("writes");
    let path = file.to_string_lossy().into_owned();
    let ended = run(
        dir.path(),
        &["config", "-c", &path, "--json"],
        &[
            ("AMENDS_REQUEST_TIMEOUT", "9"),
            ("AMENDS_OPERATOR_TOKEN", "hush"),
        ],
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        !ended.stdout.contains("hush"),
        "a secret is shown: {}",
        ended.stdout
    );
    let shown: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let text = shown.to_string();
    for part in [
        "retry_interval",
        "request_timeout",
        "timeout_to_fail",
        "35",
        "AMENDS_REQUEST_TIMEOUT",
        "amends.toml",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[test]
fn s30_wrong_configuration_is_one_clear_line() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("writes");
        path.to_string_lossy().into_owned()
    };
    let dtm = |name: &str, text: &str| file(&format!("{name}.yml"), text);
    let refused = |path: &str, env: &[(&str, &str)], part: &str| {
        let ended = run(dir.path(), &["serve", "-c", path], env);
        assert!(
            ended.code.is_some_and(|code| code != 0),
            "{part}: {ended:?}"
        );
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    };
    let empty = file("empty.toml", "");
    refused(
        &file("unknown.toml", "retry_intervall = 3\n"),
        &[],
        "retry_interval",
    );
    refused(&file("wrong.toml", "http_port = \"x\"\n"), &[], "http_port");
    refused(&file("broken.toml", "= = =\n"), &[], "broken.toml");
    refused(
        &empty,
        &[("AMENDS_RETRY_INTERVAL", "soon")],
        "AMENDS_RETRY_INTERVAL",
    );
    refused(
        &empty,
        &[("AMENDS_RETRY_INTERVAL", "0")],
        "AMENDS_RETRY_INTERVAL",
    );
    refused(&empty, &[("AMENDS_STORE", "redis")], "redis");
    refused(
        &dtm("interval", "RetryInterval: 5\n"),
        &[],
        "RetryInterval should not be less than 10",
    );
    refused(
        &dtm("timeout", "RetryInterval: 20\nTimeoutToFail: 15\n"),
        &[],
        "TimeoutToFail should not be less than RetryInterval",
    );
    for driver in ["redis", "mysql", "postgres", "sqlserver"] {
        refused(
            &dtm(
                driver,
                &format!("Store:\n  Driver: {driver}\n  Host: h\n  Port: 1\n  User: u\n"),
            ),
            &[],
            driver,
        );
    }
    refused(
        &dtm("service", "MicroService:\n  Driver: dtm-driver-gozero\n"),
        &[],
        "dtm-driver-gozero",
    );
}
