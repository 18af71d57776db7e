//! Whose branch a call is, as a participant reads it from a request (dtm-clients.md 2.4).

use crate::branch::{IDENTITY, IDENTITY_METADATA, Op, ROOT_BRANCH, TransType};
use crate::error::Error;
use crate::gid::{Gid, check_id};
use crate::limits::Limits;
use crate::wire::url::unescape;

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
    /// That of the message's own row, whichever branch its check-back names (rules.md 9.4).
    pub(super) fn of_message(&self) -> Identity {
        Identity {
            branch_id: ROOT_BRANCH.to_owned(),
            op: Op::MSG,
            ..self.clone()
        }
    }

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
        Identity::of(IDENTITY.map(|name| get(name).unwrap_or_default()))
    }

    /// From its texts in the order of [`IDENTITY`]. Error: `Invalid`.
    pub(crate) fn of([gid, trans_type, branch_id, op]: [&str; 4]) -> Result<Identity, Error> {
        Identity::new(trans_type, gid, branch_id, op)
    }

    /// From the query of an HTTP call, as it stands in the URL. A key that stands there twice is refused: which of its values somebody
    /// else has looked at cannot be known here. Error: `Invalid`.
    pub fn from_query(query: &str) -> Result<Identity, Error> {
        let mut values: [Option<String>; 4] = Default::default();
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let key = unescape(key);
            let Some(at) = IDENTITY.iter().position(|known| *known == key) else {
                continue;
            };
            if values[at].replace(unescape(value)).is_some() {
                return Err(Error::invalid(format!(
                    "{key} is there twice: the URL of a branch must not have parameters of this name itself"
                )));
            }
        }
        Identity::of(values.each_ref().map(|v| v.as_deref().unwrap_or_default()))
    }

    /// From the metadata of a gRPC call: `get` finds a key such as `dtm-gid`. Error: `Invalid`.
    pub fn from_metadata<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Identity, Error> {
        Identity::of(IDENTITY_METADATA.map(|key| get(key).unwrap_or_default()))
    }
}

/// A value of a query, as it stands in a URL; empty if it is not there.
pub fn query_value(query: &str, name: &str) -> String {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(key, _)| *key == name)
        .map(|(_, value)| unescape(value))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        let query = "trans_type=saga&gid=g&branch_id=01&op=action";
        assert!(Identity::from_query(query).is_ok());
        for more in ["gid=h", "gid=g", "op=compensate", "%67id=h", "branch_id="] {
            for query in [format!("{query}&{more}"), format!("{more}&{query}")] {
                let error = Identity::from_query(&query).expect_err(&query);
                assert_eq!(error.kind(), ErrorKind::Invalid, "{query}");
                assert!(error.message().contains("twice"), "{error}");
            }
        }
    }
}
