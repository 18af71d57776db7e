//! The alert webhook (dtm-server.md 10.4), off the branch path.

use crate::dispatch::Transport;
use crate::metrics::{AlertEnd, Metrics};
use amends::wire::call::{BranchCall, HttpCall};
use amends::{Gid, Millis, Outcome, Purpose, Status};
use bytes::Bytes;
use serde::Serialize;
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// A branch that keeps failing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// URL of the branch.
    pub branch: String,
    /// Its last error.
    pub error: String,
    /// Whose branch it is.
    pub gid: Gid,
    /// Consecutive errors of the branch.
    pub retry_count: u32,
    /// Status of the global transaction.
    pub status: Status,
}

/// What the webhook gets: DTM's five keys in DTM's order.
#[derive(Serialize)]
struct Payload<'a> {
    branch: &'a str,
    error: &'a str,
    gid: &'a str,
    retry_count: u32,
    status: &'a str,
}

/// Alerts that wait for delivery at a time; the oldest make room for new ones.
const QUEUE_MAX: usize = 1_024;
/// Alerts remembered, so that none is sent twice.
const REMEMBERED_MAX: usize = 4_096;
/// For how long: a branch that recovered and fails again counts from one, so its alerts look like those of the first time.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// How often the delivery of one alert is tried.
const TRIES: u32 = 4;

/// Delivers alerts from one background task. Dropping it, or [`Alerts::shutdown`], ends the task.
///
/// [`Alerts::send`] never blocks and never fails. An alert of the same gid, branch and retry count is sent once within 60 s. Delivery has
/// its own retries with a growing pause (four tries); what cannot be delivered is logged and counted.
pub struct Alerts {
    /// Nothing where no webhook is configured.
    shared: Option<Arc<Shared>>,
}

type Key = (Gid, String, u32);

struct Shared {
    queue: Mutex<Queue>,
    changed: Notify,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Alert>,
    known: HashSet<Key>,
    /// `known` in order of arrival.
    order: VecDeque<(Instant, Key)>,
    closed: bool,
}

impl Alerts {
    /// Starts the task; must be called within a runtime. An empty `url` means that alerts are not wanted: there is no task then, and
    /// nothing is counted. `timeout` in ms is for one try, `retry_pause` is the pause before the second.
    pub fn new(
        url: String,
        timeout: Millis,
        retry_pause: Duration,
        transport: Arc<dyn Transport>,
        metrics: Arc<Metrics>,
    ) -> Alerts {
        if url.is_empty() {
            return Alerts { shared: None };
        }
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Notify::new(),
            metrics,
        });
        let webhook = Webhook {
            url,
            timeout,
            retry_pause,
            transport,
        };
        tokio::spawn(deliver(shared.clone(), webhook));
        Alerts {
            shared: Some(shared),
        }
    }

    /// Queues an alert.
    pub fn send(&self, alert: Alert) {
        let Some(shared) = &self.shared else { return };
        if shared.lock().push(alert, Instant::now()) {
            shared.metrics.alert(AlertEnd::Dropped);
        }
        shared.changed.notify_one();
    }

    /// Ends the task. What is still waiting is dropped: after a restart its branches fail again and count on.
    pub fn shutdown(&self) {
        let Some(shared) = &self.shared else { return };
        shared.lock().closed = true;
        shared.changed.notify_one();
    }
}

impl Drop for Alerts {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the task is to end.
    async fn closed(&self) {
        while !self.lock().closed {
            self.changed.notified().await;
        }
    }

    async fn next(&self) -> Option<Alert> {
        loop {
            {
                let mut queue = self.lock();
                if queue.closed {
                    return None;
                }
                if let Some(alert) = queue.waiting.pop_front() {
                    return Some(alert);
                }
            }
            self.changed.notified().await;
        }
    }
}

impl Queue {
    /// Takes an alert unless it is known; `true` if the oldest had to make room.
    fn push(&mut self, alert: Alert, now: Instant) -> bool {
        while let Some((since, _)) = self.order.front()
            && now.duration_since(*since) >= REMEMBERED_FOR
        {
            self.forget_oldest();
        }
        let key = (alert.gid.clone(), alert.branch.clone(), alert.retry_count);
        if self.closed || !self.known.insert(key.clone()) {
            return false;
        }
        self.order.push_back((now, key));
        if self.order.len() > REMEMBERED_MAX {
            self.forget_oldest();
        }
        self.waiting.push_back(alert);
        self.waiting.len() > QUEUE_MAX && self.waiting.pop_front().is_some()
    }

    fn forget_oldest(&mut self) {
        if let Some((_, oldest)) = self.order.pop_front() {
            self.known.remove(&oldest);
        }
    }
}

struct Webhook {
    url: String,
    timeout: Millis,
    retry_pause: Duration,
    transport: Arc<dyn Transport>,
}

impl Webhook {
    /// Tries to deliver; the error of the last try.
    async fn post(&self, alert: &Alert) -> Result<(), String> {
        let payload = Payload {
            branch: &alert.branch,
            error: &alert.error,
            gid: alert.gid.as_str(),
            retry_count: alert.retry_count,
            status: alert.status.as_str(),
        };
        let body = Bytes::from(serde_json::to_vec(&payload).map_err(|e| e.to_string())?);
        let mut pause = self.retry_pause;
        let mut tries = 1;
        loop {
            let call = HttpCall {
                post: true,
                url: self.url.clone(),
                headers: vec![("content-type".into(), "application/json".into())],
                body: body.clone(),
                timeout: self.timeout,
                purpose: Purpose::Callback,
                json_rpc: false,
            };
            let error = match self.transport.call(BranchCall::Http(call)).await.outcome {
                Outcome::Success | Outcome::Ongoing => return Ok(()),
                Outcome::Failure(text) => format!("refused: {text}"),
                Outcome::Error(text) => text,
            };
            if tries == TRIES {
                return Err(error);
            }
            tries += 1;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

async fn deliver(shared: Arc<Shared>, webhook: Webhook) {
    while let Some(alert) = shared.next().await {
        let delivered = tokio::select! {
            delivered = webhook.post(&alert) => delivered,
            () = shared.closed() => return,
        };
        match delivered {
            Ok(()) => shared.metrics.alert(AlertEnd::Delivered),
            Err(error) => {
                shared.metrics.alert(AlertEnd::Failed);
                tracing::warn!(gid = %alert.gid, branch = %alert.branch, retry_count = alert.retry_count, %error, "an alert could not be delivered");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(n: u32) -> Alert {
        Alert {
            branch: "http://h/a".to_owned(),
            error: "x".to_owned(),
            gid: Gid::stored("g"),
            retry_count: n,
            status: Status::Submitted,
        }
    }

    #[test]
    fn the_same_alert_is_taken_once_and_the_oldest_make_room() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let most = QUEUE_MAX as u32;
        for n in 0..most {
            assert!(!queue.push(alert(n), now));
            assert!(!queue.push(alert(n), now));
        }
        assert_eq!(queue.waiting.len(), QUEUE_MAX);
        assert!(queue.push(alert(most), now), "one past the limit");
        assert_eq!(queue.waiting.len(), QUEUE_MAX);
        assert_eq!(queue.waiting.front(), Some(&alert(1)));
        assert_eq!(queue.waiting.back(), Some(&alert(most)));
        for n in most..2 * REMEMBERED_MAX as u32 {
            queue.push(alert(n), now);
        }
        assert_eq!(
            (queue.known.len(), queue.order.len()),
            (REMEMBERED_MAX, REMEMBERED_MAX)
        );
    }

    #[test]
    fn a_second_run_of_errors_is_alerted_again() {
        let mut queue = Queue::default();
        let start = Instant::now();
        queue.push(alert(3), start);
        queue.push(alert(6), start + REMEMBERED_FOR / 2);
        let moment = Duration::from_millis(1);
        queue.push(alert(3), start + REMEMBERED_FOR - moment);
        assert_eq!(queue.waiting.len(), 2, "the same run still");
        queue.push(alert(3), start + REMEMBERED_FOR);
        assert_eq!(queue.waiting.len(), 3);
        queue.push(alert(3), start + REMEMBERED_FOR + moment);
        queue.push(alert(6), start + REMEMBERED_FOR + moment);
        assert_eq!(
            queue.waiting.len(),
            3,
            "each is remembered for its own time"
        );
    }
}
