//! Two-phase messages (dtm-server.md 9.1, 11; rules.md 2.2, 2.4, 3).

use crate::bodies::{Topics, error, failure, msg, with};
use crate::driver::{BASE, START, World};
use amends::{Outcome, Policy, Status};
use serde_json::json;

#[test]
fn steps_are_delivered_one_by_one_in_order() {
    let mut w = World::submit(msg(3));
    w.succeed(&["01 action", "02 action", "03 action"]);
    assert_eq!(w.sent(), ["01 action", "02 action", "03 action"]);
    assert_eq!((w.status(), w.rows().as_str()), (Status::Succeed, "s,s,s"));
}

#[test]
fn the_first_that_does_not_succeed_holds_the_rest() {
    for (outcome, pause) in [
        (Outcome::Ongoing, BASE),
        (error("down"), 2 * BASE),
        (failure("no"), 2 * BASE),
    ] {
        let mut w = World::submit(msg(2));
        w.sent();
        w.answer("01 action", outcome.clone());
        assert_eq!(
            (w.status(), w.rows().as_str(), w.due_in()),
            (Status::Submitted, "p,p", Some(pause)),
            "{outcome:?}"
        );
        w.pass(pause);
        assert_eq!(w.sent(), ["01 action"]);
        w.succeed(&["01 action", "02 action"]);
        assert_eq!(w.status(), Status::Succeed);
    }
}

#[test]
fn a_submitted_message_never_rolls_back() {
    let mut w = World::submit(with(
        msg(1),
        json!({"retry_limit": 1, "timeout_to_fail": 5}),
    ));
    for _try in 0..20 {
        w.answer("01 action", failure("never"));
        w.pass(600_000);
    }
    assert_eq!((w.status(), w.rows().as_str()), (Status::Submitted, "p"));
    w.abort("changed my mind").expect_err("it is submitted");
}

#[test]
fn a_concurrent_message_calls_all_at_once_and_repeats_only_what_failed() {
    let mut w = World::submit(with(msg(3), json!({"concurrent": true})));
    assert_eq!(w.sent(), ["01 action", "02 action", "03 action"]);
    w.answer("02 action", error("down"));
    w.succeed(&["01 action"]);
    assert!(
        w.sent().is_empty(),
        "03 is in flight, and 02 waits for its time"
    );
    w.pass(2 * BASE);
    assert_eq!(w.sent(), ["02 action"]);
    w.succeed(&["03 action", "02 action"]);
    assert_eq!(w.status(), Status::Succeed);
}

#[test]
fn a_message_without_steps_is_done() {
    assert_eq!(World::submit(msg(0)).status(), Status::Succeed);
    let mut empty = msg(2);
    empty["steps"] = json!([{}, {}]);
    assert_eq!(World::submit(empty).status(), Status::Succeed);
}

#[test]
fn the_check_back_decides_after_the_timeout() {
    // Answer; status and pause after it.
    let table = [
        (Outcome::Success, Status::Submitted, None),
        (failure("rolled back"), Status::Failed, None),
        (Outcome::Ongoing, Status::Prepared, Some(BASE)),
        (error("down"), Status::Prepared, Some(2 * BASE)),
    ];
    for (outcome, status, pause) in table {
        let mut w = World::prepare(msg(1));
        assert_eq!(w.due_in(), Some(35_000), "the coordinator's default");
        w.pass(34_999);
        assert!(w.sent().is_empty());
        w.pass(1);
        assert_eq!(w.sent(), ["00 msg"]);
        let call = w.call("00 msg");
        assert_eq!((&*call.url, call.payload.len()), ("http://q/ask", 0));
        w.answer("00 msg", outcome.clone());
        assert_eq!((w.status(), w.due_in()), (status, pause), "{outcome:?}");
        match status {
            Status::Submitted => assert_eq!(w.sent(), ["01 action"], "it goes on at once"),
            _ => assert!(w.sent().is_empty()),
        }
    }
}

#[test]
fn the_check_back_is_repeated_with_doubled_pauses_until_it_answers() {
    let mut w = World::prepare(with(
        msg(1),
        json!({"timeout_to_fail": 3, "retry_interval": 2}),
    ));
    w.pass(3_000);
    for pause in [4_000, 8_000, 16_000] {
        w.answer("00 msg", error("down"));
        assert_eq!(w.due_in(), Some(pause));
        w.pass(pause);
    }
    assert_eq!(w.alerts.len(), 1);
    assert_eq!(
        (w.alerts[0].branch.as_str(), w.alerts[0].status),
        ("http://q/ask", Status::Prepared)
    );
    w.answer("00 msg", Outcome::Ongoing);
    assert_eq!(w.due_in(), Some(2_000));
    w.pass(2_000);
    w.answer("00 msg", Outcome::Success);
    assert_eq!(
        (w.status(), w.tx.attempts(), w.tx.state().attention),
        (Status::Submitted, 0, false)
    );
}

#[test]
fn a_submit_or_abort_during_the_check_back_wins() {
    for answer in [
        Outcome::Success,
        failure("no"),
        Outcome::Ongoing,
        error("down"),
    ] {
        let mut w = World::prepare(msg(1));
        w.pass(35_000);
        w.submit_again(msg(1)).expect("accepted");
        w.answer("00 msg", answer.clone());
        assert_eq!(w.status(), Status::Submitted, "{answer:?}");
        w.succeed(&["01 action"]);
        assert_eq!(w.status(), Status::Succeed);

        let mut w = World::prepare(msg(1));
        w.pass(35_000);
        w.abort("rolled back").expect("accepted");
        w.answer("00 msg", answer.clone());
        assert_eq!(
            (w.status(), w.reason()),
            (Status::Failed, "rolled back"),
            "{answer:?}"
        );
        assert!(w.flying.is_empty());
    }
}

#[test]
fn what_the_check_back_suffered_is_forgotten_at_the_submit() {
    let mut w = World::prepare(msg(1));
    w.pass(35_000);
    for _try in 0..3 {
        w.answer("00 msg", error("down"));
        w.pass(600_000);
    }
    w.submit_again(msg(1)).expect("accepted");
    w.answer("00 msg", error("down"));
    assert_eq!(
        (w.tx.attempts(), w.tx.last_error()),
        (0, None),
        "the check-back has no more to say"
    );
    w.answer("01 action", Outcome::Ongoing);
    assert_eq!(w.tx.shown_interval(&w.policy), BASE);
}

#[test]
fn an_aborted_message_is_never_delivered() {
    let mut w = World::prepare(msg(2));
    w.abort("no").expect("accepted");
    assert_eq!((w.status(), w.rows().as_str()), (Status::Failed, "p,p"));
    w.pass(3_600_000);
    assert!(w.sent().is_empty());
}

#[test]
fn a_delay_counts_from_the_submit_and_not_one_call_is_early() {
    let body = with(msg(1), json!({"custom_data": "{\"delay\":60}"}));
    let mut w = World::prepare(body.clone());
    w.pass(20_000);
    w.submit_again(body).expect("accepted");
    assert_eq!(w.tx.state().submitted, Some(START + 20_000));
    w.pass(59_999);
    assert!(w.sent().is_empty());
    w.pass(1);
    assert_eq!(w.sent(), ["01 action"]);
}

#[test]
fn a_delay_counts_from_the_check_back_that_submitted() {
    let mut w = World::prepare(with(msg(1), json!({"custom_data": "{\"delay\":60}"})));
    w.pass(35_000);
    w.answer("00 msg", Outcome::Success);
    assert_eq!(w.due_in(), Some(60_000));
}

#[test]
fn nothing_cuts_a_delay() {
    use amends::coordinator::{Input, Request};
    let mut w = World::submit(with(msg(1), json!({"custom_data": "{\"delay\":60}"})));
    w.pass(10_000);
    w.ask(Request::Reset).expect("accepted");
    w.ask(Request::HostBack("http://a".to_owned()))
        .expect("accepted");
    w.submit_again(msg(1)).expect("accepted");
    w.input(Input::Wake).expect("accepted");
    w.let_go_and_resume();
    w.crash();
    assert_eq!(
        (w.due_in(), w.sent()),
        (Some(50_000), vec![]),
        "to the time it had, and no longer"
    );
    w.pass(50_000);
    assert_eq!(w.sent(), ["01 action"]);
}

#[test]
fn topics_are_expanded_by_number_of_subscribers() {
    let topics = Topics::from([
        ("one".to_owned(), vec!["http://s/only".to_owned()]),
        (
            "two".to_owned(),
            vec!["http://s/1".to_owned(), "http://s/2".to_owned()],
        ),
    ]);
    let body = with(
        msg(3),
        json!({"steps": [{"action": "topic://two"}, {"action": "http://a/2"}, {"action": "topic://one"}]}),
    );
    let mut w = World::store(&body, Status::Submitted, Policy::default(), &topics, true);
    let rows: Vec<String> =
        w.tx.rows()
            .iter()
            .map(|r| format!("{} {}", r.branch_id, r.url))
            .collect();
    assert_eq!(
        rows,
        [
            "01-01 http://s/1",
            "01-02 http://s/2",
            "02 http://a/2",
            "03 http://s/only"
        ]
    );
    w.crash();
    let again: Vec<String> =
        w.tx.rows()
            .iter()
            .map(|r| format!("{} {}", r.branch_id, r.url))
            .collect();
    assert_eq!(
        again, rows,
        "resolved once: what is stored needs no topic any more"
    );
    w.succeed(&["01-01 action", "01-02 action", "02 action", "03 action"]);
    assert_eq!(w.status(), Status::Succeed);
}

#[test]
fn a_prepared_message_without_a_check_back_fails_after_the_timeout() {
    let mut w = World::prepare(with(msg(1), json!({"query_prepared": ""})));
    w.pass(35_000);
    assert_eq!(w.status(), Status::Failed);
    assert!(w.sent().is_empty());
}
