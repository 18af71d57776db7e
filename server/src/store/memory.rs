//! The store in memory: for tests, and the proof that the trait is a seam. Nothing survives the process.
//!
//! A call takes effect when it is made, not when its future is polled, so the order of calls is the order of writes.

use super::due::{DueIndex, Holding};
use super::{
    Append, Appended, Claimed, Created, Filter, Kv, PAGE_BYTES, Page, Result, Saved, Stats, Store,
    StoreError,
};
use super::{branch_ids, content_bytes, kv_position, locked, parse_kv_position, registered};
use crate::clock::ManualClock;
use amends::coordinator::record::{Part, Record, Save};
use amends::{Gid, Millis};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, pending, ready};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

/// A clock in milliseconds of the Unix epoch.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// All transactions of a process that keeps none of them.
pub struct MemoryStore {
    clock: Clock,
    manual: Option<Arc<ManualClock>>,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    records: BTreeMap<Gid, Record>,
    index: DueIndex<()>,
    kv: BTreeMap<(String, String), Kv>,
    /// Gids with conflicts that their callers have not seen yet: what was saved behind them is a conflict too.
    behind: HashMap<Gid, usize>,
}

/// Lives until the caller has seen a conflict.
struct Unseen {
    gid: Gid,
    inner: Arc<Mutex<Inner>>,
}

impl Drop for Unseen {
    fn drop(&mut self) {
        let mut inner = locked(&self.inner);
        if let Some(count) = inner.behind.get_mut(&self.gid) {
            *count -= 1;
            if *count == 0 {
                inner.behind.remove(&self.gid);
            }
        }
    }
}

impl MemoryStore {
    /// An empty store that tells the time by `clock`.
    pub fn new(clock: Clock) -> Self {
        let inner = Inner {
            records: BTreeMap::new(),
            index: DueIndex::new(),
            kv: BTreeMap::new(),
            behind: HashMap::new(),
        };
        MemoryStore {
            clock,
            manual: None,
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// An empty store whose clock stands still until [`Engine::advance`](crate::engine::Engine::advance) moves it.
    pub fn with_manual_clock(clock: Arc<ManualClock>) -> Self {
        let now = clock.clone();
        MemoryStore {
            manual: Some(clock),
            ..MemoryStore::new(Arc::new(move || now.now()))
        }
    }
}

impl Inner {
    fn load(&self, gid: &Gid) -> Option<Record> {
        let record = self.records.get(gid)?.clone();
        Some(Record {
            exact: self.index.is_exact(gid),
            ..record
        })
    }

    fn create(&mut self, gid: Gid, save: Save) -> Created {
        if let Some(record) = self.load(&gid) {
            return Created::Exists(Box::new(record));
        }
        self.index
            .put(&gid, &save.index, Holding::of_save(&save.index), ());
        let Save {
            index,
            state,
            parts,
            ..
        } = save;
        self.records.insert(
            gid.clone(),
            Record {
                gid,
                version: 1,
                index,
                exact: false,
                state,
                parts,
            },
        );
        Created::New
    }

    fn save(&mut self, gid: &Gid, save: Save) -> Saved {
        if self.behind.contains_key(gid) {
            return Saved::Conflict;
        }
        let Some(record) = self
            .records
            .get_mut(gid)
            .filter(|record| record.version == save.base)
        else {
            return Saved::Conflict;
        };
        record.version += 1;
        record.index = save.index;
        record.state = save.state;
        record.parts.extend(save.parts);
        self.index
            .put(gid, &record.index, Holding::of_save(&record.index), ());
        Saved::Done
    }

    fn append(&mut self, append: Append) -> Appended {
        let Some(record) = self.records.get_mut(&append.gid) else {
            return Appended::Unknown;
        };
        let found = (record.index.trans_type, record.index.status);
        if found != append.required {
            return Appended::WrongStatus(found.0, found.1);
        }
        let rows = || record.parts.iter().flat_map(|part| &part.keys);
        if append
            .forbidden
            .as_ref()
            .is_some_and(|forbidden| rows().any(|row| row == forbidden))
        {
            return Appended::Forbidden;
        }
        if rows().any(|row| append.part.keys.contains(row)) {
            let same =
                |part: &Part| part.keys == append.part.keys && part.bytes == append.part.bytes;
            return if record.parts.iter().any(same) {
                Appended::Same
            } else {
                Appended::Differs
            };
        }
        let mut new = branch_ids(&append.part.keys);
        new.retain(|id| !rows().any(|(branch_id, _)| branch_id == id));
        match registered(record.index.clone(), &append, new.len()) {
            Ok(index) => record.index = index,
            Err(refused) => return refused,
        }
        record.version += 1;
        record.parts.push(append.part);
        self.index
            .put(&append.gid, &record.index, Holding::Same, ());
        Appended::Done
    }

    fn claim_due(&mut self, now: Millis, limit: usize, bytes: usize) -> Claimed {
        let mut claimed = Claimed::default();
        let (mut taken, mut full) = (0, false);
        for (gid, exact) in self.index.claim_due(now, limit) {
            let Some(record) = self.load(&gid) else {
                continue;
            };
            taken += content_bytes(&record);
            full |= !claimed.records.is_empty() && taken > bytes;
            if full {
                self.index.put_back(&gid, exact);
                continue;
            }
            claimed.records.push(Record { exact, ..record });
        }
        claimed.next_due = self.index.next_due();
        claimed
    }

    fn list(&self, filter: &Filter, position: Option<String>, limit: usize) -> Page {
        let from = position.map_or(Bound::Unbounded, |position| {
            Bound::Excluded(Gid::stored(&position))
        });
        let found = self
            .records
            .range((from, Bound::Unbounded))
            .filter(|(_, record)| filter.matches(&record.index));
        let (mut page, mut bytes) = (Page::default(), 0);
        for (gid, stored) in found {
            bytes += stored.index.bytes;
            if page.records.len() == limit || (!page.records.is_empty() && bytes > PAGE_BYTES) {
                page.next = page
                    .records
                    .last()
                    .map(|record| record.gid.as_str().to_owned());
                break;
            }
            page.records.extend(self.load(gid));
        }
        page
    }
}

fn done<T: Send + 'static>(value: T) -> BoxFuture<'static, Result<T>> {
    ready(Ok(value)).boxed()
}

impl Store for MemoryStore {
    fn create(&self, gid: Gid, save: Save) -> BoxFuture<'_, Result<Created>> {
        done(locked(&self.inner).create(gid, save))
    }

    fn load(&self, gid: &Gid) -> BoxFuture<'_, Result<Option<Record>>> {
        done(locked(&self.inner).load(gid))
    }

    fn save(&self, gid: Gid, save: Save) -> BoxFuture<'_, Result<Saved>> {
        let mut inner = locked(&self.inner);
        let saved = inner.save(&gid, save);
        if saved == Saved::Done {
            return done(saved);
        }
        *inner.behind.entry(gid.clone()).or_default() += 1;
        let unseen = Unseen {
            gid,
            inner: self.inner.clone(),
        };
        async move {
            drop(unseen);
            Ok(Saved::Conflict)
        }
        .boxed()
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>> {
        done(locked(&self.inner).append(append))
    }

    fn now(&self) -> Millis {
        (self.clock)()
    }

    fn manual_clock(&self) -> Option<Arc<ManualClock>> {
        self.manual.clone()
    }

    fn claim_due(&self, now: Millis, limit: usize, bytes: usize) -> BoxFuture<'_, Result<Claimed>> {
        // Lazily, unlike writes: what is claimed for a future that is never polled would stay held.
        async move { Ok(locked(&self.inner).claim_due(now, limit, bytes)) }.boxed()
    }

    fn claim(&self, gid: &Gid) -> BoxFuture<'_, Result<Option<Record>>> {
        let gid = gid.clone();
        async move {
            let mut inner = locked(&self.inner);
            let exact = inner.index.claim(&gid);
            Ok(inner.load(&gid).map(|record| Record { exact, ..record }))
        }
        .boxed()
    }

    fn unclaim(&self, gid: &Gid) {
        locked(&self.inner).index.unclaim(gid);
    }

    fn due_later(&self, after: Millis, limit: usize) -> BoxFuture<'_, Result<(Vec<Gid>, bool)>> {
        done(locked(&self.inner).index.due_later(after, limit))
    }

    fn failing(&self, host: &str, limit: usize) -> BoxFuture<'_, Result<Vec<Gid>>> {
        done(locked(&self.inner).index.failing(host, limit))
    }

    fn list(
        &self,
        filter: Filter,
        position: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Page>> {
        done(locked(&self.inner).list(&filter, position, limit))
    }

    fn kv_get(&self, cat: &str, key: &str) -> BoxFuture<'_, Result<Option<Kv>>> {
        done(
            locked(&self.inner)
                .kv
                .get(&(cat.to_owned(), key.to_owned()))
                .cloned(),
        )
    }

    fn kv_put(
        &self,
        cat: &str,
        key: &str,
        value: String,
        base: u64,
    ) -> BoxFuture<'_, Result<bool>> {
        let now = self.now();
        let mut inner = locked(&self.inner);
        let slot = (cat.to_owned(), key.to_owned());
        let stored = inner.kv.get(&slot);
        let (version, created) = stored.map_or((0, now), |kv| (kv.version, kv.created));
        if version != base {
            return done(false);
        }
        let kv = Kv {
            cat: cat.to_owned(),
            key: key.to_owned(),
            value,
            version: version + 1,
            created,
            updated: now,
        };
        inner.kv.insert(slot, kv);
        done(true)
    }

    fn kv_delete(&self, cat: &str, key: &str) -> BoxFuture<'_, Result<bool>> {
        done(
            locked(&self.inner)
                .kv
                .remove(&(cat.to_owned(), key.to_owned()))
                .is_some(),
        )
    }

    fn kv_list(
        &self,
        cat: &str,
        position: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<(Vec<Kv>, Option<String>)>> {
        let after = position
            .as_deref()
            .and_then(parse_kv_position)
            .map(|(cat, key)| (cat.to_owned(), key.to_owned()));
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let inner = locked(&self.inner);
        let mut found = inner
            .kv
            .range((from, Bound::Unbounded))
            .map(|(_, kv)| kv)
            .filter(|kv| cat.is_empty() || kv.cat == cat);
        let values: Vec<Kv> = found.by_ref().take(limit).cloned().collect();
        let next = found
            .next()
            .and_then(|_| values.last())
            .map(|kv| kv_position(&kv.cat, &kv.key));
        done((values, next))
    }

    fn heartbeat(&self) -> BoxFuture<'_, Result<u64>> {
        done(1)
    }

    fn release(&self) -> BoxFuture<'_, Result<()>> {
        locked(&self.inner).index.release();
        done(())
    }

    fn purge_finished(&self, before: Millis, limit: usize) -> BoxFuture<'_, Result<u64>> {
        let mut inner = locked(&self.inner);
        let ended = |record: &Record| {
            record.index.status.is_final() && record.index.finished.is_none_or(|at| at < before)
        };
        let gids: Vec<Gid> = inner
            .records
            .values()
            .filter(|r| ended(r))
            .take(limit)
            .map(|r| r.gid.clone())
            .collect();
        for gid in &gids {
            inner.records.remove(gid);
        }
        done(gids.len() as u64)
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        done(())
    }

    fn stats(&self) -> Stats {
        locked(&self.inner).index.stats()
    }

    fn fatal(&self) -> BoxFuture<'_, StoreError> {
        pending().boxed()
    }
}
