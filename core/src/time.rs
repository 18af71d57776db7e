//! Time as a value: milliseconds of the Unix epoch in UTC, and its RFC 3339 text.

use std::time::Duration;

/// Milliseconds since 1970-01-01T00:00:00Z. All deadlines, due times and ages are computed in this unit.
pub type Millis = i64;

/// One second in [`Millis`].
pub const SECOND: Millis = 1_000;

/// RFC 3339 text in UTC with milliseconds, as DTM's answers show times: `2026-11-22T17:37:39.461Z`.
/// A value outside of the years 0–9999 is shown as the epoch.
pub fn rfc3339(at: Millis) -> String {
    let at = jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{at:.3}")
}

/// As a duration; none for a negative time.
pub fn duration(time: Millis) -> Duration {
    Duration::from_millis(u64::try_from(time).unwrap_or(0))
}

/// Whole seconds in milliseconds; saturates instead of overflowing.
pub fn seconds(s: u64) -> Millis {
    Millis::try_from(s)
        .unwrap_or(Millis::MAX / SECOND)
        .saturating_mul(SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_rfc3339_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_795_369_059_461), "2026-11-22T17:37:39.461Z");
        assert_eq!(rfc3339(Millis::MAX), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn seconds_saturate() {
        assert_eq!(seconds(3), 3_000);
        assert!(seconds(u64::MAX) > 0);
    }
}
