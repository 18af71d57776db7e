//! The simulated store: writes queue, are applied in order, some time later, and answered after that. A crash applies any prefix of
//! what is queued and answers nothing.

use amends::coordinator::codec::Registration;
use amends::coordinator::record::{Index, Part, Record, RowKey, Save};
use amends::{Gid, Status, TransType};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

/// How far a registration raises the version: further than any number of queued saves could, so that none of them is ever taken for
/// one that was based on it.
pub(crate) const APPEND_RAISES: u64 = 1 << 20;

/// A record as it is durable.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Grows with every write.
    pub(crate) version: u64,
    /// What is indexed.
    pub(crate) index: Index,
    /// Whether its last driver let go of it in this life of the process.
    pub(crate) exact: bool,
    /// Whether a driver of this life holds it.
    pub(crate) held: bool,
    /// Mutable state.
    pub(crate) state: Bytes,
    /// Immutable parts.
    pub(crate) parts: Vec<Part>,
}

impl Stored {
    /// As the store returns it.
    pub(crate) fn record(&self, gid: &Gid) -> Record {
        Record {
            gid: gid.clone(),
            version: self.version,
            index: self.index.clone(),
            exact: self.exact,
            state: self.state.clone(),
            parts: self.parts.clone(),
        }
    }

    /// Whether this row was registered.
    pub(crate) fn has(&self, key: &RowKey) -> bool {
        self.parts.iter().any(|p| p.keys.contains(key))
    }
}

/// A queued write.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    /// A new record.
    Create(Save),
    /// A driver's save: its number and the generation of its driver's view.
    Save(u64, u64, Save),
    /// registerBranch.
    Append(AppendWrite),
}

/// A registration as it is queued.
#[derive(Clone, Debug)]
pub(crate) struct AppendWrite {
    /// Status and type the record must have.
    pub(crate) required: (TransType, Status),
    /// A row that forbids it.
    pub(crate) forbidden: Option<RowKey>,
    /// The rows.
    pub(crate) part: Part,
    /// What was asked, for checks.
    pub(crate) registration: Registration,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wrote {
    /// It is durable.
    Done,
    /// The record is there already.
    Exists,
    /// Another version is stored.
    Conflict,
    /// The rows are there already, with this content.
    Same,
    /// A row is there with other content, or forbids it.
    Refused,
    /// The record has another status or type.
    WrongStatus(Status),
    /// No such record.
    Unknown,
}

/// A write in the queue, and who waits for it.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    /// The transaction.
    pub(crate) tx: usize,
    /// The driver, or the request, that waits.
    pub(crate) waiter: u64,
    /// What is written.
    pub(crate) write: Write,
}

/// The store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    /// Durable records by transaction.
    pub(crate) records: BTreeMap<usize, Stored>,
    /// Writes not applied yet.
    pub(crate) queue: VecDeque<Queued>,
    /// A broken store takes writes that are based on an older version.
    pub(crate) accepts_stale: bool,
}

impl Store {
    /// Applies one write to what is durable.
    pub(crate) fn apply(&mut self, tx: usize, write: &Write) -> Wrote {
        match write {
            Write::Create(save) => {
                if self.records.contains_key(&tx) {
                    return Wrote::Exists;
                }
                let driven = save.index.driven;
                let stored = Stored {
                    version: 1,
                    index: save.index.clone(),
                    exact: !driven,
                    held: driven,
                    state: save.state.clone(),
                    parts: save.parts.clone(),
                };
                self.records.insert(tx, stored);
                Wrote::Done
            }
            Write::Save(_, _, save) => {
                let Some(stored) = self.records.get_mut(&tx) else {
                    return Wrote::Conflict;
                };
                if stored.version != save.base && !self.accepts_stale {
                    return Wrote::Conflict;
                }
                stored.version = save.base + 1;
                stored.exact = !save.index.driven;
                stored.held = save.index.driven;
                stored.index = save.index.clone();
                stored.state = save.state.clone();
                stored.parts.extend(save.parts.iter().cloned());
                Wrote::Done
            }
            Write::Append(a) => self.append(tx, a),
        }
    }

    fn append(&mut self, tx: usize, a: &AppendWrite) -> Wrote {
        let Some(stored) = self.records.get_mut(&tx) else {
            return Wrote::Unknown;
        };
        if (stored.index.trans_type, stored.index.status) != a.required {
            return Wrote::WrongStatus(stored.index.status);
        }
        if a.forbidden.as_ref().is_some_and(|key| stored.has(key)) {
            return Wrote::Refused;
        }
        let same = |p: &Part| p.keys == a.part.keys && p.bytes == a.part.bytes;
        if stored.parts.iter().any(same) {
            return Wrote::Same;
        }
        if a.part.keys.iter().any(|key| stored.has(key)) {
            return Wrote::Refused;
        }
        stored.parts.push(a.part.clone());
        stored.version += APPEND_RAISES;
        if let Some(quiet) = stored.index.quiet {
            stored.index.due = Some(a.part.created + quiet);
        }
        Wrote::Done
    }

    /// What a process finds when it starts: nobody holds anything, nothing is exact.
    pub(crate) fn restart(&mut self) {
        for stored in self.records.values_mut() {
            stored.held = false;
            stored.exact = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amends::Policy;
    use amends::coordinator::{Transaction, admit};
    use amends::wire::request::GlobalRequest;
    use amends::{Op, branch::BranchStatus};

    #[test]
    fn a_save_behind_a_refused_one_is_refused_too() {
        let request = GlobalRequest {
            gid: "g".into(),
            trans_type: "tcc".into(),
            ..GlobalRequest::default()
        };
        let def = admit::define(
            &mut request.clone(),
            &BTreeMap::new(),
            &Policy::default().limits,
        )
        .expect("legal");
        let mut t = Transaction::new(def, Status::Prepared, 0);
        let mut store = Store::default();
        assert_eq!(
            store.apply(0, &Write::Create(t.take_save(true).1)),
            Wrote::Done
        );
        let rows = vec![(Op::CONFIRM, "http://p/c".to_owned())];
        let registration = Registration {
            branch_id: "01".into(),
            rows,
            status: BranchStatus::Prepared,
            run: String::new(),
            data: Bytes::new(),
        };
        let append = AppendWrite {
            required: (TransType::Tcc, Status::Prepared),
            forbidden: None,
            part: registration.part(0),
            registration,
        };
        // Both saves were queued before their driver knew of the registration.
        let (first, second) = (t.take_save(true).1, t.take_save(true).1);
        assert_eq!(store.apply(0, &Write::Append(append)), Wrote::Done);
        assert_eq!(store.apply(0, &Write::Save(2, 0, first)), Wrote::Conflict);
        assert_eq!(
            store.apply(0, &Write::Save(3, 0, second)),
            Wrote::Conflict,
            "its version must not be that of the registration"
        );
    }
}
