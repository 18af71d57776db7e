//! Moving a manual clock: from due time to due time, each time until everything that is due is done (rules.md 11).

use super::Engine;
use crate::clock::ManualClock;
use amends::Millis;
use std::time::Duration;
use tokio::time::Instant;

/// Real time that moving a clock may take unless somebody says otherwise.
pub const ADVANCE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it waits before it looks again whether all is done.
const LOOK: Duration = Duration::from_millis(1);
/// Looks in a row before it begins to wait in between.
const QUICK_LOOKS: u32 = 16;
/// Gids named in an error.
const NAMED: usize = 5;

/// Why a clock did not come to where it was to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdvanceError {
    /// The engine goes by the system's clock.
    #[error(
        "this coordinator goes by the system's clock, which nobody can move: start it with the manual clock"
    )]
    SystemClock,
    /// Something was still under way at the deadline, in real time. The clock stands at the last due time it came to.
    #[error(
        "not done within {} s: {calls} calls in flight, {driven} transactions under way{}; the clock stands {} s before where it was to go",
        within.as_secs_f64(), named(gids), missing.as_secs_f64()
    )]
    Deadline {
        /// The real time it was given.
        within: Duration,
        /// Branch calls on the wire.
        calls: usize,
        /// Transactions that are being driven.
        driven: usize,
        /// The gids of some of them.
        gids: Vec<String>,
        /// How far the clock is from where it was to go.
        missing: Duration,
    },
    /// The coordinator shuts down.
    #[error("the coordinator is shutting down")]
    Stopping,
}

fn named(gids: &[String]) -> String {
    if gids.is_empty() {
        return String::new();
    }
    format!(" ({})", gids.join(", "))
}

impl Engine {
    /// Moves the manual clock on by `by`, ms precise, from one due time to the next, and makes everything that is due at each. Returns
    /// where the clock stands then: no call is in flight, and nothing that is due by that time is left. Call timeouts stay real.
    /// `within` bounds the real time it takes. Dropping it stops the clock where it is.
    ///
    /// # Errors
    /// [`AdvanceError`].
    pub async fn advance(&self, by: Duration, within: Duration) -> Result<Millis, AdvanceError> {
        let clock = self.manual.as_ref().ok_or(AdvanceError::SystemClock)?;
        let deadline = Instant::now() + within;
        // One at a time, or the goal of one would be passed by the other.
        let moving = tokio::time::timeout_at(deadline, clock.moving.lock()).await;
        let by = Millis::try_from(by.as_millis()).unwrap_or(Millis::MAX);
        let goal = clock.now().saturating_add(by);
        let late = || self.too_late(within, goal - clock.now());
        let _moving = moving.map_err(|_| late())?;
        loop {
            let next = self.settled(clock, deadline).await?.ok_or_else(late)?;
            if clock.now() >= goal {
                return Ok(goal);
            }
            clock.move_to(next.map_or(goal, |next| next.min(goal)));
            self.timer.room();
        }
    }

    fn too_late(&self, within: Duration, missing: Millis) -> AdvanceError {
        let drivers = self.drivers();
        let gids = drivers.keys().take(NAMED).map(|gid| gid.to_string());
        AdvanceError::Deadline {
            within,
            calls: self.calls_in_flight(),
            driven: drivers.len(),
            gids: gids.collect(),
            missing: Duration::from_millis(missing.unsigned_abs()),
        }
    }

    /// Waits until nothing is left to do before the clock moves, and returns the next due time. `None`: it came to the deadline.
    async fn settled(
        &self,
        clock: &ManualClock,
        deadline: Instant,
    ) -> Result<Option<Option<Millis>>, AdvanceError> {
        for look in 0.. {
            if self.stopping() {
                return Err(AdvanceError::Stopping);
            }
            if let Some(next) = self.look(clock) {
                return Ok(Some(next));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            if look < QUICK_LOOKS {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(None)
    }

    /// The next due time, if all drivers wait for the clock and nothing is due now.
    fn look(&self, clock: &ManualClock) -> Option<Option<Millis>> {
        // In this order: a driver that lets go writes the due time before it leaves the list, and whatever else changes meanwhile is a turn.
        let before = clock.around().turns;
        let driven = {
            let drivers = self.drivers();
            if drivers.values().any(|mailbox| !mailbox.is_empty()) {
                return None;
            }
            drivers.len()
        };
        let stored = self.store.stats().earliest_due;
        let around = clock.around();
        let calm = around.turns == before && around.busy == 0 && around.waiting == driven;
        let next = stored.into_iter().chain(around.next).min();
        (calm && next.is_none_or(|next| next > clock.now())).then_some(next)
    }
}
