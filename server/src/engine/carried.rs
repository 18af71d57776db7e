//! A driver that is polled by the request that waits for its result: neither a task nor a wake-up between the two is needed.

use super::requests::nobody_answered;
use amends::Error;
use futures_util::future::{BoxFuture, FutureExt};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

/// Resolves with the answer that the driver gives. What is left of the driver then, or when the client has gone, goes on as a task.
pub(super) struct Carried {
    driver: Option<BoxFuture<'static, ()>>,
    answered: Receiver<Result<(), Error>>,
}

impl Carried {
    /// `answered` is answered by `driver`, or by nobody.
    pub(super) fn new(
        driver: BoxFuture<'static, ()>,
        answered: Receiver<Result<(), Error>>,
    ) -> Carried {
        Carried {
            driver: Some(driver),
            answered,
        }
    }
}

impl Future for Carried {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(driver) = &mut self.driver
            && driver.poll_unpin(cx).is_ready()
        {
            self.driver = None;
        }
        match self.answered.try_recv() {
            Ok(answer) => Poll::Ready(answer),
            // Only the driver answers, and it was polled just now.
            Err(TryRecvError::Empty) => Poll::Pending,
            Err(TryRecvError::Closed) => Poll::Ready(Err(nobody_answered())),
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        // Without a runtime the process ends, and the next start takes up what is stored.
        if let (Some(driver), Ok(runtime)) = (self.driver.take(), Handle::try_current()) {
            runtime.spawn(driver);
        }
    }
}
