//! All decisions of the coordinator, pure: what happened goes in, what to do comes out.

pub mod record;
