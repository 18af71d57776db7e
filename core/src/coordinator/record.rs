//! What a store keeps of a transaction: a small mutable state, immutable parts, and what it indexes beside them
//! (architecture 4). Stores see bytes; only this crate reads them.

use crate::branch::{Status, TransType};
use crate::gid::Gid;
use crate::time::Millis;
use bytes::Bytes;

/// Hosts that an index names; a transaction that fails on more is called again on the others when it is due.
pub const FAILING_HOSTS: usize = 16;

/// What stores index beside the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Current status.
    pub status: Status,
    /// Mode.
    pub trans_type: TransType,
    /// Next moment at which the transaction must be looked at; `None` exactly when it has ended.
    pub due: Option<Millis>,
    /// How long after a registration it is due, ms: a workflow that has not ended waits so long for its client (rules.md 2.7).
    pub quiet: Option<Millis>,
    /// When it was first stored.
    pub created: Millis,
    /// When it ended.
    pub finished: Option<Millis>,
    /// Highest number of consecutive errors of one of its branches.
    pub attempts: u32,
    /// Hosts of the branches whose last call was an error and that are called again, sorted; at most [`FAILING_HOSTS`].
    pub failing_hosts: Vec<String>,
    /// Whether it wants a person's eyes (rules.md 4.3).
    pub attention: bool,
    /// Distinct branch ids of its rows, the root's not among them (rules.md 5).
    pub branches: u32,
    /// Content of all its parts.
    pub bytes: u64,
    /// Whether a driver holds it. A record saved with `false` was let go: it is exact (rules.md 1.2).
    pub driven: bool,
}

/// The identity of a registered row: (branch id, op), unique in a transaction.
pub type RowKey = (String, String);

/// An immutable part of a record: what was submitted, or a batch of rows registered later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The rows it registers; empty for what a submit brought.
    pub keys: Vec<RowKey>,
    /// When it was stored. Not part of its content: a repeated registration has the same `bytes`.
    pub created: Millis,
    /// Its content, opaque to stores.
    pub bytes: Bytes,
}

/// A write of a transaction: its new state, and the parts that are new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Save {
    /// Version that was read; the stored one must equal it. 0 creates. The write makes it `base + 1`.
    pub base: u64,
    /// What is indexed from now on.
    pub index: Index,
    /// The whole mutable state, JSON.
    pub state: Bytes,
    /// Parts to add, in order, after those that are stored.
    pub parts: Vec<Part>,
}

/// A record as a store returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub gid: Gid,
    /// Grows by one with every write.
    pub version: u64,
    /// What is indexed. `index.driven` is as it was before a claim that returned this record.
    pub index: Index,
    /// Whether the last driver let go of it in an orderly way, so that `started` in the state is complete (rules.md 1.2).
    pub exact: bool,
    /// The mutable state, JSON.
    pub state: Bytes,
    /// All parts, in the order they were stored.
    pub parts: Vec<Part>,
}
