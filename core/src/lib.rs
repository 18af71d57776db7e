//! Amends: distributed transactions across services, databases and languages.
//!
//! This crate holds the protocols, the coordinator's decisions and the participant's barriers. It has no socket, no thread, no clock and no
//! randomness: time and random bytes come in as arguments, what to do comes out as values.

pub mod adapters;
pub mod branch;
#[cfg(feature = "client")]
pub mod client;
pub mod coordinator;
pub mod error;
pub mod gid;
pub mod initiator;
pub mod limits;
pub mod machine;
pub mod options;
pub mod outcome;
pub mod participant;
pub mod time;
pub mod wire;

pub use branch::{Op, Protocol, Status, TransType};
pub use error::{Error, ErrorKind};
pub use gid::Gid;
pub use limits::Limits;
pub use options::{Compat, Options, Policy};
pub use outcome::{Outcome, Purpose};
pub use time::Millis;
