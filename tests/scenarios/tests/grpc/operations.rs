//! Scenarios 3 and 26 to 30: what operators ask and do, health, reflection, metrics, crash and stop.

use super::{ABORTED, INVALID_ARGUMENT, NOT_FOUND, UNAUTHENTICATED, refused, world};
use amends::wire::grpc::v1::{
    ForceStopReply, ForceStopRequest, ListReply, ListRequest, QueryReply, QueryRequest,
    ResetAllReply, ResetAllRequest, ResetReply, ResetRequest,
};
use amends_scenarios::{DURABLE, GrpcStatus, Reply, World};
use bytes::Bytes;
use serde_json::json;
use std::io::Write;
use std::time::Duration;

async fn query(w: &World, gid: &str) -> Result<QueryReply, GrpcStatus> {
    let request = QueryRequest {
        gid: gid.to_owned(),
    };
    w.grpc.call("amends.v1.Operations/Query", &request).await
}

async fn force_stop(w: &World, gid: &str) -> Result<(), GrpcStatus> {
    let request = ForceStopRequest {
        gid: gid.to_owned(),
        actor: "me".to_owned(),
        reason: "test".to_owned(),
    };
    let reply: Result<ForceStopReply, GrpcStatus> = w
        .grpc
        .call("amends.v1.Operations/ForceStop", &request)
        .await;
    reply.map(|_| ())
}

#[tokio::test]
async fn s27_query_force_stop_and_reset() {
    let w = world().await;
    w.branches.script("/b", [Reply::error(), Reply::ok()]);
    let body = w.saga("s", &["a", "b"], json!({}));
    w.grpc.dtm_json("Submit", &body).await.expect("accepted");
    let failing = |v: &amends_scenarios::View| !v.field("last_error").is_empty();
    w.dtm.wait_view("s", "an error", failing).await;
    let shown = query(&w, "s").await.expect("known");
    let tx = shown.transaction.expect("a transaction");
    assert_eq!(
        (tx.gid.as_str(), tx.trans_type.as_str(), tx.status.as_str()),
        ("s", "saga", "submitted")
    );
    assert_eq!((tx.protocol.as_str(), tx.retry_count), ("grpc", 1));
    assert!(tx.create_time.is_some() && tx.next_cron_time.is_some() && tx.end_time.is_none());
    let rows: Vec<(&str, &str, &str)> = shown
        .branches
        .iter()
        .map(|b| (b.branch_id.as_str(), b.op.as_str(), b.status.as_str()))
        .collect();
    assert_eq!(
        rows,
        [
            ("01", "compensate", "prepared"),
            ("01", "action", "succeed"),
            ("02", "compensate", "prepared"),
            ("02", "action", "prepared")
        ]
    );
    assert_eq!(&shown.branches[3].payload[..], br#"{"step":"b"}"#);
    assert_eq!(shown.branches[3].retry_count, 1);

    let reset = ResetRequest {
        gid: "s".to_owned(),
    };
    let _: ResetReply = w
        .grpc
        .call("amends.v1.Operations/Reset", &reset)
        .await
        .expect("due now");
    w.dtm.wait_status("s", "succeed").await;
    let ended = query(&w, "s").await.expect("known").transaction;
    assert!(ended.expect("a transaction").end_time.is_some());
    refused(
        force_stop(&w, "s").await,
        ABORTED,
        "global transaction force stop error. status: succeed. error: FAILURE",
    );

    w.branches.script("/c", [Reply::ongoing()]);
    let body = w.saga("f", &["c"], json!({}));
    w.grpc.dtm_json("Submit", &body).await.expect("accepted");
    w.branches.wait("/c", 1).await;
    force_stop(&w, "f").await.expect("stopped");
    let tx = query(&w, "f").await.expect("known").transaction;
    let tx = tx.expect("a transaction");
    assert_eq!(tx.status, "failed");
    assert_eq!(tx.forced.expect("by force").actor, "me");

    for gid in ["none", ""] {
        let code = if gid.is_empty() {
            INVALID_ARGUMENT
        } else {
            NOT_FOUND
        };
        assert_eq!(query(&w, gid).await.expect_err("unknown").code, code);
        assert_eq!(force_stop(&w, gid).await.expect_err("unknown").code, code);
    }
}

async fn list(w: &World, request: ListRequest) -> Result<ListReply, GrpcStatus> {
    w.grpc.call("amends.v1.Operations/List", &request).await
}

#[tokio::test]
async fn s03_pages_and_filters() {
    let w = world().await;
    for n in 0..25 {
        let body = w.saga(&format!("s{n:02}"), &["a"], json!({"wait_result": true}));
        w.grpc.dtm_json("Submit", &body).await.expect("succeeds");
    }
    let prepared = json!({"gid": "t", "trans_type": "tcc"});
    w.grpc
        .dtm_json("Prepare", &prepared)
        .await
        .expect("prepared");
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(
            &w,
            ListRequest {
                page_size: 10,
                page_token: token,
                ..Default::default()
            },
        )
        .await
        .expect("a page");
        seen.extend(page.transactions.into_iter().map(|tx| tx.gid));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let mut want: Vec<String> = (0..25).map(|n| format!("s{n:02}")).collect();
    want.push("t".to_owned());
    assert_eq!(seen, want);
    let filtered = ListRequest {
        status: "prepared".to_owned(),
        trans_type: "tcc".to_owned(),
        ..Default::default()
    };
    let page = list(&w, filtered).await.expect("a page");
    assert_eq!(page.transactions.len(), 1);
    let future = ListRequest {
        created_from: Some(timestamp(4_000_000_000)),
        ..Default::default()
    };
    assert!(
        list(&w, future)
            .await
            .expect("a page")
            .transactions
            .is_empty()
    );
    for bad in [
        ListRequest {
            page_size: 1_001,
            ..Default::default()
        },
        ListRequest {
            status: "weird".to_owned(),
            ..Default::default()
        },
    ] {
        assert_eq!(
            list(&w, bad).await.expect_err("refused").code,
            INVALID_ARGUMENT
        );
    }
}

fn timestamp(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}

#[tokio::test]
async fn s28_reset_all() {
    let w = world().await;
    w.branches.script("/a", [Reply::ongoing(), Reply::ok()]);
    let body = w.saga("s", &["a"], json!({"retry_interval": 1_000}));
    w.grpc.dtm_json("Submit", &body).await.expect("accepted");
    w.dtm.wait_interval("s", 1_000).await;
    let reset = |after: u64, limit: u32| ResetAllRequest {
        after_seconds: Some(after),
        limit,
    };
    let method = "amends.v1.Operations/ResetAll";
    let none: ResetAllReply = w.grpc.call(method, &reset(5_000, 0)).await.expect("none");
    assert_eq!((none.succeed_count, none.has_remaining), (0, false));
    // It waits once the answer has been taken in.
    let found = async || {
        let one: ResetAllReply = w.grpc.call(method, &reset(10, 1)).await.expect("one");
        assert!(!one.has_remaining);
        one.succeed_count == 1
    };
    amends_scenarios::eventually("one is reset", amends_scenarios::DEADLINE, found).await;
    w.dtm.wait_status("s", "succeed").await;
    let refused: Result<ResetAllReply, GrpcStatus> = w.grpc.call(method, &reset(1, 10_001)).await;
    assert_eq!(refused.expect_err("too many").code, INVALID_ARGUMENT);
}

#[tokio::test]
async fn s30_operators_need_the_token_where_there_is_one() {
    let w = World::with(&[("AMENDS_OPERATOR_TOKEN", "secret")]).await;
    let code = |result: Result<(), GrpcStatus>| result.err().map_or(0, |status| status.code);
    assert_eq!(code(force_stop(&w, "none").await), UNAUTHENTICATED);
    let topic = amends::wire::grpc::dtmgimp::DtmTopicRequest {
        topic: "t".to_owned(),
        url: "http://h".to_owned(),
        ..Default::default()
    };
    for method in ["Subscribe", "Unsubscribe", "DeleteTopic"] {
        assert_eq!(
            code(w.grpc.dtm(method, &topic).await),
            UNAUTHENTICATED,
            "{method}"
        );
    }
    let wrong = w.grpc.with_token("other");
    assert_eq!(code(wrong.dtm("Subscribe", &topic).await), UNAUTHENTICATED);
    // Metadata that is no ASCII is no token, and harms nothing else.
    let strange = w.grpc.with_token("sécret\u{ff}");
    assert_eq!(
        code(strange.dtm("Subscribe", &topic).await),
        UNAUTHENTICATED
    );
    strange
        .call::<_, amends::wire::grpc::dtmgimp::DtmGidReply>("dtmgimp.Dtm/NewGid", &())
        .await
        .expect("a gid");
    let operator = w.grpc.with_token("secret");
    assert_eq!(code(operator.dtm("Subscribe", &topic).await), 0);
    assert_eq!(
        query(&w, "none").await.expect_err("unknown").code,
        NOT_FOUND,
        "looking needs none"
    );
}

#[tokio::test]
async fn s30_health_reflection_and_metrics() {
    let w = World::start().await;
    let frame = |message: &[u8]| amends_scenarios::framed(message);
    let health = "grpc.health.v1.Health/Check";
    let named = |name: &str| {
        let mut message = vec![0x0a, u8::try_from(name.len()).expect("short")];
        message.extend_from_slice(name.as_bytes());
        frame(&message)
    };
    for service in ["", "dtmgimp.Dtm", "amends.v1.Operations"] {
        let reply = w.grpc.raw(health, named(service)).await.expect("healthy");
        assert_eq!(&reply[0][..], b"\x08\x01", "SERVING");
    }
    let unknown = w.grpc.raw(health, named("no.Service")).await;
    assert_eq!(unknown.expect_err("unknown").code, NOT_FOUND);
    // list_services = field 7 of the request, with any text.
    for version in ["v1", "v1alpha"] {
        let method = format!("grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let reply = w
            .grpc
            .raw(&method, frame(b"\x3a\x01*"))
            .await
            .expect("reflects");
        let text = String::from_utf8_lossy(&reply[0]).into_owned();
        for service in [
            "dtmgimp.Dtm",
            "amends.v1.Operations",
            "grpc.health.v1.Health",
        ] {
            assert!(text.contains(service), "{version}: {text}");
        }
        // file_containing_symbol = field 4.
        let symbol = b"\x22\x0bdtmgimp.Dtm";
        let reply = w.grpc.raw(&method, frame(symbol)).await.expect("reflects");
        let text = String::from_utf8_lossy(&reply[0]).into_owned();
        assert!(text.contains("DtmTransOptions"), "{version}");
    }
    let _: amends::wire::grpc::dtmgimp::DtmGidReply =
        w.grpc.call("dtmgimp.Dtm/NewGid", &()).await.expect("a gid");
    let none = json!({"gid": "none", "trans_type": "msg"});
    w.grpc.dtm_json("Abort", &none).await.expect_err("unknown");
    let metrics = w.dtm.get("/api/metrics").await.text();
    for line in [
        r#"dtm_server_process_total{api="newgid",status="ok",type="grpc"} 1"#,
        r#"dtm_server_process_total{api="abort",status="fail",type="grpc"} 1"#,
        r#"dtm_server_response_duration_count{api="newgid",type="grpc"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test]
async fn s26_a_crash_loses_nothing_and_branches_are_called_again() {
    let mut w = World::with_grpc_branches(&[DURABLE]).await;
    w.branches.script("/b", [Reply::ongoing(), Reply::ok()]);
    let body = w.saga("s", &["a", "b"], json!({"retry_interval": 1}));
    w.grpc.dtm_json("Submit", &body).await.expect("accepted");
    w.branches.wait("/b", 1).await;
    w.crash().await;
    w.dtm.wait_status("s", "succeed").await;
    assert!(w.branches.count("/b") >= 2);
}

#[tokio::test]
async fn s30_a_stop_answers_those_that_wait() {
    let mut w = World::with_grpc_branches(&[DURABLE]).await;
    let gate = amends_scenarios::Gate::new();
    w.branches.script("/a", [Reply::ok().behind(&gate)]);
    let body = w.saga("s", &["a"], json!({"wait_result": true}));
    let client = w.grpc.clone();
    let waiting = tokio::spawn(async move { client.dtm_json("Submit", &body).await });
    w.branches.wait("/a", 1).await;
    // Nor does who has not said anything, or not all of it.
    let silent = std::net::TcpStream::connect(w.server.grpc_addr()).expect("connects");
    let mut half = std::net::TcpStream::connect(w.server.grpc_addr()).expect("connects");
    half.write_all(b"PRI * HTTP/2.0").expect("written");
    // A watch of the health service does not hold up the end.
    let (health, watcher) = (w.grpc.clone(), "grpc.health.v1.Health/Watch");
    let (begun, watches) = tokio::sync::oneshot::channel();
    let empty = amends_scenarios::framed(b"");
    let watching = tokio::spawn(async move { health.stream(watcher, empty, begun).await });
    watches.await.expect("it watches");
    let start = std::time::Instant::now();
    w.server.terminate();
    gate.open();
    let status = w.server.ended(Duration::from_secs(20)).await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(9), "below the grace: {took:?}");
    drop((silent, half));
    assert_eq!(status.code(), Some(0), "{}", w.server.stderr());
    waiting.await.expect("no panic").expect("it succeeded");
    let states = watching.await.expect("no panic").expect("ended orderly");
    assert_eq!(states.last(), Some(&Bytes::from_static(b"\x08\x02")));
}
