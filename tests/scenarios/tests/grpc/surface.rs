//! Scenario 1: every method with good, repeated, unknown, malformed and empty input.

use super::{ABORTED, INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED, refused, refused_with, world};
use amends::wire::grpc::dtmgimp::{DtmBranchRequest, DtmGidReply, DtmRequest, DtmTopicRequest};
use amends_scenarios::{World, framed};
use bytes::Bytes;
use http::Method;
use serde_json::json;

#[tokio::test]
async fn s01_new_gid() {
    let w = World::start().await;
    let gid: DtmGidReply = w.grpc.call("dtmgimp.Dtm/NewGid", &()).await.expect("a gid");
    assert_eq!(gid.gid.len(), 22, "{}", gid.gid);
}

#[tokio::test]
async fn s01_empty_requests() {
    let w = World::start().await;
    for method in ["Submit", "Prepare", "Abort", "PrepareWorkflow"] {
        let empty = w.grpc.dtm(method, &DtmRequest::default()).await;
        assert_eq!(empty.expect_err(method).code, INVALID_ARGUMENT, "{method}");
    }
    let empty = w
        .grpc
        .dtm("RegisterBranch", &DtmBranchRequest::default())
        .await;
    assert_eq!(empty.expect_err("empty").code, INVALID_ARGUMENT);
    for method in ["Subscribe", "Unsubscribe", "DeleteTopic"] {
        let empty = w.grpc.dtm(method, &DtmTopicRequest::default()).await;
        assert_eq!(empty.expect_err(method).code, INVALID_ARGUMENT, "{method}");
    }
    let all = w.dtm.get("/api/dtmsvr/all").await;
    assert_eq!(all.json()["transactions"], json!([]), "nothing was stored");
}

#[tokio::test]
async fn s01_requests_that_can_never_succeed() {
    let w = world().await;
    let good = w.saga("s", &["a"], json!({}));
    let long = "g".repeat(129);
    for (extra, part) in [
        (json!({"gid": ""}), "gid"),
        (json!({"gid": "a;b"}), "gid"),
        (json!({"gid": long}), "128"),
        (json!({"trans_type": "zzz"}), "unknow trans type: zzz"),
        (json!({"payloads": []}), "0 payloads for 1 steps"),
        (
            json!({"steps": {"action": "x"}}),
            "Steps must be the JSON text",
        ),
        (json!({"steps": [{"action": "h/p.S/M"}]}), "no port"),
        (
            json!({"steps": [{"action": "h:1/M"}]}),
            "/package.Service/Method",
        ),
        (json!({"steps": [{"action": "etcd://h:1/p.S/M"}]}), "etcd"),
        (json!({"custom_data": "{"}), "custom_data"),
        (
            json!({"custom_data": r#"{"concurrent":true,"orders":{"0":[0]}}"#}),
            "custom_data",
        ),
        (json!({"retry_interval": -5}), "retry_interval is -5"),
        (json!({"branch_headers": {"a b": "c"}}), "header name"),
        (json!({"branch_headers": {"x-a": "ü"}}), "printable ASCII"),
        (json!({"branch_headers": {"a!b": "c"}}), "a!b"),
        (json!({"gid": "gü"}), "printable ASCII"),
    ] {
        let body = amends_scenarios::merge(good.clone(), extra.clone());
        refused_with(
            w.grpc.dtm_json("Submit", &body).await,
            INVALID_ARGUMENT,
            part,
        );
    }
    assert_eq!(w.dtm.query("s").await.status(), "", "nothing was stored");
    assert!(w.branches.trace().is_empty());
}

#[tokio::test]
async fn s01_unknown_gids_and_repeated_requests() {
    let w = world().await;
    let none = json!({"gid": "none", "trans_type": "msg"});
    refused(
        w.grpc.dtm_json("Abort", &none).await,
        NOT_FOUND,
        "no TransGlobal with gid: none found",
    );
    let body = w.saga("s", &["a"], json!({"wait_result": true}));
    w.grpc.dtm_json("Submit", &body).await.expect("succeeds");
    refused(
        w.grpc.dtm_json("Submit", &body).await,
        ABORTED,
        "current status 'succeed', cannot sumbmit. FAILURE",
    );
    assert_eq!(w.branches.trace(), ["/a"]);
}

#[tokio::test]
async fn s01_bytes_that_are_no_request() {
    let w = World::start().await;
    // Field 1 as a number; text that is no UTF-8; a length beyond the end.
    for bad in [&b"\x08\x01"[..], b"\x0a\x02\xff\xfe", b"\x0a\x7fx"] {
        let status = w
            .grpc
            .raw("dtmgimp.Dtm/Submit", framed(bad))
            .await
            .expect_err("malformed");
        assert_eq!(status.code, INVALID_ARGUMENT, "{}", status.message);
    }
    let unknown = w.grpc.raw("dtmgimp.Dtm/Nothing", framed(b"")).await;
    assert_eq!(unknown.expect_err("no method").code, UNIMPLEMENTED);
    let unknown = w.grpc.raw("no.Service/Submit", framed(b"")).await;
    assert_eq!(unknown.expect_err("no service").code, UNIMPLEMENTED);
    for broken in [&b""[..], b"\0\0\0", b"\0\0\0\0\x05abc", b"\x07\0\0\0\0"] {
        let bytes = Bytes::copy_from_slice(broken);
        let status = w.grpc.raw("dtmgimp.Dtm/Submit", bytes).await;
        let status = status.expect_err("a broken frame");
        assert_eq!(
            status.code, INVALID_ARGUMENT,
            "{broken:?}: {}",
            status.message
        );
    }
    let compressed = Bytes::from_static(b"\x01\0\0\0\0");
    let status = w.grpc.raw("dtmgimp.Dtm/Submit", compressed).await;
    assert_eq!(status.expect_err("compressed").code, UNIMPLEMENTED);
    // An HTTP/1 client at the gRPC port is told so, and harms nobody.
    let client = amends_scenarios::Client::new(w.server.grpc_addr());
    let told = client
        .send(Method::GET, "/api/ping", "")
        .await
        .expect("told");
    assert_eq!(told.status, 400);
    assert!(told.text().contains("speaks gRPC"), "{}", told.text());
    let gid: DtmGidReply = w.grpc.call("dtmgimp.Dtm/NewGid", &()).await.expect("a gid");
    assert!(!gid.gid.is_empty());
}
