//! The coordinator of Amends.

pub mod api;
pub mod dispatch;
pub mod store;
