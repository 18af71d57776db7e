//! The name of a branch in its database.

use crate::gid::Gid;
use sha2::{Digest, Sha256};
use std::fmt;

/// Longest name that MySQL takes in one part, bytes.
const XID_MAX: usize = 64;

/// The name of an XA branch or prepared transaction. It holds nothing that would have to be escaped between quotes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Xid(String);

impl Xid {
    /// `gid-branch`, as DTM's clients name it, if that is at most 64 bytes of `A-Za-z0-9_.:{}-` and the branch id has no `-`; else 64
    /// hexadecimal digits of a hash of both. Two branches never have one name: in the first form the last `-` is where the branch id begins,
    /// and the second has no `-`. It must never change: a branch that is prepared is found by it.
    pub fn new(gid: &Gid, branch_id: &str) -> Xid {
        let gid = gid.as_str();
        let plain = |text: &str, more: &[u8]| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        let short = gid.len() + 1 + branch_id.len() <= XID_MAX;
        if short && plain(gid, b"_.:{}-") && plain(branch_id, b"_.:{}") {
            return Xid(format!("{gid}-{branch_id}"));
        }
        let mut hash = Sha256::new();
        // The length keeps the two apart.
        hash.update(format!("{}:", gid.len()));
        hash.update(gid);
        hash.update(branch_id);
        let digits = hash.finalize();
        Xid(digits.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xid(gid: &str, branch_id: &str) -> String {
        Xid::new(&Gid::stored(gid), branch_id).0
    }

    /// Frozen: a branch that an older version prepared must be found.
    #[test]
    fn names_never_change() {
        let long = "g".repeat(128);
        for (gid, branch_id, want) in [
            ("order-7", "01", "order-7-01"),
            ("{a}.b:c_D", "0102", "{a}.b:c_D-0102"),
            (&long[..61], "01", &format!("{}-01", &long[..61])),
            (
                &long[..62],
                "01",
                "e260eb66a08346a7587da51e4df1b91d73af91f1d7a910c7cbdbc6b17194ea72",
            ),
            (
                &long,
                "01",
                "02f2bca05130f101e3ca717c6339f502a048729523a18427f77707733c935fbf",
            ),
            (
                "it's",
                "01",
                "dd5d87f19605ad5f165f1dcd26eefd5227e84d07eb81a28a42f4eb234bebe9cb",
            ),
            (
                "ü",
                "01",
                "818513211750764283ef984fc61999f2ea7e7ccf6065e78a1d9d1a2969369400",
            ),
        ] {
            assert_eq!(xid(gid, branch_id), want);
        }
    }

    #[test]
    fn two_branches_never_have_one_name() {
        for ((a, b), (c, d)) in [
            (("a-b", "c"), ("a", "b-c")),
            (("ü1", "01"), ("ü", "101")),
            (("a-01", "01"), ("a", "01-01")),
        ] {
            assert_ne!(xid(a, b), xid(c, d));
        }
    }

    #[test]
    fn nothing_has_to_be_escaped() {
        for gid in [
            "'; drop table account; --",
            "a\\",
            "a b",
            "\u{1F600}",
            "\"",
            "`",
        ] {
            let name = xid(gid, "01");
            let plain = |b: u8| b.is_ascii_hexdigit();
            assert!(name.len() == 64 && name.bytes().all(plain), "{name}");
        }
    }
}
