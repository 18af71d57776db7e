//! The global transaction id.

use crate::error::{Error, ErrorKind};
use crate::limits::Limits;
use std::fmt;
use std::sync::Arc;

/// A global transaction id: chosen by the client, unique in a store, compared byte for byte. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gid(Arc<str>);

/// DTM's base-57 alphabet of server-made gids.
const ALPHABET: &[u8; 57] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

impl Gid {
    /// Checks a client's gid: not empty, at most `limits.gid` bytes, no `;` and no control characters (rules.md 2.1: refused, not
    /// rewritten).
    pub fn new(text: &str, limits: &Limits) -> Result<Gid, Error> {
        check_id("gid", text, limits.gid)?;
        Ok(Gid(text.into()))
    }

    /// A gid that was checked when it was stored.
    pub fn stored(text: &str) -> Gid {
        Gid(text.into())
    }

    /// A new gid of 22 characters from 16 random bytes, in the form DTM's server makes them.
    pub fn random(bytes: [u8; 16]) -> Gid {
        let mut n = u128::from_be_bytes(bytes);
        let mut text = [0u8; 22];
        for slot in text.iter_mut().rev() {
            *slot = ALPHABET[(n % 57) as usize];
            n /= 57;
        }
        Gid(String::from_utf8_lossy(&text).into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Refuses an empty, too long or unprintable identifier (gid, branch_id, op), naming field, limit and fix.
pub(crate) fn check_id(field: &'static str, text: &str, max: usize) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::invalid(format!("no {field} specified")));
    }
    if text.len() > max {
        return Err(Error::invalid(format!(
            "{field} has {} bytes, the limit is {max}: use a shorter one",
            text.len()
        )));
    }
    // Without a way out of the loop it looks at many bytes at once.
    let odd = |found, b: u8| found | !(b' '..0x7f).contains(&b) | (b == b';');
    let mut bad = text.chars().filter(|c| c.is_control() || *c == ';');
    if text.bytes().fold(false, odd)
        && let Some(c) = bad.next()
    {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{field} holds the character {c:?}: control characters and ';' are not allowed"
            ),
        ));
    }
    Ok(())
}

impl fmt::Debug for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gids_are_refused_not_rewritten() {
        let limits = Limits::default();
        for bad in ["", "a;b", "a\nb", "a\rb", "a\u{7f}", "a\u{85}"] {
            assert_eq!(
                Gid::new(bad, &limits).expect_err(bad).kind(),
                ErrorKind::Invalid
            );
        }
        let longest = "g".repeat(limits.gid);
        assert_eq!(
            Gid::new(&longest, &limits).expect("at the limit").as_str(),
            longest
        );
        assert!(Gid::new(&"g".repeat(limits.gid + 1), &limits).is_err());
        for good in ["quotes ' \" and spaces", "größe"] {
            assert!(Gid::new(good, &limits).is_ok(), "{good}");
        }
    }

    #[test]
    fn random_gids_have_dtms_form() {
        let gid = Gid::random([0xff; 16]);
        assert_eq!(gid.as_str().len(), 22);
        assert!(gid.as_str().bytes().all(|b| ALPHABET.contains(&b)));
        assert_ne!(gid, Gid::random([0xfe; 16]));
    }
}
