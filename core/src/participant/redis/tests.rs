use super::*;

fn who(trans_type: &str, op: &str) -> Identity {
    Identity::new(trans_type, "g", "01", op).expect("an identity")
}

fn work(keys: &[&str]) -> Work {
    Work {
        body: "return ARGV[1] -- what it was given".to_owned(),
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        args: vec![Bytes::from_static(b"\xff")],
    }
}

fn plan_of(op: &str, tag: Option<&str>, work: &Work) -> Result<Script, Error> {
    plan(&who("saga", op), "01", tag, 5_000, work)
}

fn invalid(result: Result<Script, Error>, part: &str) {
    let error = result.expect_err("to be refused");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains(part), "{error}");
}

#[test]
fn markers_are_those_of_dtm_and_come_before_the_body_s_own() {
    for (op, markers) in [
        ("action", &["g-01-action-01"][..]),
        ("try", &["g-01-try-01"]),
        ("confirm", &["g-01-confirm-01"]),
        ("compensate", &["g-01-compensate-01", "g-01-action-01"]),
        ("cancel", &["g-01-cancel-01", "g-01-try-01"]),
        ("rollback", &["g-01-rollback-01", "g-01-action-01"]),
    ] {
        let script = plan_of(op, None, &work(&["a", "b"])).expect("a plan");
        assert_eq!(script.keys, [markers, &["a", "b"]].concat());
        let count = markers.len().to_string();
        let want: [&[u8]; 4] = [count.as_bytes(), op.as_bytes(), b"5000", b"\xff"];
        assert_eq!(script.args, want);
    }
    let script = query_prepared(&who("msg", "msg"), None, DEFAULT_TTL).expect("a plan");
    assert_eq!(script.keys, ["g-00-msg-01"]);
    assert_eq!(script.args, ["2592000000"]);
}

#[test]
fn the_text_depends_on_the_body_only_and_keeps_its_lines() {
    let one = plan_of("action", None, &work(&[])).expect("a plan");
    let two = plan_of("compensate", Some("t"), &work(&["{t}a"])).expect("a plan");
    assert_eq!(one.text, two.text);
    // A comment at the end of the body must not take the rest with it.
    let first = one.text.lines().next().expect("a line");
    assert!(first.ends_with("-- what it was given"), "{first}");
}

#[test]
fn with_a_hash_tag_every_key_holds_it() {
    let script = plan_of("cancel", Some("t"), &work(&["x{t}y", "{t}"])).expect("a plan");
    assert_eq!(
        script.keys,
        ["{t}g-01-cancel-01", "{t}g-01-try-01", "x{t}y", "{t}"]
    );
    for key in ["a", "t", "{u}a", "{}{t}a", "{t", "{{t}}a", "{u}{t}"] {
        invalid(plan_of("try", Some("t"), &work(&["{t}a", key])), key);
    }
    for tag in ["", "{t}", "a}b", "a\n"] {
        invalid(plan_of("try", Some(tag), &work(&[])), "hash tag");
    }
    let script = query_prepared(&who("msg", "msg"), Some("t"), 1).expect("a plan");
    assert_eq!(script.keys, ["{t}g-00-msg-01"]);
}

#[test]
fn what_would_confuse_markers_is_refused() {
    let dash = |branch: &str, op: &str, part: &str| {
        let who = Identity::new("saga", "g-1", branch, op).expect("an identity");
        plan(&who, part, None, DEFAULT_TTL, &work(&[]))
    };
    assert!(dash("01", "action", "01").is_ok());
    invalid(dash("0-1", "action", "01"), "branch_id");
    invalid(dash("01", "act-ion", "01"), "op is");
    invalid(dash("01", "action", "0-1"), "part is");
    invalid(dash("01", "action", ""), "part");
    invalid(dash("01", "action", &"1".repeat(PART_MAX + 1)), "part");
    assert!(dash("01", "action", &"1".repeat(PART_MAX)).is_ok());
    invalid(dash("01", "running", "01"), "running");
    for ttl in [0, -1] {
        invalid(query_prepared(&who("msg", "msg"), None, ttl), "live");
        invalid(
            plan(&who("saga", "action"), "01", None, ttl, &work(&[])),
            "live",
        );
    }
}

#[test]
fn amounts_that_lua_cannot_count_are_refused() {
    for amount in [AMOUNT_MAX, -AMOUNT_MAX, 0] {
        assert!(Work::adjust(&Op::ACTION, "a", amount).is_ok());
    }
    for amount in [AMOUNT_MAX + 1, -AMOUNT_MAX - 1, i64::MAX, i64::MIN] {
        let error = Work::adjust(&Op::ACTION, "a", amount).expect_err("to be refused");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    for (op, firm) in [
        ("action", ""),
        ("try", ""),
        ("msg", ""),
        ("compensate", "firm"),
        ("cancel", "firm"),
        ("confirm", "firm"),
        ("rollback", "firm"),
        ("commit", "firm"),
    ] {
        let work = Work::adjust(&Op::new(op), "a", -8).expect("work");
        assert_eq!(work.args, ["-8", firm], "{op}");
        assert_eq!(work.keys, ["a"]);
    }
}

#[test]
fn every_answer_has_one_meaning() {
    use BarrierResult::{Duplicate, Executed, NullCompensation, Suspended};
    let array = |trans_type: &str, word: &str, text: &str| {
        read(&who(trans_type, "action"), Reply::Array { word, text })
    };
    for (word, result) in [
        ("executed", Executed),
        ("duplicate", Duplicate),
        ("null_compensation", NullCompensation),
        ("suspended", Suspended),
    ] {
        assert_eq!(result.as_str(), word);
        assert_eq!(array("saga", word, ""), Ok(result));
    }
    let error = |result: Result<BarrierResult, Error>| result.expect_err("an error");
    let late = error(array("workflow", "suspended", ""));
    assert_eq!(late.kind(), ErrorKind::Failure);
    let no = error(array("saga", "failure", "FAILURE no stock"));
    assert_eq!((no.kind(), no.message()), (ErrorKind::Failure, "no stock"));
    for (word, kind) in [
        ("failed", ErrorKind::Database),
        ("half_done", ErrorKind::HalfDone),
        ("duplicated", ErrorKind::Duplicated),
        ("", ErrorKind::Invalid),
        ("OK", ErrorKind::Invalid),
    ] {
        assert_eq!(error(array("saga", word, "why")).kind(), kind, "{word}");
    }
    for (text, kind) in [
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            ErrorKind::Database,
        ),
        (
            "CROSSSLOT Keys in request don't hash to the same slot",
            ErrorKind::Invalid,
        ),
        (
            "ERR Error compiling script (new function): user_script:1: x",
            ErrorKind::Invalid,
        ),
    ] {
        let error = error(read(&who("saga", "action"), Reply::Error(text)));
        assert_eq!(error.kind(), kind, "{text}");
        assert!(error.message().contains(text));
    }
}
