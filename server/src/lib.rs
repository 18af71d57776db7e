//! The coordinator of Amends.

pub mod dispatch;
pub mod store;
