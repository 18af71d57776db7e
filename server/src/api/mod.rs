//! What clients talk to.

pub mod listen;
