//! Helpers for tests that run the real binary `amends` as a child process and talk to it over real HTTP and gRPC.
//!
//! A test makes a [`World`]: one coordinator with its own data folder, one scripted branch service, one client.

mod branches;
mod client;
mod grpc;
mod json;
mod listen;
mod server;
mod tls;
mod wait;
mod world;

pub use branches::{Branches, Gate, Reply};
pub use client::{Answer, Client, NoAnswer, SUCCESS, View, escape};
pub use grpc::{GrpcClient, GrpcStatus, branch_request, dtm_request, framed};
pub use json::{elements, keys, member, members};
pub use listen::{Call, Listener, Response, listen};
pub use server::{DURABLE, Finished, Server, Settings, free_port, run};
pub use tls::{certificate, within_tls};
pub use wait::{DEADLINE, eventually, until};
pub use world::{World, merge};
