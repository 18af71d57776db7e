//! Faults of DTM that gave a wrong outcome (faults.md section 2, A): each is a test named after it.

use crate::bodies::{concurrent, empty, error, failure, global, msg, saga, with, workflow};
use crate::driver::{BASE, START, World};
use amends::coordinator::admit::define;
use amends::coordinator::{Request, When};
use amends::outcome::{JSONRPC_FAILURE, JSONRPC_ONGOING, classify_http, classify_jsonrpc};
use amends::wire::call::{BranchCall, Target};
use amends::{
    Compat, ErrorKind, Limits, Op, Outcome, Policy, Protocol, Purpose, Status, TransType,
};
use serde_json::json;

#[test]
fn fault_a01_second_submit_of_a_pending_tcc_still_confirms() {
    for (ty, call) in [("tcc", "01 confirm"), ("xa", "01 commit")] {
        let mut w = World::prepare(empty(ty));
        w.register_branches(1);
        w.submit_again(empty(ty)).expect("accepted");
        w.answer(call, Outcome::Ongoing);
        w.submit_again(empty(ty)).expect("accepted");
        assert_eq!(
            (w.status(), w.rows().as_str()),
            (Status::Submitted, "p,p"),
            "{ty}"
        );
        w.sent();
        w.pass(BASE);
        assert_eq!(w.sent(), [call]);
        w.submit_again(empty(ty))
            .expect("accepted, while it is in flight too");
        w.succeed(&[call]);
        assert_eq!((w.status(), w.rows().as_str()), (Status::Succeed, "p,s"));
    }
}

#[test]
fn fault_a01_second_submit_of_a_saga_or_message_repeats_no_branch() {
    for body in [saga(2), msg(2)] {
        let mut w = World::submit(body.clone());
        w.succeed(&["01 action"]);
        w.answer("02 action", Outcome::Ongoing);
        w.sent();
        w.submit_again(body).expect("accepted");
        w.pass(BASE);
        assert_eq!(w.sent(), ["02 action"]);
    }
}

#[test]
fn fault_a03_a_call_that_ends_after_a_force_stop_brings_nothing_back() {
    for outcome in [
        Outcome::Success,
        failure("no"),
        Outcome::Ongoing,
        error("down"),
    ] {
        let mut w = World::submit(saga(3));
        w.sent();
        w.force_stop().expect("accepted");
        let fx = w.answer("01 action", outcome);
        assert!(fx.ended && fx.wake_at.is_none());
        w.pass(3_600_000);
        assert_eq!(
            (w.status(), w.record.index.status, w.record.index.due),
            (Status::Failed, Status::Failed, None)
        );
        assert!(w.sent().is_empty(), "the next step is not called");
    }
}

#[test]
fn fault_a03_a_save_is_based_on_the_version_it_read() {
    let mut w = World::submit(saga(1));
    w.at_once = false;
    w.force_stop().expect("accepted");
    let (_, stale) = w.tx.clone().take_save(true);
    w.sync();
    assert!(
        stale.base > 0 && w.record.version >= stale.base,
        "a store that compares versions refuses what is older"
    );
    let mut bases = Vec::new();
    for _save in 0..3 {
        bases.push(w.tx.take_save(true).1.base);
    }
    assert!(bases.windows(2).all(|b| b[1] == b[0] + 1));
}

#[test]
fn fault_a04_json_rpc_codes_decide() {
    let compat = Compat::default();
    let body = |code: i64| {
        json!({"jsonrpc": "2.0", "id": "1", "error": {"code": code, "message": "no stock"}})
            .to_string()
    };
    let read = |code| classify_jsonrpc(Purpose::Branch, 200, body(code).as_bytes(), &compat);
    let mut w = World::submit(with(
        saga(1),
        json!({"protocol": "json-rpc", "steps": [{"action": "http://a/rpc?method=do"}]}),
    ));
    w.answer("01 action", read(JSONRPC_ONGOING));
    assert_eq!(w.due_in(), Some(BASE));
    w.pass(BASE);
    w.answer("01 action", read(-32603));
    assert_eq!(w.due_in(), Some(2 * BASE));
    w.pass(2 * BASE);
    w.answer("01 action", read(JSONRPC_FAILURE));
    assert_eq!(
        (w.status(), w.reason()),
        (
            Status::Failed,
            "url:http://a/rpc?method=do return failed: no stock FAILURE"
        )
    );
}

#[test]
fn fault_a05_no_action_is_called_again_once_it_rolls_back() {
    let mut w = World::submit(with(concurrent(2, json!(null)), json!({"retry_limit": 3})));
    w.answer("02 action", failure("no"));
    w.answer("01 action", error("reset"));
    w.sent();
    w.pass(3_600_000);
    w.ask(Request::Reset).expect("accepted");
    w.submit_again(saga(2)).expect_err("it is being undone");
    assert!(w.flying.iter().all(|c| c.op == Op::COMPENSATE));
    w.succeed(&["01 compensate", "02 compensate"]);
    assert_eq!(w.status(), Status::Failed);
    assert!(w.sent().iter().all(|s| s.ends_with("compensate")));
}

#[test]
fn fault_a05_a_pending_retry_dies_with_the_decision() {
    let mut w = World::submit(with(concurrent(2, json!(null)), json!({"retry_limit": 3})));
    w.answer("01 action", error("reset"));
    w.answer("02 action", failure("no"));
    w.sent();
    w.pass(3_600_000);
    assert!(w.sent().is_empty(), "the quick retry was due 200 ms later");
}

#[test]
fn fault_a06_a_result_that_was_not_stored_does_not_count() {
    let mut w = World::submit(saga(2));
    w.at_once = false;
    w.succeed(&["01 action"]);
    let fx = w.answer("02 action", Outcome::Success);
    assert!(
        fx.ended && fx.after > 1 && fx.save == Some(When::Now),
        "the end waits for the save that holds both"
    );
    // The save never happens: the next driver knows nothing of the end, and asks again.
    w.sent();
    w.crash();
    assert_eq!(
        (w.status(), w.rows().as_str()),
        (Status::Submitted, "p,p,p,p")
    );
    assert_eq!(w.sent(), ["01 action"]);
}

#[test]
fn fault_a07_a_workflows_progress_is_there_at_the_next_run() {
    let mut w = World::prepare(workflow());
    for (id, op) in [("01", "action"), ("02", "action"), ("02", "commit")] {
        let body = json!({"gid": "g", "trans_type": "workflow", "branch_id": id, "op": op, "status": "succeed", "data": "AQID"});
        w.register(body).expect("accepted");
    }
    w.ask(Request::PrepareWorkflow).expect("accepted");
    w.crash();
    let rows: Vec<(&str, &str, &[u8])> =
        w.tx.rows()
            .iter()
            .map(|r| (&*r.branch_id, r.op.as_str(), &r.payload[..]))
            .collect();
    assert_eq!(
        rows,
        [
            ("01", "action", &b"AQID"[..]),
            ("02", "action", b"AQID"),
            ("02", "commit", b"AQID")
        ]
    );
    assert_eq!(w.rows(), "s,s,s");
}

#[test]
fn fault_a08_a_finished_workflow_has_its_result() {
    let mut w = World::prepare(workflow());
    w.end(Status::Succeed, "", "AAH/").expect("accepted");
    w.load();
    w.ask(Request::PrepareWorkflow).expect("a second execute");
    assert_eq!((w.status(), w.tx.result()), (Status::Succeed, "AAH/"));
}

#[test]
fn fault_a09_a_submit_that_names_only_the_gid_loses_nothing_of_the_prepare() {
    let body = with(
        msg(1),
        json!({"branch_headers": {"x-shop": "1"}, "request_timeout": 9, "retry_interval": 7, "custom_data": "{\"delay\":5}"}),
    );
    let mut w = World::prepare(body);
    w.pass(3_000);
    w.submit_again(json!({"gid": "g", "trans_type": "msg"}))
        .expect("accepted");
    w.pass(5_000);
    assert_eq!(
        w.sent(),
        ["01 action"],
        "the first run has the stored steps"
    );
    let d = w.tx.definition().clone();
    w.crash();
    assert_eq!(w.tx.definition(), &d);
    assert_eq!(
        (
            d.options.request_timeout,
            d.options.retry_interval,
            d.query_prepared.as_str()
        ),
        (9, 7, "http://q/ask")
    );
    assert_eq!(
        d.options.branch_headers.get("x-shop").map(String::as_str),
        Some("1")
    );
    assert_eq!(
        (w.tx.state().created, w.tx.state().submitted),
        (START, Some(START + 3_000))
    );

    let mut w = World::prepare(workflow());
    w.end(Status::Succeed, "", "eA==").expect("accepted");
    w.load();
    let d = w.tx.definition();
    assert_eq!(
        (
            d.query_prepared.as_str(),
            d.custom_data.is_empty(),
            w.record.index.created
        ),
        ("http://w/back", false, START)
    );
}

#[test]
fn fault_a10_a_huge_answer_does_not_hinder_the_rollback_and_is_kept_within_bounds() {
    let long = "é".repeat(40_000);
    let mut w = World::submit(saga(1));
    w.answer("01 action", failure(&long));
    assert_eq!(w.status(), Status::Aborting);
    assert!(
        w.reason().len() <= Limits::default().reason && w.reason().len() > 3_000,
        "{}",
        w.reason().len()
    );
    assert!(w.reason().ends_with("… FAILURE"));
    w.answer("01 compensate", error(&long));
    let kept = &w.row("01 compensate").error;
    assert!(kept.len() <= Limits::default().reason && kept.ends_with('…'));
    w.pass(BASE * 2);
    w.succeed(&["01 compensate"]);
    assert_eq!(w.status(), Status::Failed);
}

#[test]
fn fault_a11_the_same_decision_twice_within_a_second_is_fine() {
    let mut w = World::prepare(empty("tcc"));
    w.register_branches(1);
    w.abort("first").expect("accepted");
    let version = w.record.version;
    w.abort("second").expect("accepted");
    assert_eq!(
        (w.status(), w.reason(), w.record.version),
        (Status::Aborting, "first", version)
    );
}

#[test]
fn fault_a13_a_message_that_nobody_can_be_asked_about_is_never_submitted() {
    let mut w = World::prepare(with(msg(1), json!({"query_prepared": ""})));
    w.pass(3_600_000);
    assert_eq!(
        (w.status(), w.reason()),
        (Status::Failed, "no query_prepared to ask")
    );
    assert!(w.sent().is_empty());
}

fn target<'a>(w: &'a World, call: &'a amends::coordinator::Call) -> Target<'a> {
    let d = w.tx.definition();
    Target {
        gid: w.tx.gid(),
        trans_type: d.trans_type,
        protocol: d.protocol,
        branch_id: &call.branch_id,
        op: &call.op,
        url: &call.url,
        purpose: call.purpose,
    }
}

#[test]
fn fault_a14_a_workflow_without_data_is_called_back_by_post() {
    let body = with(
        workflow(),
        json!({"custom_data": "{\"name\":\"book\",\"data\":null}"}),
    );
    for (callback_get, post) in [(false, true), (true, false)] {
        let mut w = World::prepare(body.clone());
        w.pass(BASE);
        let call = w.call("00 book");
        assert!(call.payload.is_empty() && call.purpose == Purpose::Callback);
        let compat = Compat {
            callback_get,
            ..Compat::default()
        };
        let BranchCall::Http(http) = BranchCall::new(
            &target(&w, call),
            &call.payload,
            &Default::default(),
            3_000,
            &compat,
        ) else {
            panic!("an HTTP call")
        };
        assert_eq!(http.post, post, "callback_get {callback_get}");
    }
}

#[test]
fn fault_a15_a_json_rpc_check_back_has_no_payload_and_works() {
    let body = with(
        msg(1),
        json!({"protocol": "json-rpc", "query_prepared": "http://q/rpc?method=ask"}),
    );
    let mut w = World::prepare(body);
    w.pass(35_000);
    let call = w.call("00 msg");
    let BranchCall::Http(http) = BranchCall::new(
        &target(&w, call),
        &call.payload,
        &Default::default(),
        3_000,
        &Compat::default(),
    ) else {
        panic!("an HTTP call")
    };
    let sent: serde_json::Value = serde_json::from_slice(&http.body).expect("JSON");
    assert_eq!(
        (sent["method"].as_str(), sent["params"]["op"].as_str()),
        (Some("ask"), Some("msg"))
    );
    let answer = http.classify(
        200,
        br#"{"jsonrpc":"2.0","id":"1","result":{}}"#,
        &Compat::default(),
    );
    w.answer("00 msg", answer);
    assert_eq!(w.status(), Status::Submitted);
}

#[test]
fn fault_a16_words_in_a_body_decide_nothing() {
    let ours = Compat::default();
    let table: &[(u16, &str, &str)] = &[
        (
            200,
            r#"{"error":"AUTHENTICATION_FAILURE","note":"ONGOING"}"#,
            "succeed",
        ),
        (500, "FAILURE", "submitted"),
        (500, "ONGOING", "submitted"),
        (200, r#"{"dtm_result":"FAILURE"}"#, "aborting"),
        (200, r#"{"dtm_result":"ONGOING"}"#, "submitted"),
        (409, "", "aborting"),
    ];
    for (status, body, want) in table {
        let mut w = World::submit(saga(1));
        w.answer(
            "01 action",
            classify_http(Purpose::Branch, *status, body.as_bytes(), &ours),
        );
        assert_eq!(w.status().as_str(), *want, "{status} {body}");
    }
    let dtm = Compat {
        body_text: true,
        ..Compat::default()
    };
    assert!(
        matches!(
            classify_http(Purpose::Branch, 500, b"FAILURE", &dtm),
            Outcome::Failure(_)
        ),
        "for old clients, on request"
    );
}

#[test]
fn fault_a12_what_has_not_ended_always_has_a_due_time_in_its_index() {
    for body in [saga(2), msg(2)] {
        let mut w = World::submit(body);
        assert!(w.record.index.due.is_some());
        w.answer("01 action", error("down"));
        w.let_go();
        assert_eq!(w.record.index.due, Some(w.now + 2 * BASE));
    }
    for body in [saga(1), msg(1), empty("tcc"), empty("xa"), workflow()] {
        let mut w = World::prepare(body);
        w.let_go();
        let due = w.record.index.due.expect("a due time");
        assert!(due > w.now && due <= w.now + Policy::default().idle_look);
    }
}

#[test]
fn fault_a04_protocol_and_type_choose_how_a_branch_is_called() {
    let w = World::submit(saga(1));
    let call = w.call("01 action");
    assert_eq!(
        (w.tx.trans_type(), w.tx.definition().protocol, call.purpose),
        (TransType::Saga, Protocol::Http, Purpose::Branch)
    );
    let e = define(
        &mut global(&with(saga(1), json!({"protocol": "soap"}))),
        &Default::default(),
        &Limits::default(),
    );
    assert_eq!(e.expect_err("unknown").kind(), ErrorKind::Invalid);
}

#[test]
fn fault_d55_other_answers_of_200_and_up_are_success_unless_compat_says_otherwise() {
    for (status, ours, dtm) in [
        (200, "succeed", "succeed"),
        (201, "succeed", "submitted"),
        (204, "succeed", "submitted"),
        (202, "submitted", "submitted"),
    ] {
        for (only_200, want) in [(false, ours), (true, dtm)] {
            let compat = Compat {
                only_200,
                ..Compat::default()
            };
            let mut w = World::submit(saga(1));
            w.answer(
                "01 action",
                classify_http(Purpose::Branch, status, b"", &compat),
            );
            assert_eq!(w.status().as_str(), want, "{status}, only_200 {only_200}");
            let accepted = status == 202 && !only_200;
            assert_eq!(
                w.due_in().unwrap_or(0) == BASE,
                accepted,
                "202 is ongoing, not an error"
            );
        }
    }
}
