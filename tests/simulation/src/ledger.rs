//! What really happened to a transaction, as the checks remember it.

use crate::plan::{Kind, Plan};
use amends::{Millis, Status};
use std::collections::{BTreeMap, BTreeSet};

/// A result is durable this long after it came, ms: 100 ms, and the slowest commit before and after.
const LATE: Millis = 1_000;

/// How fast a branch may be called again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    pub(crate) errors: u32,
    pub(crate) not_before: Millis,
    pub(crate) since: Millis,
}

/// What really happened to a transaction.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    pub(crate) status: Option<Status>,
    pub(crate) forced: bool,
    /// Calls by operation.
    pub(crate) calls: BTreeMap<(usize, Kind), Vec<usize>>,
    /// Saga: actions that a lost driver may have started.
    pub(crate) may: Vec<bool>,
    pub(crate) pace: BTreeMap<(usize, Kind), Pace>,
    /// Errors that a saga's actions answered with.
    pub(crate) errors: BTreeMap<usize, u64>,
    /// Calls whose outcome no driver has taken in yet, and those of them that were reset meanwhile.
    pub(crate) open: BTreeSet<(usize, Kind)>,
    pub(crate) again: BTreeSet<(usize, Kind)>,
}

impl Ledger {
    pub(crate) fn new(plan: &Plan) -> Ledger {
        Ledger {
            status: None,
            forced: false,
            calls: BTreeMap::new(),
            may: vec![false; plan.before.len()],
            pace: BTreeMap::new(),
            errors: BTreeMap::new(),
            open: BTreeSet::new(),
            again: BTreeSet::new(),
        }
    }

    /// Results that came just before a crash may be lost.
    pub(crate) fn crashed(&mut self, now: Millis) {
        self.pace.retain(|_, p| p.since + LATE < now);
        self.open.clear();
        self.again.clear();
    }

    /// All delays are cut.
    pub(crate) fn reset(&mut self) {
        self.pace.values_mut().for_each(|p| p.not_before = 0);
    }

    pub(crate) fn sent(&mut self, branch: usize, kind: Kind, call: usize) {
        self.calls.entry((branch, kind)).or_default().push(call);
        self.open.insert((branch, kind));
    }

    /// What matters later of what happened, for the exhaustive search.
    pub(crate) fn remember(&self, now: Millis, f: &mut impl std::fmt::Write) {
        let _ = write!(
            f,
            "{:?} {} {:?} {:?}",
            self.status,
            self.forced,
            self.calls.keys(),
            self.may
        );
        for (target, p) in self
            .pace
            .iter()
            .filter(|(_, p)| p.not_before > now || p.errors > 0)
        {
            let _ = write!(f, "{target:?} {} {}", p.errors, p.not_before.max(now));
        }
    }

    pub(crate) fn was_sent(&self, branch: usize, kind: Kind) -> bool {
        self.calls.contains_key(&(branch, kind))
    }
}
