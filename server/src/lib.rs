//! The coordinator of Amends.

pub mod store;
