//! The engine: one task for each transaction that is being driven, nothing but its due time for one that waits (architecture 3).
//!
//! It carries out what [`amends::coordinator::step`] says, in the order of durability that the effects name, and decides nothing.

mod advance;
mod alarm;
mod calls;
mod carried;
mod driver;
mod mailbox;
mod observe;
mod requests;
mod start;
mod timer;

use crate::alert::Alerts;
use crate::clock::{Busy, ManualClock};
use crate::dispatch::{Slots, Transport};
use crate::hash::HashMap;
use crate::metrics::Metrics;
use crate::store::{Store, store_error};
use crate::telemetry::LogLimiter;
use crate::topics::Topics;
pub use advance::{ADVANCE_TIMEOUT, AdvanceError};
use amends::coordinator::{Env, Transaction};
use amends::{Error, Gid, Millis, Policy};
use mailbox::{Answer, Mailbox, Message};
use start::Start;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use timer::Timer;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What an engine is made of.
pub struct Parts {
    /// Where transactions live.
    pub store: Arc<dyn Store>,
    /// Subscribers of messages.
    pub topics: Arc<Topics>,
    /// What makes calls.
    pub transport: Arc<dyn Transport>,
    /// How many calls at a time.
    pub slots: Slots,
    /// Where alerts go.
    pub alerts: Alerts,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Settings of decisions.
    pub policy: Policy,
    /// Transactions driven at the same time; beyond it, submits are stored and driven when there is room.
    pub in_flight_max: usize,
}

/// Drives transactions. Create it with [`Engine::start`], end it with [`Engine::shutdown`].
pub struct Engine {
    store: Arc<dyn Store>,
    /// The store's clock, if it is one that tests move.
    manual: Option<Arc<ManualClock>>,
    transport: Arc<dyn Transport>,
    slots: Slots,
    alerts: Alerts,
    metrics: Arc<Metrics>,
    policy: Policy,
    in_flight_max: usize,
    topics: Arc<Topics>,
    drivers: Mutex<HashMap<Gid, Arc<Mailbox>>>,
    /// Requests that wait for the result of a transaction that is not driven yet.
    early: Mutex<HashMap<Gid, Vec<Answer>>>,
    timer: Timer,
    log: LogLimiter,
    stopping: AtomicBool,
    idle: Notify,
    random: AtomicU64,
}

impl Engine {
    /// Starts driving what is due.
    pub fn start(parts: Parts) -> Arc<Engine> {
        let mut seed = [0u8; 8];
        // Only jitter and gids come from it; the fallback is as good for the first and never meets the second.
        let _ = getrandom::fill(&mut seed);
        let engine = Arc::new(Engine {
            topics: parts.topics,
            manual: parts.store.manual_clock(),
            store: parts.store,
            transport: parts.transport,
            slots: parts.slots,
            alerts: parts.alerts,
            metrics: parts.metrics,
            policy: parts.policy,
            in_flight_max: parts.in_flight_max.max(1),
            drivers: Mutex::default(),
            early: Mutex::default(),
            timer: Timer::default(),
            log: LogLimiter::default(),
            stopping: AtomicBool::new(false),
            idle: Notify::new(),
            random: AtomicU64::new(u64::from_le_bytes(seed)),
        });
        engine.timer.start(engine.clone());
        engine
    }

    /// The store's clock, ms since the epoch.
    pub fn now(&self) -> Millis {
        self.store.now()
    }

    /// Whether its clock moves only by [`Engine::advance`].
    pub fn clock_is_manual(&self) -> bool {
        self.manual.is_some()
    }

    /// Keeps a manual clock where it is until it is dropped, for work that no driver does.
    fn busy(&self) -> Option<Busy> {
        self.manual.as_ref().map(ManualClock::busy)
    }

    /// The real moment after `pause` ms, where the store's clock does not come to it by itself.
    fn real(&self, pause: Millis) -> Option<Instant> {
        let pause = Duration::from_millis(u64::try_from(pause).unwrap_or(0));
        self.manual.as_ref().map(|_| Instant::now() + pause)
    }

    /// Settings of decisions.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Where transactions live.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Transactions being driven.
    pub fn driven(&self) -> usize {
        self.drivers().len()
    }

    /// Calls on the wire.
    pub fn calls_in_flight(&self) -> usize {
        self.slots.calls_in_flight()
    }

    /// Brings the gauges of what is under way up to date.
    pub fn gauge(&self) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.driven.set(count(self.driven()));
        self.metrics
            .calls_in_flight
            .set(count(self.calls_in_flight()));
        self.metrics.calls_waiting.set(count(self.slots.waiting()));
    }

    /// A new gid.
    pub fn new_gid(&self) -> Gid {
        let mut bytes = [0u8; 16];
        if getrandom::fill(&mut bytes).is_err() {
            // The system has no random bytes: the generator of jitter was seeded well, or is at least never the same twice.
            bytes[..8].copy_from_slice(&self.random().to_le_bytes());
            bytes[8..].copy_from_slice(&self.random().to_le_bytes());
        }
        Gid::random(bytes)
    }

    /// Stops driving: calls on the wire end (for at most `limit`), everything is let go of with what is known, nothing new is claimed.
    pub async fn shutdown(&self, limit: Duration) {
        self.stopping.store(true, Ordering::SeqCst);
        self.alerts.shutdown();
        let deadline = tokio::time::sleep(limit);
        tokio::pin!(deadline);
        // What it is claiming gets its driver before they are counted.
        tokio::select! {
            () = self.timer.stop() => {}
            () = &mut deadline => {}
        }
        for answer in std::mem::take(&mut *self.early()).into_values().flatten() {
            let _ = answer.send(Err(requests::waits_for_its_turn(&self.policy)));
        }
        loop {
            let idle = self.idle.notified();
            let left: Vec<Arc<Mailbox>> = self.drivers().values().cloned().collect();
            if left.is_empty() {
                break;
            }
            left.iter().for_each(|m| m.wake());
            tokio::select! {
                () = idle => {}
                () = &mut deadline => {
                    tracing::warn!(transactions = left.len(), "shutdown: calls still on the wire are left to the next start");
                    break;
                }
            }
        }
        if let Err(e) = self.store.release().await {
            tracing::warn!(error = %e, "shutdown: the store could not be released");
        }
    }

    /// Whether it was told to shut down.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn env(&self) -> Env<'_> {
        self.env_at(self.now())
    }

    fn env_at(&self, now: Millis) -> Env<'_> {
        Env {
            now,
            policy: &self.policy,
            random: self.random(),
        }
    }

    /// The next random number, for jitter (splitmix64).
    fn random(&self) -> u64 {
        let mut z = self
            .random
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn drivers(&self) -> MutexGuard<'_, HashMap<Gid, Arc<Mailbox>>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn early(&self) -> MutexGuard<'_, HashMap<Gid, Vec<Answer>>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a message to the driver of a transaction, starting one if there is none.
    fn post(self: &Arc<Self>, gid: &Gid, message: Message) {
        let mut drivers = self.drivers();
        match drivers.get(gid) {
            Some(mailbox) => mailbox.post(message),
            None => self.spawn(&mut drivers, gid.clone(), Start::Stored, Some(message)),
        }
    }

    /// Starts a driver as a task of its own; the caller holds the lock and has seen that there is none.
    fn spawn(
        self: &Arc<Self>,
        drivers: &mut HashMap<Gid, Arc<Mailbox>>,
        gid: Gid,
        start: Start,
        first: Option<Message>,
    ) {
        tokio::spawn(self.enter(drivers, gid, start, first));
    }

    /// A driver, to be polled to its end; the caller as that of [`Engine::spawn`].
    fn enter(
        self: &Arc<Self>,
        drivers: &mut HashMap<Gid, Arc<Mailbox>>,
        gid: Gid,
        start: Start,
        first: Option<Message>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let guest =
            matches!(first, Some(Message::Ask { .. })) && drivers.len() >= self.in_flight_max;
        let mailbox = Arc::new(Mailbox::new(first, guest));
        drivers.insert(gid.clone(), mailbox.clone());
        start::run(self.clone(), gid, mailbox, start)
    }

    /// Ends the driver of a transaction, unless there is mail for it.
    fn retire(&self, gid: &Gid, mailbox: &Mailbox) -> bool {
        let mut drivers = self.drivers();
        if !self.stopping() && !mailbox.is_empty() {
            return false;
        }
        drivers.remove(gid);
        let left = drivers.len();
        drop(drivers);
        if left + 1 == self.in_flight_max {
            self.timer.room();
        }
        if left == 0 && self.stopping() {
            self.idle.notify_waiters();
        }
        true
    }

    /// Returns the slots set aside for a transaction that it does not need.
    fn give_back(self: &Arc<Self>, gid: &Gid) {
        self.freed(None, self.slots.give_back(gid));
    }

    /// Wakes who got a slot, and everything that waits for a host that answers again.
    fn freed(self: &Arc<Self>, host: Option<&str>, freed: crate::dispatch::slots::Freed) {
        for gid in freed.next {
            self.post(&gid, Message::Wake);
        }
        if let (true, Some(host)) = (freed.recovered, host) {
            let busy = self.busy();
            tokio::spawn(timer::host_back(self.clone(), host.to_owned(), busy));
        }
    }

    /// Reads a record that a request only looks at.
    async fn read(&self, gid: &Gid) -> Result<Option<Transaction>, Error> {
        let Some(mut record) = self.store.load(gid).await.map_err(store_error)? else {
            return Ok(None);
        };
        // It is not driven from this copy: nothing is to be marked on it.
        record.exact = true;
        Transaction::load(&record, self.now(), &self.policy).map(Some)
    }
}
