//! What wakes a driver that waits for a time: the runtime's clock, or a manual one that the store tells the time by.

use super::Engine;
use crate::clock::ManualClock;
use amends::Millis;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Rings at a time of the store's clock.
pub(super) enum Alarm<'e> {
    /// When it is to ring, and what wakes it then or before.
    System(Option<Wanted>, Option<Pin<Box<Sleep>>>),
    /// Rings when the clock was moved there, or at a real time that a request waits to.
    Manual {
        clock: &'e ManualClock,
        until: Option<Millis>,
        real: Option<Instant>,
        /// Nothing but the clock brings its driver on.
        idle: bool,
    },
}

pub(super) struct Wanted {
    at: Millis,
    real: Instant,
}

/// It is woken this early first, even if nothing is wanted before. Most of what it is set to within that time is never waited for, and a
/// timer that is set to an earlier time than all others wakes the runtime that it belongs to.
const EARLY: Duration = Duration::from_millis(100);

impl<'e> Alarm<'e> {
    pub(super) fn new(engine: &'e Engine) -> Alarm<'e> {
        match &engine.manual {
            None => Alarm::System(None, None),
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
        now: Millis,
        waits: impl Iterator<Item = Instant>,
        calm: bool,
    ) {
        let (set, timer) = match self {
            Alarm::System(set, timer) => (set, timer),
            Alarm::Manual {
                until, real, idle, ..
            } => {
                (*until, *real, *idle) = (wanted, waits.min(), calm);
                return;
            }
        };
        if set.as_ref().map(|set| set.at) == wanted {
            return;
        }
        *set = wanted.map(|at| {
            let pause = Duration::from_millis(u64::try_from(at - now).unwrap_or(0));
            let real = Instant::now() + pause;
            match timer {
                // It is set to the later time when it wakes.
                Some(timer) if timer.deadline() <= real => {}
                Some(timer) => timer.as_mut().reset(real),
                None => *timer = Some(Box::pin(tokio::time::sleep(pause.min(EARLY)))),
            }
            Wanted { at, real }
        });
    }

    /// Resolves when it rings.
    pub(super) async fn ring(&mut self) {
        match self {
            Alarm::System(Some(set), Some(timer)) => {
                timer.as_mut().await;
                if timer.deadline() < set.real {
                    timer.as_mut().reset(set.real);
                    timer.as_mut().await;
                }
                *self = Alarm::System(None, None);
            }
            Alarm::System(..) => std::future::pending().await,
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
