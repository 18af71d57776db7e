//! Retries of a saga's actions, `retry_limit`, alerts, and what cuts a pause (rules.md 4).

use crate::bodies::{concurrent, error, failure, msg, saga, with};
use crate::driver::{BASE, World};
use amends::coordinator::Request;
use amends::{Outcome, Policy, Status};
use serde_json::json;

#[test]
fn errors_double_the_pause_ongoing_keeps_it_and_success_forgets_it() {
    // Outcomes of one action, and the pause after each.
    let table: &[(&str, &[i64])] = &[
        ("o", &[1]),
        ("ooo", &[1, 1, 1]),
        ("eee", &[2, 4, 8]),
        ("eoe", &[2, 1, 4]),
        ("eeeeeeeee", &[2, 4, 8, 16, 32, 60, 60, 60, 60]),
    ];
    for (outcomes, pauses) in table {
        let mut w = World::submit(saga(2));
        for (o, pause) in outcomes.chars().zip(*pauses) {
            w.answer(
                "01 action",
                if o == 'e' {
                    error("down")
                } else {
                    Outcome::Ongoing
                },
            );
            assert_eq!(w.due_in(), Some(pause * BASE), "{outcomes}");
            w.pass(pause * BASE);
        }
        w.succeed(&["01 action"]);
        w.answer("02 action", error("down"));
        assert_eq!(
            w.due_in(),
            Some(2 * BASE),
            "another branch has its own count"
        );
    }
}

#[test]
fn the_base_interval_is_the_transactions_own() {
    for (options, base) in [
        (json!({}), 10_000),
        (json!({"retry_interval": 3}), 3_000),
        (json!({"retry_interval": 900}), 900_000),
        (json!({"timeout_to_fail": 4}), 4_000),
        (json!({"timeout_to_fail": 40}), 10_000),
    ] {
        let mut w = World::submit(with(saga(1), options.clone()));
        w.answer("01 action", Outcome::Ongoing);
        assert_eq!(w.due_in(), Some(base), "{options}");
        assert_eq!(w.tx.shown_interval(&w.policy), base);
    }
}

#[test]
fn jitter_adds_up_to_a_tenth_and_is_not_shown() {
    let mut w = World::submit(saga(1));
    for random in [0, 50, 100, 101, u64::MAX] {
        w.random = random;
        w.answer("01 action", Outcome::Ongoing);
        let due = w.due_in().expect("a due time");
        assert_eq!(
            due,
            BASE + (random % 101) as i64 * 10,
            "random bits {random}"
        );
        assert_eq!(w.tx.shown_interval(&w.policy), BASE);
        w.pass(due);
    }
    w.answer("01 action", error("down"));
    assert_eq!(w.tx.shown_interval(&w.policy), 2 * BASE);
}

#[test]
fn within_the_limit_retries_are_quick_and_a_success_goes_on() {
    let mut w = World::submit(with(saga(2), json!({"retry_limit": 3})));
    for pause in [200, 400, 800] {
        w.answer("01 action", error("down"));
        assert_eq!(w.due_in(), Some(pause));
        w.pass(pause);
    }
    w.succeed(&["01 action", "02 action"]);
    assert_eq!(w.status(), Status::Succeed);
}

#[test]
fn quick_retries_never_wait_longer_than_the_base() {
    let mut w = World::submit(with(
        saga(1),
        json!({"retry_limit": 9, "retry_interval": 1}),
    ));
    for pause in [200, 400, 800, 1_000, 1_000] {
        w.answer("01 action", error("down"));
        assert_eq!(w.due_in(), Some(pause));
        w.pass(pause);
    }
}

#[test]
fn past_the_limit_the_saga_rolls_back() {
    let mut w = World::submit(with(saga(2), json!({"retry_limit": 2})));
    w.succeed(&["01 action"]);
    for pause in [200, 400] {
        w.answer("02 action", error("down"));
        w.pass(pause);
    }
    w.answer("02 action", error("down"));
    assert_eq!(
        (w.status(), w.reason()),
        (
            Status::Aborting,
            "RetryCount is greater than RetryLimit, RetryLimit: 2"
        )
    );
    w.succeed(&["02 compensate", "01 compensate"]);
    assert_eq!((w.status(), w.rows().as_str()), (Status::Failed, "s,s,s,p"));
}

#[test]
fn ongoing_spends_no_retry_and_a_success_gives_the_next_action_its_own() {
    let mut w = World::submit(with(saga(2), json!({"retry_limit": 1})));
    for _ask in 0..5 {
        w.answer("01 action", Outcome::Ongoing);
        w.pass(BASE);
    }
    w.answer("01 action", error("down"));
    w.pass(200);
    w.succeed(&["01 action"]);
    w.answer("02 action", error("down"));
    assert_eq!((w.status(), w.due_in()), (Status::Submitted, Some(200)));
}

#[test]
fn the_limit_is_counted_across_restarts() {
    let mut w = World::submit(with(saga(1), json!({"retry_limit": 2})));
    w.answer("01 action", error("down"));
    w.pass(100);
    w.crash();
    assert_eq!(
        w.row("01 action").retries,
        1,
        "the late write of the first error is 100 ms old"
    );
    w.pass(BASE);
    w.answer("01 action", error("down"));
    w.let_go_and_resume();
    w.pass(BASE);
    w.answer("01 action", error("down"));
    assert_eq!(w.status(), Status::Aborting);
}

#[test]
fn the_limit_is_counted_per_action_of_a_concurrent_saga() {
    let mut w = World::submit(with(concurrent(2, json!(null)), json!({"retry_limit": 1})));
    w.answer("01 action", error("down"));
    w.answer("02 action", error("down"));
    assert_eq!(w.status(), Status::Submitted);
    w.pass(200);
    w.answer("02 action", error("down"));
    assert_eq!(w.status(), Status::Aborting);
    w.sent();
    assert!(
        w.flying
            .iter()
            .any(|c| c.branch_id == "02" && c.op.as_str() == "compensate")
    );
    w.answer("01 action", error("down"));
    assert_eq!(
        w.sent(),
        ["01 compensate"],
        "a late error of an action is not retried any more"
    );
}

#[test]
fn alerts_come_at_the_limit_and_at_each_doubling() {
    let mut w = World::submit(saga(1));
    for n in 1..=13u32 {
        w.answer("01 action", error("down"));
        w.pass(600_000);
        let counts: Vec<u32> = w.alerts.iter().map(|a| a.retry_count).collect();
        let want: Vec<u32> = [3, 6, 12].into_iter().filter(|c| *c <= n).collect();
        assert_eq!(counts, want, "after {n} errors");
        assert_eq!(w.tx.state().attention, n >= 3);
        assert_eq!(w.tx.attempts(), n);
    }
    let last = &w.alerts[2];
    assert_eq!(
        (last.branch.as_str(), last.error.as_str(), last.status),
        ("http://a/1", "down", Status::Submitted)
    );
    w.succeed(&["01 action"]);
    assert!(!w.tx.state().attention);
}

#[test]
fn ongoing_is_no_alert() {
    let mut w = World::submit(saga(1));
    for _ask in 0..20 {
        w.answer("01 action", Outcome::Ongoing);
        w.pass(BASE);
    }
    assert!(w.alerts.is_empty() && w.tx.attempts() == 0);
}

#[test]
fn a_host_that_is_back_makes_its_branches_due_and_no_others() {
    let mut body = concurrent(2, json!(null));
    body["steps"][1]["action"] = json!("http://other/2");
    let mut w = World::submit(body);
    w.answer("01 action", error("down"));
    w.answer("02 action", error("down"));
    w.sent();
    w.ask(Request::HostBack("http://nobody".to_owned()))
        .expect("accepted");
    assert!(w.sent().is_empty());
    w.ask(Request::HostBack("http://a".to_owned()))
        .expect("accepted");
    assert_eq!(w.sent(), ["01 action"]);
    w.answer("01 action", Outcome::Ongoing);
    assert_eq!(w.row("01 action").errors, 1, "only success forgets errors");
}

#[test]
fn failing_hosts_are_indexed_until_success() {
    let mut w = World::submit(saga(2));
    w.answer("01 action", error("down"));
    w.let_go();
    assert_eq!(
        (
            w.record.index.failing_hosts.join(" ").as_str(),
            w.record.index.attempts
        ),
        ("http://a", 1)
    );
    w.load();
    w.pass(2 * BASE);
    w.succeed(&["01 action"]);
    w.answer("02 action", Outcome::Ongoing);
    w.let_go();
    assert_eq!(
        (
            w.record.index.failing_hosts.join(" ").as_str(),
            w.record.index.attempts
        ),
        ("", 0)
    );
}

/// Whichever host answers again first finds it.
#[test]
fn every_host_that_fails_is_indexed() {
    let steps =
        json!([{"action": "http://b/1"}, {"action": "http://a/2"}, {"action": "http://b/3"}]);
    let mut w = World::submit(with(msg(3), json!({"steps": steps, "concurrent": true})));
    for branch in ["01 action", "02 action", "03 action"] {
        w.answer(branch, error("down"));
    }
    w.let_go();
    assert_eq!(w.record.index.failing_hosts, ["http://a", "http://b"]);
}

/// An action is not called again once its saga is being undone: its host need not wake it.
#[test]
fn the_host_of_an_action_that_is_undone_is_not_indexed() {
    let mut w = World::submit(concurrent(2, json!(null)));
    w.answer("01 action", error("down"));
    w.sent();
    w.answer("02 action", failure("no"));
    for branch in w.sent() {
        w.answer(&branch, Outcome::Ongoing);
    }
    w.let_go();
    assert_eq!(w.status(), Status::Aborting);
    assert!(w.record.index.failing_hosts.is_empty());
}

/// rules.md 4.3: a success of another branch does not call off the alarm.
#[test]
fn attention_stays_while_another_branch_fails() {
    let mut w = World::submit(with(msg(2), json!({"concurrent": true})));
    w.answer("02 action", Outcome::Ongoing);
    for _ in 0..3 {
        w.answer("01 action", error("down"));
        w.pass(600_000);
    }
    assert!(w.tx.state().attention);
    w.succeed(&["02 action"]);
    assert!(w.tx.state().attention, "the first one still fails");
    w.succeed(&["01 action"]);
    assert!(!w.tx.state().attention);
}

/// rules.md 4.1: after "ongoing" the interval that is shown is the one that is kept to.
#[test]
fn the_interval_that_is_shown_after_ongoing_is_the_base() {
    let mut w = World::submit(saga(1));
    let policy = Policy::default();
    w.answer("01 action", error("down"));
    assert_eq!(w.tx.shown_interval(&policy), 2 * BASE);
    w.pass(3 * BASE);
    w.answer("01 action", Outcome::Ongoing);
    assert_eq!(w.tx.shown_interval(&policy), BASE);
}

#[test]
fn the_cap_is_a_setting() {
    let policy = Policy {
        retry_cap: 25_000,
        ..Policy::default()
    };
    let mut w = World::store(
        &saga(1),
        Status::Submitted,
        policy,
        &Default::default(),
        true,
    );
    for pause in [20_000, 25_000, 25_000] {
        w.answer("01 action", error("down"));
        assert_eq!(w.due_in(), Some(pause));
        w.pass(pause);
    }
}

#[test]
fn a_panic_pauses_and_asks_for_attention() {
    let mut w = World::submit(saga(1));
    w.answer("01 action", Outcome::Ongoing);
    w.pass(4_000);
    w.input(amends::coordinator::Input::Panicked)
        .expect("accepted");
    assert!(w.tx.state().attention);
    assert_eq!(w.due_in(), Some(BASE));
    w.sent();
    w.pass(BASE);
    assert_eq!(w.sent(), ["01 action"]);
    w.answer("01 action", failure("no"));
    w.succeed(&["01 compensate"]);
    assert!(!w.tx.state().attention);
}

#[test]
fn the_interval_shown_is_that_of_what_is_called_next() {
    let mut w = World::submit(with(saga(1), json!({"retry_limit": 2})));
    for pause in [200, 400, 0] {
        w.answer("01 action", error("down"));
        w.pass(pause);
    }
    w.answer("01 compensate", Outcome::Ongoing);
    assert_eq!(
        w.tx.shown_interval(&w.policy),
        BASE,
        "not that of an action that is over"
    );
    w.pass(BASE);
    w.answer("01 compensate", error("down"));
    assert_eq!(w.tx.shown_interval(&w.policy), 2 * BASE);
}
