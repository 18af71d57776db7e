//! Request and reply bodies, and nothing else.

pub mod call;
pub mod jsonrpc;
pub mod request;
