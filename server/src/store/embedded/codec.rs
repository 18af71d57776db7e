//! Keys and values of format 1. Every value starts with a version byte and a CRC-32 of all that follows it.
//!
//! Keys: `s` gid (a state) · `p` gid 0x00 part number (a part) · `r` gid 0x00 branch id 0x00 op (a registered row, whose value is the
//! number of its part). Gids, branch ids and ops hold no control characters, so no gid is taken for the prefix of another.
//! Numbers are big-endian.

use amends::coordinator::record::{Index, Part, RowKey};
use amends::{Gid, Status, TransType};
use bytes::Bytes;
use fjall::Slice;

const VERSION: u8 = 1;
const PREAMBLE: usize = 5;

/// Where and how the states of a keyspace begin.
pub(super) const STATES: u8 = b's';
/// Parts.
pub(super) const PARTS: u8 = b'p';
/// Registered rows.
pub(super) const ROWS: u8 = b'r';

/// What stands before the JSON state: the index, and where the record's parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) version: u64,
    pub(super) index: Index,
    /// The bucket that holds its parts.
    pub(super) bucket: u32,
    /// How many parts it has.
    pub(super) parts: u32,
}

/// A value that is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Corrupt {
    #[error("its checksum does not match")]
    Checksum,
    #[error("it has the unknown version {0}")]
    Version(u8),
    #[error("it is cut short")]
    Short,
    #[error("it holds a word that is not known")]
    Word,
}

pub(super) fn state_key(gid: &Gid) -> Vec<u8> {
    state_key_of(gid.as_str())
}

pub(super) fn state_key_of(gid: &str) -> Vec<u8> {
    [&[STATES], gid.as_bytes()].concat()
}

pub(super) fn part_key(gid: &Gid, number: u32) -> Vec<u8> {
    [
        &[PARTS],
        gid.as_str().as_bytes(),
        &[0],
        &number.to_be_bytes(),
    ]
    .concat()
}

pub(super) fn row_key(gid: &Gid, row: &RowKey) -> Vec<u8> {
    let mut key = branch_key(gid, &row.0);
    key.extend_from_slice(row.1.as_bytes());
    key
}

/// How the keys of all rows of a branch begin.
pub(super) fn branch_key(gid: &Gid, branch_id: &str) -> Vec<u8> {
    [
        &[ROWS],
        gid.as_str().as_bytes(),
        &[0],
        branch_id.as_bytes(),
        &[0],
    ]
    .concat()
}

pub(super) fn kv_key(cat: &str, key: &str) -> Vec<u8> {
    [cat.as_bytes(), &[0], key.as_bytes()].concat()
}

/// The gid of a state's key.
pub(super) fn gid_of_state(key: &[u8]) -> Option<Gid> {
    let gid = key.strip_prefix(&[STATES])?;
    std::str::from_utf8(gid).ok().map(Gid::stored)
}

/// The gid of a part's or row's key, and what follows it.
pub(super) fn gid_and_rest(key: &[u8]) -> Option<(Gid, &[u8])> {
    let key = key.get(1..)?;
    let end = key.iter().position(|byte| *byte == 0)?;
    Some((
        Gid::stored(std::str::from_utf8(&key[..end]).ok()?),
        &key[end + 1..],
    ))
}

/// A value in the making, in memory that is used for one after the other.
struct Writer<'a>(&'a mut Vec<u8>);

impl Writer<'_> {
    fn new(buffer: &mut Vec<u8>) -> Writer<'_> {
        buffer.clear();
        buffer.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
        Writer(buffer)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A text with its length before it; texts are ids and hosts, whose limits are far below 64 KiB.
    fn text(&mut self, text: &str) {
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
        self.bytes(&length.to_be_bytes());
        self.bytes(&text.as_bytes()[..usize::from(length)]);
    }

    fn finish(self) -> Slice {
        let crc = crc32fast::hash(&self.0[PREAMBLE..]);
        self.0[1..PREAMBLE].copy_from_slice(&crc.to_be_bytes());
        Slice::from(&**self.0)
    }
}

/// A value being read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Checks version and checksum.
    fn open(value: &'a [u8]) -> Result<Reader<'a>, Corrupt> {
        let (preamble, rest) = value
            .split_first_chunk::<PREAMBLE>()
            .ok_or(Corrupt::Short)?;
        let [version, crc @ ..] = *preamble;
        if version != VERSION {
            return Err(Corrupt::Version(version));
        }
        if crc32fast::hash(rest) != u32::from_be_bytes(crc) {
            return Err(Corrupt::Checksum);
        }
        Ok(Reader(rest))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(Corrupt::Short)?;
        self.0 = rest;
        Ok(*array)
    }

    fn u8(&mut self) -> Result<u8, Corrupt> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Corrupt> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Corrupt> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Corrupt> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, Corrupt> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&'a str, Corrupt> {
        let length = usize::from(self.u16()?);
        let (text, rest) = self.0.split_at_checked(length).ok_or(Corrupt::Short)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| Corrupt::Word)
    }
}

const DRIVEN: u8 = 1;
const HAS_DUE: u8 = 2;
const HAS_FINISHED: u8 = 4;
const HAS_HOST: u8 = 8;
const HAS_QUIET: u8 = 16;
const ATTENTION: u8 = 32;

fn status_code(status: Status) -> u8 {
    match status {
        Status::Prepared => 1,
        Status::Submitted => 2,
        Status::Aborting => 3,
        Status::Succeed => 4,
        Status::Failed => 5,
    }
}

fn type_code(trans_type: TransType) -> u8 {
    match trans_type {
        TransType::Msg => 1,
        TransType::Saga => 2,
        TransType::Tcc => 3,
        TransType::Xa => 4,
        TransType::Workflow => 5,
    }
}

pub(super) fn encode_state(buffer: &mut Vec<u8>, head: &Head, state: &[u8]) -> Slice {
    let index = &head.index;
    let hosts = index.failing_hosts.join(" ");
    let mut value = Writer::new(buffer);
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let flags = flag(index.driven, DRIVEN)
        | flag(index.due.is_some(), HAS_DUE)
        | flag(index.finished.is_some(), HAS_FINISHED)
        | flag(!hosts.is_empty(), HAS_HOST)
        | flag(index.quiet.is_some(), HAS_QUIET)
        | flag(index.attention, ATTENTION);
    value.bytes(&[
        status_code(index.status),
        type_code(index.trans_type),
        flags,
    ]);
    value.bytes(&head.version.to_be_bytes());
    value.bytes(&index.due.unwrap_or(0).to_be_bytes());
    value.bytes(&index.quiet.unwrap_or(0).to_be_bytes());
    value.bytes(&index.created.to_be_bytes());
    value.bytes(&index.finished.unwrap_or(0).to_be_bytes());
    value.bytes(&index.attempts.to_be_bytes());
    value.bytes(&index.branches.to_be_bytes());
    value.bytes(&index.bytes.to_be_bytes());
    value.bytes(&head.bucket.to_be_bytes());
    value.bytes(&head.parts.to_be_bytes());
    // Hosts hold no spaces.
    value.text(&hosts);
    value.bytes(state);
    value.finish()
}

pub(super) fn decode_state(value: &[u8]) -> Result<(Head, &[u8]), Corrupt> {
    let mut value = Reader::open(value)?;
    let status = value.u8()?;
    let status = Status::ALL
        .iter()
        .copied()
        .find(|s| status_code(*s) == status)
        .ok_or(Corrupt::Word)?;
    let trans_type = value.u8()?;
    let trans_type = TransType::ALL
        .iter()
        .copied()
        .find(|t| type_code(*t) == trans_type)
        .ok_or(Corrupt::Word)?;
    let flags = value.u8()?;
    let has = |flag: u8| flags & flag != 0;
    let version = value.u64()?;
    let due = Some(value.i64()?).filter(|_| has(HAS_DUE));
    let quiet = Some(value.i64()?).filter(|_| has(HAS_QUIET));
    let created = value.i64()?;
    let finished = Some(value.i64()?).filter(|_| has(HAS_FINISHED));
    let attempts = value.u32()?;
    let (branches, bytes) = (value.u32()?, value.u64()?);
    let (bucket, parts) = (value.u32()?, value.u32()?);
    let hosts = value.text()?;
    let failing_hosts = if has(HAS_HOST) {
        hosts.split(' ').map(str::to_owned).collect()
    } else {
        Vec::new()
    };
    let index = Index {
        status,
        trans_type,
        due,
        quiet,
        created,
        finished,
        attempts,
        failing_hosts,
        attention: has(ATTENTION),
        branches,
        bytes,
        driven: has(DRIVEN),
    };
    Ok((
        Head {
            version,
            index,
            bucket,
            parts,
        },
        value.0,
    ))
}

pub(super) fn encode_part(buffer: &mut Vec<u8>, part: &Part) -> Slice {
    let mut value = Writer::new(buffer);
    value.bytes(&part.created.to_be_bytes());
    let count = u32::try_from(part.keys.len()).unwrap_or(u32::MAX);
    value.bytes(&count.to_be_bytes());
    for (branch_id, op) in &part.keys {
        value.text(branch_id);
        value.text(op);
    }
    value.bytes(&part.bytes);
    value.finish()
}

pub(super) fn decode_part(value: &[u8]) -> Result<Part, Corrupt> {
    let mut value = Reader::open(value)?;
    let created = value.i64()?;
    let count = value.u32()?;
    let keys = (0..count)
        .map(|_| Ok((value.text()?.to_owned(), value.text()?.to_owned())))
        .collect::<Result<_, Corrupt>>()?;
    Ok(Part {
        keys,
        created,
        bytes: Bytes::copy_from_slice(value.0),
    })
}

/// A topic's value without its category and key, which are in the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KvValue {
    pub(super) version: u64,
    pub(super) created: i64,
    pub(super) updated: i64,
    pub(super) value: String,
}

pub(super) fn encode_kv(buffer: &mut Vec<u8>, kv: &KvValue) -> Slice {
    let mut value = Writer::new(buffer);
    value.bytes(&kv.version.to_be_bytes());
    value.bytes(&kv.created.to_be_bytes());
    value.bytes(&kv.updated.to_be_bytes());
    value.bytes(kv.value.as_bytes());
    value.finish()
}

pub(super) fn decode_kv(value: &[u8]) -> Result<KvValue, Corrupt> {
    let mut value = Reader::open(value)?;
    let (version, created, updated) = (value.u64()?, value.i64()?, value.i64()?);
    let value = String::from_utf8(value.0.to_vec()).map_err(|_| Corrupt::Word)?;
    Ok(KvValue {
        version,
        created,
        updated,
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let index = Index {
            status: Status::Aborting,
            trans_type: TransType::Xa,
            due: Some(-7),
            quiet: Some(60_000),
            created: 1_700_000_000_000,
            finished: None,
            attempts: 3,
            failing_hosts: vec!["bank:8080".to_owned(), "http://shop".to_owned()],
            attention: true,
            branches: 1_000,
            bytes: 1 << 36,
            driven: true,
        };
        Head {
            version: 9,
            index,
            bucket: 4,
            parts: 1_001,
        }
    }

    #[test]
    fn states_round_trip_and_a_flipped_bit_is_seen() {
        let mut ended = head();
        ended.index = Index {
            status: Status::Failed,
            due: None,
            quiet: None,
            finished: Some(5),
            failing_hosts: Vec::new(),
            driven: false,
            ..ended.index
        };
        for head in [head(), ended] {
            let value = encode_state(&mut Vec::new(), &head, br#"{"a":1}"#);
            assert_eq!(decode_state(&value), Ok((head, &br#"{"a":1}"#[..])));
            for at in 0..value.len() {
                let mut flipped = value.to_vec();
                flipped[at] ^= 1;
                assert!(decode_state(&flipped).is_err(), "bit flip at {at}");
            }
        }
    }

    #[test]
    fn parts_and_topics_round_trip() {
        let keys = vec![
            ("01".to_owned(), "confirm".to_owned()),
            ("01".to_owned(), "cancel".to_owned()),
        ];
        let part = Part {
            keys,
            created: 77,
            bytes: Bytes::from_static(b"\0payload"),
        };
        assert_eq!(decode_part(&encode_part(&mut Vec::new(), &part)), Ok(part));
        let kv = KvValue {
            version: 2,
            created: 1,
            updated: 3,
            value: "[\"http://a\"]".to_owned(),
        };
        assert_eq!(decode_kv(&encode_kv(&mut Vec::new(), &kv)), Ok(kv));
    }

    #[test]
    fn a_gid_that_is_a_prefix_has_its_own_keys() {
        let (short, long) = (Gid::stored("pa"), Gid::stored("pa0"));
        let prefix = &part_key(&short, 0)[..4];
        assert!(!part_key(&long, 0).starts_with(prefix));
        assert_eq!(
            gid_and_rest(&part_key(&long, 258)),
            Some((long.clone(), &[0, 0, 1, 2][..]))
        );
        assert_eq!(gid_of_state(&state_key(&long)), Some(long));
    }
}
