//! A step of a saga or message, as requests and records hold it.

use super::request::{Pairs, Strings};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use std::borrow::Cow;
use std::sync::Arc;

/// Keys and texts of a step, in the order of keys: mostly `action` and `compensate`. The texts are shared with the rows that are made of
/// them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step(Vec<(Cow<'static, str>, Arc<str>)>);

impl Step {
    /// The text of a key.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, text)| text)
    }

    /// Sets a key's text.
    pub fn insert(&mut self, key: &str, text: impl Into<Arc<str>>) {
        match self.0.binary_search_by(|(k, _)| (**k).cmp(key)) {
            Ok(at) => self.0[at].1 = text.into(),
            Err(at) => {
                let key = match key {
                    "action" => "action".into(),
                    "compensate" => "compensate".into(),
                    other => other.to_owned().into(),
                };
                self.0.insert(at, (key, text.into()));
            }
        }
    }

    /// Keys and texts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<str>)> {
        self.0.iter().map(|(key, text)| (&**key, text))
    }

    /// Drops those that are not to be kept.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str, &str) -> bool) {
        self.0.retain(|(key, text)| keep(key, text));
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Step {
    fn from(pairs: [(&str, &str); N]) -> Step {
        let mut step = Step::default();
        for (key, text) in pairs {
            step.insert(key, text);
        }
        step
    }
}

impl Pairs for Step {
    fn put(&mut self, key: Cow<'_, str>, text: Cow<'_, str>) {
        self.insert(&key, &*text);
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(key, text)| (key, &**text)))
    }
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Strings::deserialize(deserializer).map(|strings| strings.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_maps_in_the_order_of_their_keys() {
        let sent = r#"{"x":"1","compensate":"http:\/\/c","action":"http://a","none":null,"x":"2"}"#;
        let step: Step = serde_json::from_str(sent).expect("a step");
        let same = Step::from([
            ("action", "http://a"),
            ("compensate", "http://c"),
            ("x", "2"),
        ]);
        assert_eq!(step, same);
        assert_eq!(step.get("action").map(|a| &**a), Some("http://a"));
        assert_eq!(step.get("none"), None);
        assert_eq!(
            serde_json::to_string(&step).expect("JSON"),
            r#"{"action":"http://a","compensate":"http://c","x":"2"}"#
        );
        let empty: Step = serde_json::from_str("[]").expect("PHP's empty map");
        assert_eq!(empty, Step::default());
        assert!(serde_json::from_str::<Step>(r#"{"action":1}"#).is_err());
    }
}
