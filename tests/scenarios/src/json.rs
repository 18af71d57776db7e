//! JSON with the order of its keys, which clients' goldens look at and `serde_json::Value` forgets.

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

struct Members(Vec<(String, String)>);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut all = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    all.push((key, value.get().to_owned()));
                }
                Ok(Members(all))
            }
        }
        d.deserialize_map(V)
    }
}

/// The members of an object in the order of the text, values as raw JSON.
///
/// # Panics
///
/// When the text is no JSON object.
pub fn members(object: &str) -> Vec<(String, String)> {
    match serde_json::from_str::<Members>(object) {
        Ok(Members(all)) => all,
        Err(e) => panic!("no JSON object ({e}): {object}"),
    }
}

/// The keys of an object in the order of the text.
pub fn keys(object: &str) -> Vec<String> {
    members(object).into_iter().map(|(key, _)| key).collect()
}

/// The raw value of one member.
///
/// # Panics
///
/// When there is no such member.
pub fn member(object: &str, key: &str) -> String {
    let found = members(object).into_iter().find(|(k, _)| k == key);
    found
        .unwrap_or_else(|| panic!("no member {key:?} in {object}"))
        .1
}

/// The elements of a list as raw JSON.
///
/// # Panics
///
/// When the text is no JSON list.
pub fn elements(list: &str) -> Vec<String> {
    let all: Vec<Box<RawValue>> =
        serde_json::from_str(list).unwrap_or_else(|e| panic!("no JSON list ({e}): {list}"));
    all.into_iter().map(|raw| raw.get().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_the_order_of_the_text() {
        let text = r#"{"b":1,"a":{"z":[1,{"k":2}],"y":null}}"#;
        assert_eq!(keys(text), ["b", "a"]);
        assert_eq!(keys(&member(text, "a")), ["z", "y"]);
        assert_eq!(
            elements(&member(&member(text, "a"), "z")),
            ["1", r#"{"k":2}"#]
        );
    }
}
