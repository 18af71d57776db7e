//! The coordinator of Amends.

pub mod cli;
pub mod config;
pub mod coordinator;
pub mod store;
pub mod telemetry;
