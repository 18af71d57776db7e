//! Retention (rules.md 7.2): an expired bucket is dropped whole; what must outlive it is copied forward first.

use super::super::{Result, StoreError, locked};
use super::buckets::{Bucket, for_new};
use super::codec;
use super::queue::Command;
use super::read;
use super::shared::Shared;
use amends::{Gid, Millis};
use std::collections::HashSet;
use std::sync::Arc;

/// Copied forward in one batch.
const TOGETHER: usize = 64;

/// Drops the oldest bucket whose records were all created before `before`, if there is one. Copied forward are its unfinished records
/// and those that ended at or after `before`. Returns how many finished records went with it.
pub(super) fn purge(shared: &Arc<Shared>, before: Millis) -> Result<u64> {
    let _purging = locked(&shared.purging);
    let now = shared.now();
    if shared.check_room().is_ok() {
        shared.buckets.ensure(now).map_err(unchanged)?;
    }
    let buckets = shared.bucket_list();
    let Some(to) = for_new(&buckets, now) else {
        return Ok(0);
    };
    let expired = buckets
        .iter()
        .rev()
        .find(|bucket| bucket.end <= before && bucket.id < to.id);
    let Some(bucket) = expired else { return Ok(0) };

    // First the unfinished ones: what ends while we look is then in this list, or is seen by the scan.
    let mut keep: HashSet<Gid> = shared
        .with_index(|index| index.at(|place| place.bucket == bucket.id))
        .into_iter()
        .collect();
    let mut gone = 0;
    for_each_ended(bucket, |gid, finished| {
        if finished.is_some_and(|finished| finished >= before) {
            keep.insert(gid);
        } else if !keep.contains(&gid) {
            gone += 1;
        }
    })?;
    let keep: Vec<Gid> = keep.into_iter().collect();
    for gids in keep.chunks(TOGETHER) {
        let (gids, from, to) = (gids.to_vec(), bucket.id, to.id);
        let carried = shared.queue_anyway(|done| Command::Carry {
            gids,
            from,
            to,
            done,
        });
        tokio::runtime::Handle::current().block_on(carried)?;
    }
    shared.buckets.remove(bucket.id).map_err(unchanged)?;
    Ok(gone)
}

fn unchanged(error: fjall::Error) -> StoreError {
    StoreError::Fatal(format!("a bucket could not be created or dropped: {error}"))
}

fn for_each_ended(bucket: &Bucket, mut each: impl FnMut(Gid, Option<Millis>)) -> Result<()> {
    for item in bucket.keyspace.prefix([codec::STATES]) {
        let (key, value) = item.into_inner().map_err(read::failed)?;
        if let (Some(gid), Ok((head, _))) = (codec::gid_of_state(&key), codec::decode_state(&value))
        {
            each(gid, head.index.finished);
        }
    }
    Ok(())
}
