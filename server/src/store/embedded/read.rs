//! Reads. They need no lock of the writer: it writes parts before the state that counts them, and a state's new home before it
//! removes the old one, so a reader that finds a state finds the rest.

use super::super::{
    Claimed, Filter, Kv, PAGE_BYTES, Page, Result, StoreError, content_bytes, kv_position,
    parse_kv_position,
};
use super::buckets::{Bucket, by_id};
use super::codec::{self, Head, KvValue};
use super::shared::Shared;
use amends::coordinator::record::{Part, Record};
use amends::{Gid, Millis};
use bytes::Bytes;
use fjall::{Keyspace, Readable, Slice, Snapshot};
use std::ops::Bound;
use std::sync::Arc;

/// What a failed read means: the disk or the data is broken, and the process must end.
pub(super) fn failed(error: fjall::Error) -> StoreError {
    StoreError::Fatal(format!("the data cannot be read: {error}"))
}

fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError::Fatal(format!("the data is damaged: {what}"))
}

/// The head of a record that ended, and the bucket its state is in.
pub(super) fn ended(buckets: &[Bucket], gid: &Gid) -> Result<Option<(u32, Head)>> {
    let key = codec::state_key(gid);
    for bucket in buckets {
        if let Some(value) = bucket.keyspace.get(&key).map_err(failed)? {
            return Ok(Some((bucket.id, state(gid, &value)?.0)));
        }
    }
    Ok(None)
}

fn state<'a>(gid: &Gid, value: &'a Slice) -> Result<(Head, &'a [u8])> {
    codec::decode_state(value).map_err(|corrupt| damaged(format!("the state of {gid}: {corrupt}")))
}

/// One part of a record.
pub(super) fn part(bucket: &Keyspace, gid: &Gid, number: u32) -> Result<Part> {
    let value = bucket.get(codec::part_key(gid, number)).map_err(failed)?;
    let value = value.ok_or_else(|| damaged(format!("part {number} of {gid} is missing")))?;
    codec::decode_part(&value)
        .map_err(|corrupt| damaged(format!("part {number} of {gid}: {corrupt}")))
}

/// The record with all its parts.
pub(super) fn load(shared: &Shared, gid: &Gid) -> Result<Option<Record>> {
    let key = codec::state_key(gid);
    // Retention may move a record between our two looks; each attempt begins with a newer list of buckets.
    for _ in 0..MOVES {
        let buckets = shared.bucket_list();
        let places =
            std::iter::once(&shared.live).chain(buckets.iter().map(|bucket| &bucket.keyspace));
        let mut found = None;
        for keyspace in places {
            found = keyspace.get(&key).map_err(failed)?;
            if found.is_some() {
                break;
            }
        }
        let Some(value) = found else { return Ok(None) };
        let (head, state) = state(gid, &value)?;
        if let Some(bucket) = by_id(&buckets, head.bucket) {
            return record(shared, gid.clone(), head, state, &bucket.keyspace).map(Some);
        }
    }
    Err(damaged(format!("the bucket of {gid} is missing")))
}

const MOVES: usize = 3;

fn record(
    shared: &Shared,
    gid: Gid,
    head: Head,
    state: &[u8],
    bucket: &Keyspace,
) -> Result<Record> {
    let parts = (0..head.parts)
        .map(|number| part(bucket, &gid, number))
        .collect::<Result<_>>()?;
    let exact = shared.with_index(|index| index.is_exact(&gid));
    Ok(Record {
        gid,
        version: head.version,
        index: head.index,
        exact,
        state: Bytes::copy_from_slice(state),
        parts,
    })
}

/// Records that were claimed for a caller; given back if the caller is gone before it takes them.
pub(super) struct Claims {
    shared: Arc<Shared>,
    claimed: Claimed,
    exact: Vec<bool>,
}

impl Claims {
    /// The caller has them.
    pub(super) fn take(mut self) -> Claimed {
        std::mem::take(&mut self.claimed)
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        let records = self.claimed.records.iter().zip(&self.exact);
        self.shared.with_index(|index| {
            records.for_each(|(record, exact)| index.put_back(&record.gid, *exact))
        });
    }
}

/// Claims what is due, with at most about `bytes` of content.
pub(super) fn claim_due(
    shared: &Arc<Shared>,
    now: Millis,
    limit: usize,
    bytes: usize,
) -> Result<Claims> {
    let mut due = shared
        .with_index(|index| index.claim_due(now, limit))
        .into_iter();
    let mut claims = Claims {
        shared: shared.clone(),
        claimed: Claimed::default(),
        exact: Vec::new(),
    };
    let mut taken = 0;
    let put_back = |gid: &Gid, exact| shared.with_index(|index| index.put_back(gid, exact));
    let mut failure = None;
    for (gid, exact) in due.by_ref() {
        match load(shared, &gid) {
            // It ended between our two looks.
            Ok(record)
                if record
                    .as_ref()
                    .is_none_or(|record| record.index.status.is_final()) => {}
            Ok(None) => {}
            Ok(Some(record)) => {
                taken += content_bytes(&record);
                if !claims.claimed.records.is_empty() && taken > bytes {
                    put_back(&gid, exact);
                    break;
                }
                claims.claimed.records.push(Record { exact, ..record });
                claims.exact.push(exact);
            }
            Err(error) => {
                put_back(&gid, exact);
                failure = Some(error);
                break;
            }
        }
    }
    due.for_each(|(gid, exact)| put_back(&gid, exact));
    claims.claimed.next_due = shared.with_index(|index| index.next_due());
    failure.map_or(Ok(claims), Err)
}

/// A page looks at no more records than this, so that a filter that nothing matches does not read a whole store in one call.
const LOOKED_AT_MAX: usize = 50_000;

/// One page of records by gid; see [`LOOKED_AT_MAX`] for why it may be shorter than `limit` before the end.
pub(super) fn list(
    shared: &Shared,
    filter: &Filter,
    position: Option<&str>,
    limit: usize,
) -> Result<Page> {
    let buckets = shared.bucket_list();
    let snapshot = shared.db.snapshot();
    let wants = |is_final: bool| {
        filter
            .status
            .is_none_or(|status| status.is_final() == is_final)
    };
    let live = Some(&shared.live).filter(|_| wants(false));
    let ended = buckets
        .iter()
        .map(|bucket| &bucket.keyspace)
        .filter(|_| wants(true));
    let mut sources: Vec<States> = live
        .into_iter()
        .chain(ended)
        .map(|keyspace| States::after(&snapshot, keyspace, position))
        .collect();

    let (mut page, mut bytes) = (Page::default(), 0);
    for looked_at in 0.. {
        let mut first: Option<&mut States> = None;
        for source in &mut sources {
            if let Some(gid) = source.peek()?
                && first
                    .as_ref()
                    .is_none_or(|first| first.at().is_none_or(|at| gid < at))
            {
                first = Some(source);
            }
        }
        let Some((gid, value)) = first.and_then(|first| first.next.take()) else {
            return Ok(page);
        };
        let (head, state) = state(&gid, &value)?;
        if filter.matches(&head.index) {
            bytes += head.index.bytes;
            if page.records.len() == limit || (!page.records.is_empty() && bytes > PAGE_BYTES) {
                page.next = page
                    .records
                    .last()
                    .map(|record| record.gid.as_str().to_owned());
                return Ok(page);
            }
            let bucket = by_id(&buckets, head.bucket)
                .ok_or_else(|| damaged(format!("the bucket of {gid} is missing")))?;
            page.records
                .push(record(shared, gid, head, state, &bucket.keyspace)?);
        } else if looked_at >= LOOKED_AT_MAX {
            page.next = Some(gid.as_str().to_owned());
            return Ok(page);
        }
    }
    Ok(page)
}

/// The states of one keyspace by gid.
struct States {
    rest: fjall::Iter,
    next: Option<(Gid, Slice)>,
}

impl States {
    fn after(snapshot: &Snapshot, keyspace: &Keyspace, position: Option<&str>) -> States {
        let from = match position {
            Some(position) => Bound::Excluded(codec::state_key_of(position)),
            None => Bound::Included(vec![codec::STATES]),
        };
        States {
            rest: snapshot.range(keyspace, (from, Bound::Excluded(vec![codec::STATES + 1]))),
            next: None,
        }
    }

    fn at(&self) -> Option<&Gid> {
        self.next.as_ref().map(|(gid, _)| gid)
    }

    fn peek(&mut self) -> Result<Option<&Gid>> {
        if self.next.is_none()
            && let Some(item) = self.rest.next()
        {
            let (key, value) = item.into_inner().map_err(failed)?;
            let gid =
                codec::gid_of_state(&key).ok_or_else(|| damaged("a state's key is not a gid"))?;
            self.next = Some((gid, value));
        }
        Ok(self.at())
    }
}

/// A value by its whole key.
pub(super) fn kv_value(kv: &Keyspace, key: &[u8]) -> Result<Option<KvValue>> {
    let value = kv.get(key).map_err(failed)?;
    value
        .map(|value| {
            codec::decode_kv(&value)
                .map_err(|corrupt| damaged(format!("a topic's value: {corrupt}")))
        })
        .transpose()
}

/// One value.
pub(super) fn kv_get(shared: &Shared, cat: &str, key: &str) -> Result<Option<Kv>> {
    Ok(kv_value(&shared.kv, &codec::kv_key(cat, key))?.map(|value| kv(cat, key, value)))
}

fn kv(
    cat: &str,
    key: &str,
    KvValue {
        version,
        created,
        updated,
        value,
    }: KvValue,
) -> Kv {
    Kv {
        cat: cat.to_owned(),
        key: key.to_owned(),
        value,
        version,
        created,
        updated,
    }
}

/// Values of a category (all if empty) in order.
pub(super) fn kv_list(
    shared: &Shared,
    cat: &str,
    position: Option<&str>,
    limit: usize,
) -> Result<(Vec<Kv>, Option<String>)> {
    let from = match position.and_then(parse_kv_position) {
        Some((cat, key)) => Bound::Excluded(codec::kv_key(cat, key)),
        None if cat.is_empty() => Bound::Unbounded,
        None => Bound::Included(codec::kv_key(cat, "")),
    };
    let mut values: Vec<Kv> = Vec::new();
    for item in shared
        .db
        .snapshot()
        .range(&shared.kv, (from, Bound::Unbounded))
    {
        let (stored_key, value) = item.into_inner().map_err(failed)?;
        let split = std::str::from_utf8(&stored_key)
            .ok()
            .and_then(|text| text.split_once('\0'));
        let (found, key) = split.ok_or_else(|| damaged("a topic's key"))?;
        if !cat.is_empty() && found != cat {
            break;
        }
        if values.len() == limit {
            let next = values.last().map(|kv| kv_position(&kv.cat, &kv.key));
            return Ok((values, next));
        }
        let value = codec::decode_kv(&value)
            .map_err(|corrupt| damaged(format!("the topic {key}: {corrupt}")))?;
        values.push(kv(found, key, value));
    }
    Ok((values, None))
}
