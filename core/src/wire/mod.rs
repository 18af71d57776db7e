//! Request and reply bodies, and nothing else.

pub mod call;
pub mod grpc;
pub mod http;
pub mod jsonrpc;
pub mod request;
pub mod step;
pub mod url;
