//! Banks in real databases, for tests of barriers: each has one account, and the barrier's table beside it.

mod bank;

pub use bank::{Bank, mariadb, postgres, sqlite};

use amends::participant::Identity;

/// A branch call of this saga.
///
/// # Panics
///
/// When it is none.
pub fn call(gid: &str, op: &str) -> Identity {
    Identity::new("saga", gid, "01", op).expect("an identity")
}
