//! Due times: claims in bulk what is due, as far as there is room, and sleeps until the next is.

use super::Engine;
use super::mailbox::Message;
use super::start::Start;
use crate::clock::Busy;
use amends::Millis;
use amends::coordinator::Request;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

/// Claimed at a time.
const BATCH: usize = 256;
/// Content claimed at a time, bytes.
const BATCH_BYTES: usize = 64 << 20;
/// Longest sleep, so that a missed hint is repaired.
const NAP_MS: Millis = 30_000;
/// Over how long the transactions that waited for a host are spread when it answers again (rules.md 4.5).
const SPREAD: Duration = Duration::from_secs(3);
const SPREAD_STEPS: u32 = 300;
/// Pause after a panic of this task.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// Tells the timer's task what it should know.
#[derive(Default)]
pub(super) struct Timer {
    bell: Notify,
    /// When the task means to wake up.
    until: AtomicI64,
    stopped: AtomicBool,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Timer {
    /// Something is due at this time.
    pub(super) fn hint(&self, due: Millis) {
        if due < self.until.load(Ordering::SeqCst) {
            self.bell.notify_one();
        }
    }

    /// There is room for more drivers.
    pub(super) fn room(&self) {
        self.bell.notify_one();
    }

    fn task(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn start(&self, engine: Arc<Engine>) {
        let watched = async move {
            // Whatever panics in there, due transactions go on being claimed.
            while AssertUnwindSafe(run(engine.clone()))
                .catch_unwind()
                .await
                .is_err()
            {
                tracing::error!("claiming what is due panicked; it begins again");
                tokio::time::sleep(PANIC_PAUSE).await;
            }
        };
        *self.task() = Some(tokio::spawn(watched));
    }

    /// Ends the task; when this returns, nothing is being claimed any more.
    pub(super) async fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.bell.notify_one();
        let task = self.task().take();
        if let Some(task) = task {
            // It can only have ended.
            let _ = task.await;
        }
    }
}

async fn run(engine: Arc<Engine>) {
    let timer = &engine.timer;
    while !timer.stopped.load(Ordering::SeqCst) {
        let busy = engine.busy();
        // Hints that come while it claims ring the bell.
        timer.until.store(Millis::MAX, Ordering::SeqCst);
        let now = engine.now();
        let room = engine.in_flight_max.saturating_sub(engine.driven());
        let mut until = now + NAP_MS;
        if room > 0 {
            match engine
                .store
                .claim_due(now, room.min(BATCH), BATCH_BYTES)
                .await
            {
                Ok(claimed) => {
                    let full = !claimed.records.is_empty();
                    for record in claimed.records {
                        let gid = record.gid.clone();
                        let mut drivers = engine.drivers();
                        match drivers.get(&gid) {
                            Some(mailbox) => mailbox.post_claimed(Box::new(record)),
                            None => engine.spawn(
                                &mut drivers,
                                gid,
                                Start::Claimed(Box::new(record)),
                                None,
                            ),
                        }
                    }
                    if full {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    until = until.min(claimed.next_due.unwrap_or(until));
                }
                Err(e) => {
                    tracing::error!(error = %e, "due transactions could not be claimed");
                    until = now + 1_000;
                }
            }
        }
        drop(busy);
        timer.until.store(until, Ordering::SeqCst);
        let pause = Duration::from_millis(u64::try_from(until - engine.now()).unwrap_or(0).max(1));
        tokio::select! {
            () = timer.bell.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// A host answers again: what failed on it is due, spread over a few seconds.
pub(super) async fn host_back(engine: Arc<Engine>, host: String, _busy: Option<Busy>) {
    let gids = match engine.store.failing(&host, usize::MAX).await {
        Ok(gids) => gids,
        Err(e) => {
            return tracing::warn!(%host, error = %e, "what waits for this host could not be found");
        }
    };
    if gids.is_empty() {
        return;
    }
    tracing::info!(%host, transactions = gids.len(), "answers again");
    for some in gids.chunks(gids.len().div_ceil(SPREAD_STEPS as usize)) {
        if engine.stopping() {
            return;
        }
        for gid in some {
            let (answer, _) = oneshot::channel();
            engine.post(
                gid,
                Message::Ask {
                    request: Request::HostBack(host.clone()),
                    wait: false,
                    answer,
                },
            );
        }
        tokio::time::sleep(SPREAD / SPREAD_STEPS).await;
    }
}
