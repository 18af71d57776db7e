//! Waiting between two steps of a machine, for hosts with tokio.

use crate::machine::Fact;
use crate::time::{Millis, duration};
use tokio::time::{Instant, sleep_until};

/// Waits so many milliseconds: [`Fact::Done`]. What would last beyond the deadline ends there, as [`Fact::Cancelled`].
pub(crate) async fn pause(ms: Millis, deadline: Option<std::time::Instant>) -> Fact {
    let end = Instant::now() + duration(ms);
    match deadline.map(Instant::from_std) {
        Some(deadline) if deadline < end => {
            sleep_until(deadline).await;
            Fact::Cancelled
        }
        _ => {
            sleep_until(end).await;
            Fact::Done
        }
    }
}
