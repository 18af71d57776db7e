//! Participants: what their databases hold, with a barrier (dtm-clients.md 2.11) or without.

use crate::plan::Kind;
use amends::{Millis, Outcome};
use std::collections::BTreeMap;

/// How often something took effect, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Times it took effect.
    pub(crate) count: u32,
    /// When first.
    pub(crate) first: Millis,
    /// When last.
    pub(crate) last: Millis,
}

/// A prepared database transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Xa {
    /// Local work is on its way; its locks are held.
    Active,
    /// Prepared.
    Prepared,
    /// Committed.
    Committed,
    /// Rolled back, or shut out before it began.
    RolledBack,
}

/// The participants of one transaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Site {
    /// Barrier rows: the operation each row stands for, and the one that wrote it.
    rows: BTreeMap<(usize, Kind), Kind>,
    /// Effects of business code.
    pub(crate) effects: BTreeMap<(usize, Kind), Effect>,
    /// Calls answered with success, effect or not.
    pub(crate) served: BTreeMap<(usize, Kind), u32>,
    /// XA branches.
    pub(crate) xa: BTreeMap<usize, Xa>,
    /// Message: `Some(true)` once the local transaction committed, `Some(false)` once it cannot any more.
    pub(crate) local: Option<bool>,
}

impl Site {
    /// Times an operation took effect.
    pub(crate) fn count(&self, branch: usize, kind: Kind) -> u32 {
        self.effects.get(&(branch, kind)).map_or(0, |e| e.count)
    }

    /// Times an operation was answered with success.
    pub(crate) fn served(&self, branch: usize, kind: Kind) -> u32 {
        self.served.get(&(branch, kind)).copied().unwrap_or(0)
    }

    fn effect(&mut self, branch: usize, kind: Kind, now: Millis) {
        let e = self.effects.entry((branch, kind)).or_insert(Effect {
            count: 0,
            first: now,
            last: now,
        });
        e.count += 1;
        e.last = now;
    }

    fn success(&mut self, branch: usize, kind: Kind) -> Outcome {
        *self.served.entry((branch, kind)).or_default() += 1;
        Outcome::Success
    }

    /// Business code without a barrier: every call takes effect, unless it is refused.
    pub(crate) fn bare(&mut self, branch: usize, kind: Kind, refuse: bool, now: Millis) -> Outcome {
        if refuse {
            return Outcome::Failure("refused".to_owned());
        }
        self.effect(branch, kind, now);
        self.success(branch, kind)
    }

    /// Business code behind a barrier: both rows and the effect are one local transaction.
    pub(crate) fn guarded(
        &mut self,
        branch: usize,
        kind: Kind,
        refuse: bool,
        now: Millis,
    ) -> Outcome {
        let shut_out = match kind.origin() {
            Some(origin) if !self.rows.contains_key(&(branch, origin)) => {
                self.rows.insert((branch, origin), kind);
                true
            }
            _ => false,
        };
        let again = self.rows.contains_key(&(branch, kind));
        if !shut_out && !again && refuse {
            return Outcome::Failure("refused".to_owned());
        }
        self.rows.entry((branch, kind)).or_insert(kind);
        if !shut_out && !again {
            self.effect(branch, kind, now);
        }
        self.success(branch, kind)
    }

    /// Phase 2 of an XA branch. An active branch holds the lock on its barrier row: rollback waits for it and times out.
    pub(crate) fn phase2(&mut self, branch: usize, kind: Kind, now: Millis) -> Outcome {
        match (kind, self.xa.get(&branch)) {
            (Kind::Commit, Some(Xa::Prepared)) => {
                self.xa.insert(branch, Xa::Committed);
                self.effect(branch, Kind::Commit, now);
                self.success(branch, kind)
            }
            (Kind::Commit, Some(Xa::Committed)) => self.success(branch, kind),
            (Kind::Commit, _) => Outcome::Ongoing,
            (_, Some(Xa::Active)) => Outcome::Error("lock timeout".to_owned()),
            (_, Some(Xa::Committed)) => Outcome::Error("committed already".to_owned()),
            (_, _) => {
                self.xa.insert(branch, Xa::RolledBack);
                self.success(branch, kind)
            }
        }
    }

    /// The check-back shuts out a local transaction that has not committed yet.
    pub(crate) fn check_back(&mut self) -> Outcome {
        if *self.local.get_or_insert(false) {
            Outcome::Success
        } else {
            Outcome::Failure("rolled back".to_owned())
        }
    }
}
