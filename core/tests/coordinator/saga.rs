//! Sagas (dtm-server.md 9.2, rules.md 1.2, 1.4, 2.6).

use crate::bodies::{concurrent, error, failure, saga, with};
use crate::driver::{BASE, World};
use amends::{Outcome, Status};
use serde_json::json;

#[test]
fn two_steps_succeed_in_order() {
    let mut w = World::submit(saga(2));
    assert_eq!(w.sent(), ["01 action"]);
    assert_eq!(
        (&*w.call("01 action").url, &w.call("01 action").payload[..]),
        ("http://a/1", &b"{\"n\":1}"[..])
    );
    w.succeed(&["01 action"]);
    assert_eq!(w.sent(), ["02 action"]);
    w.now += 7;
    w.succeed(&["02 action"]);
    assert_eq!(
        (w.status(), w.rows().as_str(), w.reason()),
        (Status::Succeed, "p,s,p,s", "")
    );
    assert_eq!(w.tx.state().finished, Some(w.now));
    assert_eq!(
        w.record.index.status,
        Status::Succeed,
        "the end is durable at once"
    );
    assert!(w.sent().is_empty());
}

#[test]
fn the_second_action_fails_and_both_are_compensated_in_reverse() {
    let mut w = World::submit(saga(2));
    w.succeed(&["01 action"]);
    w.sent();
    w.answer("02 action", failure("no stock"));
    assert_eq!(w.status(), Status::Aborting);
    assert_eq!(w.reason(), "url:http://a/2 return failed: no stock FAILURE");
    assert_eq!(
        w.sent(),
        ["02 compensate"],
        "the failed action is compensated too, and first"
    );
    assert_eq!(*w.call("02 compensate").url, *"http://c/2");
    assert_eq!(&w.call("02 compensate").payload[..], b"{\"n\":2}");
    w.succeed(&["02 compensate"]);
    assert_eq!(w.sent(), ["01 compensate"]);
    w.succeed(&["01 compensate"]);
    assert_eq!((w.status(), w.rows().as_str()), (Status::Failed, "s,s,s,f"));
    assert_eq!(w.tx.state().finished, Some(w.now));
}

#[test]
fn the_word_failure_ends_the_reason_once() {
    for (text, want) in [
        ("", " FAILURE"),
        ("no stock FAILURE", " no stock FAILURE"),
        ("FAILURE\n", " FAILURE"),
        ("x FAILURE y", " x FAILURE y FAILURE"),
    ] {
        let mut w = World::submit(saga(1));
        w.answer("01 action", failure(text));
        let reason = w.reason().replace("  ", " ");
        assert_eq!(reason, format!("url:http://a/1 return failed:{want}"));
    }
}

#[test]
fn the_first_of_an_ordered_pair_fails_and_the_second_never_ran() {
    let mut w = World::submit(concurrent(2, json!({"1": [0]})));
    assert_eq!(w.sent(), ["01 action"]);
    w.answer("01 action", failure("no"));
    w.succeed(&["01 compensate"]);
    assert_eq!((w.status(), w.rows().as_str()), (Status::Failed, "s,f,p,p"));
    assert_eq!(w.sent(), ["01 compensate"]);
}

#[test]
fn a_timeout_while_an_action_is_ongoing_rolls_back_what_was_started() {
    let mut w = World::submit(with(
        saga(2),
        json!({"timeout_to_fail": 5, "retry_interval": 3}),
    ));
    w.answer("01 action", Outcome::Ongoing);
    w.pass(3_000);
    w.answer("01 action", Outcome::Ongoing);
    assert_eq!(
        w.due_in(),
        Some(2_000),
        "the timeout comes before the next try"
    );
    w.pass(2_000);
    assert_eq!(
        (w.status(), w.reason()),
        (Status::Aborting, "Timeout after 5 seconds")
    );
    w.succeed(&["01 compensate"]);
    assert_eq!((w.status(), w.rows().as_str()), (Status::Failed, "s,p,p,p"));
}

#[test]
fn a_timeout_during_a_call_waits_for_its_end_before_compensating() {
    for outcome in [
        Outcome::Success,
        failure("no"),
        error("reset"),
        Outcome::Ongoing,
    ] {
        let mut w = World::submit(with(saga(2), json!({"timeout_to_fail": 2})));
        w.sent();
        w.pass(2_000);
        assert_eq!((w.status(), w.sent()), (Status::Aborting, vec![]));
        w.answer("01 action", outcome);
        assert_eq!(w.sent(), ["01 compensate"]);
        assert_eq!(
            w.reason(),
            "Timeout after 2 seconds",
            "a later refusal does not replace the reason"
        );
    }
}

#[test]
fn a_saga_has_no_timeout_unless_it_asks_for_one() {
    let mut w = World::submit(saga(1));
    w.answer("01 action", Outcome::Ongoing);
    for _look in 0..100 {
        w.pass(BASE);
        w.answer("01 action", Outcome::Ongoing);
    }
    assert_eq!(w.status(), Status::Submitted);
}

#[test]
fn the_timeout_counts_from_the_submit() {
    let body = with(saga(1), json!({"timeout_to_fail": 20}));
    let mut w = World::prepare(body.clone());
    w.pass(15_000);
    w.submit_again(body).expect("accepted");
    w.answer("01 action", Outcome::Ongoing);
    w.pass(19_999);
    assert_eq!(w.status(), Status::Submitted);
    w.pass(1);
    assert_eq!(w.status(), Status::Aborting);
}

#[test]
fn a_saga_that_is_only_prepared_runs_nothing() {
    let mut w = World::prepare(saga(2));
    assert_eq!(w.due_in(), Some(600_000), "looked at every ten minutes");
    w.pass(3_600_000);
    assert_eq!((w.status(), w.sent()), (Status::Prepared, vec![]));

    let mut w = World::prepare(with(saga(2), json!({"timeout_to_fail": 30})));
    w.pass(29_999);
    assert_eq!(w.status(), Status::Prepared);
    w.pass(1);
    assert_eq!(
        (w.status(), w.reason(), w.rows().as_str()),
        (Status::Failed, "Timeout after 30 seconds", "p,p,p,p")
    );
    assert!(
        w.sent().is_empty(),
        "nothing has run, so nothing is compensated"
    );
}

#[test]
fn an_empty_url_is_success_without_a_call() {
    let mut body = saga(3);
    body["steps"][1] = json!({"compensate": "http://c/2"});
    body["steps"][2] = json!({"action": "http://a/3"});
    let mut w = World::submit(body.clone());
    w.succeed(&["01 action"]);
    assert_eq!(w.sent(), ["01 action", "03 action"]);
    w.answer("03 action", failure("no"));
    assert_eq!(
        w.sent(),
        ["02 compensate"],
        "an empty compensation is done at once"
    );
    w.succeed(&["02 compensate", "01 compensate"]);
    assert_eq!(
        (w.status(), w.rows().as_str()),
        (Status::Failed, "s,s,s,s,s,f")
    );

    for k in 0..3 {
        body["steps"][k] = json!({});
    }
    assert_eq!(World::submit(body).status(), Status::Succeed);
    assert_eq!(World::submit(saga(0)).status(), Status::Succeed);
}

#[test]
fn a_diamond_runs_as_wide_as_its_orders_allow() {
    let mut w = World::submit(concurrent(4, json!({"1": [0], "2": [0], "3": [1, 2]})));
    assert_eq!(w.sent(), ["01 action"]);
    w.succeed(&["01 action"]);
    assert_eq!(w.sent(), ["02 action", "03 action"]);
    w.succeed(&["03 action"]);
    assert!(w.sent().is_empty());
    w.succeed(&["02 action"]);
    assert_eq!(w.sent(), ["04 action"]);
    w.answer("04 action", failure("no"));
    assert_eq!(w.sent(), ["04 compensate"]);
    w.succeed(&["04 compensate"]);
    assert_eq!(w.sent(), ["03 compensate", "02 compensate"]);
    w.succeed(&["02 compensate"]);
    assert!(w.sent().is_empty(), "what all depended on is undone last");
    w.succeed(&["03 compensate"]);
    assert_eq!(w.sent(), ["01 compensate"]);
    w.succeed(&["01 compensate"]);
    assert_eq!(w.status(), Status::Failed);
}

#[test]
fn a_failure_in_the_middle_of_a_diamond_compensates_what_started_and_nothing_else() {
    let mut w = World::submit(concurrent(4, json!({"1": [0], "2": [0], "3": [1, 2]})));
    w.succeed(&["01 action"]);
    w.answer("02 action", failure("no"));
    w.sent();
    assert!(
        w.flying
            .iter()
            .all(|c| c.branch_id != "03" || c.op.as_str() == "action"),
        "03 is still in flight"
    );
    w.succeed(&["03 action"]);
    assert_eq!(w.sent(), ["03 compensate"]);
    w.succeed(&["02 compensate", "03 compensate", "01 compensate"]);
    assert_eq!(
        (w.status(), w.rows().as_str()),
        (Status::Failed, "s,s,s,f,s,s,p,p")
    );
}

#[test]
fn orders_bind_also_a_saga_that_is_not_concurrent() {
    let custom = json!({"concurrent": false, "orders": {"2": [0]}}).to_string();
    let mut w = World::submit(with(saga(3), json!({"custom_data": custom})));
    w.succeed(&["01 action"]);
    assert_eq!(w.sent(), ["01 action", "02 action"]);
    w.succeed(&["02 action", "03 action"]);
    assert_eq!(w.status(), Status::Succeed);
}

#[test]
fn without_orders_a_concurrent_saga_runs_all_at_once_and_undoes_all_at_once() {
    let mut w = World::submit(concurrent(3, json!(null)));
    assert_eq!(w.sent(), ["01 action", "02 action", "03 action"]);
    w.succeed(&["03 action", "01 action"]);
    w.answer("02 action", failure("no"));
    assert_eq!(
        w.sent(),
        ["03 compensate", "02 compensate", "01 compensate"]
    );
    w.succeed(&["01 compensate", "02 compensate", "03 compensate"]);
    assert_eq!(
        (w.status(), w.rows().as_str()),
        (Status::Failed, "s,s,s,f,s,s")
    );
}

#[test]
fn a_second_refusal_keeps_the_first_reason() {
    let mut w = World::submit(concurrent(2, json!(null)));
    w.answer("01 action", failure("first"));
    w.answer("02 action", failure("second"));
    assert_eq!(w.reason(), "url:http://a/1 return failed: first FAILURE");
}

#[test]
fn compensations_are_repeated_until_they_succeed() {
    let mut w = World::submit(saga(2));
    w.succeed(&["01 action"]);
    w.answer("02 action", failure("no"));
    w.succeed(&["02 compensate"]);
    w.answer("01 compensate", failure("I will not"));
    assert_eq!(
        (w.status(), w.rows().as_str(), w.due_in()),
        (Status::Aborting, "p,s,s,f", Some(2 * BASE))
    );
    assert!(w.row("01 compensate").error.contains("I will not"));
    w.sent();
    w.pass(2 * BASE);
    assert_eq!(
        w.sent(),
        ["01 compensate"],
        "only what is unfinished is called again"
    );
    w.answer("01 compensate", Outcome::Ongoing);
    assert_eq!(w.due_in(), Some(BASE));
    w.pass(BASE);
    w.answer("01 compensate", error("down"));
    assert_eq!(w.due_in(), Some(4 * BASE));
    w.pass(4 * BASE);
    w.succeed(&["01 compensate"]);
    assert_eq!(w.status(), Status::Failed);
}
