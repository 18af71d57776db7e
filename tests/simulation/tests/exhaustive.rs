//! Every order of events in small worlds: each mode with two branches, and crashed, lost, doubled and slow where it hurts.
//!
//! A workflow has two faults of the four at a time: its client runs branches as well, and with three faults the orders of two runners
//! and their retries are more than can be visited in minutes. The random runs have all four.

use amends::TransType;
use amends_simulation::{Broken, Faults, Small, search};

const TWO: Small = Small {
    trans_type: TransType::Saga,
    branches: 2,
    concurrent: false,
    refuses: Some(1),
    barrier: true,
    commits: true,
    timeout_to_fail: 0,
};

/// One of each.
const ALL: Faults = faults(1, 1, 1, 1);

const fn faults(crashes: u8, lost: u8, doubled: u8, slow: u8) -> Faults {
    Faults {
        crashes,
        lost,
        doubled,
        slow,
    }
}

/// Every choice of this many kinds of faults out of four.
fn some(count: u32) -> Vec<Faults> {
    let bit = |n: u32, i: u32| (n >> i & 1) as u8;
    (0..16u32)
        .filter(|n| n.count_ones() == count)
        .map(|n| faults(bit(n, 0), bit(n, 1), bit(n, 2), bit(n, 3)))
        .collect()
}

fn holds(worlds: &[Small], faults: &[Faults]) {
    let (mut states, mut ends) = (0, 0);
    for world in worlds {
        for f in faults {
            let found = search(world, *f, None, 10_000_000);
            if let Some((what, steps)) = found.violation {
                panic!("{world:?} {f:?}: {what}\n{}", steps.join("\n"));
            }
            assert!(!found.cut, "{world:?} {f:?}: more states than allowed");
            states += found.states;
            ends += found.ends;
        }
    }
    println!(
        "{}: {} worlds, {} choices of faults: {states} states, {ends} ends",
        worlds[0].trans_type,
        worlds.len(),
        faults.len()
    );
}

fn of(trans_type: TransType) -> Small {
    Small { trans_type, ..TWO }
}

#[test]
fn saga_with_one_of_each() {
    holds(&[TWO], &[ALL]);
}

#[test]
fn saga_of_other_shapes() {
    holds(
        &[
            Small {
                refuses: None,
                ..TWO
            },
            Small {
                concurrent: true,
                ..TWO
            },
            Small {
                timeout_to_fail: 2,
                ..TWO
            },
        ],
        &some(2),
    );
    // Participants without a barrier cannot bear what comes twice after it was answered.
    holds(
        &[Small {
            barrier: false,
            ..TWO
        }],
        &[faults(1, 1, 0, 1)],
    );
    holds(
        &[Small {
            barrier: false,
            branches: 3,
            refuses: Some(2),
            ..TWO
        }],
        &[faults(1, 0, 0, 1), faults(2, 0, 0, 0)],
    );
}

#[test]
fn message_with_one_of_each() {
    holds(&[of(TransType::Msg)], &[ALL]);
}

#[test]
fn message_of_other_shapes() {
    let msg = of(TransType::Msg);
    holds(
        &[
            Small {
                commits: false,
                ..msg
            },
            Small {
                concurrent: true,
                ..msg
            },
        ],
        &some(2),
    );
}

#[test]
fn xa_with_one_of_each() {
    holds(&[of(TransType::Xa)], &[ALL]);
}

#[test]
fn xa_that_commits() {
    holds(
        &[Small {
            refuses: None,
            ..of(TransType::Xa)
        }],
        &some(2),
    );
}

#[test]
fn tcc_with_one_of_each() {
    holds(&[of(TransType::Tcc)], &[ALL]);
}

#[test]
fn tcc_that_commits_with_one_of_each() {
    holds(
        &[Small {
            refuses: None,
            ..of(TransType::Tcc)
        }],
        &[ALL],
    );
}

#[test]
fn workflow_with_any_two_of_four() {
    let wf = of(TransType::Workflow);
    holds(&[wf], &some(2));
    holds(
        &[Small {
            refuses: None,
            ..wf
        }],
        &some(1),
    );
}

/// The search sees what the random runs see.
#[test]
fn broken_rules_are_found() {
    let three = Small {
        branches: 3,
        refuses: Some(2),
        barrier: false,
        ..TWO
    };
    for (broken, world, f, word) in [
        (
            Broken::UndoBeforeAborting,
            TWO,
            faults(0, 0, 0, 0),
            "is durable",
        ),
        (
            Broken::ConfirmBeforeSubmitted,
            Small {
                refuses: None,
                ..of(TransType::Tcc)
            },
            faults(0, 0, 0, 0),
            "is durable",
        ),
        (Broken::ForgetDue, TWO, faults(0, 1, 0, 0), "due time"),
        (Broken::ForgetSecondLevel, three, faults(1, 0, 0, 0), "step"),
        (Broken::NotUnsure, three, faults(1, 0, 0, 1), "on its way"),
    ] {
        let found = search(&world, f, Some(broken), 3_000_000);
        let what = found.violation.map(|(what, _)| what).unwrap_or_default();
        println!("{broken:?}: found after {} states: {what}", found.states);
        assert!(
            what.contains(word),
            "{broken:?} was not found in {} states: {what:?}",
            found.states
        );
    }
}
