//! Workflows (dtm-server.md 9.6, rules.md 2.7).

use crate::bodies::{error, failure, with, workflow};
use crate::driver::{BASE, START, World};
use amends::branch::BranchStatus;
use amends::coordinator::Request;
use amends::coordinator::admit::register;
use amends::wire::request::BranchRequest;
use amends::{ErrorKind, Limits, Op, Outcome, Status};
use serde_json::{Value, json};

fn row(id: &str, op: &str, status: &str) -> Value {
    json!({"gid": "g", "trans_type": "workflow", "branch_id": id, "op": op, "status": status, "data": "AAH/", "run": "r1"})
}

#[test]
fn the_callback_comes_one_interval_after_the_client_was_heard_of() {
    let mut w = World::prepare(workflow());
    assert_eq!(w.due_in(), Some(BASE));
    w.pass(BASE);
    assert_eq!(w.sent(), ["00 book"]);
    let call = w.call("00 book");
    assert_eq!(
        (&*call.url, &call.payload[..]),
        ("http://w/back", &b"input"[..])
    );
}

#[test]
fn the_interval_is_the_longer_of_base_and_request_timeout() {
    for (options, wait) in [
        (json!({}), 10_000),
        (json!({"retry_interval": 2}), 3_000),
        (json!({"retry_interval": 60}), 60_000),
        (json!({"retry_interval": 2, "request_timeout": 45}), 45_000),
    ] {
        let w = World::prepare(with(workflow(), options.clone()));
        assert_eq!(w.due_in(), Some(wait), "{options}");
    }
}

#[test]
fn a_callback_answered_well_comes_again_after_the_base_interval_and_errors_back_off() {
    let mut w = World::prepare(workflow());
    w.pass(BASE);
    for (outcome, pause) in [
        (Outcome::Success, BASE),
        (Outcome::Ongoing, BASE),
        (error("down"), 2 * BASE),
        (failure("no"), 4 * BASE),
        (Outcome::Ongoing, BASE),
        (error("down"), 2 * BASE),
        (Outcome::Success, BASE),
    ] {
        w.answer("00 book", outcome.clone());
        assert_eq!(
            (w.status(), w.due_in()),
            (Status::Prepared, Some(pause)),
            "{outcome:?}"
        );
        w.pass(pause);
    }
}

#[test]
fn a_workflow_never_times_out() {
    let mut w = World::prepare(with(
        workflow(),
        json!({"timeout_to_fail": 1, "retry_interval": 10}),
    ));
    for _ask in 0..50 {
        w.pass(BASE);
        w.answer("00 book", Outcome::Ongoing);
    }
    assert_eq!(w.status(), Status::Prepared);
}

#[test]
fn a_client_that_is_heard_of_again_moves_the_callback() {
    let mut w = World::prepare(workflow());
    w.pass(6_000);
    w.ask(Request::PrepareWorkflow).expect("accepted");
    assert_eq!(w.due_in(), Some(BASE));
    assert_eq!(
        w.record.index.due,
        Some(START + 6_000 + BASE),
        "stored before it is answered"
    );
    w.let_go();
    w.pass(3_000);
    w.register(row("01", "action", "succeed"))
        .expect("accepted");
    w.input(amends::coordinator::Input::Wake).expect("accepted");
    assert_eq!(w.due_in(), Some(BASE));
}

#[test]
fn without_a_callback_url_nothing_is_called() {
    let mut w = World::prepare(with(workflow(), json!({"query_prepared": ""})));
    w.pass(3_600_000);
    assert_eq!((w.status(), w.sent()), (Status::Prepared, vec![]));
}

#[test]
fn the_end_is_what_the_client_says_and_its_result_is_kept() {
    let mut w = World::prepare(workflow());
    w.end(Status::Succeed, "", "cmVzdWx0").expect("accepted");
    assert_eq!((w.status(), w.tx.result()), (Status::Succeed, "cmVzdWx0"));
    w.load();
    assert_eq!(w.tx.result(), "cmVzdWx0", "it is stored");
    assert_eq!(
        (
            w.tx.definition().query_prepared.as_str(),
            w.tx.definition().custom_data.is_empty()
        ),
        ("http://w/back", false)
    );

    let mut w = World::prepare(workflow());
    w.end(Status::Failed, "sold out", "").expect("accepted");
    assert_eq!((w.status(), w.reason()), (Status::Failed, "sold out"));
    w.pass(3_600_000);
    assert!(
        w.sent().is_empty(),
        "a finished workflow is not called back"
    );
}

#[test]
fn an_end_again_is_success_and_another_end_is_refused() {
    for (first, other) in [
        (Status::Succeed, Status::Failed),
        (Status::Failed, Status::Succeed),
    ] {
        let mut w = World::prepare(workflow());
        w.end(first, "why", "Zmlyc3Q=").expect("accepted");
        w.end(first, "another", "c2Vjb25k").expect("the same end");
        assert_eq!(
            (w.reason(), w.tx.result()),
            ("why", "Zmlyc3Q="),
            "stored reason and result stay"
        );
        let e = w.end(other, "", "").expect_err("the other end");
        assert_eq!((e.kind(), e.status()), (ErrorKind::RowRefused, Some(first)));
        assert_eq!(e.message(), "no trans with gid: g status: prepared found");
    }
}

#[test]
fn an_end_during_the_callback_is_final_whatever_it_answers() {
    for outcome in [
        Outcome::Success,
        failure("no"),
        Outcome::Ongoing,
        error("down"),
    ] {
        let mut w = World::prepare(workflow());
        w.pass(BASE);
        w.end(Status::Succeed, "", "").expect("accepted");
        let fx = w.answer("00 book", outcome);
        assert_eq!((w.status(), fx.wake_at), (Status::Succeed, None));
        assert!(w.alerts.is_empty());
    }
}

#[test]
fn a_decision_row_binds_the_end() {
    for (decided, other) in [("succeed", Status::Failed), ("failed", Status::Succeed)] {
        let mut w = World::prepare(workflow());
        w.register(row("00", "decision", decided))
            .expect("accepted");
        assert_eq!(w.status(), Status::Prepared, "the wire status stays");
        assert_eq!(
            w.tx.decision_row().map(|r| r.registered),
            BranchStatus::parse(decided)
        );
        let e = w.end(other, "", "").expect_err("it was decided");
        assert_eq!(
            (e.kind(), e.status()),
            (ErrorKind::RowRefused, Some(Status::Prepared))
        );
        w.end(Status::parse(decided).expect("a status"), "", "")
            .expect("as decided");
        assert_eq!(w.status().as_str(), decided);
    }
}

#[test]
fn after_a_decision_row_actions_and_business_are_forbidden_and_phase_2_is_not() {
    let limits = Limits::default();
    for (op, forbidden) in [
        ("action", true),
        ("business", true),
        ("commit", false),
        ("rollback", false),
        ("decision", false),
    ] {
        let id = if op == "decision" { "00" } else { "01" };
        let request = BranchRequest::from_json(row(id, op, "succeed").to_string().as_bytes())
            .expect("strings");
        let r = register(&request, &limits).expect("admitted");
        let want = forbidden.then(|| ("00".to_owned(), Op::DECISION.as_str().to_owned()));
        assert_eq!(r.forbidden(), want, "{op}");
    }
}

#[test]
fn a_registered_step_keeps_its_status_its_data_and_its_run() {
    let mut w = World::prepare(workflow());
    w.register(row("01", "action", "succeed"))
        .expect("accepted");
    w.register(row("02", "action", "failed")).expect("accepted");
    w.register(row("02", "book a flight", "prepared"))
        .expect("any word is an op");
    assert_eq!(w.rows(), "s,f,p");
    let first = &w.tx.rows()[0];
    assert_eq!(
        (first.run.as_str(), &first.payload[..], first.created),
        ("r1", &b"AAH/"[..], START)
    );
    w.input(amends::coordinator::Input::Wake).expect("accepted");
    assert!(
        w.sent().is_empty(),
        "the coordinator calls no step of a workflow"
    );
}

#[test]
fn another_run_is_other_content() {
    let limits = Limits::default();
    let part = |body: &Value| {
        let request = BranchRequest::from_json(body.to_string().as_bytes()).expect("strings");
        register(&request, &limits)
            .expect("admitted")
            .registration
            .part(1)
    };
    let mine = row("01", "action", "succeed");
    assert_eq!(
        part(&mine),
        part(&mine),
        "repeated by its own run: recognised"
    );
    assert_ne!(
        part(&mine).bytes,
        part(&with(mine.clone(), json!({"run": "r2"}))).bytes
    );
    assert_eq!(
        part(&mine).keys,
        part(&with(mine, json!({"run": "r2"}))).keys
    );
}
