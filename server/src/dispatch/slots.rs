//! How many calls may be on the wire at a time, in all and per host, and the circuit breaker (rules.md 4.5).
//!
//! A transaction that gets no slot becomes an entry in a queue and needs no task. When a slot is free for it, it is handed out in
//! [`Freed::next`] with a slot set aside for it. Whoever drives it then either takes that slot with [`Slots::try_acquire`] or, when it
//! lets go of the transaction without wanting it, returns it with [`Slots::give_back`]: so no wake-up is lost, and nobody overtakes.
//!
//! Everything happens under one lock and takes no time: no clock, no task, no waiting.

use crate::hash::HashMap;
use amends::Gid;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Upper bounds of [`Slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLimits {
    /// Calls in all.
    pub total: usize,
    /// Calls per host.
    pub per_host: usize,
    /// Calls per host while it does not answer.
    pub probing: usize,
    /// Consecutive connection errors or timeouts after which a host counts as not answering.
    pub failures: u32,
}

impl Default for SlotLimits {
    fn default() -> Self {
        SlotLimits {
            total: 4_096,
            per_host: 256,
            probing: 4,
            failures: 5,
        }
    }
}

/// Hosts remembered although nothing is called or waits there; beyond it, their failures are forgotten.
const QUIET_HOSTS_MAX: usize = 16_384;

/// The right to make one call. Goes back with [`Slots::release`]; if it is dropped instead (a panic), the slot is free again and says
/// nothing about the host, and who is next comes with the next answer of any method.
#[derive(Debug)]
#[must_use = "a permit is released when the call has ended"]
pub struct Permit {
    slots: Slots,
    host: Arc<str>,
    released: bool,
}

impl Permit {
    /// The host it is for: scheme and authority.
    pub fn host(&self) -> &Arc<str> {
        &self.host
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.released {
            let mut inner = self.slots.lock();
            inner.ended(&self.host, None);
            inner.hand_out();
        }
    }
}

/// Answer of [`Slots::try_acquire`].
#[derive(Debug)]
#[must_use]
pub enum Acquire {
    /// Call now.
    Granted(Permit),
    /// No room; the transaction is in the queue and will be handed out.
    Queued,
}

/// What became free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a transaction that is handed out and not started holds a slot for ever"]
pub struct Freed {
    /// Transactions to drive now: each has a slot set aside on the host it waited for.
    pub next: Vec<Gid>,
    /// Whether the host answers again: all that wait for it in the store are due now.
    pub recovered: bool,
}

/// The slots of one coordinator. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Slots {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    limits: SlotLimits,
    hosts: HashMap<Arc<str>, Host>,
    /// Slots taken or set aside, over all hosts.
    used: usize,
    calls: usize,
    /// Entries whose host has room for them and which wait for the total only, in order of arrival.
    global: BTreeMap<u64, (Arc<str>, Gid)>,
    /// Hosts on which each transaction holds slots set aside.
    reserved: HashMap<Gid, Vec<Arc<str>>>,
    /// Handed out, and not yet told to anybody.
    next: Vec<Gid>,
    ticket: u64,
    quiet_limit: usize,
}

#[derive(Debug, Default)]
struct Host {
    /// Slots taken or set aside.
    used: usize,
    /// Entries of the global queue that are for this host; they have room here.
    in_global: usize,
    /// Entries that wait for room on this host, in order of arrival.
    queue: BTreeMap<u64, Gid>,
    /// Who is queued, here or globally.
    waiting: HashMap<Gid, u64>,
    /// Consecutive calls without any answer.
    failures: u32,
}

impl Host {
    fn limit(&self, limits: &SlotLimits) -> usize {
        if self.open(limits) {
            limits.probing
        } else {
            limits.per_host
        }
    }

    fn open(&self, limits: &SlotLimits) -> bool {
        self.failures >= limits.failures
    }

    fn room(&self, limits: &SlotLimits) -> bool {
        self.used + self.in_global < self.limit(limits)
    }

    fn quiet(&self) -> bool {
        self.used == 0 && self.waiting.is_empty()
    }
}

impl Slots {
    /// Slots with these limits, each of which is at least one.
    pub fn new(limits: SlotLimits) -> Slots {
        let limits = SlotLimits {
            total: limits.total.max(1),
            per_host: limits.per_host.max(1),
            probing: limits.probing.clamp(1, limits.per_host.max(1)),
            failures: limits.failures.max(1),
        };
        let inner = Inner {
            limits,
            hosts: HashMap::default(),
            used: 0,
            calls: 0,
            global: BTreeMap::new(),
            reserved: HashMap::default(),
            next: Vec::new(),
            ticket: 0,
            quiet_limit: QUIET_HOSTS_MAX,
        };
        Slots {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// A slot for one call of this transaction to this host (scheme and authority), or a place in the queue: one per host and
    /// transaction, however often it asks.
    pub fn try_acquire(&self, host: &str, gid: &Gid) -> Acquire {
        let mut inner = self.lock();
        let host = inner.host(host);
        if inner.take_reserved(&host, gid) || inner.take_or_enqueue(&host, gid) {
            inner.calls += 1;
            return Acquire::Granted(Permit {
                slots: self.clone(),
                host,
                released: false,
            });
        }
        Acquire::Queued
    }

    /// The call has ended. `unreachable` is [`Reply::unreachable`](super::Reply::unreachable).
    pub fn release(&self, mut permit: Permit, unreachable: bool) -> Freed {
        permit.released = true;
        let mut inner = self.lock();
        let recovered = inner.ended(&permit.host, Some(unreachable));
        inner.hand_out();
        Freed {
            next: std::mem::take(&mut inner.next),
            recovered,
        }
    }

    /// Returns the slots that were set aside for this transaction and that it did not take. To be called whenever its driver lets go of
    /// it, however that ended. Its places in queues stay.
    pub fn give_back(&self, gid: &Gid) -> Freed {
        let mut inner = self.lock();
        if inner.reserved.is_empty() && inner.next.is_empty() && inner.global.is_empty() {
            return Freed::default();
        }
        for host in inner.reserved.remove(gid).unwrap_or_default() {
            inner.free(&host);
        }
        inner.hand_out();
        Freed {
            next: std::mem::take(&mut inner.next),
            recovered: false,
        }
    }

    /// Calls on the wire.
    pub fn calls_in_flight(&self) -> usize {
        self.lock().calls
    }

    /// Entries in queues.
    pub fn waiting(&self) -> usize {
        self.lock().hosts.values().map(|h| h.waiting.len()).sum()
    }

    /// Whether this host counts as not answering.
    pub fn is_open(&self, host: &str) -> bool {
        let inner = self.lock();
        inner.hosts.get(host).is_some_and(|h| h.open(&inner.limits))
    }

    /// Hosts that are remembered.
    pub fn hosts(&self) -> usize {
        self.lock().hosts.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The shared name of a host, remembered from now on.
    fn host(&mut self, host: &str) -> Arc<str> {
        if let Some((known, _)) = self.hosts.get_key_value(host) {
            return known.clone();
        }
        if self.hosts.len() >= self.quiet_limit {
            self.hosts.retain(|_, h| !h.quiet());
            self.quiet_limit = QUIET_HOSTS_MAX.max(2 * self.hosts.len());
        }
        let name: Arc<str> = host.into();
        self.hosts.insert(name.clone(), Host::default());
        name
    }

    fn take_reserved(&mut self, name: &Arc<str>, gid: &Gid) -> bool {
        let Some(hosts) = self.reserved.get_mut(gid) else {
            return false;
        };
        let Some(i) = hosts.iter().position(|h| h == name) else {
            return false;
        };
        hosts.swap_remove(i);
        if hosts.is_empty() {
            self.reserved.remove(gid);
        }
        if self
            .hosts
            .get(name)
            .is_some_and(|h| h.used <= h.limit(&self.limits))
        {
            return true;
        }
        // The host stopped answering since: there is only room for probes now.
        self.free(name);
        false
    }

    /// Takes a slot if one is free and nobody was first; else queues.
    fn take_or_enqueue(&mut self, name: &Arc<str>, gid: &Gid) -> bool {
        let Inner {
            limits,
            hosts,
            used,
            global,
            ticket,
            ..
        } = self;
        let Some(host) = hosts.get_mut(name) else {
            return false;
        };
        if host.waiting.contains_key(gid) {
            return false;
        }
        let room = host.queue.is_empty() && host.room(limits);
        if room && global.is_empty() && *used < limits.total {
            host.used += 1;
            *used += 1;
            return true;
        }
        *ticket += 1;
        host.waiting.insert(gid.clone(), *ticket);
        if room {
            host.in_global += 1;
            global.insert(*ticket, (name.clone(), gid.clone()));
        } else {
            host.queue.insert(*ticket, gid.clone());
        }
        false
    }

    /// Accounts for a call that ended; whether its host recovered. `None`: nothing is known about the host.
    fn ended(&mut self, name: &Arc<str>, unreachable: Option<bool>) -> bool {
        self.calls -= 1;
        self.free_after(name, unreachable)
    }

    /// Frees one slot of a host, of which nothing new is known.
    fn free(&mut self, name: &Arc<str>) {
        self.free_after(name, None);
    }

    /// Frees one slot of a host, lets those that it has room for wait for the total, and forgets the host if nothing is left of it. As
    /// [`Inner::ended`] for the rest.
    fn free_after(&mut self, name: &Arc<str>, unreachable: Option<bool>) -> bool {
        self.used -= 1;
        let Some(host) = self.hosts.get_mut(name) else {
            return false;
        };
        let recovered = unreachable == Some(false) && host.open(&self.limits);
        host.failures = match unreachable {
            Some(true) => host.failures.saturating_add(1),
            Some(false) => 0,
            None => host.failures,
        };
        host.used -= 1;
        while host.room(&self.limits) {
            let Some((ticket, gid)) = host.queue.pop_first() else {
                break;
            };
            host.in_global += 1;
            self.global.insert(ticket, (name.clone(), gid));
        }
        if host.quiet() && host.failures == 0 {
            self.hosts.remove(name);
        }
        recovered
    }

    /// Sets free slots aside for those that came first.
    fn hand_out(&mut self) {
        while self.used < self.limits.total {
            let Some((ticket, (name, gid))) = self.global.pop_first() else {
                break;
            };
            let Some(host) = self.hosts.get_mut(&name) else {
                continue;
            };
            host.in_global -= 1;
            if host.used >= host.limit(&self.limits) {
                // As in take_reserved.
                host.queue.insert(ticket, gid);
                continue;
            }
            host.waiting.remove(&gid);
            host.used += 1;
            self.used += 1;
            self.reserved.entry(gid.clone()).or_default().push(name);
            self.next.push(gid);
        }
    }
}
