//! What each request does in each state (dtm-server.md 9.5, rules.md 2), and the operator's override (rules.md 1.3).

use crate::bodies::{empty, error, failure, global, msg, saga, with, workflow};
use crate::driver::World;
use amends::coordinator::{Input, Request};
use amends::{ErrorKind, Outcome, Policy, Status};
use serde_json::{Value, json};

/// A transaction of this mode in this state, or nothing where the mode has no such state.
fn made(ty: &str, status: &str) -> Option<World> {
    let body = body(ty);
    let mut w = World::prepare(body.clone());
    if matches!(ty, "tcc" | "xa") {
        w.register_branches(1);
    }
    let (forward, backward) = match ty {
        "tcc" => ("01 confirm", "01 cancel"),
        "xa" => ("01 commit", "01 rollback"),
        _ => ("01 action", "01 compensate"),
    };
    match (ty, status) {
        (_, "prepared") => {}
        ("workflow", "succeed") => drop(w.end(Status::Succeed, "", "").expect("accepted")),
        ("workflow", "failed") => drop(w.end(Status::Failed, "no", "").expect("accepted")),
        ("workflow", _) => return None,
        (_, "submitted") => drop(w.submit_again(body).expect("accepted")),
        (_, "succeed") => {
            w.submit_again(body).expect("accepted");
            w.succeed(&[forward]);
        }
        ("msg", "failed") => drop(w.abort("no").expect("accepted")),
        ("msg", _) => return None,
        ("saga", _) => {
            w.submit_again(body).expect("accepted");
            w.answer(forward, failure("no"));
        }
        _ => drop(w.abort("no").expect("accepted")),
    }
    if status == "failed" && !w.status().is_final() {
        w.succeed(&[backward]);
    }
    assert_eq!(w.status().as_str(), status, "{ty}");
    w.sent();
    Some(w)
}

fn body(ty: &str) -> Value {
    match ty {
        "saga" => saga(1),
        "msg" => msg(1),
        "workflow" => workflow(),
        other => empty(other),
    }
}

const MODES: [&str; 5] = ["saga", "msg", "tcc", "xa", "workflow"];
const STATES: [&str; 5] = ["prepared", "submitted", "aborting", "succeed", "failed"];

fn each(mut test: impl FnMut(&str, &str, World)) {
    for ty in MODES {
        for status in STATES {
            if let Some(w) = made(ty, status) {
                test(ty, status, w);
            }
        }
    }
}

#[test]
fn prepare_again_is_fine_while_prepared_and_refused_later() {
    each(|ty, status, mut w| {
        let version = w.record.version;
        match w.ask(Request::Prepare) {
            Ok(fx) => assert!(
                status == "prepared" && fx.save.is_none() && w.record.version == version,
                "{ty} {status}"
            ),
            Err(e) => {
                assert_ne!(status, "prepared");
                assert_eq!(
                    (e.kind(), e.status()),
                    (ErrorKind::Refused, Some(w.status()))
                );
                assert_eq!(
                    e.message(),
                    format!("current status '{status}', cannot prepare. FAILURE")
                );
            }
        }
    });
}

#[test]
fn submit_again_changes_nothing_and_is_refused_once_it_is_undone_or_ended() {
    each(|ty, status, mut w| {
        if ty == "workflow" {
            return;
        }
        let state = w.tx.state().clone();
        let calls = w.flying.len();
        let got = w.submit_again(body(ty));
        match status {
            "prepared" => assert_eq!((got.is_ok(), w.status()), (true, Status::Submitted), "{ty}"),
            "submitted" => {
                let fx = got.expect("accepted");
                assert!(
                    fx.save.is_none()
                        && fx.calls.is_empty()
                        && w.tx.state() == &state
                        && w.flying.len() == calls,
                    "{ty}"
                );
            }
            _ => {
                let e = got.expect_err("undone or ended");
                assert_eq!(
                    (e.kind(), e.status()),
                    (ErrorKind::Refused, Some(w.status())),
                    "{ty} {status}"
                );
                assert_eq!(
                    e.message(),
                    format!("current status '{status}', cannot sumbmit. FAILURE")
                );
            }
        }
    });
}

#[test]
fn abort_undoes_what_is_prepared_and_keeps_the_first_reason() {
    each(|ty, status, mut w| {
        let got = w.abort("second thoughts");
        match (ty, status) {
            ("msg", "prepared") => assert_eq!(
                (got.is_ok(), w.status(), w.reason()),
                (true, Status::Failed, "second thoughts")
            ),
            ("tcc" | "xa", "prepared") => {
                assert_eq!(
                    (got.is_ok(), w.status(), w.reason()),
                    (true, Status::Aborting, "second thoughts")
                );
            }
            ("tcc" | "xa", "aborting") => {
                assert!(got.expect("accepted").calls.is_empty());
                assert_eq!((w.status(), w.reason()), (Status::Aborting, "no"));
            }
            _ => {
                let e = got.expect_err("not abortable");
                assert_eq!(
                    (e.kind(), e.status()),
                    (ErrorKind::Refused, Some(w.status()))
                );
                assert_eq!(
                    e.message(),
                    format!("trans type: '{ty}' current status '{status}', cannot abort. FAILURE")
                );
            }
        }
    });
}

#[test]
fn a_force_stop_ends_what_has_not_ended_and_is_marked() {
    each(|ty, status, mut w| {
        let flying = w.flying.len();
        let got = w.force_stop();
        if matches!(status, "succeed" | "failed") {
            let e = got.expect_err("ended");
            assert_eq!(
                (e.kind(), e.status()),
                (ErrorKind::Refused, Some(w.status()))
            );
            assert_eq!(
                e.message(),
                format!("global transaction force stop error. status: {status}. error: FAILURE")
            );
            assert!(w.tx.state().forced.is_none());
            return;
        }
        assert!(got.expect("accepted").calls.is_empty());
        assert_eq!(w.status(), Status::Failed, "{ty} {status}");
        let forced = w.tx.state().forced.as_ref().expect("marked");
        assert_eq!(
            (forced.actor.as_str(), forced.reason.as_str()),
            ("ops", "stuck")
        );
        assert_eq!(
            w.record.index.status,
            Status::Failed,
            "durable before it is answered"
        );
        assert_eq!(w.flying.len(), flying);
        w.pass(3_600_000);
        assert!(w.sent().is_empty(), "no call after it");
    });
}

#[test]
fn a_call_in_flight_at_a_force_stop_is_recorded_and_nothing_else() {
    let outcomes = [
        (Outcome::Success, "s"),
        (failure("no"), "f"),
        (Outcome::Ongoing, "p"),
        (error("down"), "p"),
    ];
    for (outcome, letter) in outcomes {
        let policy = Policy {
            alert_retry_limit: 1,
            ..Policy::default()
        };
        let mut w = World::store(
            &saga(2),
            Status::Submitted,
            policy,
            &Default::default(),
            true,
        );
        w.sent();
        w.force_stop().expect("accepted");
        let reason = w.reason().to_owned();
        w.answer("01 action", outcome.clone());
        assert_eq!(
            (w.status(), w.rows()),
            (Status::Failed, format!("p,{letter},p,p")),
            "{outcome:?}"
        );
        assert_eq!(
            (w.reason(), w.tx.state().attention),
            (reason.as_str(), false)
        );
        assert!(w.sent().is_empty() && w.alerts.is_empty());
        assert_eq!(
            (w.tx.attempts(), w.tx.last_error()),
            (0, None),
            "no retry will follow, so nothing is counted"
        );
    }
    // A refusal by a confirm is no final word, so nothing of it is kept.
    let mut w = made("tcc", "submitted").expect("a state of tcc");
    w.force_stop().expect("accepted");
    w.answer("01 confirm", Outcome::Success);
    assert_eq!((w.status(), w.rows().as_str()), (Status::Failed, "p,s"));
}

#[test]
fn a_force_stop_keeps_the_reason_of_a_rollback() {
    let mut w = made("tcc", "aborting").expect("a state of tcc");
    w.force_stop().expect("accepted");
    assert_eq!(w.reason(), "no");
    let mut w = made("msg", "submitted").expect("a state of msg");
    w.force_stop().expect("accepted");
    assert_eq!(w.reason(), "stuck");
}

#[test]
fn prepare_workflow_and_end_are_for_workflows_only() {
    each(|ty, status, mut w| {
        let prepared = w.ask(Request::PrepareWorkflow);
        let ended = w.end(Status::Succeed, "", "");
        if ty == "workflow" {
            assert!(prepared.is_ok(), "a finished workflow answers the same way");
            assert_eq!(ended.is_ok(), status != "failed");
        } else {
            for e in [prepared.expect_err(ty), ended.expect_err(ty)] {
                assert_eq!(
                    (e.kind(), e.status().map(Status::as_str)),
                    (ErrorKind::Refused, Some(status))
                );
            }
        }
    });
}

#[test]
fn a_submit_merges_options_over_those_of_the_prepare() {
    let stored = json!({"timeout_to_fail": 50, "request_timeout": 7, "retry_interval": 9, "retry_limit": 2,
        "branch_headers": {"a": "1"}, "concurrent": true});
    let cases = [
        (json!({}), (50, 7, 9, 2, "a", true)),
        (
            json!({"timeout_to_fail": 60, "retry_limit": 5}),
            (60, 7, 9, 5, "a", true),
        ),
        (
            json!({"request_timeout": 8, "retry_interval": 11, "branch_headers": {"b": "2"}}),
            (50, 8, 11, 2, "b", true),
        ),
        (json!({"concurrent": true}), (50, 7, 9, 2, "a", true)),
    ];
    for (sent, want) in cases {
        let mut w = World::prepare(with(saga(1), stored.clone()));
        w.submit_again(with(saga(1), sent.clone()))
            .expect("accepted");
        for _stored in 0..2 {
            let o = &w.tx.definition().options;
            let header = o.branch_headers.keys().next().map_or("", String::as_str);
            let got = (
                o.timeout_to_fail,
                o.request_timeout,
                o.retry_interval,
                o.retry_limit,
                header,
                o.concurrent,
            );
            assert_eq!(got, want, "{sent}");
            w.crash();
        }
    }
    let mut w = World::prepare(msg(2));
    w.submit_again(with(msg(2), json!({"concurrent": true})))
        .expect("accepted");
    assert_eq!(w.sent(), ["01 action", "02 action"], "concurrent is OR");
}

#[test]
fn steps_payloads_and_check_back_of_a_submit_are_ignored() {
    let mut w = World::prepare(saga(2));
    w.pass(5_000);
    let created = w.tx.state().created;
    let other = with(
        saga(3),
        json!({"query_prepared": "http://other/q", "protocol": "json-rpc"}),
    );
    w.submit_again(other).expect("accepted");
    let d = w.tx.definition();
    assert_eq!(
        (
            d.steps.len(),
            d.payloads.len(),
            d.query_prepared.as_str(),
            d.protocol.as_str()
        ),
        (2, 2, "", "http")
    );
    assert_eq!(w.tx.state().created, created);
    assert_eq!(w.tx.state().submitted, Some(w.now));
}

#[test]
fn bad_custom_data_of_a_submit_is_refused_and_nothing_changes() {
    let mut w = World::prepare(saga(2));
    for bad in [
        "{",
        "{\"orders\":{\"1\":[2]}}",
        "{\"orders\":{\"0\":[1],\"1\":[0]}}",
    ] {
        let e = w
            .submit_again(with(saga(2), json!({"custom_data": bad})))
            .expect_err(bad);
        assert_eq!(
            (e.kind(), w.status()),
            (ErrorKind::Invalid, Status::Prepared)
        );
    }
    w.submit_again(with(
        saga(2),
        json!({"custom_data": "{\"concurrent\":true}"}),
    ))
    .expect("accepted");
    assert_eq!(w.sent(), ["01 action", "02 action"]);
    w.crash();
    assert_eq!(
        w.sent(),
        ["01 action", "02 action"],
        "a restart reads it, too"
    );
}

#[test]
fn a_submit_of_another_type_is_refused() {
    each(|ty, _, mut w| {
        for other in MODES.iter().filter(|m| **m != ty) {
            let r = global(&body(other));
            let request = Request::Submit {
                trans_type: amends::TransType::parse(other).expect("a type"),
                options: Box::new(r.options(&w.policy.limits).expect("good options")),
                custom_data: r.custom_data,
            };
            assert_eq!(w.ask(request).expect_err(other).kind(), ErrorKind::Refused);
        }
    });
}

#[test]
fn results_of_calls_that_were_never_made_change_nothing() {
    use amends::coordinator::CallId;
    let outcomes = [
        Outcome::Success,
        Outcome::Failure("no".into()),
        Outcome::Ongoing,
        Outcome::Error("down".into()),
    ];
    each(|ty, status, mut w| {
        // The rest of its calls is never answered.
        let mut at_rest: Vec<CallId> = (0..w.tx.rows().len())
            .map(CallId::Row)
            .chain([CallId::Root, CallId::Row(99)])
            .collect();
        at_rest.retain(|id| w.flying.iter().all(|c| c.id != *id));
        for id in at_rest {
            for outcome in &outcomes {
                let before = w.tx.clone();
                w.input(Input::Result(id, outcome.clone()))
                    .expect("accepted");
                assert_eq!(w.tx, before, "{ty} {status} {id:?} {outcome:?}");
            }
        }
    });
}
