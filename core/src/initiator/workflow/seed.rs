//! Reading what was recorded so that it is the same in each run: a seed, and what it grows into; a time.

use crate::error::{Error, ErrorKind};
use crate::time::Millis;

/// More random bytes, the `n`th from a seed. For ids and the like, not for secrets.
pub fn derived(seed: &[u8], n: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (at, byte) in seed.iter().enumerate() {
        bytes[at % 16] ^= byte;
    }
    let seed = u128::from_be_bytes(bytes);
    let high = mixed(((seed >> 64) as u64).wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let low = mixed((seed as u64).wrapping_add(high));
    (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
}

/// A UUID of version 4 of random bytes.
pub fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// A recorded time, ms since 1970. Error: `Internal` for what is none.
pub fn time_of(recorded: &[u8]) -> Result<Millis, Error> {
    let text = String::from_utf8_lossy(recorded);
    text.parse()
        .map_err(|_| Error::new(ErrorKind::Internal, format!("{text:?} is no time")))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn mixed(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_always_grows_into_the_same() {
        let first = derived(&[7; 16], 1);
        // Frozen: a workflow that is replayed by a newer version must see what it saw.
        assert_eq!(u128::from_be_bytes(first), SEEN);
        let all: BTreeSet<_> = (0..1_000).map(|n| derived(&[7; 16], n)).collect();
        assert_eq!(all.len(), 1_000);
        assert!(!all.contains(&derived(&[8; 16], 1)));
    }

    const SEEN: u128 = 31_583_238_004_466_438_761_758_516_145_228_634_532;
}
