//! TCC and XA (dtm-server.md 9.3, 9.4; rules.md 1.3, 2.5).

use crate::bodies::{empty, error, failure, with};
use crate::driver::{BASE, World};
use amends::coordinator::admit::register;
use amends::wire::request::BranchRequest;
use amends::{ErrorKind, Limits, Outcome, Policy, Status};
use serde_json::json;

fn prepared(trans_type: &str, branches: usize) -> World {
    let mut w = World::prepare(empty(trans_type));
    w.register_branches(branches);
    w
}

#[test]
fn tcc_confirms_and_cancels_from_the_last_registered_to_the_first() {
    let mut w = prepared("tcc", 2);
    w.submit_again(empty("tcc")).expect("accepted");
    assert_eq!(*w.call("02 confirm").url, *"http://b/2/confirm");
    assert_eq!(&w.call("02 confirm").payload[..], b"{\"n\":2}");
    w.succeed(&["02 confirm", "01 confirm"]);
    assert_eq!(w.sent(), ["02 confirm", "01 confirm"]);
    assert_eq!(
        (w.status(), w.rows().as_str()),
        (Status::Succeed, "p,s,p,s"),
        "cancel stands before confirm"
    );

    let mut w = prepared("tcc", 2);
    w.abort("no money").expect("accepted");
    assert_eq!((w.status(), w.reason()), (Status::Aborting, "no money"));
    assert_eq!(*w.call("02 cancel").url, *"http://b/2/cancel");
    w.succeed(&["02 cancel", "01 cancel"]);
    assert_eq!((w.status(), w.rows().as_str()), (Status::Failed, "s,p,s,p"));
}

#[test]
fn xa_commits_and_rolls_back_from_the_first_to_the_last() {
    let mut w = prepared("xa", 2);
    w.submit_again(empty("xa")).expect("accepted");
    w.succeed(&["01 commit", "02 commit"]);
    assert_eq!(w.sent(), ["01 commit", "02 commit"]);
    assert_eq!(
        (w.status(), w.rows().as_str()),
        (Status::Succeed, "p,s,p,s"),
        "rollback stands before commit"
    );

    let mut w = prepared("xa", 2);
    w.abort("").expect("accepted");
    assert_eq!(*w.call("01 rollback").url, *"http://b/1");
    w.succeed(&["01 rollback", "02 rollback"]);
    assert_eq!(
        (w.status(), w.rows().as_str(), w.reason()),
        (Status::Failed, "s,p,s,p", "")
    );
}

#[test]
fn the_first_that_does_not_succeed_holds_the_rest() {
    for (ty, first, second) in [
        ("tcc", "02 confirm", "01 confirm"),
        ("xa", "01 commit", "02 commit"),
    ] {
        for (outcome, pause) in [
            (Outcome::Ongoing, BASE),
            (error("down"), 2 * BASE),
            (failure("no"), 2 * BASE),
        ] {
            let mut w = prepared(ty, 2);
            w.submit_again(empty(ty)).expect("accepted");
            w.answer(first, outcome.clone());
            assert_eq!(
                (w.status(), w.due_in()),
                (Status::Submitted, Some(pause)),
                "{ty} {outcome:?}"
            );
            assert!(w.flying.is_empty());
            w.sent();
            w.pass(pause);
            w.succeed(&[first, second]);
            assert_eq!(
                (w.sent(), w.status()),
                (vec![first.to_owned(), second.to_owned()], Status::Succeed)
            );
        }
    }
}

#[test]
fn nested_branches_are_cancelled_before_their_parents() {
    let mut w = World::prepare(empty("tcc"));
    for id in ["01", "0101", "0102", "02"] {
        let url = format!("http://b/{id}");
        let body = json!({"gid": "g", "trans_type": "tcc", "branch_id": id, "confirm": url, "cancel": url});
        w.register(body).expect("accepted");
    }
    w.abort("").expect("accepted");
    w.succeed(&["02 cancel", "0102 cancel", "0101 cancel", "01 cancel"]);
    assert_eq!(w.status(), Status::Failed);
}

#[test]
fn the_timeout_says_how_many_seconds_really_passed() {
    let own = Policy {
        timeout_to_fail: 7_000,
        ..Policy::default()
    };
    for (options, policy, seconds) in [
        (json!({}), Policy::default(), 35),
        (json!({"timeout_to_fail": 50}), Policy::default(), 50),
        (json!({}), own, 7),
    ] {
        for ty in ["tcc", "xa"] {
            let mut w = World::store(
                &with(empty(ty), options.clone()),
                Status::Prepared,
                policy.clone(),
                &Default::default(),
                true,
            );
            w.register_branches(1);
            w.input(amends::coordinator::Input::Wake).expect("accepted");
            w.pass(seconds * 1_000 - 1);
            assert_eq!(w.status(), Status::Prepared);
            w.pass(1);
            assert_eq!(
                (w.status(), w.reason()),
                (
                    Status::Aborting,
                    format!("Timeout after {seconds} seconds").as_str()
                )
            );
            assert_eq!(
                w.sent(),
                [if ty == "tcc" {
                    "01 cancel"
                } else {
                    "01 rollback"
                }]
            );
            w.submit_again(empty(ty)).expect_err("too late");
        }
    }
}

#[test]
fn a_policy_timeout_below_a_second_is_kept() {
    let policy = Policy {
        timeout_to_fail: 300,
        ..Policy::default()
    };
    let w = World::store(
        &empty("tcc"),
        Status::Prepared,
        policy,
        &Default::default(),
        true,
    );
    assert_eq!((w.status(), w.due_in()), (Status::Prepared, Some(300)));
}

#[test]
fn without_branches_the_decision_is_the_end() {
    for ty in ["tcc", "xa"] {
        let mut w = World::prepare(empty(ty));
        w.submit_again(empty(ty)).expect("accepted");
        assert_eq!(w.status(), Status::Succeed);
        let mut w = World::prepare(empty(ty));
        w.abort("").expect("accepted");
        assert_eq!(w.status(), Status::Failed);
    }
}

#[test]
fn a_branch_without_a_url_needs_no_call() {
    let mut w = World::prepare(empty("tcc"));
    w.register(
        json!({"gid": "g", "trans_type": "tcc", "branch_id": "01", "cancel": "http://b/1/cancel"}),
    )
    .expect("accepted");
    w.submit_again(empty("tcc")).expect("accepted");
    assert_eq!((w.status(), w.rows().as_str()), (Status::Succeed, "p,s"));
}

#[test]
fn what_was_confirmed_is_not_confirmed_again_after_a_restart() {
    let mut w = prepared("tcc", 2);
    w.submit_again(empty("tcc")).expect("accepted");
    w.succeed(&["02 confirm"]);
    w.answer("01 confirm", error("down"));
    w.let_go_and_resume();
    w.sent();
    w.pass(2 * BASE);
    assert_eq!(w.sent(), ["01 confirm"]);
}

#[test]
fn a_registration_is_rows_with_one_payload_and_the_same_content_each_time() {
    let limits = Limits::default();
    let body = json!({"gid": "g", "trans_type": "tcc", "branch_id": "01", "confirm": "http://b/f", "cancel": "http://b/c",
        "try": "http://b/t", "status": "prepared", "data": "{}"});
    let request = BranchRequest::from_json(body.to_string().as_bytes()).expect("strings");
    let r = register(&request, &limits).expect("admitted");
    let (early, late) = (r.registration.part(1), r.registration.part(2));
    assert_eq!(
        early.bytes, late.bytes,
        "a repeated registration is recognised by its bytes"
    );
    assert_eq!(
        early.keys,
        [
            ("01".to_owned(), "cancel".to_owned()),
            ("01".to_owned(), "confirm".to_owned())
        ]
    );
    assert_eq!(r.forbidden(), None);

    let xa = json!({"gid": "g", "trans_type": "xa", "branch_id": "01", "url": "http://b/x"});
    let r = register(
        &BranchRequest::from_json(xa.to_string().as_bytes()).expect("strings"),
        &limits,
    )
    .expect("admitted");
    let part = r.registration.part(1);
    assert_eq!(
        part.keys,
        [
            ("01".to_owned(), "rollback".to_owned()),
            ("01".to_owned(), "commit".to_owned())
        ]
    );
}

#[test]
fn registrations_that_make_no_sense_are_refused() {
    let limits = Limits::default();
    for body in [
        json!({"gid": "g", "trans_type": "saga", "branch_id": "01"}),
        json!({"gid": "g", "trans_type": "msg", "branch_id": "01"}),
        json!({"gid": "g", "trans_type": "what", "branch_id": "01"}),
        json!({"gid": "g", "branch_id": "01"}),
        json!({"trans_type": "tcc", "branch_id": "01"}),
        json!({"gid": "g", "trans_type": "tcc"}),
        json!({"gid": "g;", "trans_type": "tcc", "branch_id": "01"}),
        json!({"gid": "g", "trans_type": "tcc", "branch_id": "0\n1"}),
        json!({"gid": "g", "trans_type": "tcc", "branch_id": "01", "confirm": "b/f"}),
        json!({"gid": "g", "trans_type": "xa", "branch_id": "01", "url": "ftp://b"}),
        json!({"gid": "g", "trans_type": "workflow", "branch_id": "01", "status": "succeed"}),
        json!({"gid": "g", "trans_type": "workflow", "branch_id": "01", "op": "action", "status": "weird"}),
        json!({"gid": "g", "trans_type": "workflow", "branch_id": "01", "op": "action"}),
        json!({"gid": "g", "trans_type": "workflow", "branch_id": "01", "op": "decision", "status": "succeed"}),
        json!({"gid": "g", "trans_type": "workflow", "branch_id": "00", "op": "decision", "status": "prepared"}),
    ] {
        let request = BranchRequest::from_json(body.to_string().as_bytes()).expect("strings");
        let e = register(&request, &limits).expect_err(&body.to_string());
        assert_eq!(e.kind(), ErrorKind::Invalid, "{body}: {e}");
    }
}
