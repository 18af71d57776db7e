//! A clock that stands still until it is told to move (rules.md 11): for tests. It also knows who waits for it, so that
//! [`Engine::advance`](crate::engine::Engine::advance) can tell when nothing is left to do before it moves on.

use amends::Millis;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A clock in milliseconds of the Unix epoch that moves only by [`Engine::advance`](crate::engine::Engine::advance).
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<State>,
    /// Held by the one that moves it.
    pub(crate) moving: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    now: Millis,
    /// Grows with every beginning and end of work and of waiting: what was seen between two equal values was one moment.
    turns: u64,
    /// Pieces of work that no driver does.
    busy: usize,
    /// Tasks with nothing to do before a time, each with its number and what wakes it.
    waiting: BTreeMap<(Millis, u64), Arc<Notify>>,
}

/// What goes on around a clock, as one moment of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Around {
    pub(crate) turns: u64,
    pub(crate) busy: usize,
    pub(crate) waiting: usize,
    /// The earliest time that somebody waits for.
    pub(crate) next: Option<Millis>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn new(now: Millis) -> Arc<ManualClock> {
        Arc::new(ManualClock {
            state: Mutex::new(State {
                now,
                turns: 0,
                busy: 0,
                waiting: BTreeMap::new(),
            }),
            moving: tokio::sync::Mutex::new(()),
        })
    }

    /// Where it stands.
    pub fn now(&self) -> Millis {
        self.state().now
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn around(&self) -> Around {
        let state = self.state();
        Around {
            turns: state.turns,
            busy: state.busy,
            waiting: state.waiting.len(),
            next: state.waiting.keys().next().map(|(at, _)| *at),
        }
    }

    /// Moves on to `at`. Whom this wakes no longer counts as waiting when it returns.
    pub(crate) fn move_to(&self, at: Millis) {
        let mut state = self.state();
        state.now = state.now.max(at);
        state.turns += 1;
        let after = state.now.saturating_add(1);
        let later = state.waiting.split_off(&(after, 0));
        for bell in std::mem::replace(&mut state.waiting, later).into_values() {
            bell.notify_one();
        }
    }

    /// Resolves when the clock has come to `at`. Until then, or until it is dropped, its task counts as one with nothing to do.
    pub(crate) async fn reach(&self, at: Millis) {
        let waiting = {
            let mut state = self.state();
            if at <= state.now {
                return;
            }
            state.turns += 1;
            let waiting = Waiting {
                clock: self,
                key: (at, state.turns),
                bell: Arc::default(),
            };
            state.waiting.insert(waiting.key, waiting.bell.clone());
            waiting
        };
        waiting.bell.notified().await;
    }

    /// Work that is not a driver's; the clock does not move before it is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        let mut state = self.state();
        state.turns += 1;
        state.busy += 1;
        drop(state);
        Busy(self.clone())
    }
}

struct Waiting<'c> {
    clock: &'c ManualClock,
    key: (Millis, u64),
    bell: Arc<Notify>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.clock.state();
        state.turns += 1;
        state.waiting.remove(&self.key);
    }
}

/// See [`ManualClock::busy`].
#[must_use]
pub(crate) struct Busy(Arc<ManualClock>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.turns += 1;
        state.busy -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn it_wakes_those_whose_time_has_come_and_no_others() {
        let clock = ManualClock::new(100);
        let (mut soon, mut later) = (Box::pin(clock.reach(110)), Box::pin(clock.reach(111)));
        assert!(soon.as_mut().now_or_never().is_none());
        assert!(later.as_mut().now_or_never().is_none());
        let around = clock.around();
        assert_eq!((around.waiting, around.next), (2, Some(110)));
        clock.move_to(110);
        assert_eq!((clock.now(), clock.around().waiting), (110, 1));
        assert!(soon.now_or_never().is_some());
        drop(later);
        assert_eq!(clock.around().next, None);
        assert!(clock.reach(110).now_or_never().is_some(), "it is there");
    }

    #[test]
    fn it_never_goes_backwards_and_every_change_is_a_turn() {
        let clock = ManualClock::new(100);
        clock.move_to(50);
        assert_eq!(clock.now(), 100);
        let before = clock.around();
        let busy = clock.busy();
        assert_eq!(clock.around().busy, 1);
        drop(busy);
        let after = clock.around();
        assert!(after.busy == 0 && after.turns > before.turns);
    }
}
