//! Participants with barriers: balances, money that is frozen by a try, and one row per (gid, branch, op).

use crate::random::Random;
use amends_scenarios::{Call, Listener, Response, listen};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
struct Books {
    balances: HashMap<String, i64>,
    frozen: HashMap<String, i64>,
    /// The barrier: (gid, branch, op) that took effect, or was shut out by its undo.
    rows: HashSet<(String, String, &'static str)>,
    /// What a branch of a transaction moved in all, confirmed or done and not undone.
    moved: HashMap<(String, String), i64>,
    calls: u64,
    /// Calls that no history allows.
    violations: Vec<String>,
}

impl Books {
    fn insert(&mut self, call: &Target, op: &'static str) -> bool {
        self.rows
            .insert((call.gid.clone(), call.branch.clone(), op))
    }

    fn has(&self, call: &Target, op: &'static str) -> bool {
        self.rows
            .contains(&(call.gid.clone(), call.branch.clone(), op))
    }

    fn apply(&mut self, call: &Target, amount: i64) {
        *self.balances.entry(call.account.clone()).or_default() += amount;
        *self
            .moved
            .entry((call.gid.clone(), call.branch.clone()))
            .or_default() += amount;
    }

    fn freeze(&mut self, call: &Target, amount: i64) {
        *self.frozen.entry(call.account.clone()).or_default() += amount;
    }

    /// Runs one operation in one local transaction. Returns whether it is refused for good.
    fn run(&mut self, call: &Target, op: &str) -> bool {
        match op {
            "action" if call.refuses && !self.has(call, "action") => return true,
            "action" => {
                if self.insert(call, "action") {
                    self.apply(call, call.amount);
                }
            }
            "compensate" => {
                // Inserting the action's row first makes it a null compensation and shuts out a late action.
                let never_ran = self.insert(call, "action");
                if self.insert(call, "compensate") && !never_ran {
                    self.apply(call, -call.amount);
                }
            }
            "try" => {
                if self.insert(call, "try") {
                    self.freeze(call, call.amount);
                }
            }
            "confirm" => {
                if self.insert(call, "confirm") {
                    if !self.has(call, "try") {
                        self.violations
                            .push(format!("confirm without try: {call:?}"));
                    }
                    self.freeze(call, -call.amount);
                    self.apply(call, call.amount);
                }
            }
            "cancel" => {
                let never_ran = self.insert(call, "try");
                if self.insert(call, "cancel") && !never_ran {
                    self.freeze(call, -call.amount);
                }
            }
            other => self
                .violations
                .push(format!("unknown op {other}: {call:?}")),
        }
        false
    }
}

/// Whose branch, and what it moves: `/<account>/<amount>`, with a third part for one that always refuses.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) gid: String,
    pub(crate) branch: String,
    pub(crate) account: String,
    pub(crate) amount: i64,
    pub(crate) refuses: bool,
}

/// The bank, shared by its server and the initiators of the load.
#[derive(Clone, Debug)]
pub(crate) struct Bank {
    books: Arc<Mutex<Books>>,
    listener: Arc<Listener>,
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bank {
    pub(crate) async fn start(seed: u64) -> Bank {
        let books = Arc::new(Mutex::new(Books::default()));
        let random = Arc::new(Mutex::new(Random::new(seed.rotate_left(17))));
        let shared = books.clone();
        let listener = listen(move |call| serve(shared.clone(), random.clone(), call)).await;
        Bank {
            books,
            listener: Arc::new(listener),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listener.addr)
    }

    /// A try, called by the initiator inside this process.
    pub(crate) fn try_branch(&self, target: &Target) {
        lock(&self.books).run(target, "try");
    }

    /// The local transaction of a message's initiator, with the barrier of the check-back: false if the coordinator was told before
    /// that it will not happen.
    pub(crate) fn commit_locally(&self, target: &Target) -> bool {
        let mut books = lock(&self.books);
        let first = books.insert(target, "msg");
        if first {
            books.apply(target, target.amount);
        }
        first
    }

    /// What a branch of a transaction moved in all.
    pub(crate) fn moved(&self, gid: &str, branch: &str) -> i64 {
        let key = (gid.to_owned(), branch.to_owned());
        lock(&self.books)
            .moved
            .get(&key)
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn calls(&self) -> u64 {
        lock(&self.books).calls
    }

    /// Money is neither made nor lost, and nothing stays frozen.
    pub(crate) fn check_books(&self) {
        let books = lock(&self.books);
        assert_eq!(
            books.balances.values().sum::<i64>(),
            0,
            "{:?}",
            books.balances
        );
        assert!(
            books.frozen.values().all(|amount| *amount == 0),
            "{:?}",
            books.frozen
        );
    }
}

async fn serve(
    books: Arc<Mutex<Books>>,
    random: Arc<Mutex<Random>>,
    call: Call,
) -> Option<Response> {
    let answer = |status: u16| {
        Some(Response {
            status,
            headers: Vec::new(),
            body: String::new(),
        })
    };
    let mut choice = {
        let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
        Random::new(random.below(u64::MAX))
    };
    tokio::time::sleep(Duration::from_millis(choice.below(4))).await;
    // Faults before the effect, and answers lost after it.
    match choice.below(100) {
        0..=2 => return answer(500),
        3..=4 => return answer(425),
        _ => {}
    }
    let mut parts = call.path.trim_start_matches('/').split('/');
    let account = parts.next().unwrap_or_default().to_owned();
    let amount = parts
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or_default();
    let target = Target {
        gid: call.param("gid"),
        branch: call.param("branch_id"),
        account,
        amount,
        refuses: parts.next() == Some("refuse"),
    };
    let refused = {
        let mut books = lock(&books);
        books.calls += 1;
        match call.param("op").as_str() {
            // The check-back: the initiator's own row tells whether it committed; asking first shuts it out.
            "msg" => {
                let committed = !books.insert(&target, "msg") && !books.has(&target, "msg-refused");
                if !committed {
                    books.insert(&target, "msg-refused");
                }
                !committed
            }
            op => books.run(&target, op),
        }
    };
    match choice.below(100) {
        0..=1 => None,
        2..=3 => answer(500),
        _ if refused => answer(409),
        _ => answer(200),
    }
}

fn target(amount: i64) -> Target {
    Target {
        gid: "g".into(),
        branch: "01".into(),
        account: "a".into(),
        amount,
        refuses: false,
    }
}

/// Runs operations on new books; what is left in the account, and frozen.
fn after(ops: &[&str]) -> (i64, i64) {
    let mut books = Books::default();
    let target = target(30);
    for op in ops {
        assert!(!books.run(&target, op), "{op}");
    }
    assert!(books.violations.is_empty(), "{:?}", books.violations);
    let of = |map: &HashMap<String, i64>| map.get("a").copied().unwrap_or_default();
    (of(&books.balances), of(&books.frozen))
}

#[test]
fn the_barrier_makes_operations_idempotent_and_refuses_late_ones() {
    for (ops, left) in [
        (&["action", "action"][..], (30, 0)),
        (&["action", "compensate", "compensate"], (0, 0)),
        (&["compensate", "action", "compensate"], (0, 0)),
        (&["try"], (0, 30)),
        (&["try", "try", "confirm", "confirm"], (30, 0)),
        (&["try", "cancel", "cancel", "try"], (0, 0)),
        (&["cancel", "try"], (0, 0)),
    ] {
        assert_eq!(after(ops), left, "{ops:?}");
    }
}

#[test]
fn a_refusal_has_no_effect_and_stays() {
    let mut books = Books::default();
    let refusing = Target {
        refuses: true,
        ..target(30)
    };
    assert!(books.run(&refusing, "action") && books.run(&refusing, "action"));
    assert!(!books.run(&refusing, "compensate"));
    assert!(books.balances.values().all(|b| *b == 0));
}
