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
fn no_two_branches_share_a_marker() {
    let marker_of = |gid: &str, branch: &str, op: &str, part: &str, tag: Option<&str>| {
        let who = Identity::new("msg", gid, branch, op).expect("an identity");
        let script = plan(&who, part, tag, DEFAULT_TTL, &work(&[])).expect("a plan");
        script.keys[0].clone()
    };
    // Texts that are put together from few words, and so would collide wherever they could.
    let words = ["a", "a-a", "a-a-a", "-", "--", "a-", "-a"];
    let tags = [None, Some("a"), Some("a-a")];
    let gids = words.iter().copied().chain(["{a}a", "{a}", "{a-a}-a"]);
    let (mut all, mut count) = (std::collections::BTreeSet::new(), 0);
    for gid in gids {
        for branch in words {
            for op in words {
                for part in words {
                    for tag in tags {
                        count += 1;
                        all.insert(marker_of(gid, branch, op, part, tag));
                    }
                }
            }
        }
    }
    assert_eq!(all.len(), count);
    // DTM's own pair: the first subscriber of a topic, and a branch of another gid.
    assert_eq!(
        marker_of("g", "01-01", "action", "01", None),
        "g-01;01-action-01"
    );
    assert_eq!(
        marker_of("g-01", "01", "action", "01", None),
        "g-01-01-action-01"
    );
}

#[test]
fn an_identity_made_by_hand_cannot_share_a_marker() {
    let by_hand = Identity {
        branch_id: "01;01".to_owned(),
        ..who("saga", "action")
    };
    let refused = plan(&by_hand, "01", None, DEFAULT_TTL, &work(&[]));
    let error = refused.expect_err("to be refused");
    assert_eq!(error.kind(), ErrorKind::Invalid);
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
            "NOPERM this user has no permissions to run the 'evalsha' command",
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
