//! The memory store with faults in front of it, and a check of every write that reaches it.

use amends::coordinator::Transaction;
use amends::coordinator::record::{Index, Record, Save};
use amends::{Gid, Millis, Policy, Status, TransType};
use amends_server::store::memory::{Clock, MemoryStore};
use amends_server::store::*;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    /// A save by a driver; whether it ends, or lets go of, the transaction.
    Save {
        last: bool,
    },
    Append,
    Load,
    Claim,
    ClaimDue,
}

impl Kind {
    pub(crate) fn writes(self) -> bool {
        matches!(self, Kind::Create | Kind::Save { .. } | Kind::Append)
    }
}

/// How it goes: the answer comes after `delay` ms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fault {
    pub(crate) delay: u64,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum What {
    #[default]
    Nothing,
    /// Refused, nothing is done.
    Full,
    /// An error, nothing is done.
    Unavailable,
    /// Done, and an error all the same.
    AnswerLost,
}

type Faults = Box<dyn FnMut(Kind, &Gid) -> Fault + Send>;

/// A store that fails as it is told to, and may crash.
pub(crate) struct Faulty {
    inner: MemoryStore,
    faults: Mutex<Faults>,
    journal: Arc<Mutex<Journal>>,
    /// Records that no driver has let go of since the last crash.
    inexact: Mutex<HashSet<Gid>>,
}

/// Every write in order.
#[derive(Default)]
struct Journal {
    writes: Vec<Record>,
    /// How many of the writes are known to be durable.
    acked: usize,
    /// The newest state of each record, by its index in `writes`.
    newest: HashMap<Gid, usize>,
    wrong: Vec<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was decided, where it was (rules.md 1.3).
fn decision(index: &Index) -> Option<bool> {
    match (index.trans_type, index.status) {
        (_, Status::Succeed) => Some(true),
        (_, Status::Failed) => Some(false),
        (TransType::Tcc | TransType::Xa | TransType::Msg, Status::Submitted) => Some(true),
        (_, Status::Aborting) => Some(false),
        _ => None,
    }
}

impl Journal {
    fn check(&mut self, record: &Record) -> std::result::Result<(), String> {
        let tx = Transaction::load(record, 0, &Policy::default()).map_err(|e| e.to_string())?;
        let index = &record.index;
        if !index_is_sound(index) || tx.status() != index.status {
            return Err(format!("unsound index {index:?}"));
        }
        let Some(before) = self.newest.get(&record.gid).map(|i| &self.writes[*i]) else {
            return Ok(());
        };
        if record.version != before.version + 1 {
            return Err(format!(
                "version {} after {}",
                record.version, before.version
            ));
        }
        let (was, is) = (decision(&before.index), decision(index));
        if was.is_some() && was != is && tx.state().forced.is_none() {
            return Err(format!("decided {was:?}, now {is:?}"));
        }
        if before.index.status.is_final() && before.index.status != index.status {
            return Err(format!("{} became {}", before.index.status, index.status));
        }
        Ok(())
    }

    /// Notes a write, and returns its place.
    fn write(&mut self, record: Record) -> usize {
        if let Err(text) = self.check(&record) {
            self.wrong.push(format!("{}: {text}", record.gid));
        }
        self.newest.insert(record.gid.clone(), self.writes.len());
        self.writes.push(record);
        self.writes.len()
    }
}

impl Faulty {
    /// A store without faults, for now.
    pub(crate) fn new(clock: Clock) -> Arc<Faulty> {
        Arc::new(Faulty {
            inner: MemoryStore::new(clock),
            faults: Mutex::new(Box::new(|_, _| Fault::default())),
            journal: Arc::default(),
            inexact: Mutex::default(),
        })
    }

    /// From now on it fails like this.
    pub(crate) fn fail(&self, faults: impl FnMut(Kind, &Gid) -> Fault + Send + 'static) {
        *locked(&self.faults) = Box::new(faults);
    }

    /// From now on it works.
    pub(crate) fn heal(&self) {
        self.fail(|_, _| Fault::default());
    }

    /// What must never happen and did.
    pub(crate) fn wrong(&self) -> Vec<String> {
        locked(&self.journal).wrong.clone()
    }

    /// Every state that a record was stored in.
    pub(crate) fn history(&self, gid: &str) -> Vec<Record> {
        let journal = locked(&self.journal);
        let of = |r: &&Record| r.gid.as_str() == gid;
        journal.writes.iter().filter(of).cloned().collect()
    }

    /// The record as it is stored now.
    pub(crate) fn record(&self, gid: &str) -> Record {
        let journal = locked(&self.journal);
        let newest = journal.newest.get(&Gid::stored(gid));
        journal.writes[*newest.expect("a stored gid")].clone()
    }

    /// How many writes there were.
    pub(crate) fn writes(&self) -> usize {
        locked(&self.journal).writes.len()
    }

    /// Gids of all records.
    pub(crate) fn gids(&self) -> Vec<Gid> {
        locked(&self.journal).newest.keys().cloned().collect()
    }

    /// What is left after the process died: all acknowledged writes, and the first of the others, as many as `luck` says. Nobody
    /// holds a record and none is exact, as in the embedded store (rules.md 1.2).
    pub(crate) fn crash(&self, clock: Clock, luck: u64) -> Arc<Faulty> {
        let journal = locked(&self.journal);
        let unsure = (journal.writes.len() - journal.acked) as u64;
        self.reopened(
            clock,
            &journal.writes[..journal.acked + (luck % (unsure + 1)) as usize],
            false,
        )
    }

    /// The same store for the next process: what was let go of is exact, as in a store that several processes share.
    pub(crate) fn handed_over(&self, clock: Clock) -> Arc<Faulty> {
        self.reopened(clock, &locked(&self.journal).writes, true)
    }

    fn reopened(&self, clock: Clock, writes: &[Record], exactly: bool) -> Arc<Faulty> {
        let newest: BTreeMap<&Gid, &Record> = writes.iter().map(|r| (&r.gid, r)).collect();
        let after = Faulty::new(clock);
        for (gid, record) in newest {
            let mut index = record.index.clone();
            if index.driven {
                // The embedded store looks at such a record at once.
                index.due = Some(0);
                index.driven = false;
            }
            let save = Save {
                base: 0,
                index,
                state: record.state.clone(),
                parts: record.parts.clone(),
            };
            drop(after.write(Kind::Create, gid, |inner| inner.create(gid.clone(), save)));
            if !exactly || record.index.driven {
                locked(&after.inexact).insert(gid.clone());
            }
        }
        let mut kept = locked(&after.journal);
        kept.acked = kept.writes.len();
        drop(kept);
        after
    }

    fn fault(&self, kind: Kind, gid: &Gid) -> Fault {
        (locked(&self.faults))(kind, gid)
    }

    fn exactly(&self, record: Record) -> Record {
        let exact = record.exact && !locked(&self.inexact).contains(&record.gid);
        Record { exact, ..record }
    }

    fn stored(&self, gid: &Gid) -> Option<Record> {
        let loaded = self.inner.load(gid).now_or_never();
        loaded.and_then(Result::ok).flatten()
    }

    /// Makes a write at once, unless it fails, and answers later: when it is acknowledged it is durable, with all before it.
    fn write<'a, T: Send + 'static>(
        &'a self,
        kind: Kind,
        gid: &Gid,
        write: impl FnOnce(&'a MemoryStore) -> BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        let fault = self.fault(kind, gid);
        let error = match fault.what {
            What::Nothing => None,
            What::Full => Some(StoreError::Full("no room".to_owned())),
            What::Unavailable => Some(StoreError::Unavailable("not reached".to_owned())),
            What::AnswerLost => Some(StoreError::Unavailable("the answer is lost".to_owned())),
        };
        let mut place = None;
        let answer = if matches!(fault.what, What::Full | What::Unavailable) {
            None
        } else {
            let before = self.stored(gid).map(|r| r.version);
            let answer = write(&self.inner);
            let after = self.stored(gid);
            if let Some(after) = after.filter(|r| Some(r.version) != before) {
                if !after.index.driven && kind != Kind::Append {
                    locked(&self.inexact).remove(gid);
                }
                place = Some(locked(&self.journal).write(after));
            }
            Some(answer)
        };
        async move {
            pause(fault.delay).await;
            let answer = match answer {
                Some(answer) => Some(answer.await?),
                None => None,
            };
            match (error, answer) {
                (None, Some(answer)) => {
                    let mut journal = locked(&self.journal);
                    journal.acked = journal.acked.max(place.unwrap_or(0));
                    Ok(answer)
                }
                (Some(error), _) => Err(error),
                (None, None) => Err(StoreError::Unavailable("not reached".to_owned())),
            }
        }
        .boxed()
    }

    async fn read<T>(&self, kind: Kind, gid: &Gid, read: BoxFuture<'_, Result<T>>) -> Result<T> {
        let fault = self.fault(kind, gid);
        // Read at once and answered late: what the caller learns may be outdated.
        let answer = match fault.what {
            What::Full | What::Unavailable => {
                Err(StoreError::Unavailable("not reached".to_owned()))
            }
            What::Nothing | What::AnswerLost => read.await,
        };
        pause(fault.delay).await;
        match fault.what {
            What::AnswerLost => Err(StoreError::Unavailable("the answer is lost".to_owned())),
            _ => answer,
        }
    }
}

async fn pause(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

impl Store for Faulty {
    fn create(&self, gid: Gid, save: Save) -> BoxFuture<'_, Result<Created>> {
        self.write(Kind::Create, &gid.clone(), |inner| inner.create(gid, save))
    }

    fn load(&self, gid: &Gid) -> BoxFuture<'_, Result<Option<Record>>> {
        let gid = gid.clone();
        async move {
            let record = self.read(Kind::Load, &gid, self.inner.load(&gid)).await?;
            Ok(record.map(|r| self.exactly(r)))
        }
        .boxed()
    }

    fn save(&self, gid: Gid, save: Save) -> BoxFuture<'_, Result<Saved>> {
        let last = !save.index.driven;
        self.write(Kind::Save { last }, &gid.clone(), |inner| {
            inner.save(gid, save)
        })
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>> {
        let gid = append.gid.clone();
        self.write(Kind::Append, &gid, |inner| inner.append(append))
    }

    fn now(&self) -> Millis {
        self.inner.now()
    }

    fn claim_due(&self, now: Millis, limit: usize, bytes: usize) -> BoxFuture<'_, Result<Claimed>> {
        async move {
            let read = self.inner.claim_due(now, limit, bytes);
            let gid = Gid::stored("");
            let mut claimed = self.read(Kind::ClaimDue, &gid, read).await?;
            let records = std::mem::take(&mut claimed.records);
            claimed.records = records.into_iter().map(|r| self.exactly(r)).collect();
            Ok(claimed)
        }
        .boxed()
    }

    fn claim(&self, gid: &Gid) -> BoxFuture<'_, Result<Option<Record>>> {
        let gid = gid.clone();
        async move {
            let record = self.read(Kind::Claim, &gid, self.inner.claim(&gid)).await?;
            Ok(record.map(|r| self.exactly(r)))
        }
        .boxed()
    }

    fn unclaim(&self, gid: &Gid) {
        self.inner.unclaim(gid);
    }

    fn due_later(&self, after: Millis, limit: usize) -> BoxFuture<'_, Result<(Vec<Gid>, bool)>> {
        self.inner.due_later(after, limit)
    }

    fn failing(&self, host: &str, limit: usize) -> BoxFuture<'_, Result<Vec<Gid>>> {
        self.inner.failing(host, limit)
    }

    fn list(
        &self,
        filter: Filter,
        position: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Page>> {
        self.inner.list(filter, position, limit)
    }

    fn kv_get(&self, cat: &str, key: &str) -> BoxFuture<'_, Result<Option<Kv>>> {
        self.inner.kv_get(cat, key)
    }

    fn kv_put(
        &self,
        cat: &str,
        key: &str,
        value: String,
        base: u64,
    ) -> BoxFuture<'_, Result<bool>> {
        self.inner.kv_put(cat, key, value, base)
    }

    fn kv_delete(&self, cat: &str, key: &str) -> BoxFuture<'_, Result<bool>> {
        self.inner.kv_delete(cat, key)
    }

    fn kv_list(
        &self,
        cat: &str,
        position: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<(Vec<Kv>, Option<String>)>> {
        self.inner.kv_list(cat, position, limit)
    }

    fn heartbeat(&self) -> BoxFuture<'_, Result<u64>> {
        self.inner.heartbeat()
    }

    fn release(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.release()
    }

    fn purge_finished(&self, before: Millis, limit: usize) -> BoxFuture<'_, Result<u64>> {
        self.inner.purge_finished(before, limit)
    }

    fn ping(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.ping()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }

    fn fatal(&self) -> BoxFuture<'_, StoreError> {
        self.inner.fatal()
    }
}
