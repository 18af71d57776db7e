//! Faults of DTM in liveness, load and with several nodes (faults.md section 2, B) that decisions can make impossible.

use crate::bodies::{concurrent, empty, error, failure, msg, saga, with, workflow};
use crate::driver::{BASE, World};
use amends::coordinator::{Input, Request};
use amends::{Outcome, Policy, Status};
use serde_json::json;

#[test]
fn fault_b17_nothing_is_waited_for_but_calls_and_due_times() {
    // A step never blocks: with a compensation that is not due, it says so and is done.
    let mut w = World::submit(saga(2));
    w.answer("01 action", failure("no"));
    let fx = w.answer("01 compensate", error("down"));
    assert!(
        !w.tx.in_flight() && fx.wake_at.is_some(),
        "the transaction is nothing but its due time"
    );
}

#[test]
fn fault_b18_a_round_that_cannot_go_on_ends_at_once() {
    let mut w = World::submit(saga(3));
    w.succeed(&["01 action", "02 action"]);
    w.answer("03 action", failure("no"));
    let fx = w.answer("03 compensate", error("down"));
    assert_eq!((w.flying.len(), fx.wake_at), (0, Some(w.now + 2 * BASE)));
    let wait = amends::coordinator::Wait::new(false, &w.tx, w.now, &w.policy);
    assert!(
        wait.answer(&w.tx, w.now, &w.policy).is_some(),
        "and whoever waits is answered at once"
    );
}

#[test]
fn fault_b19_backoff_doubles_per_branch_and_not_per_failing_branch() {
    let mut w = World::submit(concurrent(3, json!(null)));
    for which in ["01 action", "02 action", "03 action"] {
        w.answer(which, error("down"));
    }
    assert_eq!(
        w.due_in(),
        Some(2 * BASE),
        "three failures at once are one doubling each"
    );
    assert_eq!(w.tx.shown_interval(&w.policy), 2 * BASE);
}

#[test]
fn fault_b19_backoff_is_capped_and_never_turns_negative() {
    for interval in [1, 10, 599, 600, 86_400, i32::MAX as i64] {
        let mut w = World::submit(with(saga(1), json!({"retry_interval": interval})));
        let base = interval * 1_000;
        w.random = 100;
        for _error in 0..70 {
            w.answer("01 action", error("down"));
            let due = w.due_in().expect("a due time");
            assert!(
                due >= base && due <= base.max(600_000) / 10 * 11,
                "{interval}: {due}"
            );
            w.pass(due);
        }
    }
}

#[test]
fn fault_b20_a_second_visit_during_a_long_call_makes_no_second_call() {
    let worlds: [(World, &str); 4] = [
        (
            World::submit(with(
                saga(1),
                json!({"request_timeout": 30, "retry_interval": 1}),
            )),
            "01 action",
        ),
        (
            World::submit(with(msg(1), json!({"request_timeout": 30}))),
            "01 action",
        ),
        (
            {
                let mut w = World::prepare(empty("tcc"));
                w.register_branches(1);
                w.submit_again(empty("tcc")).expect("accepted");
                w
            },
            "01 confirm",
        ),
        (
            {
                let mut w = World::prepare(workflow());
                w.pass(BASE);
                w
            },
            "00 book",
        ),
    ];
    for (mut w, call) in worlds {
        assert_eq!(w.sent(), [call]);
        w.pass(25_000);
        w.input(Input::Wake).expect("accepted");
        w.ask(Request::Reset).expect("accepted");
        w.ask(Request::HostBack("http://a".to_owned()))
            .expect("accepted");
        assert!(w.sent().is_empty(), "{call}");
    }
}

#[test]
fn fault_b23_a_reset_really_reschedules() {
    let mut w = World::submit(saga(1));
    w.answer("01 action", error("down"));
    w.let_go();
    assert_eq!(w.record.index.due, Some(w.now + 2 * BASE));
    w.load();
    w.at_once = true;
    w.sent();
    w.ask(Request::Reset).expect("accepted");
    assert_eq!(w.sent(), ["01 action"]);
    w.answer("01 action", Outcome::Ongoing);
    w.let_go();
    assert_eq!(w.record.index.due, Some(w.now + BASE));
}

#[test]
fn fault_b28_early_visits_do_not_push_a_delayed_message() {
    let mut w = World::submit(with(msg(1), json!({"custom_data": "{\"delay\":30}"})));
    for _visit in 0..29 {
        w.pass(1_000);
        w.input(Input::Wake).expect("accepted");
        assert!(w.sent().is_empty());
    }
    w.pass(1_000);
    assert_eq!(w.sent(), ["01 action"]);
}

#[test]
fn fault_b29_workflow_callbacks_keep_the_settings_and_back_off() {
    let mut w = World::prepare(with(
        workflow(),
        json!({"retry_interval": 20, "request_timeout": 4}),
    ));
    assert_eq!(
        w.due_in(),
        Some(20_000),
        "not while the first executor has its time"
    );
    w.pass(20_000);
    w.answer("00 book", error("down"));
    assert_eq!(w.due_in(), Some(40_000));
    w.pass(40_000);
    w.answer("00 book", error("down"));
    assert_eq!(w.due_in(), Some(80_000));
}

#[test]
fn fault_b30_a_panic_reschedules_and_does_not_spin() {
    for prepared in [true, false] {
        let mut w = if prepared {
            World::prepare(msg(1))
        } else {
            World::submit(saga(2))
        };
        if !prepared {
            w.answer("01 action", Outcome::Ongoing);
        }
        w.sent();
        let version = w.record.version;
        let fx = w.input(Input::Panicked).expect("accepted");
        assert_eq!(fx.wake_at, Some(w.now + BASE));
        // What the driver steps next does not end the pause.
        w.input(Input::Wake).expect("accepted");
        w.input(Input::Wake).expect("accepted");
        assert_eq!(
            (w.due_in(), w.sent(), w.record.version),
            (Some(BASE), vec![], version + 1)
        );
        assert!(w.tx.state().attention, "somebody should look");
        w.let_go();
        assert_eq!(w.record.index.due, Some(w.now + BASE));
    }
}

#[test]
fn fault_b30_a_panic_after_the_end_asks_for_nothing() {
    let mut w = World::submit(saga(1));
    w.force_stop().expect("accepted");
    let fx = w.input(Input::Panicked).expect("accepted");
    assert!(fx.wake_at.is_none() && fx.ended && !w.tx.state().attention);
}

#[test]
fn fault_b31_a_concurrent_message_does_not_repeat_what_is_still_in_flight() {
    let mut w = World::submit(with(msg(3), json!({"concurrent": true})));
    w.sent();
    w.answer("01 action", error("down"));
    w.pass(2 * BASE);
    assert_eq!(
        w.sent(),
        ["01 action"],
        "02 and 03 are in flight since the first round"
    );
    w.succeed(&["02 action", "03 action", "01 action"]);
    assert_eq!((w.status(), w.sent()), (Status::Succeed, vec![]));
}

#[test]
fn fault_b33_alerts_are_values_and_come_seldom() {
    let mut w = World::submit(saga(1));
    for _error in 0..100 {
        w.answer("01 action", error("down"));
        w.pass(700_000);
    }
    let counts: Vec<u32> = w.alerts.iter().map(|a| a.retry_count).collect();
    assert_eq!(counts, [3, 6, 12, 24, 48, 96]);

    let policy = Policy {
        alert_retry_limit: 0,
        ..Policy::default()
    };
    let mut w = World::store(
        &saga(1),
        Status::Submitted,
        policy,
        &Default::default(),
        true,
    );
    for _error in 0..10 {
        w.answer("01 action", error("down"));
        w.pass(700_000);
    }
    assert!(w.alerts.is_empty());
}
