//! The barrier on MongoDB as pure data (dtm-clients.md 2.14): what to run in the session of the business change, as JSON values that every
//! driver takes. The verdicts are those of [`barrier`](super::barrier). **Untested against a server**: none could be had.
//!
//! In a transaction of a session, on a replica set: run `origin` if there is one, then `current`, each as an update of one with `upsert`.
//! One that reports an upserted id has inserted its document and counts as one row, else as none, in
//! [`decide`](super::barrier::decide). Where that wants the reason, find `reason` and give its member `reason` to
//! [`by_reason`](super::barrier::by_reason). Whatever the verdict but `Duplicated`, commit.
//!
//! The collection needs [`index`], made once and beforehand: without it two calls at the same time both insert. Two that meet are a write
//! conflict or a duplicate key, and [`classify_error`] makes both a conflict: the transaction is gone, and is begun again. Documents have no
//! time of their own, for a MongoDB `_id` holds one; by that they are deleted once no retry can come any more.

use super::barrier::{barrier_id, check_barrier_id, check_message, origin_of};
use super::db_error::DbError;
use super::identity::Identity;
use crate::branch::Op;
use crate::error::Error;
use serde_json::{Value, json};

/// Where the barrier's documents are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Collection {
    database: String,
    name: String,
}

/// Longest name of a database, and of database and collection together, bytes.
const DATABASE_MAX: usize = 63;
const NAMESPACE_MAX: usize = 120;

impl Collection {
    /// Reads `database.collection`, as DTM's clients write it in the place of a table's name. Error: `Invalid`.
    pub fn new(text: &str) -> Result<Collection, Error> {
        let parts = text.split_once('.');
        let fits = |database: &str, name: &str| {
            let plain = |c: char| !c.is_control() && !" /\\\"$*<>:|?".contains(c);
            !database.is_empty()
                && database.len() <= DATABASE_MAX
                && text.len() <= NAMESPACE_MAX
                && text.chars().all(plain)
                && !name.split('.').any(str::is_empty)
                && !name.starts_with("system.")
        };
        match parts {
            Some((database, name)) if fits(database, name) => Ok(Collection {
                database: database.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(Error::invalid(format!(
                "{text:?} is no collection for the barrier: it is database.collection, at most {NAMESPACE_MAX} bytes"
            ))),
        }
    }

    /// The database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The collection in it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Default for Collection {
    /// The one that DTM's clients use, `dtm_barrier.barrier`.
    fn default() -> Collection {
        Collection {
            database: "dtm_barrier".to_owned(),
            name: "barrier".to_owned(),
        }
    }
}

/// An update of one with `upsert: true`, which changes nothing of a document that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upsert {
    /// Which document.
    pub filter: Value,
    /// What a new one has besides: `$setOnInsert`.
    pub update: Value,
}

/// What to run, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Claims the document of what this op undoes; `None` if it undoes nothing.
    pub origin: Option<Upsert>,
    /// Claims the op's own document.
    pub current: Upsert,
    /// The filter that finds the op's own document, whose member `reason` says who wrote it.
    pub reason: Value,
}

/// What a barrier call runs. `part` tells parts of one branch apart, as [`barrier_id`] makes them; the action and its undo use the same.
/// Error: `Invalid`.
pub fn plan(who: &Identity, part: &str) -> Result<Plan, Error> {
    check_barrier_id(part)?;
    if who.op == Op::MSG {
        check_message(&who.branch_id, part)?;
    }
    let claim = |op: &Op| upsert(who, op, part, &who.op);
    Ok(Plan {
        origin: origin_of(&who.op).map(|origin| claim(&origin)),
        current: claim(&who.op),
        reason: filter(who, &who.op, part),
    })
}

/// What a check-back (query-prepared) runs outside the user's transactions, with write concern `majority`: `current` claims the message's
/// document for a rollback, and `reason`, read after it with read concern `majority`, says to
/// [`was_committed`](super::barrier::was_committed) who has it.
pub fn query_prepared(who: &Identity) -> Plan {
    let root = who.of_message();
    let part = barrier_id(1);
    Plan {
        origin: None,
        current: upsert(&root, &Op::MSG, &part, &Op::ROLLBACK),
        reason: filter(&root, &Op::MSG, &part),
    }
}

/// The command that creates the collection's index; to be run against [`Collection::database`], and harmless if it is there.
pub fn index(collection: &Collection) -> Value {
    json!({
        "createIndexes": collection.name,
        "indexes": [{
            "key": {"gid": 1, "branch_id": 1, "op": 1, "barrier_id": 1},
            "name": "uniq_barrier",
            "unique": true,
        }],
    })
}

fn filter(who: &Identity, op: &Op, part: &str) -> Value {
    json!({
        "gid": who.gid.as_str(),
        "branch_id": who.branch_id,
        "op": op.as_str(),
        "barrier_id": part,
    })
}

fn upsert(who: &Identity, op: &Op, part: &str, reason: &Op) -> Upsert {
    Upsert {
        filter: filter(who, op, part),
        // The members of the filter are those of the new document, too.
        update: json!({"$setOnInsert": {
            "trans_type": who.trans_type.as_str(),
            "reason": reason.as_str(),
        }}),
    }
}

/// The class of an error, by its code and its labels as drivers tell them.
pub fn classify_error(code: Option<i64>, labels: &[&str]) -> DbError {
    let has = |label: &str| labels.contains(&label);
    // Whether it was committed is not known: more than any code can say.
    if has("UnknownTransactionCommitResult") {
        return DbError::ConnectionLost;
    }
    match code {
        // Duplicate key, of a call at the same time; write conflict; lock timeout; the transaction is gone.
        Some(11_000 | 11_001 | 112 | 24 | 251) => DbError::Conflict,
        // No such collection; one cannot be created within a transaction.
        Some(26 | 263) => DbError::MissingTable,
        _ if has("TransientTransactionError") => DbError::Conflict,
        // Host unreachable, host not found, network timeout, shutdown, stepped down, interrupted, socket exception, not the primary.
        Some(6 | 7 | 89 | 91 | 189 | 9_001 | 10_107 | 11_600 | 11_602 | 13_435 | 13_436) => {
            DbError::ConnectionLost
        }
        _ => DbError::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::super::barrier::{BarrierResult, Verdict, by_reason, decide, was_committed};
    use super::*;
    use std::collections::BTreeMap;

    /// A collection, as far as barriers use it.
    #[derive(Default)]
    struct Documents(BTreeMap<String, Value>);

    impl Documents {
        /// An update of one with upsert: how many it inserted.
        fn upsert(&mut self, upsert: &Upsert) -> u64 {
            let key = upsert.filter.to_string();
            if self.0.contains_key(&key) {
                return 0;
            }
            self.0.insert(key, upsert.update["$setOnInsert"].clone());
            1
        }

        fn reason(&self, filter: &Value) -> &str {
            let document = &self.0[&filter.to_string()];
            document["reason"].as_str().expect("a reason")
        }

        fn call(&mut self, who: &Identity) -> Option<BarrierResult> {
            let plan = plan(who, "01").expect("a plan");
            let origin = plan.origin.map(|origin| self.upsert(&origin));
            let current = self.upsert(&plan.current);
            match decide(&who.op, origin, current) {
                Verdict::Run => Some(BarrierResult::Executed),
                Verdict::Skip(result) => Some(result),
                Verdict::NeedReason => Some(by_reason(&who.op, self.reason(&plan.reason))),
                Verdict::Duplicated => None,
            }
        }

        fn was_committed(&mut self, who: &Identity) -> bool {
            let plan = query_prepared(who);
            self.upsert(&plan.current);
            was_committed(self.reason(&plan.reason))
        }
    }

    fn who(op: &str) -> Identity {
        Identity::new("tcc", "g", "01", op).expect("an identity")
    }

    #[test]
    fn documents_claim_what_rows_claim() {
        use BarrierResult::{Duplicate, Executed, NullCompensation, Suspended};
        for (ops, want) in [
            (
                ["try", "try", "cancel", "cancel"],
                [Executed, Duplicate, Executed, Duplicate],
            ),
            (
                ["cancel", "try", "cancel", "try"],
                [NullCompensation, Suspended, Duplicate, Suspended],
            ),
        ] {
            let mut all = Documents::default();
            let got = ops.map(|op| all.call(&who(op)).expect("no message"));
            assert_eq!(got, want, "{ops:?}");
        }
        let message = Identity::new("msg", "g", "00", "msg").expect("an identity");
        let mut all = Documents::default();
        assert_eq!(all.call(&message), Some(Executed));
        assert!(all.was_committed(&message));
        assert_eq!(all.call(&message), None, "a gid used before");
        let mut all = Documents::default();
        // Whatever branch the coordinator names.
        assert!(!all.was_committed(&who("try")) && !all.was_committed(&message));
        assert_eq!(all.call(&message), None, "it came too late");
    }

    #[test]
    fn collections_are_checked() {
        let collection = Collection::new("shop.barrier.tcc").expect("a collection");
        assert_eq!(
            (collection.database(), collection.name()),
            ("shop", "barrier.tcc")
        );
        assert_eq!(
            Collection::new("dtm_barrier.barrier"),
            Ok(Collection::default())
        );
        let long = "d".repeat(DATABASE_MAX);
        assert!(Collection::new(&format!("{long}.b")).is_ok());
        let full = format!("d.{}", "c".repeat(NAMESPACE_MAX - 2));
        assert!(Collection::new(&full).is_ok());
        for bad in [
            "",
            "barrier",
            ".barrier",
            "shop.",
            "shop..b",
            "shop.system.x",
            "sh op.b",
            "shop.$b",
            "shop.b\0",
            &format!("{long}d.b"),
            &format!("{full}c"),
        ] {
            assert!(Collection::new(bad).is_err(), "{bad}");
        }
    }
}
