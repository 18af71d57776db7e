//! What a request that waits is answered with, and when (rules.md 2.3).

use crate::bodies::{empty, error, failure, msg, saga, with, workflow};
use crate::driver::{BASE, World};
use amends::coordinator::Wait;
use amends::{Compat, ErrorKind, Outcome, Policy, Status};
use serde_json::{Value, json};

/// `ok`, or kind and text.
fn answer(wait: &Wait, w: &World) -> Option<String> {
    wait.answer(&w.tx, w.now, &w.policy).map(|a| match a {
        Ok(()) => "ok".to_owned(),
        Err(e) => {
            assert_eq!(e.status(), Some(w.status()));
            format!("{:?} {e}", e.kind())
        }
    })
}

fn waiting(w: &World, abort: bool) -> Wait {
    Wait::new(abort, &w.tx, w.now, &w.policy)
}

fn phase2(ty: &str) -> World {
    let mut w = World::prepare(empty(ty));
    w.register_branches(1);
    w
}

#[test]
fn it_waits_as_long_as_a_call_may_take_and_two_seconds() {
    for (own, until) in [(0, 5_000), (1, 5_000), (30, 32_000)] {
        let w = World::submit(with(saga(1), json!({"request_timeout": own})));
        assert_eq!(
            waiting(&w, false).until - w.now,
            until,
            "request_timeout {own}"
        );
    }
}

#[test]
fn a_saga() {
    let mut w = World::submit(saga(1));
    let wait = waiting(&w, false);
    assert_eq!(answer(&wait, &w), None, "a call is in flight");
    w.answer("01 action", failure("no stock"));
    assert_eq!(answer(&wait, &w), None, "the compensation is in flight");
    w.answer("01 compensate", error("down"));
    assert_eq!(
        answer(&wait, &w).as_deref(),
        Some("Failure url:http://a/1 return failed: no stock FAILURE"),
        "aborting is a no"
    );
    w.pass(2 * BASE);
    w.succeed(&["01 compensate"]);
    assert_eq!(
        answer(&wait, &w).as_deref(),
        Some("Failure url:http://a/1 return failed: no stock FAILURE")
    );

    let mut w = World::submit(saga(1));
    let wait = waiting(&w, false);
    w.succeed(&["01 action"]);
    assert_eq!(answer(&wait, &w).as_deref(), Some("ok"));
}

#[test]
fn what_is_due_later_than_the_wait_is_answered_at_once() {
    for (outcome, text) in [(Outcome::Ongoing, "Ongoing"), (error("down"), "Ongoing")] {
        let mut w = World::submit(saga(1));
        let wait = waiting(&w, false);
        w.answer("01 action", outcome);
        assert_eq!(
            answer(&wait, &w).as_deref(),
            Some(format!("{text} ONGOING: not ended yet, status submitted").as_str())
        );
    }
}

#[test]
fn a_due_time_within_the_wait_is_waited_for() {
    let mut w = World::submit(with(saga(1), json!({"retry_interval": 4})));
    let wait = waiting(&w, false);
    w.answer("01 action", Outcome::Ongoing);
    assert_eq!(answer(&wait, &w), None);
    w.pass(4_000);
    w.succeed(&["01 action"]);
    assert_eq!(answer(&wait, &w).as_deref(), Some("ok"));
}

#[test]
fn a_quick_retry_is_waited_for_even_near_the_end() {
    let mut w = World::submit(with(saga(1), json!({"retry_limit": 5})));
    let wait = waiting(&w, false);
    w.pass(4_950);
    w.answer("01 action", error("down"));
    assert_eq!(answer(&wait, &w), None, "200 ms");
    w.pass(50);
    assert!(
        answer(&wait, &w)
            .expect("the wait is over")
            .starts_with("Ongoing")
    );
}

#[test]
fn the_wait_ends_while_a_call_is_in_flight() {
    let mut w = World::submit(saga(1));
    let wait = waiting(&w, false);
    w.now += 4_999;
    assert_eq!(answer(&wait, &w), None);
    w.now += 1;
    assert!(answer(&wait, &w).expect("over").starts_with("Ongoing"));
}

#[test]
fn a_message() {
    let mut w = World::submit(msg(1));
    let wait = waiting(&w, false);
    w.answer("01 action", failure("no"));
    assert!(
        answer(&wait, &w).expect("due later").starts_with("Ongoing"),
        "it will be called again: no failure"
    );
    w.pass(2 * BASE);
    w.succeed(&["01 action"]);
    assert_eq!(answer(&wait, &w).as_deref(), Some("ok"));

    let mut w = World::prepare(msg(1));
    let wait = waiting(&w, false);
    w.abort("local rollback").expect("accepted");
    assert_eq!(
        answer(&wait, &w).as_deref(),
        Some("Failure local rollback FAILURE")
    );
}

#[test]
fn tcc_and_xa() {
    for (ty, forward, backward) in [
        ("tcc", "01 confirm", "01 cancel"),
        ("xa", "01 commit", "01 rollback"),
    ] {
        let mut w = phase2(ty);
        w.submit_again(empty(ty)).expect("accepted");
        let wait = waiting(&w, false);
        w.answer(forward, error("down"));
        assert_eq!(answer(&wait, &w).as_deref(), Some("Ongoing ONGOING"));
        w.pass(2 * BASE);
        w.succeed(&[forward]);
        assert_eq!(answer(&wait, &w).as_deref(), Some("ok"));

        let mut w = phase2(ty);
        w.abort("no money").expect("accepted");
        let (abort, submit) = (waiting(&w, true), waiting(&w, false));
        w.answer(backward, error("down"));
        assert_eq!(answer(&abort, &w).as_deref(), Some("Ongoing ONGOING"));
        w.pass(2 * BASE);
        w.succeed(&[backward]);
        assert_eq!(
            answer(&abort, &w).as_deref(),
            Some("ok"),
            "ending in failed is an abort's success"
        );
        assert_eq!(
            answer(&submit, &w).as_deref(),
            Some("Failure no money FAILURE")
        );
    }
}

#[test]
fn a_force_stop_is_a_failure_for_everyone_who_waits() {
    let mut w = phase2("tcc");
    w.abort("").expect("accepted");
    let wait = waiting(&w, true);
    w.force_stop().expect("accepted");
    assert_eq!(answer(&wait, &w).as_deref(), Some("Failure stuck FAILURE"));
}

#[test]
fn a_workflow() {
    let mut w = World::prepare(workflow());
    let wait = waiting(&w, false);
    assert!(
        answer(&wait, &w)
            .expect("its callback is due later")
            .starts_with("Ongoing")
    );
    w.end(Status::Failed, "sold out", "").expect("accepted");
    assert_eq!(
        answer(&wait, &w).as_deref(),
        Some("Failure sold out FAILURE")
    );
}

#[test]
fn compat_answers_not_ended_as_dtm_does_for_saga_and_message_only() {
    let policy = || Policy {
        compat: Compat {
            wait_result_409: true,
            ..Compat::default()
        },
        ..Policy::default()
    };
    let with_compat =
        |body: Value, status| World::store(&body, status, policy(), &Default::default(), true);
    for body in [saga(1), msg(1)] {
        let mut w = with_compat(body, Status::Submitted);
        let wait = waiting(&w, false);
        w.answer("01 action", Outcome::Ongoing);
        assert_eq!(
            answer(&wait, &w).as_deref(),
            Some("Failure wait result not return success: FAILURE")
        );
    }
    let mut w = with_compat(empty("tcc"), Status::Prepared);
    w.register_branches(1);
    w.submit_again(empty("tcc")).expect("accepted");
    let wait = waiting(&w, false);
    w.answer("01 confirm", Outcome::Ongoing);
    let e = wait
        .answer(&w.tx, w.now, &w.policy)
        .expect("due later")
        .expect_err("not ended");
    assert_eq!(e.kind(), ErrorKind::Ongoing);
}
