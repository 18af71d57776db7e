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
        self.push(key, text);
        self.done();
    }

    fn push(&mut self, key: &str, text: impl Into<Arc<str>>) {
        let key = match key {
            "action" => "action".into(),
            "compensate" => "compensate".into(),
            other => other.to_owned().into(),
        };
        self.0.push((key, text.into()));
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
        self.push(&key, &*text);
    }

    /// The order of keys, and of several texts of a key the last: once for all, for a client may send any number of keys.
    fn done(&mut self) {
        if !self.0.is_sorted_by(|(a, _), (b, _)| a < b) {
            self.0.reverse();
            self.0.sort_by(|(a, _), (b, _)| a.cmp(b));
            self.0.dedup_by(|(later, _), (kept, _)| later == kept);
        }
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

    #[test]
    fn keys_in_the_worst_order_take_no_longer_than_others() {
        let keys = (0..200_000).rev().map(|n| format!("\"{n:06}\":\"\""));
        let sent = format!("{{{}}}", keys.collect::<Vec<_>>().join(","));
        // One that put each into its place at once would not end within minutes.
        let step: Step = serde_json::from_str(&sent).expect("a step");
        assert!(step.iter().map(|(key, _)| key).is_sorted());
        assert_eq!(step.iter().count(), 200_000);
    }
}
