//! Faults of DTM in validation (faults.md section 2, C 40–48) where core decides: bad input is a typed error before anything is stored.

use crate::bodies::{Topics, empty, global, msg, saga, with, workflow};
use crate::driver::{BASE, World};
use amends::coordinator::admit::{define, topics};
use amends::coordinator::{Request, Transaction};
use amends::options::Options;
use amends::wire::request::GlobalRequest;
use amends::{Error, ErrorKind, Limits, Outcome, Policy, Status, TransType};
use serde_json::{Value, json};

fn admit(body: &Value) -> Result<(), Error> {
    define(&mut global(body), &Topics::new(), &Limits::default()).map(drop)
}

fn refused(body: &Value) -> Error {
    let e = admit(body).expect_err(&body.to_string());
    assert_eq!(e.kind(), ErrorKind::Invalid, "{body}: {e}");
    e
}

#[test]
fn fault_c40_what_the_coordinator_owns_is_not_taken_from_a_client() {
    let body = with(
        saga(1),
        json!({"id": 7, "owner": "me", "result": "x", "rollback_reason": "x", "status": "succeed", "finish_time": "2020-01-01T00:00:00Z",
            "create_time": "2020-01-01T00:00:00Z", "next_cron_interval": 1, "ext_data": "x", "options": "x"}),
    );
    let w = World::submit(body);
    assert_eq!(
        (w.status(), w.reason(), w.tx.result(), w.tx.state().finished),
        (Status::Submitted, "", "", None)
    );
    assert_eq!(w.tx.state().created, w.now);
}

#[test]
fn fault_c41_a_gid_is_refused_and_never_rewritten() {
    for gid in ["a;b", "a\nb", "a\rb", "", "\u{0}", "a\u{85}b"] {
        let e = refused(&with(saga(1), json!({"gid": gid})));
        assert!(e.message().contains("gid"), "{e}");
    }
    let gid = "x' or '1'='1 \"ü\" /..%2f";
    let w = World::submit(with(saga(1), json!({"gid": gid})));
    assert_eq!(w.record.gid.as_str(), gid, "byte for byte");
}

#[test]
fn fault_c42_a_workflow_ends_as_succeed_or_failed_and_as_nothing_else() {
    for status in [Status::Prepared, Status::Submitted, Status::Aborting] {
        let mut w = World::prepare(workflow());
        let e = w.end(status, "", "").expect_err("no end");
        assert_eq!(
            (e.kind(), w.status()),
            (ErrorKind::Invalid, Status::Prepared),
            "{status}: {e}"
        );
    }
}

#[test]
fn fault_c42_a_workflow_is_not_submitted_like_a_saga() {
    let mut w = World::prepare(workflow());
    let request = Request::Submit {
        trans_type: TransType::Workflow,
        options: Box::new(Options::default()),
        custom_data: String::new(),
    };
    let e = w.ask(request).expect_err("it has no status submitted");
    assert_eq!(
        (e.kind(), w.status()),
        (ErrorKind::Invalid, Status::Prepared)
    );
    w.pass(BASE);
    assert_eq!(w.sent(), ["00 book"], "it goes on as before");
}

#[test]
fn fault_c43_an_abort_goes_by_the_stored_type() {
    for status in ["prepared", "submitted"] {
        let mut w = World::prepare(saga(1));
        if status == "submitted" {
            w.submit_again(saga(1)).expect("accepted");
        }
        let e = w.abort("said to be a tcc").expect_err("it is a saga");
        assert_eq!(
            (e.kind(), e.status().map(Status::as_str)),
            (ErrorKind::Refused, Some(status))
        );
        assert!(e.message().starts_with("trans type: 'saga'"));
    }
}

#[test]
fn fault_c44_counts_that_do_not_match() {
    for payloads in [json!([]), json!(["{}"]), json!(["{}", "{}", "{}"])] {
        let e = refused(&with(saga(2), json!({"payloads": payloads})));
        assert!(e.message().contains("for 2 steps"), "{e}");
    }
    refused(&with(msg(1), json!({"steps": []})));
    let legacy = json!([{"action": "http://a/1", "data": "{\"n\":1}"}, {"action": "http://a/2", "data": "{}"}]);
    let w = World::submit(with(
        saga(2),
        json!({"payloads": [], "steps": legacy.clone()}),
    ));
    assert_eq!(
        &w.call("01 action").payload[..],
        b"{\"n\":1}",
        "the legacy place of a payload"
    );
    refused(&with(
        saga(2),
        json!({"payloads": ["{}", "{}"], "steps": legacy}),
    ));
}

#[test]
fn a_misspelt_action_is_not_a_step_that_calls_nobody() {
    let step = json!({"actoin": "http://a/1", "compensate": "http://a/2"});
    let e = refused(&with(saga(1), json!({"steps": [step]})));
    assert!(e.message().contains("actoin"), "{e}");
}

#[test]
fn lists_are_not_taken_for_objects() {
    for custom in ["[3600]", "[true]", "7", "x"] {
        let body = with(msg(1), json!({"custom_data": custom}));
        let e = refused(&body);
        assert!(e.message().contains("custom_data"), "{custom}: {e}");
    }
    for custom in ["", "[]", " null ", "{}"] {
        admit(&with(msg(1), json!({"custom_data": custom}))).expect(custom);
    }
}

#[test]
fn fault_c44_unknown_words() {
    for ty in ["", "Saga", "what", "saga "] {
        assert!(
            refused(&with(saga(1), json!({"trans_type": ty})))
                .message()
                .contains("trans type")
        );
    }
    assert!(
        refused(&with(saga(1), json!({"protocol": "smtp"})))
            .message()
            .contains("protocol")
    );
    for ty in ["tcc", "xa", "workflow"] {
        assert!(
            refused(&with(saga(1), json!({"trans_type": ty})))
                .message()
                .contains("steps")
        );
    }
}

#[test]
fn fault_c44_orders_that_make_no_sense() {
    let orders = [
        json!({"1": [2]}),
        json!({"2": [0]}),
        json!({"-1": [0]}),
        json!({"x": [0]}),
        json!({"1": [-1]}),
        json!({"1": ["0"]}),
        json!({"1": 0}),
        json!({"1": [0.5]}),
        json!([[], [], [0]]),
        json!("0"),
        json!(7),
    ];
    for o in orders {
        let custom = json!({"concurrent": true, "orders": o}).to_string();
        assert!(
            refused(&with(saga(2), json!({"custom_data": custom})))
                .message()
                .contains("custom_data"),
            "{o}"
        );
    }
    for (concurrent, o) in [
        (true, json!({"0": [0]})),
        (true, json!({"0": [1], "1": [0]})),
        (true, json!({"0": [2], "1": [0], "2": [1]})),
        // Without `concurrent` each step waits for the one before it anyway.
        (false, json!({"0": [1]})),
    ] {
        let custom = json!({"concurrent": concurrent, "orders": o}).to_string();
        assert!(
            refused(&with(saga(3), json!({"custom_data": custom})))
                .message()
                .contains("cycle"),
            "{o}"
        );
    }
}

#[test]
fn fault_c44_orders_as_clients_send_them() {
    for o in [
        json!(null),
        json!({}),
        json!([]),
        json!({"1": null}),
        json!({"1": [0, 0]}),
        json!([[], [0]]),
        json!([null, [0]]),
    ] {
        let custom = json!({"concurrent": true, "orders": o}).to_string();
        admit(&with(saga(2), json!({"custom_data": custom})))
            .unwrap_or_else(|e| panic!("{o}: {e}"));
    }
    for custom in [
        "",
        "null",
        "[]",
        "{}",
        "{\"concurrent\":null}",
        "{\"other\":1}",
        " {} ",
    ] {
        admit(&with(saga(2), json!({"custom_data": custom})))
            .unwrap_or_else(|e| panic!("{custom}: {e}"));
    }
    for custom in ["{", "7", "\"x\"", "{\"concurrent\":1}"] {
        refused(&with(saga(2), json!({"custom_data": custom})));
    }
}

#[test]
fn fault_c44_negative_and_absurd_times() {
    for field in [
        "timeout_to_fail",
        "request_timeout",
        "retry_interval",
        "retry_limit",
    ] {
        for n in [-1i64, -5, i64::MIN, i64::from(i32::MAX) + 1, i64::MAX] {
            assert!(
                refused(&with(saga(1), json!({ field: n })))
                    .message()
                    .contains(field),
                "{field} {n}"
            );
        }
        admit(&with(saga(1), json!({ field: i32::MAX }))).expect("the longest time");
    }
    for delay in ["-1", "2147483648", "1.5", "\"5\""] {
        let custom = format!("{{\"delay\":{delay}}}");
        assert!(
            refused(&with(msg(1), json!({"custom_data": custom})))
                .message()
                .contains("custom_data"),
            "{delay}"
        );
    }
    admit(&with(
        msg(1),
        json!({"custom_data": "{\"delay\":2147483647}"}),
    ))
    .expect("the longest delay");
}

#[test]
fn fault_c44_urls_that_nothing_can_call() {
    for url in [
        "b:1/pkg.Svc/M",
        "ftp://b",
        "http://",
        "http:///x",
        "http://b/ x",
        "topic://t",
    ] {
        refused(&with(saga(1), json!({"steps": [{"action": url}]})));
        refused(&with(saga(1), json!({"steps": [{"compensate": url}]})));
        refused(&with(msg(1), json!({"query_prepared": url})));
    }
    refused(&with(
        workflow(),
        json!({"protocol": "json-rpc", "query_prepared": "http://w/rpc?method=x"}),
    ));
    for payload in ["", "[]", "7", "{"] {
        let body = json!({"protocol": "json-rpc", "steps": [{"action": "http://a/rpc?method=do"}], "payloads": [payload]});
        assert!(
            refused(&with(saga(1), body))
                .message()
                .contains("JSON object"),
            "{payload}"
        );
    }
}

#[test]
fn fault_c44_headers_that_cannot_be_sent() {
    for headers in [
        json!({"a b": "c"}),
        json!({"": "c"}),
        json!({"a": "x\ny"}),
        json!({"ü": "x"}),
        json!({"a": "\u{0}"}),
    ] {
        assert!(
            refused(&with(saga(1), json!({"branch_headers": headers})))
                .message()
                .contains("branch_headers")
        );
    }
    admit(&with(
        saga(1),
        json!({"branch_headers": {"X-Ok_1": "a\tb ü"}}),
    ))
    .expect("can be sent");
}

#[test]
fn fault_c44_workflow_input_that_cannot_be_read() {
    for custom in [
        "",
        "{}",
        "{\"name\":\"\"}",
        "{\"name\":\"a;b\"}",
        "{\"name\":\"a\",\"data\":\"***\"}",
        "{\"name\":7}",
    ] {
        assert!(
            refused(&with(workflow(), json!({"custom_data": custom})))
                .message()
                .contains("custom_data"),
            "{custom}"
        );
    }
}

#[test]
fn fault_c45_a_prepared_message_is_submitted_though_its_topic_is_gone() {
    let body = with(msg(1), json!({"steps": [{"action": "topic://t"}]}));
    assert_eq!(topics(&global(&body)).collect::<Vec<_>>(), ["t"]);
    let subscribers = Topics::from([(
        "t".to_owned(),
        vec!["http://s/1".to_owned(), "http://s/2".to_owned()],
    )]);
    let mut w = World::store(
        &body,
        Status::Prepared,
        Policy::default(),
        &subscribers,
        true,
    );
    // From here on nobody resolves the topic again.
    w.submit_again(body.clone()).expect("accepted");
    w.succeed(&["01-01 action", "01-02 action"]);
    assert_eq!(w.status(), Status::Succeed);

    for gone in [Topics::new(), Topics::from([("t".to_owned(), Vec::new())])] {
        let e =
            define(&mut global(&body), &gone, &Limits::default()).expect_err("nobody subscribes");
        assert_eq!(
            (e.kind(), e.message()),
            (ErrorKind::TopicNotFound, "topic not found")
        );
    }
    let bad = Topics::from([("t".to_owned(), vec!["s:1/x".to_owned()])]);
    assert_eq!(
        define(&mut global(&body), &bad, &Limits::default())
            .expect_err("bad url")
            .kind(),
        ErrorKind::Invalid
    );
}

#[test]
fn fault_c46_a_repeated_registration_is_recognised_and_another_is_told_apart() {
    let mut w = World::prepare(empty("tcc"));
    let body = json!({"gid": "g", "trans_type": "tcc", "branch_id": "01", "confirm": "http://b/f", "cancel": "http://b/c", "data": "{}"});
    let first = w.register(body.clone()).expect("accepted");
    w.now += 5_000;
    let again = w.register(body.clone()).expect("accepted");
    assert_eq!((&first.keys, &first.bytes), (&again.keys, &again.bytes));
    for other in [
        json!({"data": "{\"n\":2}"}),
        json!({"confirm": "http://b/g"}),
        json!({"cancel": ""}),
    ] {
        let differs = w.register(with(body.clone(), other)).expect("admitted");
        assert!(differs.keys == first.keys && differs.bytes != first.bytes);
    }
}

#[test]
fn fault_c48_settings_of_zero_do_not_spin() {
    let zero = Policy {
        retry_interval: 0,
        request_timeout: 0,
        timeout_to_fail: 0,
        retry_cap: 0,
        idle_look: 0,
        late_write: 0,
        ..Policy::default()
    };
    // A configuration refuses them; a transaction that says nothing of its own must still not loop within one step.
    let def = define(&mut global(&saga(1)), &Topics::new(), &zero.limits).expect("admitted");
    let mut tx = Transaction::new(def, Status::Submitted, 5);
    let env = amends::coordinator::Env {
        now: 5,
        policy: &zero,
        random: 0,
    };
    let fx = amends::coordinator::step(&mut tx, amends::coordinator::Input::Wake, &env)
        .expect("accepted");
    let fx = amends::coordinator::step(
        &mut tx,
        amends::coordinator::Input::Result(fx.calls[0].id, Outcome::Ongoing),
        &env,
    )
    .expect("accepted");
    assert_eq!(fx.calls.len(), 1);
}

#[test]
fn a_request_of_nulls_is_what_some_clients_send() {
    let body = r#"{"gid":"g","trans_type":"saga","steps":[{"action":"http://a/1","compensate":null}],"payloads":["{}"],"custom_data":null,
        "query_prepared":null,"protocol":null,"branch_headers":null,"wait_result":null,"timeout_to_fail":null,"concurrent":null}"#;
    let r = GlobalRequest::from_json(body.as_bytes()).expect("decodes");
    define(&mut r.clone(), &Topics::new(), &Limits::default()).expect("admitted");
}
