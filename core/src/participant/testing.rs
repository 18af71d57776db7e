//! A database for the tests of machines.

use crate::error::Error;
use crate::machine::{Fact, Machine, Output, StepKind};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A database of one table, with a connection that has at most one transaction. A reported error happens before the step has an effect.
#[derive(Default)]
pub(crate) struct Db {
    pub(crate) committed: BTreeMap<Vec<String>, String>,
    pub(crate) open: Option<BTreeMap<Vec<String>, String>>,
    /// What was done, in words.
    pub(crate) log: Vec<String>,
    pub(crate) detached: bool,
}

impl Db {
    fn rows(&mut self) -> &mut BTreeMap<Vec<String>, String> {
        self.open.as_mut().expect("a transaction is open")
    }

    /// Does what a step says.
    pub(crate) fn step(&mut self, kind: &StepKind) -> Fact {
        self.log.push(word(kind).to_owned());
        match kind {
            StepKind::Begin { .. } => {
                assert!(self.open.is_none(), "begun twice");
                self.open = Some(self.committed.clone());
                Fact::Done
            }
            // Of the transaction that is open, which the test disturbs if it is to be another one.
            StepKind::Exec(s) if s.params.is_empty() => {
                self.rows();
                Fact::Affected(0)
            }
            StepKind::Exec(s) => {
                let (key, reason) = (s.params[1..5].to_vec(), s.params[5].clone());
                let rows = self.rows();
                let new = !rows.contains_key(&key);
                rows.entry(key).or_insert(reason);
                Fact::Affected(new.into())
            }
            StepKind::Query(s) => {
                let found = self.rows().get(&s.params).cloned();
                Fact::Text(found)
            }
            StepKind::RunUser(_) => Fact::UserOk(Bytes::from_static(b"done")),
            StepKind::Commit => {
                self.committed = self.open.take().expect("a transaction is open");
                Fact::Done
            }
            StepKind::Rollback => {
                self.open.take().expect("a transaction is open");
                Fact::Done
            }
            StepKind::Detach => {
                self.open = None;
                self.detached = true;
                Fact::Done
            }
            StepKind::Sleep(pause) => {
                assert!(*pause > 0 && self.open.is_none());
                Fact::Done
            }
            StepKind::Call(_) | StepKind::Done(_) => panic!("no such step here"),
        }
    }

    /// Runs a machine to its end; `disturb` may replace what would come of the nth step.
    pub(crate) fn run(
        &mut self,
        mut machine: impl Machine,
        mut disturb: impl FnMut(usize, &StepKind) -> Option<Fact>,
    ) -> Result<Output, Error> {
        for n in 0.. {
            let step = machine.poll().expect("a step");
            assert_eq!(machine.poll(), None, "one at a time");
            if let StepKind::Done(result) = step.kind {
                assert_eq!(machine.poll(), None, "it is over");
                return result;
            }
            let fact = disturb(n, &step.kind).unwrap_or_else(|| self.step(&step.kind));
            machine.resolve(step.id, fact).expect("it fits");
        }
        unreachable!("it ends")
    }
}

/// The kind of a step in a word.
pub(crate) fn word(kind: &StepKind) -> &'static str {
    match kind {
        StepKind::Call(_) => "call",
        StepKind::Begin { .. } => "begin",
        StepKind::Exec(s) if s.sql.starts_with("savepoint ") => "savepoint",
        StepKind::Exec(s) if s.sql.starts_with("release savepoint ") => "release",
        StepKind::Exec(_) => "exec",
        StepKind::Query(_) => "query",
        StepKind::RunUser(_) => "user",
        StepKind::Commit => "commit",
        StepKind::Rollback => "rollback",
        StepKind::Detach => "detach",
        StepKind::Sleep(_) => "sleep",
        StepKind::Done(_) => "done",
    }
}
