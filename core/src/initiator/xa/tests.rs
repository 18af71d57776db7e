use super::*;
use crate::error::ErrorKind;
use crate::machine::{Request, StepKind, answer};
use serde_json::Value;

fn action(name: &str) -> Action {
    Action {
        url: format!("http://{name}/xa?x=1"),
        payload: r#"{"amount":30}"#.to_owned().into(),
    }
}

/// Runs an XA with two branches at the same time, whose user says that all is well: its calls, and how it ended.
fn run(mut answers: impl FnMut(&Request) -> Option<Fact>) -> (Vec<Request>, Result<(), ErrorKind>) {
    let server = Server::new("http://h:1", 3_000);
    let mut xa = Xa::new(&server, "g", Options::default()).expect("legal");
    assert!(xa.branches(&[action("a")]).is_err(), "not yet");
    let (mut calls, mut open, mut user) = (Vec::new(), Vec::new(), None);
    loop {
        while let Some(Step { id, kind }) = xa.poll() {
            match kind {
                StepKind::RunUser(who) => {
                    assert_eq!(who.trans_type, crate::TransType::Xa);
                    user = Some(id);
                    let bad = Action {
                        url: "ftp://b".to_owned(),
                        ..action("b")
                    };
                    assert!(xa.branches(&[action("a"), bad]).is_err());
                    xa.branches(&[action("a"), action("b")]).expect("legal");
                }
                StepKind::Done(result) => return (calls, result.map(|_| ()).map_err(|e| e.kind())),
                StepKind::Call(request) => open.push((id, Some(request))),
                StepKind::Sleep(_) => open.push((id, None)),
                other => panic!("{other:?}"),
            }
        }
        if user.is_some() && calls.len() == 2 {
            assert_eq!(open.len(), 2, "both at a time");
        }
        if open.is_empty() {
            assert_eq!(xa.result(0).map(|r| r.is_ok()), Some(true));
            let id = user.take().expect("the user's turn");
            xa.resolve(id, Fact::UserOk(Bytes::new())).expect("it fits");
        }
        for (id, request) in open.drain(..) {
            let fact = match request {
                None => Fact::Done,
                Some(request) => {
                    let fact = answers(&request);
                    calls.push(request);
                    fact.unwrap_or_else(|| answer(200, r#"{"dtm_result":"SUCCESS"}"#))
                }
            };
            xa.resolve(id, fact).expect("it fits");
        }
    }
}

fn routes(calls: &[Request]) -> Vec<&str> {
    calls
        .iter()
        .map(|c| match c.url.rsplit('/').next() {
            Some(last) if c.url.starts_with("http://h:1/") => {
                last.split('?').next().unwrap_or_default()
            }
            _ => &c.url[7..8],
        })
        .collect()
}

#[test]
fn branches_are_called_and_submitted() {
    let (calls, result) = run(|_| None);
    assert_eq!(result, Ok(()));
    assert_eq!(routes(&calls), ["prepare", "query", "a", "b", "submit"]);
    assert_eq!(
        calls[3].url,
        "http://b/xa?x=1&dtm=http%3A%2F%2Fh%3A1%2Fapi%2Fdtmsvr&gid=g&trans_type=xa&branch_id=02&op=action&phase2_url=http%3A%2F%2Fb%2Fxa%3Fx%3D1"
    );
    assert_eq!(calls[3].method, "POST");
    assert_eq!(&calls[3].body[..], br#"{"amount":30}"#);
    let prepared: Value = serde_json::from_slice(&calls[0].body).expect("JSON");
    assert_eq!(prepared["trans_type"], "xa");
}

#[test]
fn a_branch_that_did_not_succeed_ends_in_an_abort() {
    for status in [409, 425, 500] {
        let (calls, result) = run(|r| {
            r.url
                .starts_with("http://b/")
                .then(|| answer(status, "no money"))
        });
        // Whatever became of it, it is being rolled back.
        assert_eq!(result, Err(ErrorKind::Failure));
        assert_eq!(routes(&calls), ["prepare", "query", "a", "b", "abort"]);
        let abort: Value = serde_json::from_slice(&calls[4].body).expect("JSON");
        let reason = abort["rollback_reason"].as_str().unwrap_or_default();
        assert!(reason.starts_with("the action of branch 02"), "{reason}");
    }
}

#[test]
fn a_submit_without_an_answer_is_never_an_abort() {
    let (calls, result) = run(|r| {
        r.url.ends_with("/submit").then(|| Fact::NoAnswer {
            sent: true,
            message: "cut".to_owned(),
        })
    });
    assert_eq!(result, Err(ErrorKind::OutcomeUnknown));
    assert!(!routes(&calls).contains(&"abort"));
}
