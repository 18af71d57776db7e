//! Messages of the gRPC API, what they mean to the coordinator, and branch calls over gRPC (dtm-server.md 6 and 7.4).

mod call;
mod client;
mod operations;
mod status;

pub use call::{GrpcCall, GrpcTarget, check_metadata, metadata_of};
pub use client::{
    QUERY_PATH, answer_over_http, branch_message, global_message, method_path, query_message,
    request_message,
};
pub use operations::{branches, listed, millis, transaction};
pub use status::{Code, classify_grpc};

use crate::branch::Protocol;
use crate::coordinator::Transaction;
use crate::error::Error;
use crate::wire::request::{BranchRequest, GlobalRequest, Times, steps_from_json};

/// Messages of package `dtmgimp`.
#[allow(missing_docs, clippy::doc_lazy_continuation)]
pub mod dtmgimp {
    include!(concat!(env!("OUT_DIR"), "/dtmgimp.rs"));
}

/// Messages of package `workflow`.
#[allow(missing_docs)]
pub mod workflow {
    include!(concat!(env!("OUT_DIR"), "/workflow.rs"));
}

/// Messages of package `amends.v1`.
#[allow(missing_docs)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/amends.v1.rs"));
}

/// The compiled .proto files with what they import, as reflection serves them: an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// What Submit, Prepare, Abort and PrepareWorkflow ask. The protocol is always gRPC.
pub fn global(req: dtmgimp::DtmRequest) -> Result<GlobalRequest, Error> {
    let options = req.trans_options.unwrap_or_default();
    Ok(GlobalRequest {
        gid: req.gid,
        trans_type: req.trans_type,
        steps: steps_from_json(&req.steps)?,
        payloads: req.bin_payloads,
        query_prepared: req.query_prepared,
        protocol: Protocol::Grpc.as_str().to_owned(),
        custom_data: req.customed_data,
        rollback_reason: req.rollback_reason,
        req_extra: req.req_extra,
        times: Times {
            timeout_to_fail: options.timeout_to_fail,
            request_timeout: options.request_timeout,
            retry_interval: options.retry_interval,
            retry_limit: options.retry_limit,
        },
        wait_result: options.wait_result,
        concurrent: options.concurrent,
        branch_headers: options.branch_headers,
        ..GlobalRequest::default()
    })
}

/// What RegisterBranch asks.
pub fn registration(req: dtmgimp::DtmBranchRequest) -> BranchRequest {
    let mut fields = req.data;
    // The bytes beside the map are the data; the map has no say in whose branch it is either.
    fields.remove("data");
    fields.extend([
        ("gid".to_owned(), req.gid),
        ("trans_type".to_owned(), req.trans_type),
        ("branch_id".to_owned(), req.branch_id),
    ]);
    BranchRequest {
        fields,
        data: req.busi_payload,
        protocol: Protocol::Grpc,
    }
}

/// The answer of PrepareWorkflow: what the workflow's client replays.
pub fn progresses(tx: &Transaction) -> dtmgimp::DtmProgressesReply {
    let rows = tx.rows().iter().map(|row| dtmgimp::DtmProgress {
        status: row.state.status.as_str().to_owned(),
        bin_data: row.payload.clone(),
        branch_id: row.branch_id.to_string(),
        op: row.op.as_str().to_owned(),
    });
    let state = tx.state();
    dtmgimp::DtmProgressesReply {
        transaction: Some(dtmgimp::DtmTransaction {
            gid: tx.gid().as_str().to_owned(),
            status: state.status.as_str().to_owned(),
            rollback_reason: state.reason.clone(),
            result: tx.result().to_owned(),
            custom_data: tx.definition().custom_data.clone(),
        }),
        progresses: rows.collect(),
    }
}

#[cfg(test)]
mod tests;
