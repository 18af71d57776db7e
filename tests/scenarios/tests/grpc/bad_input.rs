//! What is too large, and participants that are no gRPC servers: a typed status, nothing half stored, and the transaction goes on.

use super::{INVALID_ARGUMENT, RESOURCE_EXHAUSTED, refused_with, world};
use amends::wire::grpc::dtmgimp::DtmRequest;
use amends_scenarios::{Response, Server, View, World, framed, free_port, listen};
use prost::Message;
use serde_json::json;

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let w = World::with(&[("AMENDS_LIMITS_BODY", "100000")]).await;
    let request = |padding: usize| DtmRequest {
        gid: "s".to_owned(),
        trans_type: "saga".to_owned(),
        customed_data: "x".repeat(padding),
        ..Default::default()
    };
    let overhead = request(99_000).encoded_len() - 99_000;
    let at_limit = w.grpc.dtm("Submit", &request(100_000 - overhead)).await;
    refused_with(at_limit, INVALID_ARGUMENT, "custom_data");
    let over = w.grpc.dtm("Submit", &request(100_001 - overhead)).await;
    refused_with(over, RESOURCE_EXHAUSTED, "100000");
    // A frame that only announces more than it may.
    let mut frame = framed(b"x").to_vec();
    frame[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
    let announced = w.grpc.raw("dtmgimp.Dtm/Submit", frame.into()).await;
    assert_eq!(announced.expect_err("too large").code, RESOURCE_EXHAUSTED);
}

async fn error_of(w: &World, gid: &str, url: String) -> String {
    let steps = json!([{"action": url}]);
    let extra = json!({"steps": steps, "request_timeout": 1});
    let body = w.saga(gid, &["a"], extra);
    w.grpc.dtm_json("Submit", &body).await.expect("accepted");
    let shown = |v: &View| !v.field("last_error").is_empty();
    let view = w.dtm.wait_view(gid, "an error", shown).await;
    assert_eq!(view.status(), "submitted", "it goes on");
    view.field("last_error").to_owned()
}

#[tokio::test]
async fn participants_that_cannot_be_called_are_named() {
    let w = world().await;
    let dead = format!("127.0.0.1:{}", free_port());
    let error = error_of(&w, "dead", format!("{dead}/p.S/M")).await;
    assert!(
        error.contains(&format!("connection refused by grpc://{dead}")),
        "{error}"
    );

    let http = listen(|_| async {
        Some(Response {
            status: 200,
            headers: Vec::new(),
            body: "hello".to_owned(),
        })
    })
    .await;
    let error = error_of(&w, "http", format!("{}/p.S/M", http.addr)).await;
    assert!(error.contains("does it speak gRPC"), "{error}");

    let plain = format!("grpcs://{}", w.url("/a"));
    let error = error_of(&w, "tls", plain).await;
    assert!(error.contains("no TLS with grpcs://"), "{error}");

    // Ours answers UNIMPLEMENTED.
    let nothing = format!("{}/no.Service/Method", w.server.grpc_addr());
    let error = error_of(&w, "nothing", nothing).await;
    assert!(error.contains("answered UNIMPLEMENTED"), "{error}");
}

#[tokio::test]
async fn a_host_that_comes_back_is_called() {
    let w = world().await;
    let mut late = Server::start(&[]).await;
    late.kill();
    let steps = json!([{"action": format!("{}/dtmgimp.Dtm/NewGid", late.grpc_addr())}]);
    let extra = json!({"steps": steps, "retry_interval": 1});
    let extra = amends_scenarios::merge(extra, json!({"payloads": [""]}));
    let body = w.saga("s", &["a"], extra);
    w.grpc.dtm_json("Submit", &body).await.expect("accepted");
    let shown = |v: &View| !v.field("last_error").is_empty();
    w.dtm.wait_view("s", "an error", shown).await;
    // Another coordinator serves there again: its method takes the empty message.
    late.restart().await;
    w.dtm.wait_status("s", "succeed").await;
}
