//! Request and reply bodies, and nothing else.

pub mod call;
pub mod http;
pub mod jsonrpc;
pub mod request;
