//! What reaches a driver from outside.

use amends::Error;
use amends::coordinator::Request;
use amends::coordinator::record::Record;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// Where a request's answer goes.
pub(super) type Answer = oneshot::Sender<Result<(), Error>>;

/// A message to a driver.
pub(super) enum Message {
    /// A request.
    Ask {
        /// What is asked.
        request: Request,
        /// Whether the answer is that of the whole transaction.
        wait: bool,
        /// Where the answer goes.
        answer: Answer,
    },
    /// Look: a slot is free, or the due time has come.
    Wake,
}

/// The messages of one driver.
pub(super) struct Mailbox {
    queue: Mutex<VecDeque<Message>>,
    /// The record as it was claimed for this driver while it was ending: with it the next life begins.
    claimed: Mutex<Option<Box<Record>>>,
    /// It was started for a request although there was no room: what follows from the request waits for its turn.
    pub(super) guest: bool,
    /// Rung once for every message, and at shutdown.
    pub(super) bell: Notify,
}

impl Mailbox {
    pub(super) fn new(first: Option<Message>, guest: bool) -> Mailbox {
        Mailbox {
            queue: Mutex::new(first.into_iter().collect()),
            claimed: Mutex::default(),
            guest,
            bell: Notify::new(),
        }
    }

    /// Hands over a record that was claimed while the driver was there.
    pub(super) fn post_claimed(&self, record: Box<Record>) {
        *self.claimed() = Some(record);
        self.post(Message::Wake);
    }

    /// The record that was handed over, if one was.
    pub(super) fn take_claimed(&self) -> Option<Box<Record>> {
        self.claimed().take()
    }

    fn claimed(&self) -> MutexGuard<'_, Option<Box<Record>>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Message>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn post(&self, message: Message) {
        self.queue().push_back(message);
        self.bell.notify_one();
    }

    pub(super) fn wake(&self) {
        self.bell.notify_one();
    }

    pub(super) fn take(&self) -> Option<Message> {
        self.queue().pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue().is_empty()
    }

    /// Answers every request in it with this error.
    pub(super) fn refuse(&self, error: &Error) {
        while let Some(message) = self.take() {
            if let Message::Ask { answer, .. } = message {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}
