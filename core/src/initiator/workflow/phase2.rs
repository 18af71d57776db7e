//! Phase 2 of a workflow: what was decided is carried out, branch by branch, the last one first.

use super::journal::{Decision, Journal};
use super::save::Save;
use super::{Part, Stage, Work};
use crate::branch::Op;
use bytes::Bytes;
use std::collections::VecDeque;

/// One thing to do.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) branch: String,
    pub(super) op: Op,
    pub(super) work: Work,
}

/// What is left to do.
#[derive(Clone, Debug)]
pub(super) struct Phase2 {
    /// How it will have ended.
    pub(super) end: Result<Bytes, String>,
    pub(super) items: VecDeque<Item>,
    /// That the first of them is done is being stored.
    pub(super) saving: Option<Save>,
}

fn op_of(ok: bool) -> Op {
    if ok { Op::COMMIT } else { Op::ROLLBACK }
}

/// What is to be done for a decision that is about to be made: to commit, the branches that succeeded; to roll back, every one that was
/// begun, that which failed included, for it may have been done all the same, or be done late (rules.md 10.1).
pub(super) fn items(ok: bool, parts: &[Part]) -> Vec<String> {
    let begun = |part: &&Part| match &part.stage {
        Stage::Named | Stage::Unwound => false,
        Stage::Recorded(Err(_)) | Stage::Unrecorded(_) => !ok,
        Stage::Recorded(Ok(_)) | Stage::Work(_) | Stage::Save(..) => true,
    };
    let op = op_of(ok);
    let all = parts.iter().rev().filter(|part| work(part, ok).is_some());
    all.filter(begun)
        .map(|part| format!("{}-{op}", part.id))
        .collect()
}

fn work(part: &Part, ok: bool) -> Option<&Work> {
    if ok {
        part.on_commit.as_ref()
    } else {
        part.on_rollback.as_ref()
    }
}

fn names(decision: &Decision, parts: &[Part]) -> Vec<String> {
    let ok = decision.end.is_ok();
    let decided = decision.items.clone();
    decided.unwrap_or_else(|| items(ok, parts))
}

fn find(name: &str, ok: bool, parts: &[Part]) -> Option<Item> {
    let op = op_of(ok);
    let branch = name.strip_suffix(op.as_str())?.strip_suffix('-')?;
    let part = parts.iter().find(|part| part.id == branch)?;
    Some(Item {
        branch: branch.to_owned(),
        op,
        work: work(part, ok)?.clone(),
    })
}

/// An item of the decision that the body has not registered; `None` if it has registered all.
pub(super) fn missing(decision: &Decision, parts: &[Part]) -> Option<String> {
    let ok = decision.end.is_ok();
    let mut names = names(decision, parts).into_iter();
    names.find(|name| find(name, ok, parts).is_none())
}

impl Phase2 {
    /// What is left of it: done is what is recorded.
    pub(super) fn new(decision: &Decision, parts: &[Part], journal: &Journal) -> Phase2 {
        let ok = decision.end.is_ok();
        let all = names(decision, parts);
        let all = all.iter().filter_map(|name| find(name, ok, parts));
        Phase2 {
            end: decision.end.clone(),
            items: all
                .filter(|item| journal.get(&item.branch, item.op.as_str()).is_none())
                .collect(),
            saving: None,
        }
    }
}
