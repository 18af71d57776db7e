//! Whose branch a call is, as a participant reads it from a request (dtm-clients.md 2.4).

use crate::branch::{Op, TransType};
use crate::error::Error;
use crate::gid::{Gid, check_id};
use crate::limits::Limits;
use crate::wire::call::unescape;

/// The identity of a branch call. Its texts fit the columns of the barrier's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Mode of the transaction.
    pub trans_type: TransType,
    /// Global transaction id.
    pub gid: Gid,
    /// Branch id.
    pub branch_id: String,
    /// Operation.
    pub op: Op,
}

impl Identity {
    /// Checks the four texts. A text that is too long is an error and never cut: MySQL would cut it itself, and two branches would be one.
    /// Error: `Invalid`.
    pub fn new(trans_type: &str, gid: &str, branch_id: &str, op: &str) -> Result<Identity, Error> {
        let limits = Limits::default();
        let trans_type = TransType::parse(trans_type).ok_or_else(|| {
            Error::invalid(format!(
                "trans_type is {trans_type:?}: this request is no branch call of a coordinator"
            ))
        })?;
        let gid = Gid::new(gid, &limits)?;
        check_id("branch_id", branch_id, limits.branch_id)?;
        check_id("op", op, limits.op)?;
        // MySQL's collations ignore spaces at the end.
        for (name, text) in [("gid", gid.as_str()), ("branch_id", branch_id), ("op", op)] {
            if text.ends_with(' ') {
                return Err(Error::invalid(format!("{name} ends with a space")));
            }
        }
        Ok(Identity {
            trans_type,
            gid,
            branch_id: branch_id.to_owned(),
            op: Op::new(op),
        })
    }

    /// From named values, which a host takes out of what it has. Error: `Invalid`.
    pub fn from_lookup<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Identity, Error> {
        let value = |name: &str| get(name).unwrap_or_default();
        Identity::new(
            value("trans_type"),
            value("gid"),
            value("branch_id"),
            value("op"),
        )
    }

    /// From the query of an HTTP call, as it stands in the URL. Error: `Invalid`.
    pub fn from_query(query: &str) -> Result<Identity, Error> {
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(key, _)| *key == name)
                .map(|(_, value)| unescape(value))
                .unwrap_or_default()
        };
        Identity::new(
            &value("trans_type"),
            &value("gid"),
            &value("branch_id"),
            &value("op"),
        )
    }

    /// From the metadata of a gRPC call: `get` finds a key such as `dtm-gid`. Error: `Invalid`.
    pub fn from_metadata<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Identity, Error> {
        Identity::from_lookup(|name| get(&format!("dtm-{name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_places_of_an_identity() {
        let want = Identity::new("saga", "g 1/ü", "01", "action").expect("an identity");
        assert_eq!(
            Identity::from_query("x=1&branch_id=01&gid=g+1%2F%C3%BC&op=action&trans_type=saga"),
            Ok(want.clone())
        );
        let metadata = |key: &str| match key {
            "dtm-trans_type" => Some("saga"),
            "dtm-gid" => Some("g 1/ü"),
            "dtm-branch_id" => Some("01"),
            "dtm-op" => Some("action"),
            _ => None,
        };
        assert_eq!(Identity::from_metadata(metadata), Ok(want));
    }

    #[test]
    fn what_is_no_branch_call_is_refused() {
        let long = "g".repeat(128);
        assert!(Identity::new("saga", &long, &long, &"o".repeat(45)).is_ok());
        for (t, g, b, o) in [
            ("", "g", "01", "action"),
            ("zzz", "g", "01", "action"),
            ("saga", "", "01", "action"),
            ("saga", "g;h", "01", "action"),
            ("saga", "g ", "01", "action"),
            ("saga", "g", "", "action"),
            ("saga", "g", "01", ""),
            ("saga", &format!("{long}g"), "01", "action"),
            ("saga", "g", &format!("{long}g"), "action"),
            ("saga", "g", "01", &"o".repeat(46)),
        ] {
            assert!(Identity::new(t, g, b, o).is_err(), "{t} {g} {b} {o}");
        }
        assert!(Identity::from_query("").is_err());
    }
}
