use super::*;
use crate::coordinator::admit;
use crate::error::ErrorKind;
use crate::machine::{Fact, Machine, Output, StepKind, answer};
use std::collections::BTreeMap;

fn defined(body: &[u8]) -> crate::coordinator::Definition {
    let mut request = GlobalRequest::from_json(body).expect("JSON");
    admit::define(&mut request, &BTreeMap::new(), &Limits::default()).expect("legal")
}

/// What DTM's Go client was recorded sending means the same to the coordinator as what we send.
#[test]
fn sagas_are_submitted_as_dtms_client_submits_them() {
    let server = Server::new("http://h:1", 3_000);
    let mut saga = Saga::new("g1", Options::default());
    saga.step(
        "http://H/busi/out",
        "http://H/busi/outC",
        r#"{"amount":30}"#,
    );
    saga.step("http://H/busi/in", "", "null");
    let recorded = br#"{"gid":"g1","trans_type":"saga","concurrent":false,"steps":[{"action":"http://H/busi/out","compensate":"http://H/busi/outC"},{"action":"http://H/busi/in","compensate":""}],"payloads":["{\"amount\":30}","null"],"protocol":""}"#;
    let ours = saga.request(&server).expect("legal");
    assert_eq!(ours.url, "http://h:1/api/dtmsvr/submit");
    assert_eq!(defined(&ours.body), defined(recorded));

    let options = Options {
        wait_result: true,
        timeout_to_fail: 9,
        request_timeout: 5,
        retry_interval: 11,
        retry_limit: 3,
        branch_headers: BTreeMap::from([("X-Bh".to_owned(), "v".to_owned())]),
        concurrent: false,
    };
    let mut saga = Saga::new("g2", options);
    let out = saga.step(
        "http://H/busi/out",
        "http://H/busi/outC",
        r#"{"amount":30}"#,
    );
    let r#in = saga.step("http://H/busi/in", "http://H/busi/inC", r#"{"amount":30}"#);
    saga.after(r#in, &[out]);
    let recorded = br#"{"gid":"g2","trans_type":"saga","custom_data":"{\"concurrent\":true,\"orders\":{\"1\":[0]}}","wait_result":true,"timeout_to_fail":9,"request_timeout":5,"retry_interval":11,"branch_headers":{"X-Bh":"v"},"concurrent":true,"retry_limit":3,"steps":[{"action":"http://H/busi/out","compensate":"http://H/busi/outC"},{"action":"http://H/busi/in","compensate":"http://H/busi/inC"}],"payloads":["{\"amount\":30}","{\"amount\":30}"],"protocol":""}"#;
    let ours = saga.request(&server).expect("legal");
    let (ours_def, recorded_def) = (defined(&ours.body), defined(recorded));
    assert_eq!(ours_def.options, recorded_def.options);
    assert_eq!(
        (&ours_def.steps, &ours_def.rows),
        (&recorded_def.steps, &recorded_def.rows)
    );
    assert_eq!(ours_def.custom, recorded_def.custom);
    assert!(ours.timeout >= 8_000, "longer than a call may take");
}

#[test]
fn what_the_coordinator_would_refuse_is_refused_here() {
    let server = Server::new("http://h:1", 3_000);
    let good = || {
        let mut saga = Saga::new("g", Options::default());
        saga.step("http://h/a", "http://h/b", "{}");
        saga
    };
    assert!(good().submit(&server).is_ok());
    let mut cycle = good();
    cycle.after(0, &[0]);
    let mut nowhere = good();
    nowhere.after(0, &[7]);
    let mut url = good();
    url.step("ftp://h/a", "", "{}");
    let bad = [
        Saga::new("", Options::default()),
        Saga::new("a;b", Options::default()),
    ];
    for saga in bad.iter().chain([&cycle, &nowhere, &url]) {
        let error = saga.submit(&server).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

fn no_answer(sent: bool) -> Fact {
    Fact::NoAnswer {
        sent,
        message: "no connection".to_owned(),
    }
}

/// Submits and reports these facts for its calls; how often it slept in between, and its end.
fn submit(facts: Vec<Fact>) -> (usize, Result<Output, Error>) {
    let server = Server::new("http://h:1", 3_000);
    let mut saga = Saga::new("g", Options::default());
    saga.step("http://h/a", "", "{}");
    let mut machine = saga.submit(&server).expect("legal");
    let (mut facts, mut sleeps) = (facts.into_iter(), 0);
    loop {
        let step = machine.poll().expect("a step");
        let fact = match step.kind {
            StepKind::Call(_) => facts.next().expect("no more calls than facts"),
            StepKind::Sleep(pause) => {
                assert!(pause > 0);
                sleeps += 1;
                Fact::Done
            }
            StepKind::Done(result) => {
                assert_eq!(machine.poll(), None);
                assert_eq!(facts.next(), None, "no less either");
                return (sleeps, result);
            }
            other => panic!("{other:?}"),
        };
        machine.resolve(step.id, fact).expect("it fits");
    }
}

#[test]
fn a_submit_is_repeated_until_somebody_answers() {
    let ok = || answer(200, r#"{"dtm_result":"SUCCESS"}"#);
    let ended = |status: &'static str| answer(409, status);
    let kind = |facts| submit(facts).1.err().map(|e| e.kind());
    assert_eq!(submit(vec![ok()]).0, 0);
    assert_eq!(kind(vec![ok()]), None);
    assert_eq!(
        kind(vec![
            no_answer(false),
            answer(503, ""),
            no_answer(true),
            ok()
        ]),
        None
    );
    let none = |sent| (0..4).map(|_| no_answer(sent)).collect::<Vec<_>>();
    assert_eq!(
        kind(none(false)),
        Some(ErrorKind::Unavailable),
        "nothing was sent"
    );
    assert_eq!(
        kind(none(true)),
        Some(ErrorKind::OutcomeUnknown),
        "it may have arrived"
    );
    assert_eq!(submit(none(true)).0, 3);
    // So is one at which the coordinator broke; what it said stays, whatever words it is made of.
    let broken = || answer(500, r#"{"message":"panic in FAILURE_HANDLER"}"#);
    assert_eq!(kind(vec![broken(), ok()]), None);
    let (pauses, result) = submit((0..4).map(|_| broken()).collect());
    let error = result.expect_err("broken");
    assert_eq!((pauses, error.kind()), (3, ErrorKind::OutcomeUnknown));
    assert_eq!(error.message(), "panic in FAILURE_HANDLER");
    // An attempt that nobody answered may have been taken, whatever is said of a later one.
    for status in [400, 401, 413] {
        let later = kind(vec![no_answer(true), answer(status, "{}")]);
        assert_eq!(later, Some(ErrorKind::OutcomeUnknown), "{status}");
        let alone = kind(vec![no_answer(false), answer(status, "{}")]);
        assert_ne!(alone, later, "{status}: nothing was sent before");
    }
    // Refusals are not repeated.
    assert_eq!(kind(vec![answer(400, "{}")]), Some(ErrorKind::Invalid));
    assert_eq!(kind(vec![answer(425, "{}")]), Some(ErrorKind::Ongoing));
    let failed = r#"{"dtm_result":"FAILURE","message":"no stock FAILURE"}"#;
    assert_eq!(kind(vec![answer(409, failed)]), Some(ErrorKind::Failure));
    // The first attempt arrived, and the second meets its end.
    let succeed =
        r#"{"message":"current status 'succeed', cannot sumbmit. FAILURE","status":"succeed"}"#;
    assert_eq!(kind(vec![no_answer(true), ended(succeed)]), None);
    assert_eq!(kind(vec![broken(), ended(succeed)]), None);
    // DTM's coordinator has the status in its text only.
    let in_text =
        r#"{"dtm_result":"FAILURE","message":"current status 'succeed', cannot sumbmit. FAILURE"}"#;
    assert_eq!(kind(vec![no_answer(true), ended(in_text)]), None);
    let rolled =
        r#"{"message":"current status 'failed', cannot sumbmit. FAILURE","status":"failed"}"#;
    assert_eq!(
        kind(vec![no_answer(true), ended(rolled)]),
        Some(ErrorKind::Failure)
    );
    // Without an attempt of ours it is somebody else's gid.
    assert_eq!(kind(vec![ended(succeed)]), Some(ErrorKind::Refused));
}

/// JSON cannot hold what is no text; a message of gRPC can.
#[test]
fn a_payload_that_is_no_text_goes_over_grpc_only() {
    use crate::wire::grpc::dtmgimp::DtmRequest;
    use prost::Message as _;
    let mut saga = Saga::new("g", Options::default());
    saga.step("h:1/a.B/C", "", b"\xff\x00");
    let error = saga
        .request(&Server::new("http://h:1", 3_000))
        .expect_err("no text");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let request = saga
        .request(&Server::new("grpc://h:1", 3_000))
        .expect("legal");
    let sent = DtmRequest::decode(request.body).expect("a message");
    assert_eq!(sent.bin_payloads, [Bytes::from_static(b"\xff\x00")]);
}

/// What is to be over by a deadline sleeps no longer than that, and says what happened before.
#[test]
fn no_time_for_another_attempt() {
    for (sent, kind) in [
        (false, ErrorKind::Unavailable),
        (true, ErrorKind::OutcomeUnknown),
    ] {
        let server = Server::new("http://h:1", 3_000);
        let mut saga = Saga::new("g", Options::default());
        saga.step("http://h/a", "", "{}");
        let mut machine = saga.submit(&server).expect("legal");
        for fact in [no_answer(sent), Fact::Cancelled] {
            let step = machine.poll().expect("a step");
            machine.resolve(step.id, fact).expect("it fits");
        }
        let step = machine.poll().expect("a step");
        let StepKind::Done(Err(error)) = step.kind else {
            panic!("{step:?}")
        };
        assert_eq!((error.kind(), error.message()), (kind, "no connection"));
    }
}

/// The coordinator calls by GET whom it has nothing to tell.
#[test]
fn an_empty_body_is_null_over_http_and_none_over_grpc() {
    let server = Server::new("http://h:1", 3_000);
    let mut saga = Saga::new("g", Options::default());
    saga.step("http://h/a", "", "");
    saga.step("grpc://h:1/a.B/C", "", "");
    let request = saga.request(&server).expect("legal");
    let body: Value = serde_json::from_slice(&request.body).expect("JSON");
    assert_eq!(body["payloads"], json!(["null", ""]));
}
