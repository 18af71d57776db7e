//! Query parameters, form-decoded. An empty one counts as absent.

use amends::Error;
use amends::wire::url::unescape;
use std::ops::RangeInclusive;

/// The query of a URL.
pub(super) struct Params<'a>(&'a str);

impl<'a> Params<'a> {
    pub(super) fn new(query: Option<&'a str>) -> Params<'a> {
        Params(query.unwrap_or_default())
    }

    /// The first parameter of this name.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let named = |pair: &'a str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name || key.contains('%') && unescape(key) == name).then_some(value)
        };
        self.0
            .split('&')
            .find_map(named)
            .filter(|value| !value.is_empty())
            .map(unescape)
    }

    /// The parameter's text, empty if it is absent.
    pub(super) fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default()
    }

    /// A whole number, in DTM's words if it is none.
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, Error> {
        let number = |text: String| {
            text.parse()
                .map_err(|_| Error::invalid(format!("convert to int error: {text}")))
        };
        self.get(name).map(number).transpose()
    }

    /// A whole number within a range.
    pub(super) fn within(
        &self,
        name: &str,
        default: i64,
        range: RangeInclusive<i64>,
    ) -> Result<i64, Error> {
        let n = self.number(name)?.unwrap_or(default);
        if range.contains(&n) {
            return Ok(n);
        }
        Err(Error::invalid(format!(
            "{name} is {n}: it must be between {} and {}",
            range.start(),
            range.end()
        )))
    }

    /// A word out of a closed list.
    pub(super) fn word<T: Copy + std::fmt::Display>(
        &self,
        name: &str,
        parse: fn(&str) -> Option<T>,
        all: &[T],
    ) -> Result<Option<T>, Error> {
        self.get(name)
            .map(|word| known(name, &word, parse, all))
            .transpose()
    }
}

/// The value of a word out of a closed list.
pub(super) fn known<T: Copy + std::fmt::Display>(
    name: &str,
    word: &str,
    parse: fn(&str) -> Option<T>,
    all: &[T],
) -> Result<T, Error> {
    parse(word).ok_or_else(|| {
        let known: Vec<String> = all.iter().map(T::to_string).collect();
        Error::invalid(format!(
            "{name} is {word:?}: it must be one of {}",
            known.join(", ")
        ))
    })
}

/// Decodes a segment of a path, where `+` stands for itself.
pub(super) fn path_segment(raw: &str) -> String {
    unescape(&raw.replace('+', "%2B"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use amends::Status;

    #[test]
    fn parameters_are_form_decoded() {
        let p = Params::new(Some(
            "gid=a+b%2Fc&position=&url=http://h/a?x=1&limit=12&%67=x",
        ));
        assert_eq!(p.text("gid"), "a b/c");
        assert_eq!(p.get("position"), None);
        assert_eq!(p.get("none"), None);
        assert_eq!(p.text("url"), "http://h/a?x=1");
        assert_eq!(p.text("g"), "x");
        assert_eq!(p.number("limit").expect("a number"), Some(12));
        assert_eq!(Params::new(None).get("gid"), None);
        assert_eq!(path_segment("a+b%20c"), "a+b c");
    }

    #[test]
    fn numbers_and_words_are_checked() {
        let p = Params::new(Some(
            "limit=abc&zero=0&top=1000&over=1001&status=weird&ok=failed",
        ));
        assert_eq!(
            p.number("limit").expect_err("no number").message(),
            "convert to int error: abc"
        );
        assert_eq!(p.within("none", 100, 1..=1_000).expect("the default"), 100);
        assert_eq!(
            p.within("top", 100, 1..=1_000).expect("at the limit"),
            1_000
        );
        assert_eq!(
            p.within("over", 100, 1..=1_000)
                .expect_err("beyond")
                .message(),
            "over is 1001: it must be between 1 and 1000"
        );
        assert!(p.within("zero", 100, 1..=1_000).is_err());
        assert_eq!(
            p.word("ok", Status::parse, Status::ALL).expect("known"),
            Some(Status::Failed)
        );
        let unknown = p
            .word("status", Status::parse, Status::ALL)
            .expect_err("unknown");
        assert!(unknown.message().contains(
            "\"weird\": it must be one of prepared, submitted, aborting, succeed, failed"
        ));
    }
}
