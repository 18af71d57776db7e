//! The coordinator of Amends: a thin shell of I/O around [`amends::coordinator`].

pub mod alert;
pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod coordinator;
pub mod dispatch;
pub mod engine;
mod hash;
pub mod metrics;
pub mod store;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod topics;

pub use coordinator::Coordinator;
