//! Stops a run at any of its effects, or loses what it would hear of one: calls, and commits of its own.

use amends::initiator::workflow::Frame;
use amends::machine::{Calls, Fact, Request};
use bytes::Bytes;
use std::future::{pending, poll_fn};
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use tokio::sync::Notify;

/// What happens to a run at an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It stops before it.
    Before,
    /// It stops after it, and nobody learns that it was done.
    Unheard,
    /// It stops after it.
    After,
    /// It goes on, but nobody knows whether it was done; it was not.
    Unmade,
    /// It goes on, but nobody knows whether it was done; it was.
    Lost,
    /// The same, and so it is with everything that is done from then on.
    Deaf,
}

impl Stop {
    /// Whatever may happen.
    pub const ALL: [Stop; 6] = [
        Stop::Before,
        Stop::Unheard,
        Stop::After,
        Stop::Unmade,
        Stop::Lost,
        Stop::Deaf,
    ];
}

/// Counts effects, and stops at one of them.
#[derive(Debug)]
pub struct Crash {
    at: usize,
    stop: Stop,
    count: AtomicUsize,
    reached: Notify,
    /// The run is only paused, and goes on when this is told.
    goes_on: Option<Notify>,
}

impl Crash {
    /// At this effect, counted from 0.
    pub fn at(at: usize, stop: Stop) -> Arc<Crash> {
        Arc::new(Crash {
            at,
            stop,
            count: AtomicUsize::new(0),
            reached: Notify::new(),
            goes_on: None,
        })
    }

    /// The same, but it goes on after [`Crash::go_on`].
    pub fn pause(at: usize, stop: Stop) -> Arc<Crash> {
        let crash = Arc::into_inner(Crash::at(at, stop)).expect("nobody has it yet");
        Arc::new(Crash {
            goes_on: Some(Notify::new()),
            ..crash
        })
    }

    /// Never.
    pub fn never() -> Arc<Crash> {
        Crash::at(usize::MAX, Stop::Before)
    }

    /// Whether it only pauses: then it keeps no transaction open meanwhile, for others would wait for its locks.
    pub fn pauses(&self) -> bool {
        self.goes_on.is_some()
    }

    /// A run, until it ends or stops; `None` is a stop.
    pub async fn cut<T>(&self, run: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.reached() => None,
            ended = run => Some(ended),
        }
    }

    /// When it stops.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }

    /// Lets a paused run go on.
    pub fn go_on(&self) {
        if let Some(goes_on) = &self.goes_on {
            goes_on.notify_one();
        }
    }

    /// Whether it came to the effect.
    pub fn happened(&self) -> bool {
        self.count.load(Ordering::SeqCst) > self.at
    }

    /// Does something that others see.
    ///
    /// # Panics
    ///
    /// When nobody is to know whether it was done: that is for [`Crash::heard`].
    pub async fn effect<T>(&self, effect: impl Future<Output = T>) -> T {
        let done = self.heard(effect).await;
        done.expect("an effect that is heard of")
    }

    /// Does something that others see; `None` if nobody knows whether it was done.
    pub async fn heard<T>(&self, effect: impl Future<Output = T>) -> Option<T> {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        let here = number == self.at;
        match self.stop {
            Stop::Before if here => self.stop().await,
            Stop::Unmade if here => return None,
            _ => {}
        }
        let done = effect.await;
        match self.stop {
            Stop::Lost if here => return None,
            Stop::Deaf if number >= self.at => return None,
            Stop::After if here && self.goes_on.is_none() => self.reached.notify_one(),
            Stop::Unheard | Stop::After if here => self.stop().await,
            _ => {}
        }
        Some(done)
    }

    async fn stop(&self) {
        self.reached.notify_one();
        match &self.goes_on {
            Some(goes_on) => goes_on.notified().await,
            None => pending().await,
        }
    }
}

/// Calls as effects. Without decisions, it is a build that decides without a row: the coordinator sees neither the decision, nor that a step
/// is given up for good.
#[derive(Debug)]
pub struct CrashingCalls {
    /// Who makes them.
    pub calls: Arc<dyn Calls>,
    /// Where it stops.
    pub crash: Arc<Crash>,
    /// Whether decisions are stored.
    pub decisions: bool,
}

impl Calls for CrashingCalls {
    fn call(&self, request: Request) -> Pin<Box<dyn Future<Output = Fact> + Send + '_>> {
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let given_up = || {
            let data = body["data"].as_str().unwrap_or_default();
            Frame::decode(data.as_bytes()).is_some_and(|frame| frame.given_up)
        };
        let decides = body["op"] == "decision" || given_up();
        if !self.decisions && request.url.ends_with("/registerBranch") && decides {
            return Box::pin(async {
                Fact::Answer {
                    status: 200,
                    body: Bytes::from(amends_scenarios::SUCCESS),
                    message: String::new(),
                }
            });
        }
        Box::pin(async move {
            let heard = self.crash.heard(self.calls.call(request)).await;
            heard.unwrap_or_else(|| Fact::NoAnswer {
                sent: true,
                message: "the answer was lost".to_owned(),
            })
        })
    }
}

/// Drops a future when it was polled so often: a crash while it waits for whatever it waits for then. `None` is the crash.
pub async fn polled<F: Future>(future: F, times: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            // It is dropped at once, not when it would be woken.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Drops runs ever later: `batch` drops runs at these numbers of polls, and says whether all of them came to their own end before.
/// How many polls that takes depends on how fast answers come.
pub async fn ever_later(at_a_time: usize, mut batch: impl AsyncFnMut(Range<usize>) -> bool) {
    for from in (0..1_000).step_by(at_a_time) {
        if batch(from..from + at_a_time).await {
            return;
        }
    }
    panic!("a run did not end within 1,000 polls");
}
