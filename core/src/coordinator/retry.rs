//! When a branch is called again (rules.md 4): counted per branch, capped, with jitter from given random bits.

use super::event::Env;
use super::transaction::{RowState, Transaction};
use crate::branch::{BranchStatus, Op, Status, TransType};
use crate::options::Policy;
use crate::time::Millis;

/// base·2ⁿ, at most the cap (or the base, where that is larger).
pub fn backoff(base: Millis, errors: u32, policy: &Policy) -> Millis {
    let doubled = base
        .checked_shl(errors.min(62))
        .filter(|d| *d >= base && *d >> errors.min(62) == base)
        .unwrap_or(Millis::MAX);
    doubled.min(policy.retry_cap.max(base))
}

/// Pause before the i-th quick retry of an action with a retry limit.
pub fn quick(base: Millis, retry: u32) -> Millis {
    (100i64 << retry.min(30)).min(base)
}

/// The delay with 0…10 % on top.
pub(crate) fn jittered(delay: Millis, random: u64) -> Millis {
    delay.saturating_add(delay / 1_000 * (random % 101) as Millis)
}

/// Whether an alert is due at this number of consecutive errors: at the limit, and at each doubling of it.
pub(crate) fn alerts_at(errors: u32, limit: u32) -> bool {
    limit > 0
        && errors >= limit
        && errors.is_multiple_of(limit)
        && (errors / limit).is_power_of_two()
}

/// Asks again after the base interval.
pub(crate) fn ongoing(row: &mut RowState, base: Millis, env: &Env<'_>) {
    row.due = env.now.saturating_add(jittered(base, env.random));
    row.updated = env.now;
}

/// Counts an error and backs off.
pub(crate) fn failed(row: &mut RowState, text: String, base: Millis, env: &Env<'_>) {
    row.errors = row.errors.saturating_add(1);
    row.due = env
        .now
        .saturating_add(jittered(backoff(base, row.errors, env.policy), env.random));
    row.updated = env.now;
    row.error = text;
}

/// Forgets errors: the call was answered.
pub(crate) fn cleared(row: &mut RowState, now: Millis) {
    *row = RowState {
        updated: now,
        ..RowState::default()
    };
}

/// Records a success.
pub(crate) fn succeeded(row: &mut RowState, now: Millis) {
    *row = RowState {
        status: BranchStatus::Succeed,
        retries: row.retries,
        updated: now,
        ..RowState::default()
    };
}

impl Transaction {
    /// Progress of what may be called again, with its URL.
    pub(super) fn called(&self) -> impl Iterator<Item = (&RowState, &str)> {
        // An action of a saga that is being undone is not called again.
        let undone =
            self.def.trans_type == TransType::Saga && self.state.status != Status::Submitted;
        let rows = self
            .rows
            .iter()
            .filter(move |r| !(undone && r.op == Op::ACTION))
            .map(|r| (&r.state, &*r.url));
        std::iter::once((&self.state.root, self.def.query_prepared.as_str()))
            .chain(rows)
            .filter(|(r, _)| r.status == BranchStatus::Prepared)
    }

    /// The interval in ms, without jitter, that DTM shows as `next_cron_interval`: that of the branch which is due first. One that was
    /// asked again after an error ("ongoing") has the base interval, whatever it had before.
    pub fn shown_interval(&self, policy: &Policy) -> Millis {
        let base = policy.base_interval(&self.def.options);
        let called = self.called().map(|(r, _)| r);
        let first = called.filter(|r| r.due > 0).min_by_key(|r| r.due);
        first.map_or(base, |r| {
            if r.errors == 0 || r.due - r.updated <= base + base / 10 {
                base
            } else {
                backoff(base, r.errors, policy)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_the_cap_and_never_overflows() {
        let policy = Policy::default();
        assert_eq!(backoff(10_000, 0, &policy), 10_000);
        assert_eq!(backoff(10_000, 1, &policy), 20_000);
        assert_eq!(backoff(10_000, 3, &policy), 80_000);
        assert_eq!(backoff(10_000, 7, &policy), 600_000);
        for errors in 0..200 {
            assert!(
                backoff(10_000, errors, &policy) <= 600_000
                    && backoff(10_000, errors, &policy) >= 10_000
            );
            assert!(
                backoff(i32::MAX as Millis * 1_000, errors, &policy) >= i32::MAX as Millis * 1_000
            );
        }
        assert_eq!(
            backoff(3_600_000, 5, &policy),
            3_600_000,
            "a base above the cap is kept"
        );
    }

    #[test]
    fn jitter_adds_at_most_a_tenth() {
        for random in 0..1_000 {
            let d = jittered(10_000, random);
            assert!((10_000..=11_000).contains(&d));
        }
    }

    #[test]
    fn quick_retries_double_from_200_ms_up_to_the_base() {
        assert_eq!(
            (quick(10_000, 1), quick(10_000, 2), quick(10_000, 30)),
            (200, 400, 10_000)
        );
        assert_eq!(quick(150, 1), 150);
    }

    #[test]
    fn alerts_come_at_the_limit_and_at_each_doubling() {
        let at: Vec<u32> = (0..=30).filter(|n| alerts_at(*n, 3)).collect();
        assert_eq!(at, [3, 6, 12, 24]);
        assert!((0..100).all(|n| !alerts_at(n, 0)));
    }
}
