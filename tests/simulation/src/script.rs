//! What initiators do, step by step: well-behaved ones, and the one that asks what comes to its mind.

use crate::client::{Act, Verb, registration};
use crate::plan::Kind;
use crate::world::World;
use amends::branch::BranchStatus;
use amends::{Op, Status, TransType};
use bytes::Bytes;

impl World {
    /// What the initiator does, and what it does when a step fails.
    pub(crate) fn script(&mut self, tx: usize) -> (Vec<Act>, Vec<Act>) {
        let plan = &self.plans[tx];
        let submit = Act::Ask(Verb::Submit { wait: plan.waits });
        let abort = Act::Ask(Verb::Abort { wait: plan.waits });
        let mut acts = if plan.prepares {
            vec![Act::Ask(Verb::Prepare)]
        } else {
            Vec::new()
        };
        match plan.trans_type {
            TransType::Msg => acts.push(Act::Local),
            TransType::Tcc => {
                for (b, id) in plan.branches.iter().enumerate() {
                    let url = |op: &str| format!("http://p{}/{op}", b % 3);
                    let rows = vec![(Op::CANCEL, url("cancel")), (Op::CONFIRM, url("confirm"))];
                    acts.push(Act::Ask(Verb::Register(registration(
                        id,
                        rows,
                        BranchStatus::Prepared,
                        "",
                        Bytes::from_static(b"{}"),
                    ))));
                    acts.push(Act::Call(b, Kind::Try));
                }
            }
            TransType::Xa => {
                for (b, id) in plan.branches.iter().enumerate() {
                    let url = format!("http://p{}/xa", b % 3);
                    let rows = vec![(Op::ROLLBACK, url.clone()), (Op::COMMIT, url)];
                    acts.push(Act::Call(b, Kind::Action));
                    acts.push(Act::Ask(Verb::Register(registration(
                        id,
                        rows,
                        BranchStatus::Prepared,
                        "",
                        Bytes::new(),
                    ))));
                    acts.push(Act::Call(b, Kind::Try));
                }
            }
            TransType::Saga | TransType::Workflow => {}
        }
        acts.push(submit);
        let undoes = matches!(
            plan.trans_type,
            TransType::Tcc | TransType::Xa | TransType::Msg
        );
        (acts, if undoes { vec![abort] } else { Vec::new() })
    }

    /// What the ill-behaved client does.
    pub(crate) fn chaos(&mut self, tx: usize) -> Vec<Act> {
        let ty = self.plans[tx].trans_type;
        let waits = self.rng.permille(500);
        let mut verbs = vec![(4, Verb::Reset), (1, Verb::ForceStop)];
        match ty {
            TransType::Saga => verbs.extend([
                (4, Verb::Submit { wait: waits }),
                (1, Verb::Abort { wait: waits }),
                (1, Verb::Prepare),
            ]),
            TransType::Msg if self.plans[tx].prepares => verbs.push((2, Verb::Prepare)),
            TransType::Msg => verbs.push((2, Verb::Abort { wait: waits })),
            TransType::Tcc | TransType::Xa => {
                verbs.extend([(3, Verb::Abort { wait: waits }), (1, Verb::Prepare)])
            }
            TransType::Workflow if self.plans[tx].rogue => {
                verbs.extend([
                    (
                        3,
                        Verb::End {
                            status: Status::Succeed,
                        },
                    ),
                    (
                        3,
                        Verb::End {
                            status: Status::Failed,
                        },
                    ),
                    (2, Verb::PrepareWorkflow),
                ]);
            }
            TransType::Workflow => {
                verbs.extend([(3, Verb::PrepareWorkflow), (1, Verb::Abort { wait: waits })])
            }
        }
        let mut acts = Vec::new();
        for _ in 0..self.rng.range(1, 4) {
            let most = self.rng.pick(&[(2, 60), (2, 2_000), (1, 30_000)]);
            acts.push(Act::Pause(self.rng.range(0, most)));
            let total: u64 = verbs.iter().map(|(w, _)| w).sum();
            let mut n = self.rng.below(total + 1);
            let verb = verbs.iter().find(|(w, _)| {
                let hit = n < *w;
                n = n.saturating_sub(*w);
                hit
            });
            acts.push(match verb {
                Some((_, verb)) => Act::Ask(verb.clone()),
                None => Act::HostBack(format!("http://p{}", self.rng.below(3))),
            });
        }
        acts
    }
}
