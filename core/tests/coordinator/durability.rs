//! What must be durable before what (architecture, rule 3; rules.md 1.1, 1.2). Here saves wait until the test acknowledges them.

use crate::bodies::{concurrent, empty, error, failure, global, msg, saga, with, workflow};
use crate::driver::{BASE, World};
use amends::coordinator::admit::define;
use amends::coordinator::{Input, Request, Transaction, When};
use amends::{Outcome, Policy, Status};
use serde_json::{Value, json};

fn submit(body: Value) -> World {
    World::store(
        &body,
        Status::Submitted,
        Policy::default(),
        &Default::default(),
        false,
    )
}

#[test]
fn nothing_is_called_before_the_submit_is_durable() {
    for body in [saga(2), msg(2)] {
        let mut w = submit(body);
        assert!(w.sent().is_empty());
        assert_eq!(w.held.len(), 1);
        w.sync();
        assert_eq!(w.sent(), ["01 action"]);
    }
}

#[test]
fn the_aborting_is_durable_before_the_first_compensation() {
    let mut w = submit(saga(2));
    w.sync();
    w.succeed(&["01 action"]);
    w.sent();
    let fx = w.answer("02 action", failure("no"));
    assert_eq!((fx.save, fx.calls.len()), (Some(When::Now), 1));
    assert!(w.sent().is_empty() && w.record.index.status == Status::Submitted);
    w.sync();
    assert_eq!(
        (w.record.index.status, w.sent()),
        (Status::Aborting, vec!["02 compensate".to_owned()])
    );
}

#[test]
fn every_way_to_abort_a_saga_is_durable_before_the_first_compensation() {
    type Way<'a> = (Value, &'a dyn Fn(&mut World));
    let ways: [Way<'_>; 3] = [
        (json!({}), &|w| drop(w.answer("01 action", failure("no")))),
        (json!({"timeout_to_fail": 5}), &|w| {
            w.answer("01 action", Outcome::Ongoing);
            w.pass(5_000);
        }),
        (json!({"retry_limit": 1}), &|w| {
            w.answer("01 action", error("down"));
            w.pass(200);
            w.answer("01 action", error("down"));
        }),
    ];
    for (options, abort) in ways {
        let mut w = submit(with(saga(1), options.clone()));
        w.sync();
        abort(&mut w);
        w.sent();
        assert_eq!(
            (w.status(), w.held.len()),
            (Status::Aborting, 1),
            "{options}"
        );
        w.sync();
        assert_eq!(w.sent(), ["01 compensate"], "{options}");
    }
}

#[test]
fn phase_2_waits_for_the_decision() {
    for (ty, forward, backward) in [
        ("tcc", "01 confirm", "01 cancel"),
        ("xa", "01 commit", "01 rollback"),
    ] {
        for timed_out in [false, true] {
            let mut w = World::prepare(empty(ty));
            w.register_branches(1);
            w.at_once = false;
            if timed_out {
                w.now += 35_000;
                w.input(Input::Wake).expect("accepted");
            } else {
                w.abort("").expect("accepted");
            }
            assert_eq!(
                (w.status(), w.held.len(), w.sent()),
                (Status::Aborting, 1, vec![])
            );
            w.sync();
            assert_eq!(w.sent(), [backward]);
        }
        let mut w = World::prepare(empty(ty));
        w.register_branches(1);
        w.at_once = false;
        let fx = w.submit_again(empty(ty)).expect("accepted");
        assert_eq!(
            (fx.save, w.held.len(), w.sent()),
            (Some(When::Now), 1, vec![])
        );
        w.sync();
        assert_eq!(w.sent(), [forward]);
    }
}

#[test]
fn what_the_check_back_decided_is_durable_before_the_first_delivery() {
    let mut w = World::prepare(msg(2));
    w.pass(35_000);
    w.at_once = false;
    w.sent();
    w.answer("00 msg", Outcome::Success);
    assert!(w.sent().is_empty());
    w.sync();
    assert_eq!(
        (w.record.index.status, w.sent()),
        (Status::Submitted, vec!["01 action".to_owned()])
    );
}

#[test]
fn answers_to_requests_wait_for_what_they_report() {
    // (a fresh transaction, the request): the answer waits for a save that is not durable yet.
    let end = Request::End {
        status: Status::Succeed,
        reason: String::new(),
        result: "eA==".to_owned(),
    };
    let stop = Request::ForceStop {
        actor: "a".to_owned(),
        reason: "r".to_owned(),
    };
    let abort = Request::Abort {
        reason: String::new(),
    };
    let cases = [
        (workflow(), Request::PrepareWorkflow),
        (workflow(), end),
        (workflow(), stop.clone()),
        (msg(1), abort.clone()),
        (msg(1), stop),
        (empty("tcc"), abort),
        (saga(1), Request::Reset),
    ];
    for (body, request) in cases {
        let mut w = World::prepare(body);
        w.at_once = false;
        let durable = w.record.version;
        let fx = w.ask(request.clone()).expect("accepted");
        assert_eq!(fx.save, Some(When::Now), "{request:?}");
        assert!(
            fx.after > durable,
            "{request:?} is answered after {} of {durable}",
            fx.after
        );
    }
}

#[test]
fn a_repeated_request_waits_for_the_save_of_the_first() {
    let mut w = World::prepare(empty("tcc"));
    w.register_branches(1);
    w.at_once = false;
    let first = w.abort("").expect("accepted");
    let again = w.abort("").expect("accepted");
    assert_eq!((again.save, again.after), (None, first.after));

    let mut w = submit(saga(1));
    let again = w.submit_again(saga(1)).expect("accepted");
    assert!(again.after >= 1, "the first submit is not durable yet");
}

#[test]
fn the_final_status_is_durable_before_anyone_is_told() {
    let mut w = submit(saga(1));
    w.sync();
    let fx = w.answer("01 action", Outcome::Success);
    assert_eq!(
        (fx.save, fx.ended, w.record.index.status),
        (Some(When::Now), true, Status::Submitted)
    );
    assert!(fx.after > 1);
    w.sync();
    assert_eq!(w.record.index.status, Status::Succeed);
}

#[test]
fn with_two_steps_nothing_is_waited_for_between_them() {
    let mut w = submit(saga(2));
    w.sync();
    let fx = w.answer("01 action", Outcome::Success);
    assert_eq!(fx.save, Some(When::Late));
    assert_eq!(w.sent(), ["01 action", "02 action"]);
    let version = w.record.version;
    w.answer("02 action", Outcome::Success);
    w.sync();
    assert_eq!(
        w.record.version,
        version + 1,
        "two saves in all: the submit and the end"
    );
}

#[test]
fn action_k_of_a_long_saga_waits_for_the_success_two_steps_back() {
    let mut w = submit(saga(6));
    w.sync();
    assert_eq!(w.sent(), ["01 action"]);
    w.succeed(&["01 action"]);
    assert_eq!(w.sent(), ["02 action"], "the second does not wait");
    w.succeed(&["02 action"]);
    assert!(w.sent().is_empty(), "the third waits for the first");
    w.sync();
    assert_eq!(w.sent(), ["03 action"]);
    w.succeed(&["03 action"]);
    assert_eq!(
        w.sent(),
        ["04 action"],
        "the second became durable together with the first"
    );
    w.succeed(&["04 action"]);
    assert!(w.sent().is_empty(), "the fifth waits for the third");
    w.sync();
    w.succeed(&["05 action", "06 action"]);
    assert_eq!(w.status(), Status::Succeed);
}

#[test]
fn whenever_saves_become_durable_no_action_runs_ahead() {
    // The driver checks at every call that what is two levels back is durable; here saves are acknowledged at every third step only.
    let orders = [
        json!(null),
        json!({"1": [0], "2": [1], "3": [2], "4": [3], "5": [4], "6": [5]}),
        json!({"2": [0, 1], "5": [2, 3], "6": [5, 4]}),
    ];
    for (n, orders) in orders.into_iter().enumerate() {
        for body in [concurrent(7, orders), saga(7)] {
            let mut w = submit(body);
            for round in 0..100 {
                if w.status().is_final() {
                    break;
                }
                if round % 3 == 0 {
                    w.sync();
                }
                if let Some(call) = w.flying.get(round % w.flying.len().max(1)) {
                    let which = format!("{} {}", call.branch_id, call.op);
                    w.succeed(&[&which]);
                }
            }
            assert_eq!(w.status(), Status::Succeed, "orders {n}");
        }
    }
}

#[test]
fn what_is_durable_already_is_not_waited_for_again() {
    let mut w = submit(saga(4));
    w.sync();
    w.succeed(&["01 action"]);
    w.sync();
    w.sent();
    w.succeed(&["02 action"]);
    assert_eq!(w.sent(), ["03 action"], "01 is durable");
}

#[test]
fn in_a_saga_with_orders_two_levels_back_are_counted_along_the_orders() {
    // 0 → 1 → 2 and 3 → 4: step 2 waits for 0 to be durable, 1 and 4 for nothing.
    let mut w = submit(concurrent(5, json!({"1": [0], "2": [1], "4": [3]})));
    w.sync();
    w.sent();
    w.succeed(&["01 action", "04 action"]);
    assert_eq!(w.sent(), ["02 action", "05 action"]);
    w.succeed(&["05 action", "02 action"]);
    assert!(w.sent().is_empty());
    w.sync();
    assert_eq!(w.sent(), ["03 action"]);
}

#[test]
fn steps_without_a_url_count_as_levels() {
    let mut body = saga(4);
    body["steps"][1] = json!({});
    let mut w = submit(body);
    w.sync();
    w.sent();
    w.succeed(&["01 action"]);
    assert!(
        w.sent().is_empty(),
        "03 waits for 01, though 02 needed no call"
    );
    w.sync();
    assert_eq!(w.sent(), ["03 action"]);
}

#[test]
fn a_long_message_waits_two_steps_back_too_and_a_concurrent_one_never() {
    let mut w = submit(msg(4));
    w.sync();
    w.succeed(&["01 action"]);
    assert_eq!(w.sent(), ["01 action", "02 action"]);
    w.succeed(&["02 action"]);
    assert!(w.sent().is_empty());
    w.sync();
    assert_eq!(w.sent(), ["03 action"]);

    let mut w = submit(with(msg(4), json!({"concurrent": true})));
    w.sync();
    let fx = w.answer("01 action", Outcome::Success);
    assert_eq!(fx.save, Some(When::Late));
}

#[test]
fn results_are_written_late_but_always_written() {
    let mut w = submit(saga(2));
    w.sync();
    for outcome in [Outcome::Ongoing, error("down")] {
        let fx = w.answer("01 action", outcome);
        assert_eq!(fx.save, Some(When::Late));
        assert!(w.tx.is_dirty());
        w.pass(w.policy.late_write);
        assert!(!w.tx.is_dirty());
        w.sync();
        w.pass(2 * BASE);
    }
    assert_eq!(w.row("01 action").errors, 1);
    w.crash();
    assert_eq!(w.row("01 action").errors, 1, "the late write was durable");
}

#[test]
fn a_late_write_that_is_lost_costs_a_repeated_call_and_nothing_else() {
    let mut w = submit(saga(2));
    w.sync();
    w.succeed(&["01 action"]);
    w.sent();
    w.crash();
    assert_eq!(
        (w.rows().as_str(), w.sent()),
        ("p,p,p,p", vec!["01 action".to_owned()])
    );
    w.succeed(&["01 action", "02 action"]);
    assert_eq!(w.status(), Status::Succeed);
}

#[test]
fn after_a_lost_race_calls_in_flight_and_what_was_started_are_kept() {
    let mut w = World::submit(concurrent(3, json!({"2": [0, 1]})));
    w.at_once = false;
    w.succeed(&["01 action"]);
    // Somebody else raised the version: the save of this driver fails, and it reads again.
    w.record.version += 1;
    let again =
        w.tx.reload(&w.record, &w.policy, [amends::coordinator::CallId::Row(1)])
            .expect("the record is sound");
    let live = |tx: &Transaction| {
        tx.rows()
            .iter()
            .map(|r| (r.live.calling, r.state.started))
            .collect::<Vec<_>>()
    };
    assert_eq!(live(&again)[3], (true, true), "02 is in flight");
    assert_eq!(
        live(&again)[1],
        (true, true),
        "01 was started, and its success, which nothing durable holds, is applied again"
    );
    assert!(again.in_flight());
    w.tx = again;
    let fx = w
        .input(Input::Result(
            amends::coordinator::CallId::Row(1),
            Outcome::Success,
        ))
        .expect("accepted");
    assert!(fx.calls.is_empty(), "02 is not called a second time");
    let (_, save) = w.tx.take_save(true);
    assert_eq!(save.base, w.record.version);
}

#[test]
fn after_a_lost_race_an_older_result_does_not_end_the_newer_call() {
    let row = amends::coordinator::CallId::Row(1);
    let mut w = World::submit(saga(1));
    w.at_once = false;
    // The first call fails; before that is durable the branch is called again.
    w.answer("01 action", error("down"));
    w.ask(amends::coordinator::Request::Reset)
        .expect("accepted");
    assert!(w.tx.in_flight());
    w.record.version += 1;
    w.tx =
        w.tx.reload(&w.record, &w.policy, [row])
            .expect("the record is sound");
    let fx = w
        .input(Input::Result(row, error("down")))
        .expect("accepted");
    assert!(fx.calls.is_empty() && w.tx.in_flight());
    let fx = w
        .input(Input::Result(row, Outcome::Success))
        .expect("accepted");
    assert!(fx.ended && !w.tx.in_flight());
}

#[test]
fn results_that_are_to_be_applied_again_are_still_so_after_a_second_lost_race() {
    use amends::coordinator::CallId;
    let row = World::submit(saga(1));
    let mut root = World::prepare(msg(1));
    root.pass(35_000);
    for (mut w, which, id) in [
        (row, "01 action", CallId::Row(1)),
        (root, "00 msg", CallId::Root),
    ] {
        // One result that nothing durable holds, and a call on the wire.
        w.at_once = false;
        w.answer(which, error("down"));
        w.ask(amends::coordinator::Request::Reset)
            .expect("accepted");
        w.sent();
        for lost in [vec![id], vec![]] {
            w.record.version += 1;
            let again = w.tx.reload(&w.record, &w.policy, lost);
            w.tx = again.expect("the record is sound");
        }
        let fx = w.input(Input::Result(id, error("down"))).expect("accepted");
        assert!(fx.calls.is_empty() && w.tx.in_flight(), "{which}");
        w.input(Input::Result(id, Outcome::Success))
            .expect("accepted");
        // The success counts: the saga ends, the message is delivered.
        let expected = match id {
            CallId::Root => Status::Submitted,
            CallId::Row(_) => Status::Succeed,
        };
        assert_eq!(w.status(), expected, "{which}");
    }
}

#[test]
fn a_new_transaction_is_created_with_all_it_has() {
    let body = saga(2);
    let def = define(
        &mut global(&body),
        &Default::default(),
        &Policy::default().limits,
    )
    .expect("admitted");
    let mut tx = Transaction::new(def, Status::Submitted, 5);
    let (seq, save) = tx.take_save(true);
    assert_eq!(
        (seq, save.base, save.parts.len(), save.index.driven),
        (1, 0, 1, true)
    );
    assert_eq!(
        save.index.due,
        Some(5),
        "without a step before, it is due at once"
    );
    let (seq, save) = tx.take_save(false);
    assert_eq!(
        (seq, save.base, save.parts.len(), save.index.driven),
        (2, 1, 0, false),
        "payloads are written once"
    );
}
