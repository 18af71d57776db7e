//! A workflow's runner (rules.md 2.7 and 10.1): replays what is stored, runs what is not, decides by a row, then undoes or ends.

use crate::client::{Act, Answer, ProgressRow, Role, Verb, registration};
use crate::plan::Kind;
use crate::world::World;
use amends::branch::{BranchStatus, ROOT_BRANCH};
use amends::coordinator::Transaction;
use amends::{Op, Status};
use bytes::Bytes;

/// Where a runner stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    Preparing,
    Running(usize),
    Saving(usize, bool),
    Deciding(bool),
    Undoing,
    SavingUndo,
    Ending,
}

/// One run of a workflow.
#[derive(Clone, Debug)]
pub(crate) struct Runner {
    run: String,
    at: At,
    rows: Vec<ProgressRow>,
    /// Branches whose rollback is left to do, the next one last.
    undo: Vec<usize>,
    failed: bool,
    again: u32,
}

impl Runner {
    pub(crate) fn new(run: String) -> Runner {
        Runner {
            run,
            at: At::Preparing,
            rows: Vec::new(),
            undo: Vec::new(),
            failed: false,
            again: 0,
        }
    }

    fn row(&self, branch: &str, op: &str) -> Option<&ProgressRow> {
        self.rows.iter().find(|r| r.0 == branch && r.1 == op)
    }
}

fn word(failed: bool) -> BranchStatus {
    if failed {
        BranchStatus::Failed
    } else {
        BranchStatus::Succeed
    }
}

impl World {
    /// The answer to prepareWorkflow: what is durable now.
    pub(crate) fn progress(&mut self, tx: usize) -> Answer {
        let Some(stored) = self.store.records.get(&tx) else {
            return Answer::Unknown;
        };
        let record = stored.record(&self.plans[tx].gid);
        match Transaction::load(&record, self.clock(), &self.policy) {
            Ok(t) => {
                let rows = t.rows().iter();
                let rows = rows
                    .map(|r| {
                        (
                            r.branch_id.to_string(),
                            r.op.as_str().to_owned(),
                            r.state.status,
                            r.payload.clone(),
                        )
                    })
                    .collect();
                Answer::Progress(t.status(), rows)
            }
            Err(_) => Answer::Unknown,
        }
    }

    /// A runner goes on with an answer.
    pub(crate) fn run_on(&mut self, client: usize, mut r: Runner, answer: Answer, first: bool) {
        let tx = self.clients[client].tx;
        let act = if first {
            Some(Act::Ask(Verb::PrepareWorkflow))
        } else {
            self.runner_next(tx, &mut r, answer)
        };
        self.clients[client].role = Role::Runner(r);
        match act {
            Some(act) => self.act(client, act),
            None => self.clients[client].dead = true,
        }
    }

    fn runner_next(&mut self, tx: usize, r: &mut Runner, answer: Answer) -> Option<Act> {
        match (r.at.clone(), answer) {
            (At::Preparing, Answer::Progress(status, rows)) => {
                if status != Status::Prepared {
                    return None;
                }
                r.rows = rows;
                self.body(tx, r, 0)
            }
            (At::Running(b), Answer::Ok) => Some(self.save_action(tx, r, b, false)),
            (At::Running(b), Answer::Failure) => Some(self.save_action(tx, r, b, true)),
            (At::Saving(b, false), Answer::Ok) => self.body(tx, r, b + 1),
            (At::Saving(b, true), Answer::Ok) => Some(self.decide(r, true, b + 1)),
            (At::Deciding(failed), Answer::Ok) => {
                r.failed = failed;
                Some(self.next_undo(tx, r))
            }
            // Another runner decided: read again, and obey.
            (At::Deciding(_), Answer::Refused(_)) if r.again < 2 => {
                r.again += 1;
                r.at = At::Preparing;
                Some(Act::Ask(Verb::PrepareWorkflow))
            }
            (At::Undoing, Answer::Ok) => {
                let b = *r.undo.last()?;
                r.at = At::SavingUndo;
                Some(save(
                    &self.plans[tx].branches[b],
                    Op::ROLLBACK,
                    false,
                    &r.run,
                ))
            }
            // Refused: another runner saved it.
            (At::SavingUndo, Answer::Ok | Answer::Refused(_)) => {
                r.undo.pop();
                Some(self.next_undo(tx, r))
            }
            _ => None,
        }
    }

    /// Runs the body from this branch.
    fn body(&mut self, tx: usize, r: &mut Runner, from: usize) -> Option<Act> {
        let branches = self.plans[tx].branches.clone();
        let decided = r.row(ROOT_BRANCH, Op::DECISION.as_str()).cloned();
        if let Some((_, _, status, items)) = decided {
            r.failed = status == BranchStatus::Failed;
            let count = items.first().map_or(0, |n| usize::from(*n));
            r.undo = if r.failed {
                (0..count).collect()
            } else {
                Vec::new()
            };
            return Some(self.next_undo(tx, r));
        }
        for (b, id) in branches.iter().enumerate().skip(from) {
            match r.row(id, Op::ACTION.as_str()).map(|row| row.2) {
                Some(BranchStatus::Succeed) => {}
                Some(_) => return Some(self.decide(r, true, b + 1)),
                None => {
                    r.at = At::Running(b);
                    return Some(Act::Call(b, Kind::Action));
                }
            }
        }
        Some(self.decide(r, false, branches.len()))
    }

    fn save_action(&mut self, tx: usize, r: &mut Runner, b: usize, failed: bool) -> Act {
        r.at = At::Saving(b, failed);
        save(&self.plans[tx].branches[b], Op::ACTION, failed, &r.run)
    }

    /// Registers the decision; its items are the branches whose action was started.
    fn decide(&mut self, r: &mut Runner, failed: bool, started: usize) -> Act {
        r.at = At::Deciding(failed);
        r.undo = if failed {
            (0..started).collect()
        } else {
            Vec::new()
        };
        let data = Bytes::from(vec![started as u8]);
        let rows = vec![(Op::DECISION, String::new())];
        Act::Ask(Verb::Register(registration(
            ROOT_BRANCH,
            rows,
            word(failed),
            &r.run,
            data,
        )))
    }

    fn next_undo(&mut self, tx: usize, r: &mut Runner) -> Act {
        while let Some(b) = r.undo.last().copied() {
            if r.row(&self.plans[tx].branches[b], Op::ROLLBACK.as_str())
                .is_none()
            {
                r.at = At::Undoing;
                return Act::Call(b, Kind::Rollback);
            }
            r.undo.pop();
        }
        r.at = At::Ending;
        Act::Ask(Verb::End {
            status: if r.failed {
                Status::Failed
            } else {
                Status::Succeed
            },
        })
    }
}

fn save(branch: &str, op: Op, failed: bool, run: &str) -> Act {
    Act::Ask(Verb::Register(registration(
        branch,
        vec![(op, String::new())],
        word(failed),
        run,
        Bytes::new(),
    )))
}
