//! Sagas across crashes and changes of their driver (rules.md 1.2, 1.4).

use crate::bodies::{concurrent, failure, saga, with};
use crate::driver::{BASE, World};
use amends::{Outcome, Status};
use serde_json::json;

#[test]
fn after_a_crash_two_levels_may_have_run() {
    let mut w = World::submit(saga(4));
    w.at_once = false;
    w.succeed(&["01 action"]);
    w.crash();
    w.at_once = true;
    // Nothing of the late result of 01 was written: 01 and 02 may have run, 03 cannot have.
    assert_eq!(w.sent(), ["01 action", "02 action", "01 action"]);
    w.answer("01 action", failure("now it says no"));
    assert_eq!(w.status(), Status::Aborting);
    assert!(w.flying.is_empty(), "the lost call may still be on its way");
    w.pass(2_999);
    assert!(w.flying.is_empty());
    w.pass(1);
    w.succeed(&["02 compensate"]);
    w.succeed(&["01 compensate"]);
    assert_eq!(
        (w.status(), w.rows().as_str()),
        (Status::Failed, "s,f,s,p,p,p,p,p")
    );
}

#[test]
fn the_wait_after_a_crash_is_the_longer_of_both_timeouts() {
    for (own, wait) in [(1, 3_000), (30, 30_000)] {
        let mut w = World::submit(with(saga(2), json!({"request_timeout": own})));
        w.crash();
        w.answer("01 action", failure("no"));
        // 01 ended just now, 02 is one of the two levels.
        assert_eq!(w.due_in(), Some(wait), "request_timeout {own}");
    }
}

#[test]
fn a_record_that_was_let_go_is_exact() {
    let mut w = World::submit(saga(3));
    w.succeed(&["01 action"]);
    w.answer("02 action", Outcome::Ongoing);
    w.let_go_and_resume();
    w.sent();
    w.pass(BASE);
    assert_eq!(w.sent(), ["02 action"]);
    w.answer("02 action", failure("no"));
    assert_eq!(
        w.sent(),
        ["02 compensate"],
        "03 never started, and nothing of an earlier process is in flight"
    );
    w.succeed(&["02 compensate", "01 compensate"]);
    assert_eq!(w.rows(), "s,s,s,f,p,p");
}

#[test]
fn after_a_crash_with_orders_two_levels_are_counted_along_the_orders() {
    // 0 → 1 → 2, and 3 alone: 0 and 3 are runnable, 1 would be, 2 is a level too far.
    let mut w = World::submit(concurrent(4, json!({"1": [0], "2": [1]})));
    w.crash();
    let may: Vec<bool> =
        w.tx.rows()
            .iter()
            .filter(|r| r.op.as_str() == "action")
            .map(|r| r.state.started)
            .collect();
    assert_eq!(may, [true, true, false, true]);
}

#[test]
fn what_a_crashed_process_marked_stays_marked() {
    let mut w = World::submit(saga(3));
    w.crash();
    w.answer("01 action", Outcome::Ongoing);
    w.let_go_and_resume();
    w.pass(BASE);
    w.answer("01 action", failure("no"));
    w.pass(BASE);
    w.succeed(&["02 compensate", "01 compensate"]);
    assert_eq!(w.rows(), "s,f,s,p,p,p");
}

#[test]
fn a_driver_that_lets_go_hands_on_the_wait_for_calls_of_a_dead_process() {
    let mut w = World::submit(with(saga(2), json!({"timeout_to_fail": 1})));
    w.pass(1_000);
    w.crash();
    assert_eq!((w.status(), w.due_in()), (Status::Aborting, Some(3_000)));
    w.let_go_and_resume();
    w.ask(amends::coordinator::Request::Reset)
        .expect("accepted");
    w.sent();
    w.pass(2_999);
    assert!(w.sent().is_empty(), "a kick does not cut it");
    w.pass(1);
    assert_eq!(
        w.sent(),
        ["01 compensate"],
        "the set that the decision holds is complete: 02 never started"
    );
}

#[test]
fn an_answer_to_a_repeated_call_does_not_end_the_wait_for_the_first() {
    let mut w = World::submit(saga(1));
    w.crash();
    w.answer("01 action", failure("no"));
    w.crash();
    w.sent();
    w.pass(2_999);
    assert!(
        w.sent().is_empty(),
        "the call of the first process may be on its way"
    );
    w.pass(1);
    assert_eq!(w.sent(), ["01 compensate"]);
}
