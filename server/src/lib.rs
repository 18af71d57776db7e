//! The coordinator of Amends.

pub mod alert;
pub mod api;
pub mod dispatch;
pub mod metrics;
pub mod store;
