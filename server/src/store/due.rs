//! What a store keeps in memory of every unfinished record: who holds it, when it is due, and the counts that gauges show.
//!
//! Frugal, for a million records may wait: one hash map, one ordered set of those that nobody holds, one of creation times.

use super::Stats;
use crate::hash::{HashMap, HashSet};
use amends::coordinator::record::Index;
use amends::{Gid, Millis, Status, TransType};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A record whose stored index names a driver that is gone is due before every other one: before the first moment of any clock.
const AT_ONCE: Millis = -1;

struct Entry<P> {
    /// The due time in the store.
    due: Millis,
    /// Where it stands in the queue while nobody holds it.
    queued_at: Millis,
    created: Millis,
    status: Status,
    trans_type: TransType,
    held: bool,
    exact: bool,
    attention: bool,
    failing_hosts: Box<[Arc<str>]>,
    place: P,
}

/// The unfinished records of a store, each with a `P` that says where the store has it.
pub(crate) struct DueIndex<P> {
    entries: HashMap<Gid, Entry<P>>,
    queue: BTreeSet<(Millis, Gid)>,
    held: HashSet<Gid>,
    failing: HashMap<Arc<str>, BTreeSet<Gid>>,
    created: BTreeMap<Millis, u32>,
    counts: HashMap<(TransType, Status), u64>,
    attention: u64,
}

/// How a write changes who holds a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holding {
    /// The writer drives it on.
    Held,
    /// The writer let it go: it waits for its due time and is exact.
    LetGo,
    /// A registration by somebody else: whoever holds it still does.
    Same,
    /// Read from the disk at start: nobody holds it, and it is not exact (rules.md 1.2).
    Recovered,
}

impl Holding {
    /// What a create or save means for the holder.
    pub(crate) fn of_save(index: &Index) -> Holding {
        if index.driven {
            Holding::Held
        } else {
            Holding::LetGo
        }
    }
}

impl<P: Copy> DueIndex<P> {
    pub(crate) fn new() -> Self {
        DueIndex {
            entries: HashMap::default(),
            queue: BTreeSet::new(),
            held: HashSet::default(),
            failing: HashMap::default(),
            created: BTreeMap::new(),
            counts: HashMap::default(),
            attention: 0,
        }
    }

    /// Takes over what was written; a record that ended leaves the index.
    pub(crate) fn put(&mut self, gid: &Gid, index: &Index, holding: Holding, place: P) {
        let before = self.remove(gid);
        if index.status.is_final() {
            return;
        }
        // An unfinished record always has a due time; if one had none, looking at it at once loses nothing.
        let due = index.due.unwrap_or(AT_ONCE);
        let (held, exact, queued_at) = match (holding, &before) {
            (Holding::Held, _) => (true, false, due),
            (Holding::LetGo, _) | (Holding::Same, None) => (false, true, due),
            (Holding::Same, Some(before)) if !before.held && before.queued_at == AT_ONCE => {
                (false, before.exact, AT_ONCE)
            }
            (Holding::Same, Some(before)) => (before.held, before.exact, due),
            (Holding::Recovered, _) => (false, false, if index.driven { AT_ONCE } else { due }),
        };
        let failing_hosts = index
            .failing_hosts
            .iter()
            .map(|host| self.add_failing(host, gid))
            .collect();
        *self.created.entry(index.created).or_default() += 1;
        *self
            .counts
            .entry((index.trans_type, index.status))
            .or_default() += 1;
        self.attention += u64::from(index.attention);
        if held {
            self.held.insert(gid.clone());
        } else {
            self.queue.insert((queued_at, gid.clone()));
        }
        let (created, status, trans_type) = (index.created, index.status, index.trans_type);
        self.entries.insert(
            gid.clone(),
            Entry {
                due,
                queued_at,
                created,
                status,
                trans_type,
                held,
                exact,
                attention: index.attention,
                failing_hosts,
                place,
            },
        );
    }

    fn remove(&mut self, gid: &Gid) -> Option<Entry<P>> {
        let entry = self.entries.remove(gid)?;
        if entry.held {
            self.held.remove(gid);
        } else {
            self.queue.remove(&(entry.queued_at, gid.clone()));
        }
        for host in &entry.failing_hosts {
            if let Some(gids) = self.failing.get_mut(host) {
                gids.remove(gid);
                if gids.is_empty() {
                    self.failing.remove(host);
                }
            }
        }
        decrement(&mut self.created, entry.created);
        self.attention -= u64::from(entry.attention);
        if let Some(count) = self.counts.get_mut(&(entry.trans_type, entry.status)) {
            *count -= 1;
        }
        Some(entry)
    }

    fn add_failing(&mut self, host: &str, gid: &Gid) -> Arc<str> {
        let host = match self.failing.get_key_value(host) {
            Some((known, _)) => known.clone(),
            None => Arc::from(host),
        };
        self.failing
            .entry(host.clone())
            .or_default()
            .insert(gid.clone());
        host
    }

    /// Where the store has an unfinished record.
    pub(crate) fn place(&self, gid: &Gid) -> Option<(TransType, Status, P)> {
        self.entries
            .get(gid)
            .map(|entry| (entry.trans_type, entry.status, entry.place))
    }

    /// Whether a record that is claimed now would be exact.
    pub(crate) fn is_exact(&self, gid: &Gid) -> bool {
        self.entries.get(gid).is_some_and(|entry| entry.exact)
    }

    /// Holds a record; returns whether it was let go in an orderly way. Whoever drives it from here on may start actions before the
    /// next save, so it is exact again only when it was let go again.
    pub(crate) fn claim(&mut self, gid: &Gid) -> bool {
        let Some(entry) = self.entries.get_mut(gid) else {
            return false;
        };
        if !entry.held {
            entry.held = true;
            self.queue.remove(&(entry.queued_at, gid.clone()));
            self.held.insert(gid.clone());
        }
        std::mem::take(&mut entry.exact)
    }

    /// Holds up to `limit` records that are due, earliest first, each with whether it is exact.
    pub(crate) fn claim_due(&mut self, now: Millis, limit: usize) -> Vec<(Gid, bool)> {
        let due: Vec<Gid> = self
            .queue
            .iter()
            .take_while(|(due, _)| *due <= now)
            .take(limit)
            .map(|(_, gid)| gid.clone())
            .collect();
        due.into_iter()
            .map(|gid| {
                let exact = self.claim(&gid);
                (gid, exact)
            })
            .collect()
    }

    /// Undoes a claim that nobody saw.
    pub(crate) fn put_back(&mut self, gid: &Gid, exact: bool) {
        let Some(entry) = self.entries.get_mut(gid).filter(|entry| entry.held) else {
            return;
        };
        entry.held = false;
        entry.exact = exact;
        self.held.remove(gid);
        self.queue.insert((entry.queued_at, gid.clone()));
    }

    /// Gives a claimed record back: it waits for the due time it has in the store, and is not exact.
    pub(crate) fn unclaim(&mut self, gid: &Gid) {
        if let Some(entry) = self.entries.get_mut(gid).filter(|entry| entry.held) {
            entry.queued_at = entry.due;
            self.put_back(gid, false);
        }
    }

    /// Gives back everything that is held.
    pub(crate) fn release(&mut self) {
        for gid in std::mem::take(&mut self.held) {
            self.unclaim(&gid);
        }
    }

    /// The earliest due time of a record that nobody holds.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Up to `limit` records due later than `after`, held ones included, and whether there are more.
    pub(crate) fn due_later(&self, after: Millis, limit: usize) -> (Vec<Gid>, bool) {
        let queued = queued_after(&self.queue, after).map(|(_, gid)| gid);
        let held = self.held.iter().filter(|gid| {
            self.entries
                .get(*gid)
                .is_some_and(|entry| entry.due > after)
        });
        let mut gids: Vec<Gid> = queued
            .chain(held)
            .take(limit.saturating_add(1))
            .cloned()
            .collect();
        let more = gids.len() > limit;
        gids.truncate(limit);
        (gids, more)
    }

    /// Up to `limit` records that nobody holds and whose last error came from `host`.
    pub(crate) fn failing(&self, host: &str, limit: usize) -> Vec<Gid> {
        let Some(gids) = self.failing.get(host) else {
            return Vec::new();
        };
        gids.iter()
            .filter(|gid| !self.held.contains(*gid))
            .take(limit)
            .cloned()
            .collect()
    }

    /// The gids whose place satisfies `wanted`.
    pub(crate) fn at(&self, wanted: impl Fn(&P) -> bool) -> Vec<Gid> {
        self.entries
            .iter()
            .filter(|(_, entry)| wanted(&entry.place))
            .map(|(gid, _)| gid.clone())
            .collect()
    }

    /// What gauges show of it; the disk's numbers are left at 0.
    pub(crate) fn stats(&self) -> Stats {
        let mut unfinished: Vec<_> = self
            .counts
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(key, n)| (*key, *n))
            .collect();
        unfinished.sort_unstable();
        Stats {
            unfinished,
            attention: self.attention,
            oldest_created: self.created.keys().next().copied(),
            // Those whose driver is gone are due without a time that could be late.
            earliest_due: queued_after(&self.queue, AT_ONCE)
                .next()
                .map(|(due, _)| *due),
            ..Stats::default()
        }
    }
}

/// What stands in the queue after `after`.
fn queued_after(
    queue: &BTreeSet<(Millis, Gid)>,
    after: Millis,
) -> impl Iterator<Item = &(Millis, Gid)> {
    let from = after.checked_add(1).map(|from| (from, Gid::stored("")));
    from.into_iter().flat_map(|from| queue.range(from..))
}

fn decrement(counts: &mut BTreeMap<Millis, u32>, key: Millis) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
