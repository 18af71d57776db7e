//! A group of writes that become one batch: each is checked against what is stored and what the group has written before it.

use super::super::due::Holding;
use super::super::{Append, Appended, Result, StoreError, branch_ids, registered};
use super::buckets::{Bucket, by_id, for_new};
use super::codec::{self, Head, KvValue};
use super::queue::{Answer, Command, CreateAnswer, Queued, SaveAnswer};
use super::read;
use super::shared::{Place, Shared};
use crate::hash::HashMap;
use amends::coordinator::record::{Index, Part, Save};
use amends::{Gid, Status, TransType};
use bytes::Bytes;
use fjall::{Keyspace, OwnedWriteBatch, PersistMode, Slice};
use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use tokio::runtime::Handle;

/// A value that needs a larger buffer does not keep it for those after it. Bytes.
const BUFFER_KEPT: usize = 1 << 20;

/// Where the state of a record is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Live,
    Bucket(u32),
}

/// A record as the group sees it.
struct Touched {
    /// What it is now; `None` if there is no such record.
    now: Option<Now>,
    /// Where its state was before the group.
    home: Option<Home>,
    /// A save in this group was a conflict, so that those behind it are.
    conflict: bool,
    /// What the group writes of it.
    pending: Option<(Index, Bytes, Holding)>,
}

#[derive(Clone, Copy)]
struct Now {
    trans_type: TransType,
    status: Status,
    place: Place,
}

/// What the index in memory takes over once the group is durable.
pub(super) struct Written {
    pub(super) gid: Gid,
    pub(super) index: Index,
    pub(super) holding: Holding,
    pub(super) place: Place,
}

/// A group that is ready to be committed.
pub(super) struct Prepared {
    pub(super) batch: OwnedWriteBatch,
    pub(super) bytes: u64,
    pub(super) written: Vec<Written>,
    pub(super) answers: Vec<(Option<Handle>, Answer)>,
}

fn batch(shared: &Shared) -> OwnedWriteBatch {
    OwnedWriteBatch::with_capacity(shared.db.clone(), 64).durability(Some(PersistMode::SyncData))
}

pub(super) struct Group {
    shared: Arc<Shared>,
    buckets: Arc<[Bucket]>,
    batch: OwnedWriteBatch,
    bytes: u64,
    touched: HashMap<Gid, Touched>,
    /// Rows that the group registers, by key, with the part each belongs to.
    rows: BTreeMap<Vec<u8>, Part>,
    kv: HashMap<Vec<u8>, Option<KvValue>>,
    answers: Vec<(Option<Handle>, Answer)>,
    /// What values are made in.
    buffer: Vec<u8>,
}

impl Group {
    pub(super) fn new(shared: Arc<Shared>) -> Group {
        let batch = batch(&shared);
        let (buckets, touched, rows, kv, answers) = Default::default();
        Group {
            shared,
            buckets,
            batch,
            bytes: 0,
            touched,
            rows,
            kv,
            answers,
            buffer: Vec::new(),
        }
    }

    /// Starts a group in the memory of the one before it.
    pub(super) fn begin(&mut self) {
        self.buckets = self.shared.bucket_list();
    }

    /// Checks a command and collects what it writes. An error is fatal.
    pub(super) fn add(&mut self, queued: Queued) -> Result<()> {
        let answer = match queued.command {
            Command::Create { gid, save, done } => Answer::Create(done, self.create(gid, save)?),
            Command::Save { gid, save, done } => {
                Answer::Save(done, self.save(gid, save, queued.ticket)?)
            }
            Command::Append { append, done } => Answer::Append(done, self.append(append)?),
            Command::KvPut {
                cat,
                key,
                value,
                base,
                done,
            } => Answer::Flag(done, self.kv_put(&cat, &key, value, base)?),
            Command::KvDelete { cat, key, done } => Answer::Flag(done, self.kv_delete(&cat, &key)?),
            Command::Ping { done } => {
                let keyspace = self.shared.meta.clone();
                self.insert(&keyspace, b"ping".into(), Slice::default());
                Answer::Unit(done)
            }
            Command::Carry {
                gids,
                from,
                to,
                done,
            } => {
                gids.into_iter()
                    .try_for_each(|gid| self.carry(gid, from, to))?;
                Answer::Unit(done)
            }
        };
        self.answers.push((queued.runtime, answer));
        Ok(())
    }

    /// Adds the states, which stand behind the parts so that who reads a state finds all of its parts.
    pub(super) fn prepare(&mut self) -> Prepared {
        let mut written = Vec::with_capacity(self.touched.len());
        let mut records = std::mem::take(&mut self.touched);
        for (gid, touched) in records.drain() {
            let (Some((index, state, holding)), Some(Now { place, .. })) =
                (touched.pending, touched.now)
            else {
                continue;
            };
            let home = if index.status.is_final() {
                Home::Bucket(place.bucket)
            } else {
                Home::Live
            };
            let head = Head {
                version: place.version,
                index,
                bucket: place.bucket,
                parts: place.parts,
            };
            let key = Slice::from(codec::state_key(&gid));
            if let Some(keyspace) = self.keyspace(home) {
                let value = codec::encode_state(&mut self.buffer, &head, &state);
                self.insert(&keyspace, key.clone(), value);
            }
            if let Some(keyspace) = touched
                .home
                .filter(|before| *before != home)
                .and_then(|before| self.keyspace(before))
            {
                self.batch.remove(&keyspace, key);
            }
            written.push(Written {
                gid,
                index: head.index,
                holding,
                place,
            });
        }
        self.touched = records;
        self.rows.clear();
        self.kv.clear();
        if self.buffer.capacity() > BUFFER_KEPT {
            self.buffer = Vec::new();
        }
        // A bucket that is dropped must not be held until the next write.
        self.buckets = Arc::default();
        Prepared {
            batch: std::mem::replace(&mut self.batch, batch(&self.shared)),
            bytes: std::mem::take(&mut self.bytes),
            written,
            answers: std::mem::take(&mut self.answers),
        }
    }

    fn keyspace(&self, home: Home) -> Option<Keyspace> {
        match home {
            Home::Live => Some(self.shared.live.clone()),
            Home::Bucket(id) => by_id(&self.buckets, id).map(|bucket| bucket.keyspace.clone()),
        }
    }

    fn insert(&mut self, keyspace: &Keyspace, key: Slice, value: Slice) {
        self.bytes += (key.len() + value.len()) as u64;
        self.batch.insert(keyspace, key, value);
    }

    fn damage(&self, what: impl std::fmt::Display) -> StoreError {
        StoreError::Fatal(format!("the data is damaged: {what}"))
    }

    /// The record as the group sees it.
    fn look(&mut self, gid: &Gid) -> Result<&mut Touched> {
        let entry = match self.touched.entry(gid.clone()) {
            Entry::Occupied(known) => return Ok(known.into_mut()),
            Entry::Vacant(vacant) => vacant,
        };
        let unfinished = self.shared.with_index(|index| index.place(gid));
        let (now, home) = match unfinished {
            Some((trans_type, status, place)) => (
                Some(Now {
                    trans_type,
                    status,
                    place,
                }),
                Some(Home::Live),
            ),
            None => match read::ended(&self.buckets, gid)? {
                Some((bucket, head)) => {
                    let place = Place {
                        version: head.version,
                        bucket: head.bucket,
                        parts: head.parts,
                    };
                    let now = Now {
                        trans_type: head.index.trans_type,
                        status: head.index.status,
                        place,
                    };
                    (Some(now), Some(Home::Bucket(bucket)))
                }
                None => (None, None),
            },
        };
        Ok(entry.insert(Touched {
            now,
            home,
            conflict: false,
            pending: None,
        }))
    }

    fn create(&mut self, gid: Gid, save: Save) -> Result<CreateAnswer> {
        if self.look(&gid)?.now.is_some() {
            return Ok(CreateAnswer::Exists(Box::new(save)));
        }
        let bucket = for_new(&self.buckets, self.shared.now()).map(|bucket| bucket.id);
        let bucket = bucket.ok_or_else(|| self.damage("no bucket to write to"))?;
        let place = Place {
            version: 1,
            bucket,
            parts: 0,
        };
        self.write(&gid, save, place)?;
        Ok(CreateAnswer::New)
    }

    fn save(&mut self, gid: Gid, save: Save, ticket: u64) -> Result<SaveAnswer> {
        let shared = self.shared.clone();
        let touched = self.look(&gid)?;
        let place = touched
            .now
            .map(|now| now.place)
            .filter(|place| place.version == save.base);
        let Some(place) = place.filter(|_| !touched.conflict && !shared.behind.bars(&gid, ticket))
        else {
            touched.conflict = true;
            return Ok(SaveAnswer::Conflict(shared.behind.bar(&gid)));
        };
        self.write(
            &gid,
            save,
            Place {
                version: place.version + 1,
                ..place
            },
        )?;
        Ok(SaveAnswer::Done)
    }

    /// Takes a create or save over.
    fn write(&mut self, gid: &Gid, save: Save, mut place: Place) -> Result<()> {
        for part in save.parts {
            self.write_part(gid, part, &mut place)?;
        }
        let holding = Holding::of_save(&save.index);
        let now = Now {
            trans_type: save.index.trans_type,
            status: save.index.status,
            place,
        };
        let touched = self.look(gid)?;
        touched.now = Some(now);
        touched.pending = Some((save.index, save.state, holding));
        Ok(())
    }

    fn write_part(&mut self, gid: &Gid, part: Part, place: &mut Place) -> Result<()> {
        let keyspace = self.bucket(gid, *place)?.keyspace.clone();
        let value = codec::encode_part(&mut self.buffer, &part);
        self.insert(&keyspace, codec::part_key(gid, place.parts).into(), value);
        for row in &part.keys {
            let key = codec::row_key(gid, row);
            self.insert(
                &keyspace,
                key.as_slice().into(),
                place.parts.to_be_bytes().into(),
            );
            self.rows.insert(key, part.clone());
        }
        place.parts += 1;
        Ok(())
    }

    fn append(&mut self, append: Append) -> Result<Appended> {
        let (gid, part) = (&append.gid, &append.part);
        let touched = self.look(gid)?;
        let (home, pending) = (touched.home, touched.pending.clone());
        let Some(Now {
            trans_type,
            status,
            mut place,
        }) = touched.now
        else {
            return Ok(Appended::Unknown);
        };
        if (trans_type, status) != append.required {
            return Ok(Appended::WrongStatus(trans_type, status));
        }
        if let Some(row) = &append.forbidden
            && self.row(gid, row, place)?.is_some()
        {
            return Ok(Appended::Forbidden);
        }
        let mut before = None;
        for row in &part.keys {
            before = before.or(self.row(gid, row, place)?);
        }
        if let Some(before) = before {
            let same = before.keys == part.keys && before.bytes == part.bytes;
            return Ok(if same {
                Appended::Same
            } else {
                Appended::Differs
            });
        }
        let (index, state, holding) = match (pending, home) {
            (Some(pending), _) => pending,
            (None, Some(home)) => self.stored_state(gid, home)?,
            (None, None) => return Err(self.damage(format!("{gid} has no state"))),
        };
        let mut new = 0;
        for branch_id in branch_ids(&part.keys) {
            // All rows of a tcc or xa branch come at once: where they are new it is.
            if trans_type != TransType::Workflow || !self.has_branch(gid, branch_id, place)? {
                new += 1;
            }
        }
        let index = match registered(index, &append, new) {
            Ok(index) => index,
            Err(refused) => return Ok(refused),
        };
        place.version += 1;
        self.write_part(gid, append.part, &mut place)?;
        let touched = self.look(gid)?;
        touched.now = Some(Now {
            trans_type,
            status,
            place,
        });
        touched.pending = Some((index, state, holding));
        Ok(Appended::Done)
    }

    /// Whether a branch has a row.
    fn has_branch(&self, gid: &Gid, branch_id: &str, place: Place) -> Result<bool> {
        let prefix = codec::branch_key(gid, branch_id);
        let mut own = self.rows.range(prefix.clone()..);
        if own.next().is_some_and(|(key, _)| key.starts_with(&prefix)) {
            return Ok(true);
        }
        let keyspace = &self.bucket(gid, place)?.keyspace;
        match keyspace.prefix(prefix).next() {
            Some(row) => row.key().map(|_| true).map_err(read::failed),
            None => Ok(false),
        }
    }

    fn bucket(&self, gid: &Gid, place: Place) -> Result<&Bucket> {
        by_id(&self.buckets, place.bucket)
            .ok_or_else(|| self.damage(format!("the bucket {} of {gid} is gone", place.bucket)))
    }

    /// The part that registered a row.
    fn row(&self, gid: &Gid, row: &(String, String), place: Place) -> Result<Option<Part>> {
        let key = codec::row_key(gid, row);
        if let Some(part) = self.rows.get(&key) {
            return Ok(Some(part.clone()));
        }
        let bucket = self.bucket(gid, place)?;
        let number = bucket.keyspace.get(key).map_err(read::failed)?;
        let Some(number) = number else {
            return Ok(None);
        };
        let number = <[u8; 4]>::try_from(&*number)
            .map_err(|_| self.damage(format!("a row of {gid} is cut short")))?;
        read::part(&bucket.keyspace, gid, u32::from_be_bytes(number)).map(Some)
    }

    fn stored_state(&self, gid: &Gid, home: Home) -> Result<(Index, Bytes, Holding)> {
        let missing = || self.damage(format!("the state of {gid} is missing"));
        let keyspace = self.keyspace(home).ok_or_else(missing)?;
        let value = keyspace
            .get(codec::state_key(gid))
            .map_err(read::failed)?
            .ok_or_else(missing)?;
        let (head, state) = codec::decode_state(&value)
            .map_err(|corrupt| self.damage(format!("the state of {gid}: {corrupt}")))?;
        Ok((head.index, Bytes::copy_from_slice(state), Holding::Same))
    }

    /// Copies a record's parts and rows to a newer bucket, with its state if it ended. Not a write of the transaction: its version stays.
    fn carry(&mut self, gid: Gid, from: u32, to: u32) -> Result<()> {
        let touched = self.look(&gid)?;
        let (Some(home), Some(now)) = (touched.home, touched.now) else {
            return Ok(());
        };
        if now.place.bucket != from {
            return Ok(());
        }
        let Some(source) = by_id(&self.buckets, from).map(|bucket| bucket.keyspace.clone()) else {
            return Ok(());
        };
        let pending = self.stored_state(&gid, home)?;
        let mut place = Place {
            bucket: to,
            parts: 0,
            ..now.place
        };
        for number in 0..now.place.parts {
            let part = read::part(&source, &gid, number)?;
            self.write_part(&gid, part, &mut place)?;
        }
        let touched = self.look(&gid)?;
        touched.now = Some(Now { place, ..now });
        touched.pending = Some(pending);
        Ok(())
    }

    fn kv_at(&self, key: &[u8]) -> Result<Option<KvValue>> {
        match self.kv.get(key) {
            Some(known) => Ok(known.clone()),
            None => read::kv_value(&self.shared.kv, key),
        }
    }

    fn kv_put(&mut self, cat: &str, key: &str, value: String, base: u64) -> Result<bool> {
        let slot = codec::kv_key(cat, key);
        let stored = self.kv_at(&slot)?;
        let now = self.shared.now();
        let (version, created) = stored.map_or((0, now), |kv| (kv.version, kv.created));
        if version != base {
            return Ok(false);
        }
        let kv = KvValue {
            version: version + 1,
            created,
            updated: now,
            value,
        };
        let keyspace = self.shared.kv.clone();
        let stored = codec::encode_kv(&mut self.buffer, &kv);
        self.insert(&keyspace, slot.as_slice().into(), stored);
        self.kv.insert(slot, Some(kv));
        Ok(true)
    }

    fn kv_delete(&mut self, cat: &str, key: &str) -> Result<bool> {
        let slot = codec::kv_key(cat, key);
        if self.kv_at(&slot)?.is_none() {
            return Ok(false);
        }
        self.batch.remove(&self.shared.kv, slot.clone());
        self.kv.insert(slot, None);
        Ok(true)
    }
}
