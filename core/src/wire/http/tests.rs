use super::*;
use crate::branch::Op;
use crate::coordinator::codec::Registration;
use crate::coordinator::event::{Env, Input, Request};
use crate::coordinator::record::Record;
use crate::coordinator::transaction::CallId;
use crate::coordinator::{admit, step};
use crate::outcome::Outcome;
use crate::wire::request::GlobalRequest;
use serde_json::Value;
use std::collections::BTreeMap;

const NOW: Millis = 1_795_369_059_461;

fn stored(body: &str, status: Status) -> Transaction {
    let policy = Policy::default();
    let mut req = GlobalRequest::from_json(body.as_bytes()).expect("a request");
    let def = admit::define(&mut req, &BTreeMap::new(), &policy.limits).expect("a definition");
    let mut tx = Transaction::new(def, status, NOW);
    drive(&mut tx, NOW, Input::Wake);
    tx
}

fn drive(tx: &mut Transaction, now: Millis, input: Input) {
    let policy = Policy::default();
    tx.take_save(true);
    step(
        tx,
        input,
        &Env {
            now,
            policy: &policy,
            random: 0,
        },
    )
    .expect("accepted");
}

fn shown(tx: &Transaction) -> String {
    String::from_utf8(query(Some(tx), &Policy::default())).expect("text")
}

// As recorded (server-http-answers.txt), but for the fraction of times and for the due time: ours is that of the check-back.
#[test]
fn a_prepared_message_prints_as_recorded() {
    let tx = stored(
        r#"{"gid":"m1","trans_type":"msg","steps":[{"action":"http://127.0.0.1:8081/a?x=1"},{"action":"http://127.0.0.1:8081/b"}],"payloads":["{\"amount\":30}","{\"amount\":31}"],"query_prepared":"http://127.0.0.1:8081/qp","branch_headers":{"X-Foo":"bar"}}"#,
        Status::Prepared,
    );
    let expected = r#"{"branches":[{"id":0,"create_time":"2026-11-22T17:37:39.461Z","update_time":"2026-11-22T17:37:39.461Z","gid":"m1","url":"http://127.0.0.1:8081/a?x=1","bin_data":"eyJhbW91bnQiOjMwfQ==","branch_id":"01","op":"action","status":"prepared"},{"id":0,"create_time":"2026-11-22T17:37:39.461Z","update_time":"2026-11-22T17:37:39.461Z","gid":"m1","url":"http://127.0.0.1:8081/b","bin_data":"eyJhbW91bnQiOjMxfQ==","branch_id":"02","op":"action","status":"prepared"}],"transaction":{"id":0,"create_time":"2026-11-22T17:37:39.461Z","update_time":"2026-11-22T17:37:39.461Z","gid":"m1","trans_type":"msg","steps":[{"action":"http://127.0.0.1:8081/a?x=1"},{"action":"http://127.0.0.1:8081/b"}],"payloads":["{\"amount\":30}","{\"amount\":31}"],"status":"prepared","query_prepared":"http://127.0.0.1:8081/qp","protocol":"http","options":"{\"branch_headers\":{\"X-Foo\":\"bar\"},\"concurrent\":false}","next_cron_interval":10,"next_cron_time":"2026-11-22T17:38:14.461Z","branch_headers":{"X-Foo":"bar"},"concurrent":false}}"#;
    assert_eq!(shown(&tx), expected);
}

#[test]
fn an_aborted_tcc_prints_as_recorded() {
    let tcc = stored(r#"{"gid":"t1","trans_type":"tcc"}"#, Status::Prepared);
    let mut tx = with_rows(
        tcc,
        Registration {
            branch_id: "01".into(),
            rows: vec![
                (Op::CANCEL, "http://127.0.0.1:8081/cancel".into()),
                (Op::CONFIRM, "http://127.0.0.1:8081/confirm".into()),
            ],
            status: BranchStatus::Prepared,
            run: String::new(),
            data: r#"{"a":1}"#.into(),
        },
    );
    drive(
        &mut tx,
        NOW + 100,
        Input::Request(Request::Abort {
            reason: "because".into(),
        }),
    );
    drive(
        &mut tx,
        NOW + 300,
        Input::Result(CallId::Row(0), Outcome::Success),
    );
    let expected = r#"{"branches":[{"id":0,"create_time":"2026-11-22T17:37:39.461Z","update_time":"2026-11-22T17:37:39.761Z","gid":"t1","url":"http://127.0.0.1:8081/cancel","bin_data":"eyJhIjoxfQ==","branch_id":"01","op":"cancel","status":"succeed","finish_time":"2026-11-22T17:37:39.761Z"},{"id":0,"create_time":"2026-11-22T17:37:39.461Z","update_time":"2026-11-22T17:37:39.461Z","gid":"t1","url":"http://127.0.0.1:8081/confirm","bin_data":"eyJhIjoxfQ==","branch_id":"01","op":"confirm","status":"prepared"}],"transaction":{"id":0,"create_time":"2026-11-22T17:37:39.461Z","update_time":"2026-11-22T17:37:39.761Z","gid":"t1","trans_type":"tcc","status":"failed","protocol":"http","rollback_time":"2026-11-22T17:37:39.761Z","rollback_reason":"because","options":"{\"concurrent\":false}","next_cron_interval":10,"concurrent":false}}"#;
    assert_eq!(shown(&tx), expected);
}

/// The transaction as it is loaded after a registration.
fn with_rows(mut tx: Transaction, registration: Registration) -> Transaction {
    let (_, save) = tx.take_save(false);
    let mut defining = Transaction::new(tx.definition().clone(), tx.status(), NOW);
    let mut parts = defining.take_save(false).1.parts;
    parts.push(registration.part(NOW));
    let (gid, version) = (tx.gid().clone(), save.base + 2);
    let record = Record {
        gid,
        version,
        index: save.index,
        exact: true,
        state: save.state,
        parts,
    };
    Transaction::load(&record, NOW, &Policy::default()).expect("loads")
}

#[test]
fn a_finished_workflow_prints_its_rows_and_result() {
    let w = stored(
        r#"{"gid":"w1","trans_type":"workflow","query_prepared":"http://127.0.0.1:8081/wf","custom_data":"{\"name\":\"n1\",\"data\":\"eyJhIjoxfQ==\"}"}"#,
        Status::Prepared,
    );
    let mut tx = with_rows(
        w,
        Registration {
            branch_id: "01".into(),
            rows: vec![(Op::ACTION, String::new())],
            status: BranchStatus::Succeed,
            run: String::new(),
            data: "res-data".into(),
        },
    );
    let end = Request::End {
        status: Status::Succeed,
        reason: String::new(),
        result: "cmVz".into(),
    };
    drive(&mut tx, NOW, Input::Request(end));
    let expected = r#"{"progresses":[{"id":0,"create_time":"2026-11-22T17:37:39.461Z","update_time":"2026-11-22T17:37:39.461Z","gid":"w1","bin_data":"cmVzLWRhdGE=","branch_id":"01","op":"action","status":"succeed"}],"transaction":{"id":0,"create_time":"2026-11-22T17:37:39.461Z","update_time":"2026-11-22T17:37:39.461Z","gid":"w1","trans_type":"workflow","status":"succeed","query_prepared":"http://127.0.0.1:8081/wf","protocol":"http","finish_time":"2026-11-22T17:37:39.461Z","result":"cmVz","options":"{\"concurrent\":false}","custom_data":"{\"name\":\"n1\",\"data\":\"eyJhIjoxfQ==\"}","next_cron_interval":10,"concurrent":false}}"#;
    assert_eq!(
        String::from_utf8(progress(&tx, &Policy::default())).expect("text"),
        expected
    );
}

#[test]
fn options_print_twice_and_ours_stand_last() {
    let mut tx = stored(
        r#"{"gid":"s","trans_type":"saga","steps":[{"action":"http://h/a"}],"payloads":["<&>\u2028"],"wait_result":true,"timeout_to_fail":9,"request_timeout":5,"retry_interval":11,"branch_headers":{"B":"2","A":"<"},"concurrent":true,"retry_limit":3}"#,
        Status::Submitted,
    );
    drive(
        &mut tx,
        NOW + 500,
        Input::Result(CallId::Row(1), Outcome::Error("refused".into())),
    );
    let text = shown(&tx);
    let options = r#""options":"{\"wait_result\":true,\"timeout_to_fail\":9,\"request_timeout\":5,\"retry_interval\":11,\"branch_headers\":{\"A\":\"\\u003c\",\"B\":\"2\"},\"concurrent\":true,\"retry_limit\":3}""#;
    assert!(text.contains(options), "{text}");
    assert!(text.contains(r#""wait_result":true,"timeout_to_fail":9,"request_timeout":5,"retry_interval":11,"branch_headers":{"A":"\u003c","B":"2"},"concurrent":true,"retry_limit":3,"retry_count":1,"last_error":"refused"}}"#), "{text}");
    assert!(
        text.contains(r#""payloads":["\u003c\u0026\u003e\u2028"]"#),
        "{text}"
    );
    assert!(
        text.contains(r#""status":"prepared","retry_count":1,"last_error":"refused"}]"#),
        "{text}"
    );
    let stop = Request::ForceStop {
        actor: "ann".into(),
        reason: "stuck".into(),
    };
    drive(&mut tx, NOW + 600, Input::Request(stop));
    assert!(
        shown(&tx).contains(r#""forced":{"actor":"ann","reason":"stuck"}"#),
        "{}",
        shown(&tx)
    );
}

#[test]
fn unknown_gids_print_as_recorded() {
    let policy = Policy::default();
    assert_eq!(
        query(None, &policy),
        br#"{"branches":[],"transaction":null}"#
    );
    assert_eq!(
        page(None, "", &policy),
        br#"{"next_position":"","transactions":null}"#
    );
    assert_eq!(
        page(Some(&[]), "", &policy),
        br#"{"next_position":"","transactions":[]}"#
    );
    assert_eq!(
        page(Some(&[]), "a<b", &policy),
        br#"{"next_position":"a\u003cb","transactions":[]}"#
    );
}

#[test]
fn every_kind_of_error_has_its_answer() {
    let plain = |kind| Error::new(kind, "text");
    let of = |e: &Error| {
        (
            e.kind().coordinator_answer().http,
            String::from_utf8(error_body(e)).expect("text"),
        )
    };
    let message = r#"{"message":"text"}"#.to_owned();
    assert_eq!(of(&plain(ErrorKind::Invalid)), (400, message.clone()));
    assert_eq!(of(&plain(ErrorKind::Unauthorized)), (401, message.clone()));
    assert_eq!(of(&plain(ErrorKind::UnknownGid)), (404, message.clone()));
    assert_eq!(of(&plain(ErrorKind::TopicNotFound)), (404, message.clone()));
    assert_eq!(of(&plain(ErrorKind::UrlExists)), (409, message.clone()));
    assert_eq!(of(&plain(ErrorKind::TooLarge)), (413, message.clone()));
    assert_eq!(of(&plain(ErrorKind::Internal)), (500, message.clone()));
    assert_eq!(of(&plain(ErrorKind::Unavailable)), (503, message));
    let ongoing = plain(ErrorKind::Ongoing).with_status(Status::Submitted);
    assert_eq!(
        of(&ongoing),
        (425, r#"{"dtm_result":"ONGOING","message":"text"}"#.into())
    );
    let state = Error::refused(
        Some(Status::Succeed),
        "current status 'succeed', cannot sumbmit. FAILURE",
    );
    assert_eq!(
        of(&state),
        (409, r#"{"dtm_result":"FAILURE","message":"current status 'succeed', cannot sumbmit. FAILURE","status":"succeed"}"#.into())
    );
    assert_eq!(
        of(&plain(ErrorKind::Failure)),
        (409, r#"{"dtm_result":"FAILURE","message":"text"}"#.into())
    );
    let refused = plain(ErrorKind::RowRefused).with_status(Status::Failed);
    assert_eq!(
        of(&refused),
        (409, r#"{"message":"text","status":"failed"}"#.into())
    );
}

#[test]
fn only_failures_hold_the_word() {
    let body = error_body(&Error::unknown_gid("my-FAILURE"));
    let text = String::from_utf8(body).expect("text");
    assert!(!text.contains("FAILURE"), "{text}");
    let read: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(read["message"], "no TransGlobal with gid: my-FAILURE found");
}
