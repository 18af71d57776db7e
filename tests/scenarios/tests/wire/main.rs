//! The scenarios of the specification over real HTTP, against the real binary. Each test is named after the number of its scenario.
//!
//! One test binary, because tests mostly wait: run it with more threads than cores (`-- --test-threads 8`).

mod clients;
mod compat;
mod crash;
mod cron;
mod jsonrpc;
mod legacy;
mod limits;
mod listing;
mod msg;
mod msg_check;
mod operations;
mod operator;
mod replay;
mod saga;
mod saga_order;
mod saga_retry;
mod shape;
mod surface;
mod tcc;
mod topics;
mod validation;
mod wait_result;
mod workflow;
mod xa;
