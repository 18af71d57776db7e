//! Buckets (rules.md 7.2): a keyspace for everything that was created in an eighth of the time finished transactions are kept, so that
//! retention drops a keyspace instead of deleting keys.

use super::super::locked;
use amends::Millis;
use fjall::compaction::Leveled;
use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// One bucket; cheap to clone. A clone keeps its files readable after the bucket was dropped.
#[derive(Clone)]
pub(super) struct Bucket {
    /// Its number, which states name.
    pub(super) id: u32,
    start: Millis,
    /// Records created at or after this are in later buckets.
    pub(super) end: Millis,
    pub(super) keyspace: Keyspace,
}

impl Bucket {
    fn covers(&self, at: Millis) -> bool {
        self.start <= at && at < self.end
    }
}

/// All buckets of a store.
pub(super) struct Buckets {
    db: Database,
    width: Millis,
    list: RwLock<Arc<[Bucket]>>,
    /// Creating and dropping exclude each other.
    changing: Mutex<()>,
}

const NAME: &str = "bucket_";
const PER_RETENTION: Millis = 8;
const MIN_WIDTH: Millis = 1_000;

/// So many tables are merged into the first level at a time: three times fjall's number. A bucket is dropped whole, so that little is
/// gained by it, and each time rewrites what is there; who looks for a gid asks the filter of each table.
const MERGED: u8 = 12;
/// The first level is as large as [`MERGED`] tables, and where values shorten to a quarter, as those of small payloads do, somewhat less than
/// as many memtables: a larger one would be rewritten by each merge. Bytes.
const TABLE_BYTES: u64 = (16 << 20) / 3;

pub(super) fn keyspace_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        // Half of fjall's default: there are about ten keyspaces, and memory stays bounded by about twice their number times this.
        .max_memtable_size(32 << 20)
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
        .compaction_strategy(Arc::new(
            Leveled::default()
                .with_l0_threshold(MERGED)
                .with_table_target_size(TABLE_BYTES),
        ))
}

impl Buckets {
    /// The buckets that a folder has. A name that is none of ours is an error for the caller to word.
    pub(super) fn open(
        db: Database,
        data_expire: Millis,
    ) -> fjall::Result<Result<Buckets, String>> {
        let mut found = Vec::new();
        for name in db.list_keyspace_names() {
            let Some(rest) = name.strip_prefix(NAME) else {
                continue;
            };
            let Some((id, start, end)) = parse_name(rest) else {
                return Ok(Err(format!("unknown keyspace {}", &*name)));
            };
            found.push(Bucket {
                id,
                start,
                end,
                keyspace: db.keyspace(&name, keyspace_options)?,
            });
        }
        let width = (data_expire / PER_RETENTION).max(MIN_WIDTH);
        Ok(Ok(Buckets {
            db,
            width,
            list: RwLock::new(sorted(found)),
            changing: Mutex::new(()),
        }))
    }

    /// All buckets, newest first.
    pub(super) fn list(&self) -> Arc<[Bucket]> {
        self.list
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Creates the bucket of `now`, and in the second half of its time the next one. Never called by the writer: creating a keyspace
    /// takes a lock that commits want.
    pub(super) fn ensure(&self, now: Millis) -> fjall::Result<()> {
        let ready = |list: &[Bucket]| {
            let current = list.iter().find(|bucket| bucket.covers(now));
            current.map(|current| {
                (
                    current.end,
                    now < current.end - self.width / 2
                        || list.iter().any(|b| b.covers(current.end)),
                )
            })
        };
        if ready(&self.list()).is_some_and(|(_, ready)| ready) {
            return Ok(());
        }
        let _changing = locked(&self.changing);
        match ready(&self.list()) {
            Some((_, true)) => Ok(()),
            Some((end, false)) => self.create(end),
            None => self.create(now - now.rem_euclid(self.width)),
        }
    }

    fn create(&self, start: Millis) -> fjall::Result<()> {
        let list = self.list();
        let id = list.iter().map(|bucket| bucket.id + 1).max().unwrap_or(1);
        let end = start + self.width;
        let keyspace = self
            .db
            .keyspace(&format!("{NAME}{id}_{start}_{end}"), keyspace_options)?;
        let with_new = list
            .iter()
            .cloned()
            .chain([Bucket {
                id,
                start,
                end,
                keyspace,
            }])
            .collect();
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = sorted(with_new);
        Ok(())
    }

    /// Drops a bucket with all it holds.
    pub(super) fn remove(&self, id: u32) -> fjall::Result<()> {
        let _changing = locked(&self.changing);
        let (gone, kept): (Vec<_>, Vec<_>) = self
            .list()
            .iter()
            .cloned()
            .partition(|bucket| bucket.id == id);
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = sorted(kept);
        gone.into_iter()
            .try_for_each(|bucket| self.db.delete_keyspace(bucket.keyspace))
    }
}

fn sorted(mut buckets: Vec<Bucket>) -> Arc<[Bucket]> {
    buckets.sort_by_key(|bucket| std::cmp::Reverse(bucket.id));
    buckets.into()
}

fn parse_name(rest: &str) -> Option<(u32, Millis, Millis)> {
    let mut words = rest.split('_');
    let parsed = (
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
    );
    words.next().is_none().then_some(parsed)
}

/// The bucket for a record created now. If the clock ran ahead of [`Buckets::ensure`] it is the latest before; a record that is in an
/// older bucket than it should is still kept its full time, for retention looks at when records ended.
pub(super) fn for_new(list: &[Bucket], now: Millis) -> Option<&Bucket> {
    list.iter()
        .find(|bucket| bucket.covers(now))
        .or_else(|| list.iter().find(|b| b.start <= now))
        .or_else(|| list.first())
}

pub(super) fn by_id(list: &[Bucket], id: u32) -> Option<&Bucket> {
    list.iter().find(|bucket| bucket.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_compressed_from_its_first_table() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Database::builder(folder.path()).open().expect("opened");
        let keyspace = db.keyspace("test", keyspace_options).expect("created");
        let (count, value) = (1_000_u32, [b'{'; 1_000]);
        for key in 0..count {
            keyspace.insert(key.to_be_bytes(), value).expect("written");
        }
        keyspace.rotate_memtable_and_wait().expect("flushed");
        let on_disk = keyspace.disk_space();
        assert!((1..400_000).contains(&on_disk), "{on_disk} bytes");
    }
}
