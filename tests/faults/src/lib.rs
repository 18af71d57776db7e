//! What the fault tests and the process they torment have in common: which data belongs to a gid, so that either side can tell.

use amends::coordinator::record::{Index, Part};
use amends::{Millis, Status, TransType};
use bytes::Bytes;

/// How long the store under load keeps what ended, in the milliseconds of its clock.
pub const EXPIRE: Millis = 60_000;
/// Its clock runs so much faster than time, so that buckets come and go while a test runs.
pub const CLOCK_SPEED: Millis = 20;

/// The content of a part: repeatable, different for every part, and long for some.
pub fn content(gid: &str, number: u32) -> Bytes {
    let mut seed = gid
        .bytes()
        .chain(number.to_be_bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
    let length = if seed.is_multiple_of(16) {
        20_000
    } else {
        100 + seed % 900
    };
    let bytes = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    });
    bytes.take(length as usize).collect()
}

/// The state at a version.
pub fn state(version: u64) -> Bytes {
    Bytes::from(format!("{{\"version\":{version}}}"))
}

/// A part of a record, with a row of its own.
pub fn part(gid: &str, number: u32, created: Millis) -> Part {
    let row = (format!("{:02}", number + 1), "try".to_owned());
    Part {
        keys: vec![row],
        created,
        bytes: content(gid, number),
    }
}

/// The index of a record with so many parts, under way or ended.
pub fn index(gid: &str, parts: u32, created: Millis, now: Millis, ended: bool) -> Index {
    Index {
        status: if ended {
            Status::Succeed
        } else {
            Status::Prepared
        },
        trans_type: TransType::Tcc,
        due: Some(now + EXPIRE).filter(|_| !ended),
        quiet: None,
        created,
        finished: Some(now).filter(|_| ended),
        attempts: 0,
        failing_hosts: Vec::new(),
        attention: false,
        branches: parts,
        bytes: (0..parts)
            .map(|number| content(gid, number).len() as u64)
            .sum(),
        driven: !ended,
    }
}
