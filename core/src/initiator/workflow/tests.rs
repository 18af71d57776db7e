use super::testing::{Coordinator, Host, workflow};
use super::*;
use crate::machine::Machine;

fn kind(result: Option<Result<Bytes, Error>>) -> ErrorKind {
    result.expect("no crash").expect_err("an error").kind()
}

#[test]
fn a_run_that_succeeds_and_its_repetition() {
    let mut c = Coordinator::open();
    let mut host = Host::new(&mut c);
    assert_eq!(
        host.run(workflow(1), &["a", "b"]),
        Some(Ok(Bytes::from("done")))
    );
    assert_eq!(
        host.ran,
        ["01-action", "02-action", "02-commit", "01-commit"]
    );
    assert_eq!(
        c.names(),
        [
            "01-action",
            "02-action",
            "00-decision",
            "02-commit",
            "01-commit"
        ]
    );
    assert_eq!(
        (c.status.as_str(), c.result.as_str()),
        ("succeed", Some("ZG9uZQ=="))
    );
    let mut host = Host::new(&mut c);
    assert_eq!(
        host.run(workflow(2), &["a", "b"]),
        Some(Ok(Bytes::from("done")))
    );
    assert!(host.ran.is_empty());
}

#[test]
fn a_run_that_fails_undoes_what_was_begun_the_refused_step_included() {
    let mut c = Coordinator::open();
    let mut host = Host::new(&mut c).answers(&[("02-action", Err(ErrorKind::Failure))]);
    let error = host
        .run(workflow(1), &["a", "b", "c"])
        .expect("no crash")
        .expect_err("failed");
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Failure, "02-action says no")
    );
    assert_eq!(
        host.ran,
        ["01-action", "02-action", "02-rollback", "01-rollback"]
    );
    assert_eq!(
        (c.status.as_str(), c.reason.as_str()),
        ("failed", Some("02-action says no"))
    );
    let error = Host::new(&mut c)
        .run(workflow(2), &["a", "b", "c"])
        .expect("no crash")
        .expect_err("failed");
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Failure, "02-action says no")
    );
}

#[test]
fn without_phase_2_the_submit_is_the_decision() {
    let mut c = Coordinator::open();
    let mut machine = workflow(1);
    let mut host = Host::new(&mut c);
    host.go(&mut machine).expect("no crash").expect("open");
    let now = machine.now(42).expect("running");
    assert_eq!(host.part(&mut machine, now), Some(Ok(Bytes::from("42"))));
    let seed = machine.seed([9; 16]).expect("running");
    assert_eq!(machine.seed([8; 16]), Ok(seed));
    assert_eq!(
        host.part(&mut machine, seed),
        Some(Ok(Bytes::from(vec![9; 16])))
    );
    machine
        .resolve(1, Fact::UserOk(Bytes::new()))
        .expect("it fits");
    assert_eq!(host.go(&mut machine), Some(Ok(Bytes::new())));
    assert_eq!(c.names(), ["00-now-01", "00-seed"]);
}

#[test]
fn what_is_recorded_is_replayed_binary_data_included() {
    let mut c = Coordinator::open();
    let body = ["a", "b"];
    let mut host = Host::new(&mut c).answers(&[("02-action", Err(ErrorKind::Ongoing))]);
    assert_eq!(kind(host.run(workflow(1), &body)), ErrorKind::Ongoing);
    assert_eq!(
        (c.status.as_str(), c.names()),
        ("prepared", vec!["01-action".to_owned()])
    );
    let mut host = Host::new(&mut c).answers(&[("01-action", Err(ErrorKind::Failure))]);
    assert_eq!(host.run(workflow(2), &body), Some(Ok(Bytes::from("done"))));
    assert_eq!(host.ran, ["02-action", "02-commit", "01-commit"]);
}

#[test]
fn a_body_that_swallows_an_open_step_is_not_believed() {
    let mut c = Coordinator::open();
    let mut machine = workflow(1);
    let mut host = Host::new(&mut c).answers(&[("01-action", Err(ErrorKind::OutcomeUnknown))]);
    host.go(&mut machine).expect("no crash").expect("open");
    let part = machine.branch("a").expect("running");
    machine.action(part, Work::Run).expect("named");
    assert!(host.part(&mut machine, part).expect("ended").is_err());
    machine
        .resolve(1, Fact::UserOk(Bytes::new()))
        .expect("it fits");
    assert_eq!(kind(host.go(&mut machine)), ErrorKind::OutcomeUnknown);
    assert!(c.rows.is_empty() && c.status == "prepared");
}

#[test]
fn other_steps_than_the_recorded_ones_are_told() {
    for (body, says) in [
        (vec!["x", "b"], "\"x\""),
        (vec!["a"], "ended without"),
        (vec!["a", "c", "b"], "\"c\""),
    ] {
        let mut c = Coordinator::open();
        let mut host = Host::new(&mut c).answers(&[("03-action", Err(ErrorKind::Ongoing))]);
        assert_eq!(
            kind(host.run(workflow(1), &["a", "b", "c"])),
            ErrorKind::Ongoing
        );
        let mut host = Host::new(&mut c);
        let error = host
            .run(workflow(2), &body)
            .expect("no crash")
            .expect_err("told");
        assert_eq!(error.kind(), ErrorKind::Nondeterministic);
        assert!(error.message().contains(says), "{error}");
        assert!(host.ran.is_empty() && c.status == "prepared");
    }
}

#[test]
fn a_decision_is_obeyed_whatever_the_body_says_later() {
    // Stopped behind the decision to roll back; now everything would succeed.
    let mut c = Coordinator::open();
    let mut host = Host::new(&mut c).answers(&[
        ("02-action", Err(ErrorKind::Failure)),
        ("02-rollback", Err(ErrorKind::Ongoing)),
    ]);
    assert_eq!(
        kind(host.run(workflow(1), &["a", "b", "c"])),
        ErrorKind::Ongoing
    );
    // The refused action is not there, as if that row had been lost with it.
    c.rows.retain(|row| row["branch_id"] != "02");
    let mut host = Host::new(&mut c);
    assert_eq!(
        kind(host.run(workflow(2), &["a", "b", "c"])),
        ErrorKind::Failure
    );
    assert_eq!(host.ran, ["02-rollback", "01-rollback"]);
    assert_eq!(c.reason, "02-action says no");

    // A body that does not register what the decision names.
    let mut c = Coordinator::open();
    let mut host = Host::new(&mut c).answers(&[
        ("01-rollback", Err(ErrorKind::Ongoing)),
        ("01-action", Err(ErrorKind::Failure)),
    ]);
    assert_eq!(kind(host.run(workflow(1), &["a"])), ErrorKind::Ongoing);
    let error = Host::new(&mut c)
        .run(workflow(2), &[])
        .expect("no crash")
        .expect_err("told");
    assert_eq!(error.kind(), ErrorKind::Nondeterministic);
    assert!(error.message().contains("01-rollback"), "{error}");
}

#[test]
fn an_undo_that_is_refused_is_no_rollback_and_is_tried_again() {
    let mut c = Coordinator::open();
    let body = ["a"];
    let refuses = [
        ("01-action", Err(ErrorKind::Failure)),
        ("01-rollback", Err(ErrorKind::Failure)),
    ];
    let mut host = Host::new(&mut c).answers(&refuses);
    assert_eq!(kind(host.run(workflow(1), &body)), ErrorKind::Internal);
    assert_eq!(c.status, "prepared");
    assert_eq!(
        kind(Host::new(&mut c).run(workflow(2), &body)),
        ErrorKind::Failure
    );
    assert_eq!(c.status, "failed");
}

#[test]
fn lost_answers_are_looked_up() {
    for dtm in [false, true] {
        for route in ["prepareWorkflow", "registerBranch", "submit"] {
            let mut c = Coordinator {
                dtm,
                loses: Some(route),
                ..Coordinator::open()
            };
            let mut host = Host::new(&mut c);
            assert_eq!(
                host.run(workflow(1), &["a"]),
                Some(Ok(Bytes::from("done"))),
                "{route}"
            );
            assert_eq!(host.ran, ["01-action", "01-commit"]);
        }
    }
}

#[test]
fn another_run_that_is_ahead_is_noticed() {
    for dtm in [false, true] {
        let mut ends = [0, 0];
        for overtaken in 0.. {
            let mut c = Coordinator {
                dtm,
                ..Coordinator::open()
            };
            let mut host = Host {
                overtaken,
                ..Host::new(&mut c)
            };
            let result = host.run(workflow(1), &["a", "b"]).expect("no crash");
            let (ran, steps) = (std::mem::take(&mut host.ran), host.steps);
            if steps < overtaken {
                break;
            }
            let about = format!("dtm {dtm}, overtaken before step {overtaken}: {ran:?} {result:?}");
            let any = |what: &str| ran.iter().any(|ran| ran.ends_with(what));
            match c.status.as_str() {
                "succeed" => {
                    ends[0] += 1;
                    assert!(!any("rollback"), "{about}");
                }
                "failed" => {
                    ends[1] += 1;
                    assert!(!any("commit"), "{about}");
                    let error = result.as_ref().expect_err(&about);
                    let kinds = [ErrorKind::LostRace, ErrorKind::Failure];
                    assert!(kinds.contains(&error.kind()), "{about}");
                }
                other => panic!("{other}: {about}"),
            }
        }
        assert!(ends[0] > 4 && ends[1] > 4, "{ends:?}");
    }
}

#[test]
fn journals_of_dtms_client_are_read() {
    let row = |id: &str, op: &str, status: &str, data: &[u8]| json!({"branch_id": id, "op": op, "status": status, "data": String::from_utf8_lossy(data)});
    let mut c = Coordinator {
        dtm: true,
        ..Coordinator::open()
    };
    c.rows = vec![
        row("01", "action", "succeed", b"plain bytes"),
        row("02", "action", "failed", b"no"),
    ];
    let mut host = Host::new(&mut c);
    let error = host
        .run(workflow(1), &["a", "b"])
        .expect("no crash")
        .expect_err("failed");
    assert_eq!((error.kind(), error.message()), (ErrorKind::Failure, "no"));
    assert_eq!(host.ran, ["02-rollback", "01-rollback"]);

    // Phase 2 has begun without a row that says so.
    let mut c = Coordinator {
        dtm: true,
        ..Coordinator::open()
    };
    c.rows = vec![
        row("01", "action", "succeed", b""),
        row("02", "rollback", "succeed", b""),
    ];
    let mut host = Host::new(&mut c);
    assert_eq!(kind(host.run(workflow(1), &["a", "b"])), ErrorKind::Failure);
    assert_eq!(host.ran, ["01-rollback"]);

    // Its local XA transaction was prepared, and never recorded as done.
    let mut c = Coordinator {
        dtm: true,
        ..Coordinator::open()
    };
    c.rows = vec![row("01", "business", "succeed", b"")];
    let mut host = Host::new(&mut c);
    assert_eq!(kind(host.run(workflow(1), &["a"])), ErrorKind::Failure);
    assert_eq!(host.ran, ["01-rollback"]);
}

#[test]
fn stopping_after_any_step_is_made_good_by_the_next_run() {
    let answers: [&[(&str, Result<&str, ErrorKind>)]; 2] =
        [&[], &[("02-action", Err(ErrorKind::Failure))]];
    for answers in answers {
        for until in 0.. {
            let mut c = Coordinator::open();
            let mut host = Host {
                until,
                ..Host::new(&mut c)
            }
            .answers(answers);
            if host.run(workflow(1), &["a", "b"]).is_some() {
                assert!(until > 8);
                break;
            }
            let result = Host::new(&mut c)
                .answers(answers)
                .run(workflow(2), &["a", "b"]);
            assert_eq!(
                result.expect("no crash").is_ok(),
                answers.is_empty(),
                "stopped after {until} steps"
            );
            assert_eq!(
                c.status,
                if answers.is_empty() {
                    "succeed"
                } else {
                    "failed"
                }
            );
        }
    }
}

#[test]
fn bad_input_is_refused() {
    let server = Server::new("http://c", 1_000);
    let make = |name: &str, gid: &str, input: usize, callback: &str| {
        let input = vec![0; input];
        Workflow::new(
            &server,
            name,
            gid,
            &input,
            callback,
            Options::default(),
            [0; 16],
        )
        .map(|_| ())
    };
    assert_eq!(make(&"n".repeat(45), "g", 700_000, "http://me"), Ok(()));
    for (name, gid, input, callback) in [
        ("", "g", 0, "http://me"),
        (&*"n".repeat(46), "g", 0, "http://me"),
        ("n", "", 0, "http://me"),
        // No participant takes them.
        ("n", "g ", 0, "http://me"),
        ("n ", "g", 0, "http://me"),
        ("n", "g", 800_000, "http://me"),
        ("n", "g", 0, ""),
    ] {
        let error = make(name, gid, input, callback).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    let mut machine = workflow(1);
    assert!(machine.branch("a").is_err(), "its body does not run yet");
    let mut c = Coordinator::open();
    Host::new(&mut c)
        .go(&mut machine)
        .expect("no crash")
        .expect("open");
    for n in 0..99 {
        assert_eq!(machine.branch("a"), Ok(n));
    }
    assert_eq!(
        machine.branch("a").expect_err("full").kind(),
        ErrorKind::Invalid
    );
    machine.action(0, Work::Run).expect("named");
    assert!(machine.action(0, Work::Run).is_err() && machine.on_commit(0, Work::Run).is_err());
    assert!(machine.action(99, Work::Run).is_err());
    assert!(
        machine.resolve(77, Fact::Done).is_err() && machine.resolve(1, Fact::Affected(1)).is_err()
    );
}

#[test]
fn frames_carry_any_bytes() {
    let frame = Frame {
        run: "r".to_owned(),
        step: "a \"step\"\n".to_owned(),
        message: String::new(),
        items: Some(vec!["01-commit".to_owned()]),
        given_up: true,
        data: Bytes::from((0..=255).collect::<Vec<u8>>()),
    };
    assert_eq!(Frame::decode(frame.encode().as_bytes()), Some(frame));
    for other in ["", "bm8=", "{\"a\":1}", "YW1lbmRzIGpvdXJuYWwgMgp7fQ=="] {
        assert_eq!(Frame::decode(other.as_bytes()), None, "{other}");
    }
}

/// At the limit of a result, its frame is what has to fit.
#[test]
fn a_result_that_no_row_takes_is_told_before_anything_is_stored() {
    let max = Limits::default().result / 4 * 3;
    let items = vec!["99-rollback".to_owned(); CHILDREN_MAX];
    let frame = Frame {
        run: "f".repeat(32),
        items: Some(items),
        data: Bytes::from(vec![0; max - 2_048]),
        ..Frame::default()
    };
    assert!(frame.encode().len() <= Limits::default().payload);
    for (size, fits) in [(max - 2_048, true), (max - 1_024, false)] {
        let mut c = Coordinator::open();
        let mut machine = workflow(1);
        let mut host = Host::new(&mut c);
        host.go(&mut machine).expect("no crash").expect("open");
        host.step(&mut machine, "a").expect("no crash").expect("ok");
        let ended = host.end(&mut machine, Ok(Bytes::from(vec![0; size])));
        let ended = ended.expect("no crash").map_err(|e| e.kind());
        assert_eq!(ended.is_ok(), fits, "{size}");
        assert_eq!(c.names().len() > 1, fits);
    }
}
