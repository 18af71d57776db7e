//! Workflows in Rust against the real coordinator and real databases. Build the binary first (`cargo build -p amends-server`).

mod client;
mod proof;
mod tasks;
mod transfer;
