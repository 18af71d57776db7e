//! resetCronTime, resetNextCronTime, and other kicks (rules.md 1.4, 4.4).

use crate::bodies::{concurrent, empty, error, failure, msg, saga, workflow};
use crate::driver::{BASE, World};
use amends::coordinator::{Input, Request};
use amends::{Outcome, Status};
use serde_json::json;

fn reset(w: &mut World) {
    w.ask(Request::Reset).expect("a reset is never refused");
}

#[test]
fn every_branch_is_due_at_once() {
    let mut w = World::submit(concurrent(3, json!(null)));
    w.answer("01 action", error("down"));
    w.answer("02 action", Outcome::Ongoing);
    w.sent();
    reset(&mut w);
    assert_eq!(
        w.sent(),
        ["01 action", "02 action"],
        "03 is in flight and is not called a second time"
    );
    w.answer("01 action", error("down"));
    assert_eq!(w.due_in(), Some(4 * BASE), "errors still count");
}

#[test]
fn compensations_confirms_and_callbacks_too() {
    let mut w = World::submit(saga(1));
    w.answer("01 action", failure("no"));
    w.answer("01 compensate", error("down"));
    w.sent();
    reset(&mut w);
    assert_eq!(w.sent(), ["01 compensate"]);

    let mut w = World::prepare(empty("tcc"));
    w.register_branches(1);
    w.submit_again(empty("tcc")).expect("accepted");
    w.answer("01 confirm", error("down"));
    w.sent();
    reset(&mut w);
    assert_eq!(w.sent(), ["01 confirm"]);

    let mut w = World::prepare(workflow());
    reset(&mut w);
    assert_eq!(w.sent(), ["00 book"]);
    w.answer("00 book", error("down"));
    reset(&mut w);
    assert_eq!(w.sent(), ["00 book"]);
}

#[test]
fn a_check_back_is_asked_again_but_not_before_its_timeout() {
    let mut w = World::prepare(msg(1));
    reset(&mut w);
    assert!(w.sent().is_empty());
    w.pass(35_000);
    w.answer("00 msg", error("down"));
    w.sent();
    reset(&mut w);
    assert_eq!(w.sent(), ["00 msg"]);
}

#[test]
fn a_reset_never_overtakes_a_call_that_may_be_in_flight() {
    let mut w = World::submit(saga(2));
    w.crash();
    w.answer("01 action", failure("no"));
    w.sent();
    reset(&mut w);
    assert!(
        w.sent().is_empty(),
        "02 may be on its way since before the crash"
    );
    w.pass(3_000);
    assert_eq!(w.sent(), ["02 compensate"]);
}

#[test]
fn what_has_ended_is_left_alone() {
    let mut w = World::submit(msg(0));
    let version = w.record.version;
    reset(&mut w);
    assert_eq!((w.status(), w.record.version), (Status::Succeed, version));
}

#[test]
fn a_reset_is_stored_before_it_is_answered() {
    let mut w = World::submit(saga(1));
    w.answer("01 action", error("down"));
    w.at_once = false;
    let fx = w.ask(Request::Reset).expect("accepted");
    assert!(
        w.sent() == ["01 action"] && fx.calls.len() == 1 && w.held.len() == 1,
        "and before what it makes due is called"
    );
    w.sync();
    assert_eq!(w.sent(), ["01 action"]);
}

#[test]
fn a_kick_without_a_reset_cuts_no_pause() {
    let mut w = World::submit(saga(1));
    w.answer("01 action", error("down"));
    w.sent();
    w.input(Input::Wake).expect("accepted");
    w.submit_again(saga(1)).expect("accepted");
    w.let_go_and_resume();
    assert_eq!((w.sent(), w.due_in()), (vec![], Some(2 * BASE)));
}

#[test]
fn a_reset_ends_the_pause_after_a_panic() {
    let mut w = World::submit(saga(1));
    w.answer("01 action", Outcome::Ongoing);
    w.sent();
    w.input(Input::Panicked).expect("accepted");
    reset(&mut w);
    assert_eq!(w.sent(), ["01 action"]);
}

#[test]
fn a_reset_during_a_call_is_not_lost_when_that_call_fails() {
    let mut w = World::submit(saga(1));
    assert_eq!(w.sent(), ["01 action"]);
    reset(&mut w);
    assert!(w.sent().is_empty(), "one call at a time");
    w.answer("01 action", error("down"));
    assert_eq!(w.sent(), ["01 action"], "at once, not after the backoff");
    w.answer("01 action", error("down"));
    assert!(w.sent().is_empty(), "once");
    assert_eq!(w.due_in(), Some(4 * BASE));
}
