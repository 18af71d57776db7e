//! Amends: distributed transactions across services, databases and languages.
//!
//! This crate holds the protocols, the coordinator's decisions and the participant's barriers. It has no socket, no thread, no clock and no
//! randomness: time and random bytes come in as arguments, what to do comes out as values. Its features add what drives it: clients and adapters.

#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod adapters;
pub mod branch;
#[cfg(feature = "client")]
#[allow(clippy::disallowed_methods)]
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
#[cfg(any(
    feature = "client",
    feature = "sqlx-mysql",
    feature = "sqlx-postgres",
    feature = "sqlx-sqlite"
))]
mod pause;
pub mod time;
pub mod wire;

pub use branch::{Op, Protocol, Status, TransType};
pub use error::{Codes, Error, ErrorKind};
pub use gid::Gid;
pub use limits::Limits;
pub use options::{Compat, Options, Policy};
pub use outcome::{Outcome, Purpose};
pub use time::Millis;
