//! Every limit, in one place (rules.md 5). Each is configurable; each is tested at the limit and one past it.

/// Longest reason that a client sends, bytes: DTM's column is 1,024 characters.
pub const REASON_MAX: usize = 1_023;

/// Branches of one parent whose ids the client makes: two digits.
pub(crate) const CHILDREN_MAX: usize = 99;

/// Upper bounds on what a request may hold. Lengths are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Global transaction id.
    pub gid: usize,
    /// Branch id.
    pub branch_id: usize,
    /// Operation name.
    pub op: usize,
    /// Any URL.
    pub url: usize,
    /// One payload.
    pub payload: usize,
    /// Everything of one transaction together.
    pub transaction: usize,
    /// Distinct branch ids of one transaction, after topics were expanded.
    pub branches: usize,
    /// An HTTP body.
    pub body: usize,
    /// `custom_data`.
    pub custom_data: usize,
    /// A workflow's result.
    pub result: usize,
    /// Number of branch headers.
    pub headers: usize,
    /// All branch headers together.
    pub header_bytes: usize,
    /// A topic's name.
    pub topic: usize,
    /// Subscribers of one topic.
    pub subscribers: usize,
    /// What is kept of a rollback reason or of a branch's last error; longer texts are cut.
    pub reason: usize,
    /// What is read of a branch's answer.
    pub answer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const KIB: usize = 1 << 10;
        const MIB: usize = 1 << 20;
        Limits {
            gid: 128,
            branch_id: 128,
            op: 45,
            url: 2_048,
            payload: MIB,
            transaction: 64 * MIB,
            branches: 1_000,
            body: 64 * MIB,
            custom_data: MIB,
            result: MIB,
            headers: 64,
            header_bytes: 8 * KIB,
            topic: 128,
            subscribers: 1_000,
            reason: 4 * KIB,
            answer: 64 * KIB,
        }
    }
}

/// Cuts a text to at most `max` bytes at a character and marks the cut with `…`.
pub fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    const MARK: &str = "…";
    let mut end = max.saturating_sub(MARK.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{MARK}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_marked_and_falls_on_a_character() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcdef", 5), "ab…");
        assert_eq!(cut("ää", 4), "ää");
        assert_eq!(cut("äää", 5), "ä…");
        assert!(cut(&"é".repeat(5_000), 4_096).len() <= 4_096);
    }
}
