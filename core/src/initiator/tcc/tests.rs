use super::*;
use crate::limits::REASON_MAX;
use crate::machine::answer;
use serde_json::json;
use std::collections::VecDeque;

fn server() -> Server {
    Server::new("http://h:1", 3_000)
}

fn tcc() -> Tcc {
    let options = Options {
        branch_headers: [("X-Foo".to_owned(), "bar".to_owned())].into(),
        ..Options::default()
    };
    Tcc::new(&server(), "g", options).expect("legal")
}

fn bank(name: &str) -> Try {
    Try {
        try_url: format!("http://{name}/try?x=1"),
        confirm: format!("http://{name}/confirm"),
        cancel: format!("http://{name}/cancel"),
        payload: r#"{"amount":30}"#.to_owned().into(),
    }
}

/// What a call is, in words: its route, or its host and op.
fn named(request: &Request) -> String {
    let url = request.url.strip_prefix("http://").expect("HTTP");
    let (host, path) = url.split_once('/').expect("a path");
    match path.strip_prefix("api/dtmsvr/") {
        Some(route) => route.split('?').next().unwrap_or_default().to_owned(),
        None => format!("{host} {}", path.split('?').next().unwrap_or_default()),
    }
}

/// The answer to a call when all is well.
fn well(name: &str) -> Fact {
    answer(
        200,
        match name {
            "query" => r#"{"branches":[],"transaction":{"gid":"g","status":"prepared"}}"#,
            _ => r#"{"dtm_result":"SUCCESS"}"#,
        },
    )
}

/// Runs a TCC whose user tries these banks at the same time and ends as `user` says. `answers` decides on every call; `None` is success.
fn run(
    mut tcc: Tcc,
    banks: &[&str],
    user: Fact,
    mut answers: impl FnMut(&str, &Request) -> Option<Fact>,
) -> (Vec<String>, Result<Output, Error>) {
    let (mut log, mut user_step, mut branches) = (Vec::new(), None, Vec::new());
    let mut open = VecDeque::new();
    loop {
        while let Some(step) = tcc.poll() {
            match step.kind {
                StepKind::RunUser(_) => {
                    user_step = Some(step.id);
                    branches = banks
                        .iter()
                        .map(|b| tcc.branch(&bank(b)).expect("a branch"))
                        .collect();
                }
                StepKind::Done(result) => {
                    assert_eq!(tcc.poll(), None);
                    return (log, result);
                }
                kind => open.push_back((step.id, kind)),
            }
        }
        match open.pop_front() {
            Some((id, StepKind::Call(request))) => {
                let name = named(&request);
                let fact = answers(&name, &request).unwrap_or_else(|| well(&name));
                log.push(name);
                tcc.resolve(id, fact).expect("it fits");
            }
            Some((id, StepKind::Sleep(_))) => tcc.resolve(id, Fact::Done).expect("it fits"),
            Some((_, other)) => panic!("{other:?}"),
            None => {
                assert!(branches.iter().all(|b| tcc.result(*b).is_some()));
                let id = user_step.take().expect("the user's turn");
                tcc.resolve(id, user.clone()).expect("it fits");
            }
        }
    }
}

fn ok() -> Fact {
    Fact::UserOk(Bytes::new())
}

#[test]
fn registered_tried_and_submitted() {
    let mut seen = Vec::new();
    let (log, result) = run(tcc(), &["a", "b"], ok(), |_, request| {
        seen.push(request.clone());
        None
    });
    result.expect("submitted");
    assert_eq!(
        log,
        [
            "prepare",
            "query",
            "registerBranch",
            "registerBranch",
            "a try",
            "b try",
            "submit"
        ]
    );
    let register: Value = serde_json::from_slice(&seen[2].body).expect("JSON");
    assert_eq!(
        register,
        json!({"gid": "g", "trans_type": "tcc", "branch_id": "01", "confirm": "http://a/confirm",
               "cancel": "http://a/cancel", "data": "{\"amount\":30}"})
    );
    assert_eq!(
        (seen[1].method, &seen[1].url[..]),
        ("GET", "http://h:1/api/dtmsvr/query?gid=g")
    );
    let tried = &seen[5];
    assert_eq!(
        tried.url,
        "http://b/try?x=1&dtm=http%3A%2F%2Fh%3A1%2Fapi%2Fdtmsvr&gid=g&trans_type=tcc&branch_id=02&op=try"
    );
    assert_eq!(&tried.body[..], br#"{"amount":30}"#);
    assert!(
        tried
            .headers
            .contains(&("x-foo".to_owned(), "bar".to_owned()))
    );
}

#[test]
fn whatever_goes_wrong_in_a_try_ends_in_an_abort() {
    let lost = Fact::NoAnswer {
        sent: true,
        message: "cut".to_owned(),
    };
    for fact in [
        answer(409, "no money"),
        answer(200, r#"{"dtm_result":"FAILURE"}"#),
        answer(425, ""),
        answer(500, "boom"),
        lost,
    ] {
        // The user says that all is well: not believed.
        let mut reason = String::new();
        let (log, result) = run(tcc(), &["a", "b"], ok(), |name, request| {
            if name == "abort" {
                let body: Value = serde_json::from_slice(&request.body).expect("JSON");
                reason = body["rollback_reason"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
            }
            (name == "b try").then(|| fact.clone())
        });
        // Whatever the try was, it is being cancelled.
        assert_eq!(result.expect_err("aborted").kind(), ErrorKind::Failure);
        assert_eq!(log.last().map(String::as_str), Some("abort"), "{log:?}");
        assert!(!log.contains(&"submit".to_owned()));
        assert!(reason.starts_with("the try of branch 02"), "{reason}");
    }
}

#[test]
fn the_users_error_is_the_reason() {
    let user = Fact::UserFailed {
        kind: ErrorKind::Database,
        message: "x".repeat(5_000),
    };
    let (log, result) = run(tcc(), &["a"], user, |name, request| {
        if name == "abort" {
            let body: Value = serde_json::from_slice(&request.body).expect("JSON");
            assert!(
                body["rollback_reason"]
                    .as_str()
                    .is_some_and(|r| r.len() <= REASON_MAX)
            );
        }
        None
    });
    assert_eq!(result.expect_err("aborted").kind(), ErrorKind::Database);
    assert_eq!(
        log,
        ["prepare", "query", "registerBranch", "a try", "abort"]
    );
}

#[test]
fn a_branch_that_is_not_registered_is_not_tried() {
    let refused = r#"{"message":"no trans with gid: g status: prepared found FAILURE"}"#;
    let (log, result) = run(tcc(), &["a"], ok(), |name, _| {
        (name == "registerBranch").then(|| answer(409, refused))
    });
    assert_eq!(result.expect_err("too late").kind(), ErrorKind::Refused);
    assert_eq!(log, ["prepare", "query", "registerBranch", "abort"]);
    // An answer that is lost is asked for again, and DTM then says that the row is there.
    let mut first = true;
    let (log, result) = run(tcc(), &["a"], ok(), |name, _| {
        if name != "registerBranch" {
            return None;
        }
        if std::mem::take(&mut first) {
            return Some(Fact::NoAnswer {
                sent: true,
                message: "cut".to_owned(),
            });
        }
        Some(answer(500, r#"{"message":"storage: UniqueKeyConflict"}"#))
    });
    result.expect("registered");
    assert_eq!(
        log,
        [
            "prepare",
            "query",
            "registerBranch",
            "registerBranch",
            "a try",
            "submit"
        ]
    );
}

#[test]
fn a_submit_without_an_answer_is_never_an_abort() {
    let (log, result) = run(tcc(), &["a"], ok(), |name, _| {
        (name == "submit").then(|| Fact::NoAnswer {
            sent: true,
            message: "cut".to_owned(),
        })
    });
    assert_eq!(
        result.expect_err("unknown").kind(),
        ErrorKind::OutcomeUnknown
    );
    assert!(!log.contains(&"abort".to_owned()), "{log:?}");
}

#[test]
fn nothing_is_tried_unless_it_is_prepared() {
    let (log, result) = run(tcc(), &["a"], ok(), |name, _| {
        (name == "prepare").then(|| answer(503, ""))
    });
    assert_eq!(result.expect_err("down").kind(), ErrorKind::Unavailable);
    assert!(log.iter().all(|name| name == "prepare"));
}

/// What a run that died has registered is not confirmed by another one.
#[test]
fn a_gid_with_branches_is_refused_and_left_alone() {
    let row = r#"{"gid":"g","branch_id":"02","op":"confirm","status":"prepared"}"#;
    for (body, status, kind) in [
        (
            format!(r#"{{"branches":[{row},{row}],"transaction":{{}}}}"#),
            200,
            ErrorKind::Refused,
        ),
        // Whoever cannot be asked is not believed to know of none.
        (
            "<title>Sign in</title>".to_owned(),
            200,
            ErrorKind::Internal,
        ),
        (String::new(), 503, ErrorKind::Unavailable),
    ] {
        let (mut log, result) = run(tcc(), &["a"], ok(), |name, _| {
            (name == "query").then(|| answer(status, &body))
        });
        assert_eq!(result.expect_err("refused").kind(), kind, "{body}");
        log.dedup();
        assert_eq!(log, ["prepare", "query"], "nothing was tried or aborted");
    }
    let (_, result) = run(tcc(), &["a"], ok(), |name, _| {
        (name == "query").then(|| answer(200, r#"{"branches":null,"transaction":{}}"#))
    });
    result.expect("DTM has no branches");
}

#[test]
fn a_try_that_the_user_gave_up_is_not_confirmed() {
    let mut tcc = tcc();
    let mut branch = None;
    for name in ["prepare", "query", "user", "registerBranch", "a try"] {
        let step = tcc.poll().expect(name);
        if name == "user" {
            branch = Some((step.id, tcc.branch(&bank("a")).expect("a branch")));
        } else {
            tcc.resolve(step.id, well(name)).expect("it fits");
        }
    }
    let (user, branch) = branch.expect("the user's turn");
    tcc.give_up(branch);
    assert!(tcc.result(branch).is_some_and(|r| r.is_ok()));
    tcc.resolve(user, ok()).expect("it fits");
    let abort = tcc.poll().expect("a step");
    assert!(matches!(abort.kind, StepKind::Call(r) if r.url.ends_with("/abort")));
    tcc.resolve(abort.id, well("abort")).expect("it fits");
    let Some(StepKind::Done(Err(error))) = tcc.poll().map(|step| step.kind) else {
        panic!("aborted");
    };
    assert_eq!(error.kind(), ErrorKind::Failure);
    assert!(error.message().contains("was not waited for"), "{error}");
}

#[test]
fn branches_of_a_branch_are_left_to_who_began() {
    let who = Identity::new("tcc", "g", "01", "try").expect("an identity");
    let nested = Tcc::nested(&server(), &who, Options::default()).expect("a try");
    let mut ids = Vec::new();
    let (log, result) = run(nested, &["a", "b"], ok(), |name, request| {
        if name == "registerBranch" {
            let body: Value = serde_json::from_slice(&request.body).expect("JSON");
            ids.push(body["branch_id"].as_str().unwrap_or_default().to_owned());
        }
        None
    });
    result.expect("its tries went well");
    assert_eq!(log, ["registerBranch", "registerBranch", "a try", "b try"]);
    assert_eq!(ids, ["0101", "0102"]);
    let nested = Tcc::nested(&server(), &who, Options::default()).expect("a try");
    let (log, result) = run(nested, &["a"], ok(), |name, _| {
        (name == "a try").then(|| answer(409, "no"))
    });
    assert_eq!(result.expect_err("refused").kind(), ErrorKind::Failure);
    assert_eq!(log, ["registerBranch", "a try"]);
    let confirm = Identity::new("tcc", "g", "01", "confirm").expect("an identity");
    assert!(Tcc::nested(&server(), &confirm, Options::default()).is_err());
}

#[test]
fn branches_are_limited_and_need_the_users_code() {
    let mut tcc = tcc();
    assert!(tcc.branch(&bank("a")).is_err(), "not yet");
    for name in ["prepare", "query"] {
        let step = tcc.poll().expect(name);
        tcc.resolve(step.id, well(name)).expect("it fits");
    }
    let user = tcc.poll().expect("the user");
    assert!(matches!(user.kind, StepKind::RunUser(_)));
    let ftp = Try {
        cancel: "ftp://a".to_owned(),
        ..bank("a")
    };
    assert!(tcc.branch(&ftp).is_err());
    for n in 1..=99 {
        let number = tcc.branch(&bank("a")).expect("within the limit");
        assert_eq!(tcc.branch_id(number), Some(format!("{n:02}").as_str()));
    }
    let error = tcc.branch(&bank("a")).expect_err("one too many");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    // Whoever reports success before the tries have ended is not believed.
    tcc.resolve(user.id, ok()).expect("it fits");
    let step = tcc.poll().expect("a step");
    assert!(matches!(step.kind, StepKind::Call(r) if r.url.ends_with("/abort")));
}

/// Stopped anywhere, the coordinator cancels or confirms by itself: it suffices that a submit is the last word, and stands only behind
/// tries that all went well.
#[test]
fn a_submit_is_the_last_word() {
    for failing in [None, Some("a try"), Some("b try"), Some("registerBranch")] {
        let (log, _) = run(tcc(), &["a", "b"], ok(), |name, _| {
            (Some(name) == failing).then(|| answer(409, "no"))
        });
        let submit = log.iter().position(|name| name == "submit");
        assert_eq!(submit.is_some(), failing.is_none(), "{log:?}");
        assert!(submit.is_none_or(|at| at == log.len() - 1), "{log:?}");
    }
}
