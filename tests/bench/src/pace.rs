//! The clock of an open loop. It never waits for the coordinator: a saga that could not be sent in time still has its
//! intended moment, so that its latency tells what a user would have felt (no coordinated omission).

use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Even distances from a start to an end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    start: Instant,
    end: Instant,
    rate: f64,
}

impl Schedule {
    /// `rate` moments per second, from `start` on and before `end`.
    pub(crate) fn new(start: Instant, end: Instant, rate: f64) -> Schedule {
        Schedule { start, end, rate }
    }

    /// The moment with this number, or nothing after the end. Counted from the start, so that no error adds up.
    pub(crate) fn intended(&self, number: u64) -> Option<Instant> {
        let at = self.start + Duration::from_secs_f64(number as f64 / self.rate);
        (at < self.end).then_some(at)
    }

    /// How many moments there are.
    pub(crate) fn count(&self) -> u64 {
        (0..)
            .take_while(|number| self.intended(*number).is_some())
            .count() as u64
    }
}

/// Sends each moment of the schedule when it has come, from a thread of its own: the runtime's timer counts in
/// milliseconds, which is more than a saga takes.
pub(crate) fn start(schedule: Schedule) -> UnboundedReceiver<Instant> {
    let (sender, receiver) = unbounded_channel();
    std::thread::spawn(move || {
        for intended in (0..).map_while(|number| schedule.intended(number)) {
            let ahead = intended.saturating_duration_since(Instant::now());
            if !ahead.is_zero() {
                std::thread::sleep(ahead);
            }
            if sender.send(intended).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_even_and_end() {
        let start = Instant::now();
        let schedule = Schedule::new(start, start + Duration::from_secs(2), 100.0);
        let all: Vec<_> = (0..).map_while(|n| schedule.intended(n)).collect();
        assert_eq!((all.len(), schedule.count()), (200, 200));
        assert_eq!(all[0], start);
        assert_eq!(all[150], start + Duration::from_millis(1500));
    }

    #[test]
    fn a_slow_reader_changes_no_intended_moment() {
        let start = Instant::now();
        let schedule = Schedule::new(start, start + Duration::from_millis(50), 1000.0);
        let mut due = super::start(schedule);
        let mut seen = Vec::new();
        while let Some(at) = due.blocking_recv() {
            assert!(Instant::now() >= at, "sent before its time");
            if seen.is_empty() {
                // The reader is busy until the schedule is over.
                while start.elapsed() < Duration::from_millis(60) {
                    std::thread::yield_now();
                }
            }
            seen.push(at);
        }
        let planned: Vec<_> = (0..).map_while(|n| schedule.intended(n)).collect();
        assert_eq!(seen, planned);
    }
}
