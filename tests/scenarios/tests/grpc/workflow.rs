//! Scenarios 22 to 24, and the decision row of rules.md 2.7.

use super::{ABORTED, FAILED_PRECONDITION, INVALID_ARGUMENT, NOT_FOUND, refused, register, world};
use amends::wire::grpc::dtmgimp::{DtmBranchRequest, DtmProgressesReply};
use amends::wire::grpc::workflow::WorkflowData;
use amends_scenarios::{GrpcStatus, Reply, World, dtm_request, merge};
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

async fn prepare(w: &World, gid: &str, extra: Value) -> Result<DtmProgressesReply, GrpcStatus> {
    let request = dtm_request(&w.workflow(gid, extra));
    w.grpc.call("dtmgimp.Dtm/PrepareWorkflow", &request).await
}

fn row(gid: &str, branch_id: &str, op: &str, extra: Value) -> Value {
    let base = json!({"gid": gid, "trans_type": "workflow", "branch_id": branch_id, "op": op, "status": "succeed"});
    merge(base, extra)
}

fn end(gid: &str, status: &str, extra: Value) -> Value {
    json!({"gid": gid, "trans_type": "workflow", "req_extra": merge(json!({"status": status}), extra)})
}

#[tokio::test]
async fn s22_progress_and_result_are_replayed() {
    let w = world().await;
    let new = prepare(&w, "w", json!({})).await.expect("new");
    let tx = new.transaction.expect("a transaction");
    assert_eq!(
        (tx.gid.as_str(), tx.status.as_str(), new.progresses.len()),
        ("w", "prepared", 0)
    );
    // Bytes that are no text come back as they went in.
    let data = BTreeMap::from(
        [("op", "action"), ("status", "succeed"), ("sync", "1")].map(|(k, v)| (k.into(), v.into())),
    );
    let request = DtmBranchRequest {
        gid: "w".into(),
        trans_type: "workflow".into(),
        branch_id: "01".into(),
        data,
        busi_payload: b"\x00\xff res".as_slice().into(),
        ..Default::default()
    };
    w.grpc
        .dtm("RegisterBranch", &request)
        .await
        .expect("stored");
    let failed = row(
        "w",
        "02",
        "action",
        json!({"status": "failed", "data": "nope"}),
    );
    register(&w, &failed).await.expect("stored");
    let again = prepare(&w, "w", json!({})).await.expect("existing");
    let shown: Vec<(&str, &str, &str, &[u8])> = again
        .progresses
        .iter()
        .map(|p| {
            (
                p.branch_id.as_str(),
                p.op.as_str(),
                p.status.as_str(),
                &p.bin_data[..],
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("01", "action", "succeed", &b"\x00\xff res"[..]),
            ("02", "action", "failed", b"nope")
        ]
    );
    // Fault A8: DTM never returns the result over gRPC.
    let done = end("w", "succeed", json!({"result": "AAEC"}));
    w.grpc.dtm_json("Submit", &done).await.expect("ended");
    let tx = prepare(&w, "w", json!({})).await.expect("finished");
    let tx = tx.transaction.expect("a transaction");
    assert_eq!(
        (tx.status.as_str(), tx.result.as_str()),
        ("succeed", "AAEC")
    );
}

#[tokio::test]
async fn s22_a_registration_that_is_refused_is_no_business_failure() {
    let w = world().await;
    prepare(&w, "w", json!({})).await.expect("new");
    let action = row("w", "01", "action", json!({"data": "x"}));
    register(&w, &action).await.expect("stored");
    let text = "no trans with gid: w status: prepared found";
    refused(register(&w, &action).await, FAILED_PRECONDITION, text);
    let run = row("w", "02", "action", json!({"run": "r1", "data": "x"}));
    register(&w, &run).await.expect("stored");
    register(&w, &run).await.expect("the same run again");
    refused(
        register(&w, &merge(run, json!({"run": "r2"}))).await,
        FAILED_PRECONDITION,
        text,
    );
    let decision = row(
        "w",
        "00",
        "decision",
        json!({"status": "failed", "sync": "1", "run": "r1"}),
    );
    register(&w, &decision).await.expect("decided");
    refused(
        register(&w, &row("w", "03", "action", json!({}))).await,
        FAILED_PRECONDITION,
        text,
    );
    let other = end("w", "succeed", json!({}));
    let status = w
        .grpc
        .dtm_json("Submit", &other)
        .await
        .expect_err("decided");
    assert_eq!(status.code, FAILED_PRECONDITION);
    w.grpc
        .dtm_json(
            "Submit",
            &end("w", "failed", json!({"rollback_reason": "no"})),
        )
        .await
        .expect("as decided");
    assert_eq!(w.dtm.query("w").await.field("rollback_reason"), "no");
}

#[tokio::test]
async fn s23_the_callback_is_a_grpc_call_with_the_data() {
    let w = world().await;
    w.branches.script("/callback", [Reply::ok()]);
    let start = Instant::now();
    let extra = json!({"request_timeout": 1, "retry_interval": 1});
    prepare(&w, "w", extra).await.expect("new");
    let call = &w.branches.wait("/callback", 1).await[0];
    assert!(call.at - start >= Duration::from_millis(900), "not early");
    for (name, want) in [
        ("dtm-gid", "w"),
        ("dtm-branch_id", "00"),
        ("dtm-op", "wf"),
        ("dtm-trans_type", "workflow"),
    ] {
        assert_eq!(call.header(name), want, "{name}");
    }
    let data = WorkflowData::decode(&call.body[..]).expect("WorkflowData");
    assert_eq!(&data.data[..], br#"{"a":1}"#);
    w.branches.wait("/callback", 2).await;
    let done = end("w", "succeed", json!({}));
    w.grpc.dtm_json("Submit", &done).await.expect("ended");
    w.grpc
        .dtm_json("Submit", &done)
        .await
        .expect("the same end again");
}

#[tokio::test]
async fn s24_ends_that_are_refused() {
    let w = world().await;
    prepare(&w, "w", json!({})).await.expect("new");
    let weird = w
        .grpc
        .dtm_json("Submit", &end("w", "weird", json!({})))
        .await;
    assert_eq!(weird.expect_err("refused").code, INVALID_ARGUMENT);
    refused(
        w.grpc
            .dtm_json("Submit", &end("none", "succeed", json!({})))
            .await,
        NOT_FOUND,
        "no TransGlobal with gid: none found",
    );
    let abort = json!({"gid": "w", "trans_type": "workflow"});
    assert_eq!(
        w.grpc
            .dtm_json("Abort", &abort)
            .await
            .expect_err("refused")
            .code,
        ABORTED
    );
    assert_eq!(w.dtm.query("w").await.status(), "prepared");
}
