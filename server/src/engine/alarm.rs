//! What wakes a driver that waits for a time: the runtime's clock, or a manual one that the store tells the time by.

use super::Engine;
use crate::clock::ManualClock;
use amends::Millis;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Rings at a time of the store's clock.
pub(super) enum Alarm<'e> {
    /// Kept while other things happen first, for setting one costs more than hearing it.
    System(Option<(Millis, Pin<Box<Sleep>>)>),
    /// Rings when the clock was moved there, or at a real time that a request waits to.
    Manual {
        clock: &'e ManualClock,
        until: Option<Millis>,
        real: Option<Instant>,
        /// Nothing but the clock brings its driver on.
        idle: bool,
    },
}

impl<'e> Alarm<'e> {
    pub(super) fn new(engine: &'e Engine) -> Alarm<'e> {
        match &engine.manual {
            None => Alarm::System(None),
            Some(clock) => Alarm::Manual {
                clock,
                until: None,
                real: None,
                idle: false,
            },
        }
    }

    /// Sets it. `waits` are the real times that requests wait to, `idle` says that no call and no save is on its way.
    pub(super) fn set(
        &mut self,
        wanted: Option<Millis>,
        now: impl Fn() -> Millis,
        waits: impl Iterator<Item = Instant>,
        calm: bool,
    ) {
        let kept = match self {
            Alarm::System(kept) => kept,
            Alarm::Manual {
                until, real, idle, ..
            } => {
                (*until, *real, *idle) = (wanted, waits.min(), calm);
                return;
            }
        };
        if kept.as_ref().map(|(at, _)| *at) == wanted {
            return;
        }
        let Some(until) = wanted else {
            *kept = None;
            return;
        };
        let pause = Duration::from_millis(u64::try_from(until - now()).unwrap_or(0));
        match kept {
            Some((at, sleep)) => {
                *at = until;
                sleep.as_mut().reset(Instant::now() + pause);
            }
            None => *kept = Some((until, Box::pin(tokio::time::sleep(pause)))),
        }
    }

    /// Resolves when it rings.
    pub(super) async fn ring(&mut self) {
        match self {
            Alarm::System(Some((_, sleep))) => {
                sleep.as_mut().await;
                *self = Alarm::System(None);
            }
            Alarm::System(None) => std::future::pending().await,
            Alarm::Manual {
                clock,
                until,
                real,
                idle,
            } => {
                // Boxed, so that a driver that goes by the system's clock is no larger for it.
                let until = until.unwrap_or(Millis::MAX);
                Box::pin(ring_by_hand(clock, until, *real, *idle)).await;
            }
        }
    }
}

async fn ring_by_hand(clock: &ManualClock, until: Millis, real: Option<Instant>, idle: bool) {
    let reached = async {
        // A driver that has calls on their way is not one that only waits for the clock.
        if idle || until <= clock.now() {
            clock.reach(until).await;
        } else {
            std::future::pending().await
        }
    };
    let waited = async {
        match real {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! { () = reached => {} () = waited => {} }
}
