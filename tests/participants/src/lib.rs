//! Banks in real databases, for tests of barriers: each has one account, and the barrier's table beside it.

mod bank;
mod books;
mod crash;
mod host;
mod parties;
mod storm;

pub use bank::{Bank, mariadb, plain, postgres, sqlite, with};
pub use books::Books;
pub use crash::{Crash, CrashingCalls, Stop, ever_later, polled};
pub use host::{Host, User, refused};
pub use parties::{answered, client, waiting};
pub use storm::storm;

use amends::participant::BarrierResult::{self, Duplicate, Executed, NullCompensation, Suspended};
use amends::participant::Identity;

/// The orders of two actions and two compensations, and what each call must report.
pub const ORDERS: [([&str; 4], [BarrierResult; 4]); 6] = [
    (
        ["action", "action", "compensate", "compensate"],
        [Executed, Duplicate, Executed, Duplicate],
    ),
    (
        ["action", "compensate", "action", "compensate"],
        [Executed, Executed, Duplicate, Duplicate],
    ),
    (
        ["action", "compensate", "compensate", "action"],
        [Executed, Executed, Duplicate, Duplicate],
    ),
    (
        ["compensate", "action", "action", "compensate"],
        [NullCompensation, Suspended, Suspended, Duplicate],
    ),
    (
        ["compensate", "action", "compensate", "action"],
        [NullCompensation, Suspended, Duplicate, Suspended],
    ),
    (
        ["compensate", "compensate", "action", "action"],
        [NullCompensation, Duplicate, Suspended, Suspended],
    ),
];

/// The orders of two tries, a confirm and a cancel, and what each call must report. A barrier keeps a confirm from being made twice; that
/// it comes behind its try, and with no cancel, is the coordinator's work.
pub const TCC_ORDERS: [([&str; 4], [BarrierResult; 4]); 12] = [
    (
        ["try", "try", "confirm", "cancel"],
        [Executed, Duplicate, Executed, Executed],
    ),
    (
        ["try", "try", "cancel", "confirm"],
        [Executed, Duplicate, Executed, Executed],
    ),
    (
        ["try", "confirm", "try", "cancel"],
        [Executed, Executed, Duplicate, Executed],
    ),
    (
        ["try", "confirm", "cancel", "try"],
        [Executed, Executed, Executed, Duplicate],
    ),
    (
        ["try", "cancel", "try", "confirm"],
        [Executed, Executed, Duplicate, Executed],
    ),
    (
        ["try", "cancel", "confirm", "try"],
        [Executed, Executed, Executed, Duplicate],
    ),
    (
        ["confirm", "try", "try", "cancel"],
        [Executed, Executed, Duplicate, Executed],
    ),
    (
        ["confirm", "try", "cancel", "try"],
        [Executed, Executed, Executed, Duplicate],
    ),
    (
        ["confirm", "cancel", "try", "try"],
        [Executed, NullCompensation, Suspended, Suspended],
    ),
    (
        ["cancel", "try", "try", "confirm"],
        [NullCompensation, Suspended, Suspended, Executed],
    ),
    (
        ["cancel", "try", "confirm", "try"],
        [NullCompensation, Suspended, Executed, Suspended],
    ),
    (
        ["cancel", "confirm", "try", "try"],
        [NullCompensation, Executed, Suspended, Suspended],
    ),
];

/// The orders of [`ORDERS`] for a try and its cancel.
pub fn cancel_orders() -> [([&'static str; 4], [BarrierResult; 4]); 6] {
    ORDERS.map(|(ops, want)| {
        let tcc = |op| if op == "action" { "try" } else { "cancel" };
        (ops.map(tcc), want)
    })
}

/// A branch call of this saga, or of this TCC.
///
/// # Panics
///
/// When it is none.
pub fn call(gid: &str, op: &str) -> Identity {
    let trans_type = match op {
        "try" | "confirm" | "cancel" => "tcc",
        _ => "saga",
    };
    Identity::new(trans_type, gid, "01", op).expect("an identity")
}
