//! Every limit that core checks, at the limit and one past it (rules.md 5). Limits whose texts would be large are tried scaled down
//! as well as by their default number, for each is configurable.

use crate::bodies::{Topics, concurrent, empty, error, failure, global, msg, saga, with, workflow};
use crate::driver::World;
use amends::coordinator::admit::{define, register};
use amends::coordinator::{CallId, Input};
use amends::wire::request::BranchRequest;
use amends::{Error, ErrorKind, Limits, Policy, Status};
use serde_json::{Value, json};

fn admit(body: &Value, limits: &Limits) -> Result<(), Error> {
    define(&mut global(body), &Topics::new(), limits).map(drop)
}

fn registers(body: &Value, limits: &Limits) -> Result<(), Error> {
    register(
        &BranchRequest::from_json(body.to_string().as_bytes()).expect("strings"),
        limits,
    )
    .map(drop)
}

/// Fits with `n`, and is refused, naming field and limit, with `n + 1`.
fn at_and_past(n: usize, field: &str, what: impl Fn(usize) -> Result<(), Error>) {
    what(n).unwrap_or_else(|e| panic!("{field} at its limit {n}: {e}"));
    let e = what(n + 1).expect_err(field);
    assert_eq!(e.kind(), ErrorKind::Invalid);
    assert!(
        e.message().contains(field) && e.message().contains(&n.to_string()),
        "{field}: {e}"
    );
}

/// The default limits, and small ones.
fn both() -> [Limits; 2] {
    let small = Limits {
        gid: 9,
        branch_id: 8,
        op: 7,
        url: 30,
        payload: 40,
        transaction: 500,
        branches: 5,
        custom_data: 60,
        headers: 3,
        header_bytes: 50,
        ..Limits::default()
    };
    [Limits::default(), small]
}

#[test]
fn the_defaults_are_those_of_the_rules() {
    let l = Limits::default();
    assert_eq!(
        (l.gid, l.branch_id, l.op, l.url, l.payload),
        (128, 128, 45, 2_048, 1_048_576)
    );
    assert_eq!(
        (l.transaction, l.branches, l.body),
        (67_108_864, 1_000, 67_108_864)
    );
    assert_eq!(
        (l.custom_data, l.result, l.headers, l.header_bytes),
        (1_048_576, 1_048_576, 64, 8_192)
    );
    assert_eq!(
        (l.topic, l.subscribers, l.reason, l.answer),
        (128, 1_000, 4_096, 65_536)
    );
}

#[test]
fn gid_branch_id_and_op_in_bytes() {
    for l in both() {
        at_and_past(l.gid, "gid", |n| {
            admit(&with(saga(1), json!({"gid": "g".repeat(n)})), &l)
        });
        at_and_past(l.gid, "gid", |n| {
            registers(
                &json!({"gid": "g".repeat(n), "trans_type": "tcc", "branch_id": "01"}),
                &l,
            )
        });
        at_and_past(l.branch_id, "branch_id", |n| {
            registers(
                &json!({"gid": "g", "trans_type": "xa", "branch_id": "b".repeat(n)}),
                &l,
            )
        });
        let row = |op: String| json!({"gid": "g", "trans_type": "workflow", "branch_id": "01", "status": "succeed", "op": op});
        at_and_past(l.op, "op", |n| registers(&row("o".repeat(n)), &l));
        let run = |n: usize| with(row("action".to_owned()), json!({"run": "r".repeat(n)}));
        at_and_past(l.branch_id, "run", |n| registers(&run(n), &l));
    }
    let e = admit(
        &with(saga(1), json!({"gid": "é".repeat(65)})),
        &Limits::default(),
    )
    .expect_err("130 bytes");
    assert!(e.message().contains("130 bytes"));
}

#[test]
fn urls_wherever_they_stand() {
    for l in both() {
        let url = |n: usize| format!("http://h/{}", "u".repeat(n - 9));
        at_and_past(l.url, "URL", |n| {
            admit(&with(saga(1), json!({"steps": [{"action": url(n)}]})), &l)
        });
        at_and_past(l.url, "URL", |n| {
            admit(
                &with(saga(1), json!({"steps": [{"compensate": url(n)}]})),
                &l,
            )
        });
        at_and_past(l.url, "URL", |n| {
            admit(&with(msg(1), json!({"query_prepared": url(n)})), &l)
        });
        at_and_past(l.url, "URL", |n| {
            let topics = Topics::from([("t".to_owned(), vec![url(n)])]);
            define(
                &mut global(&with(msg(1), json!({"steps": [{"action": "topic://t"}]}))),
                &topics,
                &l,
            )
            .map(drop)
        });
        for key in ["confirm", "cancel"] {
            at_and_past(l.url, "URL", |n| {
                registers(
                    &json!({"gid": "g", "trans_type": "tcc", "branch_id": "01", key: url(n)}),
                    &l,
                )
            });
        }
        at_and_past(l.url, "URL", |n| {
            registers(
                &json!({"gid": "g", "trans_type": "xa", "branch_id": "01", "url": url(n)}),
                &l,
            )
        });
    }
}

#[test]
fn payloads_and_registered_data() {
    for l in both() {
        let l = Limits {
            transaction: 64 << 20,
            ..l
        };
        let text = |n: usize| "p".repeat(n);
        at_and_past(l.payload, "payload 1", |n| {
            admit(&with(msg(1), json!({"payloads": [text(n)]})), &l)
        });
        let legacy =
            |n: usize| json!({"payloads": [], "steps": [{"action": "http://a", "data": text(n)}]});
        at_and_past(l.payload, "payload 1", |n| {
            admit(&with(msg(1), legacy(n)), &l)
        });
        at_and_past(l.payload, "data", |n| {
            registers(
                &json!({"gid": "g", "trans_type": "tcc", "branch_id": "01", "data": text(n)}),
                &l,
            )
        });
    }
}

#[test]
fn the_whole_transaction() {
    // Payloads count, and steps with all their keys: what a client adds to them is stored, too.
    for l in both() {
        let urls = 3 * "actionhttp://a/1".len();
        let third = (l.transaction - urls) / 3;
        let big = Limits {
            payload: l.transaction,
            ..l.clone()
        };
        at_and_past(l.transaction, "the transaction", |n| {
            let payloads = [
                "p".repeat(third),
                "p".repeat(third),
                "p".repeat(n - urls - 2 * third),
            ];
            admit(&with(msg(3), json!({"payloads": payloads})), &big)
        });
    }
}

#[test]
fn unknown_keys_of_a_step_count() {
    let l = Limits {
        transaction: 500,
        ..Limits::default()
    };
    let known = "{}actionhttp://a".len();
    at_and_past(l.transaction, "the transaction", |n| {
        let steps = json!([{"action": "http://a", "note": "n".repeat(n - known - "note".len())}]);
        admit(&with(msg(1), json!({"steps": steps})), &l)
    });
}

#[test]
fn a_payload_counts_once_whatever_the_number_of_subscribers() {
    let l = Limits {
        transaction: 3_015,
        ..Limits::default()
    };
    let topics = Topics::from([("t".to_owned(), vec!["http://s/1".to_owned(); 100])]);
    let body = with(
        msg(1),
        json!({"steps": [{"action": "topic://t"}], "payloads": ["p".repeat(2_000)]}),
    );
    define(&mut global(&body), &topics, &l)
        .expect("2,000 bytes, 100 URLs of 10, and the step's 15");
}

#[test]
fn distinct_branches_after_topics_were_expanded() {
    for l in both() {
        let l = Limits {
            transaction: 64 << 20,
            ..l
        };
        at_and_past(l.branches, "branches", |n| admit(&saga(n), &l));
        at_and_past(l.branches, "branches", |n| admit(&msg(n), &l));
        at_and_past(l.branches, "branches", |n| {
            let topics = Topics::from([(
                "t".to_owned(),
                (1..n).map(|k| format!("http://s/{k}")).collect(),
            )]);
            define(
                &mut global(&with(
                    msg(2),
                    json!({"steps": [{"action": "topic://t"}, {"action": "http://a/2"}]}),
                )),
                &topics,
                &l,
            )
            .map(drop)
        });
    }
}

#[test]
fn custom_data_at_the_submit_and_at_the_prepare() {
    for l in both() {
        let l = Limits {
            transaction: 64 << 20,
            ..l
        };
        let padded = |n: usize| format!("{{{}}}", " ".repeat(n - 2));
        at_and_past(l.custom_data, "custom_data", |n| {
            admit(&with(saga(1), json!({"custom_data": padded(n)})), &l)
        });
        at_and_past(l.custom_data, "custom_data", |n| {
            let policy = Policy {
                limits: l.clone(),
                ..Policy::default()
            };
            let mut w = World::store(&saga(1), Status::Prepared, policy, &Topics::new(), true);
            w.submit_again(with(saga(1), json!({"custom_data": padded(n)})))
                .map(drop)
        });
    }
}

#[test]
fn a_workflows_result() {
    for size in [100, Limits::default().result] {
        let policy = Policy {
            limits: Limits {
                result: size,
                ..Limits::default()
            },
            ..Policy::default()
        };
        at_and_past(size, "result", |n| {
            let mut w = World::store(
                &workflow(),
                Status::Prepared,
                policy.clone(),
                &Topics::new(),
                true,
            );
            w.end(Status::Succeed, "", &"A".repeat(n)).map(drop)
        });
    }
}

#[test]
fn headers_by_number_and_by_bytes() {
    for l in both() {
        let many = |n: usize| {
            (0..n)
                .map(|k| (format!("h{k:02}"), "v".to_owned()))
                .collect::<std::collections::BTreeMap<_, _>>()
        };
        at_and_past(l.headers, "headers", |n| {
            admit(&with(saga(1), json!({"branch_headers": many(n)})), &l)
        });
        at_and_past(l.header_bytes, "bytes", |n| {
            admit(
                &with(saga(1), json!({"branch_headers": {"h": "v".repeat(n - 1)}})),
                &l,
            )
        });
    }
}

#[test]
fn reasons_and_errors_are_cut_and_marked() {
    for max in [40usize, 4_096] {
        let policy = Policy {
            limits: Limits {
                reason: max,
                ..Limits::default()
            },
            ..Policy::default()
        };
        for (length, cut) in [(max, false), (max + 1, true)] {
            let text = "r".repeat(length);
            let mut w = World::store(
                &empty("tcc"),
                Status::Prepared,
                policy.clone(),
                &Topics::new(),
                true,
            );
            w.abort(&text).expect("accepted");
            let mut forced = World::store(
                &msg(1),
                Status::Submitted,
                policy.clone(),
                &Topics::new(),
                true,
            );
            forced.answer("01 action", error(&text));
            let last = forced.row("01 action").error.clone();
            let request = amends::coordinator::Request::ForceStop {
                actor: text.clone(),
                reason: text.clone(),
            };
            forced.ask(request).expect("accepted");
            let stop = forced.tx.state().forced.clone().expect("marked");
            for kept in [
                w.reason(),
                forced.reason(),
                &last,
                &stop.actor,
                &stop.reason,
            ] {
                assert!(kept.len() <= max, "{}", kept.len());
                assert_eq!(kept.ends_with('…'), cut, "{length} of {max}");
            }
        }
    }
}

/// What rules.md 5 allows. No setting: the other limits bound the state.
const STATE_MAX: usize = 1 << 20;

/// The largest state of one transaction: every branch failed with a long text of characters that JSON escapes.
#[test]
fn the_state_of_the_largest_transaction_stays_within_its_limit() {
    let l = Limits::default();
    for character in ["\"", "\u{1}"] {
        let long = character.repeat(l.reason);
        let mut w = World::submit(concurrent(l.branches, json!(null)));
        (w.lean, w.at_once) = (true, false);
        let compensations = (0..l.branches).map(|k| 2 * k);
        let actions = compensations.clone().map(|c| c + 1);
        for row in actions.clone().skip(1) {
            w.input(Input::Result(CallId::Row(row), error(&long)))
                .expect("accepted");
        }
        w.input(Input::Result(CallId::Row(1), failure(&long)))
            .expect("accepted");
        assert_eq!(w.status(), Status::Aborting);
        for row in compensations {
            w.input(Input::Result(CallId::Row(row), error(&long)))
                .expect("accepted");
        }
        assert!(
            actions
                .skip(1)
                .all(|row| w.tx.rows()[row].state.error.len() > 100)
        );
        let (_, save) = w.tx.take_save(true);
        assert!(
            save.state.len() <= STATE_MAX,
            "{} bytes of {character:?}",
            save.state.len()
        );
    }
}
