//! What a run is made of: its transactions and how unkind the world is, all drawn from the seed.

use crate::rng::Rng;
use amends::coordinator::{Definition, admit};
use amends::wire::request::GlobalRequest;
use amends::wire::step::Step;
use amends::{Gid, Limits, Millis, TransType};
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What a branch call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Forward, of saga, msg, xa and workflow.
    Action,
    /// Undoes a saga's action.
    Compensate,
    /// TCC phase 1.
    Try,
    /// TCC phase 2, forward.
    Confirm,
    /// TCC phase 2, backward.
    Cancel,
    /// XA phase 2, forward.
    Commit,
    /// XA and workflow, backward.
    Rollback,
}

impl Kind {
    /// The word of an operation.
    pub(crate) fn of(op: &str) -> Option<Kind> {
        Some(match op {
            "action" => Kind::Action,
            "compensate" => Kind::Compensate,
            "try" => Kind::Try,
            "confirm" => Kind::Confirm,
            "cancel" => Kind::Cancel,
            "commit" => Kind::Commit,
            "rollback" => Kind::Rollback,
            _ => return None,
        })
    }

    /// The operation a barrier shuts out when this one comes first.
    pub(crate) fn origin(self) -> Option<Kind> {
        match self {
            Kind::Compensate | Kind::Rollback => Some(Kind::Action),
            Kind::Cancel => Some(Kind::Try),
            _ => None,
        }
    }

    /// Whether it undoes something.
    pub(crate) fn undoes(self) -> bool {
        self.origin().is_some()
    }
}

/// One transaction of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its id.
    pub(crate) gid: Gid,
    /// Its mode.
    pub(crate) trans_type: TransType,
    /// What is stored of it.
    pub(crate) def: Definition,
    /// Branch ids.
    pub(crate) branches: Vec<String>,
    /// Saga: steps each step waits for.
    pub(crate) before: Vec<Vec<usize>>,
    /// Saga: whether a step's compensation has a URL.
    pub(crate) undoable: Vec<bool>,
    /// Whether participants have a barrier.
    pub(crate) barrier: bool,
    /// How often, in a thousand, each branch refuses.
    pub(crate) refuses: Vec<u64>,
    /// Whether the initiator prepares first.
    pub(crate) prepares: bool,
    /// Message: whether the local transaction commits.
    pub(crate) commits: bool,
    /// Whether the initiator waits for the result.
    pub(crate) waits: bool,
    /// A second, ill-behaved client.
    pub(crate) chaos: bool,
    /// Workflow: that client also ends it as it likes, so that what took effect says nothing.
    pub(crate) rogue: bool,
}

/// A small world that is searched exhaustively: one transaction.
#[derive(Clone, Copy, Debug)]
pub struct Small {
    /// Its mode.
    pub trans_type: TransType,
    /// How many branches it has.
    pub branches: usize,
    /// Whether they run at the same time.
    pub concurrent: bool,
    /// The branch whose action is refused.
    pub refuses: Option<usize>,
    /// Whether participants have a barrier.
    pub barrier: bool,
    /// Message: whether the local transaction commits.
    pub commits: bool,
    /// See [`amends::Options::timeout_to_fail`].
    pub timeout_to_fail: i64,
}

/// How unkind the world is, in a thousand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weather {
    /// A message is lost.
    pub(crate) lost: u64,
    /// A message comes twice.
    pub(crate) doubled: u64,
    /// A message takes long.
    pub(crate) slow: u64,
    /// A participant answers with an error.
    pub(crate) error: u64,
    /// A participant asks for patience.
    pub(crate) ongoing: u64,
    /// After an event the coordinator dies.
    pub(crate) crash: u64,
    /// How often it may die.
    pub(crate) crashes: u32,
    /// A client dies at one of its steps.
    pub(crate) client_dies: u64,
    /// A commit of the store takes long.
    pub(crate) slow_commit: u64,
    /// A host goes down at a call.
    pub(crate) host_down: u64,
    /// A step of the coordinator panics.
    pub(crate) panics: u64,
    /// How long the bad weather lasts, ms.
    pub(crate) lasts: Millis,
}

impl Weather {
    /// Draws one.
    pub(crate) fn draw(rng: &mut Rng) -> Weather {
        let level = rng.pick(&[(1, 0), (3, 1), (3, 3), (1, 8)]);
        let crashes = rng.pick(&[(2, 0u32), (4, 1), (3, 2), (1, 5)]);
        Weather {
            lost: level * rng.below(40),
            doubled: level * rng.below(40),
            slow: 50 + level * rng.below(60),
            error: level * rng.below(60),
            ongoing: level * rng.below(30),
            crash: if crashes == 0 {
                0
            } else {
                rng.pick(&[(1, 10), (2, 30), (2, 100)])
            },
            crashes,
            client_dies: rng.pick(&[(3, 0), (2, 40), (1, 150)]),
            slow_commit: rng.pick(&[(2, 0), (2, 100), (1, 400)]),
            host_down: rng.pick(&[(3, 0), (1, 40)]),
            panics: rng.pick(&[(5, 0), (1, 20)]),
            lasts: rng.range(2_000, 60_000),
        }
    }
}

fn url(host: usize, path: &str) -> String {
    format!("http://p{host}/{path}")
}

impl Plan {
    /// Draws a transaction.
    pub(crate) fn draw(rng: &mut Rng, number: usize, only: Option<TransType>) -> Plan {
        let drawn = rng.pick(&[
            (5, TransType::Saga),
            (2, TransType::Msg),
            (3, TransType::Tcc),
            (1, TransType::Xa),
            (2, TransType::Workflow),
        ]);
        let ty = only.unwrap_or(drawn);
        // Ids that are prefixes of one another.
        let gid = format!("g{}", "0".repeat(number));
        let mut req = GlobalRequest {
            gid: gid.clone(),
            trans_type: ty.as_str().to_owned(),
            ..GlobalRequest::default()
        };
        let count = rng.pick(&[(1, 1usize), (4, 2), (4, 3), (2, 4), (1, 5)]);
        let mut branches = step_ids(count);
        let mut before = vec![Vec::new(); count];
        let mut undoable = vec![true; count];
        req.times.timeout_to_fail = rng.pick(&[(5, 0), (1, 3), (1, 12), (1, 30)]);
        req.times.request_timeout = rng.pick(&[(6, 0), (1, 1), (1, 8)]);
        req.times.retry_interval = rng.pick(&[(4, 0), (2, 1), (1, 5)]);
        match ty {
            TransType::Saga => {
                let concurrent = rng.permille(400);
                saga(rng, &mut req, concurrent, &mut before, &mut undoable);
            }
            TransType::Msg => {
                let topic = rng.permille(200);
                branches = message(rng, &mut req, count, topic);
            }
            TransType::Tcc | TransType::Xa => {
                if count > 2 && rng.permille(400) {
                    branches[1] = "0101".to_owned();
                }
            }
            TransType::Workflow => {
                req.query_prepared = url(0, "callback");
                req.custom_data = "{\"name\":\"wf\",\"data\":\"e30=\"}".to_owned();
            }
        }
        let def = defined(&req);
        let barrier = !matches!(ty, TransType::Saga | TransType::Msg) || rng.permille(500);
        let refuses = branches
            .iter()
            .map(|_| rng.pick(&[(8, 0), (1, 1_000), (2, 300)]))
            .collect();
        let prepares = match ty {
            TransType::Saga => rng.permille(150),
            TransType::Msg => rng.permille(750),
            _ => true,
        };
        Plan {
            gid: Gid::stored(&gid),
            trans_type: ty,
            def,
            branches,
            before,
            undoable,
            barrier,
            refuses,
            prepares,
            commits: rng.permille(600),
            waits: rng.permille(400),
            chaos: rng.permille(450),
            rogue: rng.permille(300),
        }
    }

    /// The transaction of a small world: every branch is there, and the named one refuses.
    pub(crate) fn small(world: &Small) -> Plan {
        let count = world.branches;
        let ty = world.trans_type;
        let mut req = GlobalRequest {
            gid: "g".to_owned(),
            trans_type: ty.as_str().to_owned(),
            ..GlobalRequest::default()
        };
        let mut before = vec![Vec::new(); count];
        match ty {
            TransType::Saga | TransType::Msg => {
                for (k, waits_for) in before.iter_mut().enumerate() {
                    req.steps.push(Step::from([
                        ("action", &*url(k % 3, "a")),
                        ("compensate", &url(k % 3, "c")),
                    ]));
                    req.payloads.push(Bytes::from_static(b"{}"));
                    if k > 0 && !world.concurrent && ty == TransType::Saga {
                        waits_for.push(k - 1);
                    }
                }
                if ty == TransType::Msg {
                    req.query_prepared = url(0, "check");
                    req.concurrent = world.concurrent;
                } else {
                    req.custom_data = format!("{{\"concurrent\":{}}}", world.concurrent);
                }
            }
            TransType::Workflow => {
                req.query_prepared = url(0, "callback");
                req.custom_data = "{\"name\":\"wf\",\"data\":\"e30=\"}".to_owned();
            }
            TransType::Tcc | TransType::Xa => {}
        }
        req.times.timeout_to_fail = world.timeout_to_fail;
        Plan {
            gid: Gid::stored("g"),
            trans_type: ty,
            def: defined(&req),
            branches: step_ids(count),
            before,
            undoable: vec![true; count],
            barrier: world.barrier,
            refuses: (0..count)
                .map(|k| if world.refuses == Some(k) { 1_000 } else { 0 })
                .collect(),
            prepares: !matches!(ty, TransType::Saga),
            commits: world.commits,
            waits: false,
            chaos: false,
            rogue: false,
        }
    }

    /// Index of a branch id.
    pub(crate) fn branch(&self, id: &str) -> Option<usize> {
        self.branches.iter().position(|b| b == id)
    }

    /// Saga: steps that wait for this one.
    pub(crate) fn after(&self, step: usize) -> impl Iterator<Item = usize> {
        (0..self.before.len()).filter(move |n| self.before[*n].contains(&step))
    }

    /// Saga: what may have run when these steps are known to have succeeded and the driver was lost: all that is runnable, and all
    /// that would be if those had succeeded.
    pub(crate) fn frontier(&self, succeeded: &[bool]) -> Vec<bool> {
        let ready = |done: &[bool], k: usize| self.before[k].iter().all(|b| done[*b]);
        let first: Vec<bool> = (0..succeeded.len())
            .map(|k| succeeded[k] || ready(succeeded, k))
            .collect();
        (0..succeeded.len())
            .map(|k| first[k] || ready(&first, k))
            .collect()
    }
}

/// The definition of a drawn request.
fn defined(req: &GlobalRequest) -> Definition {
    let subscribers = BTreeMap::from([("t".to_owned(), vec![url(1, "s1"), url(2, "s2")])]);
    match admit::define(&mut req.clone(), &subscribers, &Limits::default()) {
        Ok(def) => def,
        Err(e) => unreachable!("a drawn request is legal: {e}"),
    }
}

fn saga(
    rng: &mut Rng,
    req: &mut GlobalRequest,
    concurrent: bool,
    before: &mut [Vec<usize>],
    undoable: &mut [bool],
) {
    let count = before.len();
    let mut orders = BTreeMap::new();
    for k in 0..count {
        let mut step = Step::default();
        if !rng.permille(50) {
            step.insert("action", url(k % 3, "a"));
        }
        undoable[k] = !rng.permille(80);
        if undoable[k] {
            step.insert("compensate", url(k % 3, "c"));
        }
        req.steps.push(step);
        req.payloads.push(Bytes::from_static(b"{}"));
        if concurrent {
            let deps: Vec<usize> = (0..k).filter(|_| rng.permille(400)).collect();
            if !deps.is_empty() {
                orders.insert(k.to_string(), deps.clone());
            }
            before[k] = deps;
        } else if k > 0 {
            before[k] = vec![k - 1];
        }
    }
    if concurrent {
        req.concurrent = true;
        req.custom_data = serde_json::json!({ "concurrent": true, "orders": orders }).to_string();
    }
    req.times.retry_limit = rng.pick(&[(3, 0), (1, 1), (1, 3)]);
}

fn step_ids(count: usize) -> Vec<String> {
    let ids = (0..count).map(amends::branch::step_branch_id);
    ids.map(Cow::into_owned).collect()
}

fn message(rng: &mut Rng, req: &mut GlobalRequest, count: usize, topic: bool) -> Vec<String> {
    let mut branches = Vec::new();
    for k in 0..count {
        let id = amends::branch::step_branch_id(k);
        let target = if topic && k == 0 {
            branches.extend([format!("{id}-01"), format!("{id}-02")]);
            "topic://t".to_owned()
        } else {
            branches.push(id.into_owned());
            url(k % 3, "m")
        };
        req.steps.push(Step::from([("action", &*target)]));
        req.payloads.push(Bytes::from_static(b"{}"));
    }
    req.query_prepared = url(0, "check");
    req.concurrent = rng.permille(300);
    let delay = rng.pick(&[(4, 0), (1, 2), (1, 20)]);
    if delay > 0 {
        req.custom_data = format!("{{\"delay\":{delay}}}");
    }
    branches
}
