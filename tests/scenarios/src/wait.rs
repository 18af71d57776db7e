//! Waiting for a condition, with a deadline.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long tests wait for what must happen soon. Generous, because the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Asks again every 20 ms until the condition holds.
///
/// # Panics
///
/// When the deadline has passed; `what` names the condition.
pub async fn eventually<F, Fut>(what: &str, deadline: Duration, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let end = Instant::now() + deadline;
    while !condition().await {
        assert!(Instant::now() < end, "{what}: not within {deadline:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets time pass up to a moment, for conditions that are about time itself (a delay, an age).
pub async fn until(moment: Instant) {
    tokio::time::sleep_until(moment.into()).await;
}
