//! The scenarios of the specification over gRPC, against the real binary: requests come by gRPC, branches are called over gRPC unless a
//! test mixes. Each test is named after the number of its scenario.

mod bad_input;
mod mixed;
mod msg;
mod operations;
mod phase2;
mod saga;
mod surface;
mod workflow;

use amends_scenarios::{GrpcStatus, World, branch_request};
use serde_json::Value;

pub(crate) const INVALID_ARGUMENT: i32 = 3;
pub(crate) const NOT_FOUND: i32 = 5;
pub(crate) const ALREADY_EXISTS: i32 = 6;
pub(crate) const RESOURCE_EXHAUSTED: i32 = 8;
pub(crate) const FAILED_PRECONDITION: i32 = 9;
pub(crate) const ABORTED: i32 = 10;
pub(crate) const UNIMPLEMENTED: i32 = 12;
pub(crate) const UNAUTHENTICATED: i32 = 16;

/// A world whose branches are called over gRPC.
pub(crate) async fn world() -> World {
    World::with_grpc_branches(&[]).await
}

pub(crate) async fn register(w: &World, body: &Value) -> Result<(), GrpcStatus> {
    w.grpc.dtm("RegisterBranch", &branch_request(body)).await
}

#[track_caller]
pub(crate) fn refused(result: Result<(), GrpcStatus>, code: i32, message: &str) {
    let status = result.expect_err("refused");
    assert_eq!((status.code, status.message.as_str()), (code, message));
}

#[track_caller]
pub(crate) fn refused_with(result: Result<(), GrpcStatus>, code: i32, part: &str) {
    let status = result.expect_err("refused");
    assert_eq!(status.code, code, "{}", status.message);
    assert!(
        status.message.contains(part),
        "{} has no {part}",
        status.message
    );
}
