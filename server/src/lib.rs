//! The coordinator of Amends.

pub mod api;
pub mod store;
pub mod topics;
