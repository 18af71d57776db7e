//! Participants behind layers of tower and interceptors of tonic, called by the real coordinator and by clients with the same. Build the binary
//! first (`cargo build -p amends-server`).

mod grpc;
mod http;
mod support;
