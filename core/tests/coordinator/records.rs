//! Records: what a damaged or foreign one is answered with, and what a save holds (architecture 4).

use crate::bodies::{error, msg, saga, with, workflow};
use crate::driver::{START, World};
use amends::coordinator::record::Record;
use amends::coordinator::transaction::State;
use amends::coordinator::{Input, Transaction};
use amends::{ErrorKind, Outcome, Policy, Status};
use bytes::Bytes;
use serde_json::json;

fn load(record: &Record) -> Result<Transaction, amends::Error> {
    Transaction::load(record, START, &Policy::default())
}

#[test]
fn a_damaged_record_is_a_readable_error() {
    let w = World::submit(saga(2));
    let whole = &w.record.parts[0].bytes;
    for cut in 0..whole.len() {
        let mut r = w.record.clone();
        r.parts[0].bytes = whole.slice(..cut);
        let e = load(&r).expect_err("cut");
        assert_eq!(e.kind(), ErrorKind::Internal);
        assert!(
            e.message()
                .starts_with("the stored record of g is damaged: "),
            "{e}"
        );
    }
    for i in 0..whole.len() {
        let mut r = w.record.clone();
        let mut bytes = whole.to_vec();
        bytes[i] ^= 0x55;
        r.parts[0].bytes = Bytes::from(bytes);
        // Whatever it becomes, it is an error or another transaction, never a panic.
        drop(load(&r));
    }
    let mut r = w.record.clone();
    r.parts.clear();
    assert!(
        load(&r)
            .expect_err("nothing")
            .message()
            .contains("no parts")
    );
    r.parts = vec![w.record.parts[0].clone(), w.record.parts[0].clone()];
    assert!(
        load(&r)
            .expect_err("defined twice")
            .message()
            .contains("unknown kind")
    );
    for state in ["", "{", "{}", "[]"] {
        let r = Record {
            state: Bytes::from(state),
            ..w.record.clone()
        };
        assert_eq!(load(&r).expect_err(state).kind(), ErrorKind::Internal);
    }
}

#[test]
fn another_format_is_refused_by_its_number() {
    let w = World::submit(saga(1));
    let state = String::from_utf8(w.record.state.to_vec()).expect("JSON is text");
    let r = Record {
        state: Bytes::from(state.replacen("\"format\":1", "\"format\":2", 1)),
        ..w.record.clone()
    };
    let e = load(&r).expect_err("format 2");
    assert!(
        e.message().contains("format 2") && e.message().contains("format 1"),
        "{e}"
    );
    let mut r = w.record.clone();
    let mut bytes = r.parts[0].bytes.to_vec();
    bytes[0] = 9;
    r.parts[0].bytes = Bytes::from(bytes);
    assert_eq!(
        load(&r).expect_err("part of format 9").kind(),
        ErrorKind::Internal
    );
}

#[test]
fn progress_of_a_row_that_is_not_there_is_damage() {
    let shorter = World::submit(saga(1));
    let mut w = World::submit(saga(2));
    w.succeed(&["01 action"]);
    w.answer("02 action", error("down"));
    w.let_go();
    let r = Record {
        parts: shorter.record.parts.clone(),
        ..w.record.clone()
    };
    assert!(
        load(&r)
            .expect_err("row 3 of 2")
            .message()
            .contains("row 3")
    );
}

#[test]
fn payloads_are_written_once_and_states_stay_small() {
    let fat = "p".repeat(100_000);
    let mut w = World::submit(with(msg(3), json!({"payloads": [fat, fat, fat]})));
    assert!(w.record.parts[0].bytes.len() > 300_000);
    for which in ["01 action", "02 action"] {
        w.succeed(&[which]);
    }
    w.answer("03 action", Outcome::Ongoing);
    w.let_go();
    assert_eq!(w.record.parts.len(), 1);
    assert!(w.record.state.len() < 400, "{}", w.record.state.len());
}

#[test]
fn a_state_is_written_as_its_type_is() {
    let mut seen = Vec::new();
    let mut check = |w: &World| {
        let state: State = serde_json::from_slice(&w.record.state).expect("the state");
        let again = serde_json::to_string(&state).expect("JSON");
        assert_eq!(again.as_bytes(), &w.record.state[..]);
        seen.push(state.rows.into_keys().collect::<Vec<_>>());
    };
    check(&World::prepare(saga(2)));
    let mut w = World::submit(saga(2));
    w.answer("01 action", error("down \"}\""));
    w.let_go();
    check(&w);
    w.now += 60_000;
    w.load();
    w.input(Input::Wake).expect("a wake is never refused");
    w.succeed(&["01 action"]);
    w.answer("02 action", Outcome::Failure("no".into()));
    w.succeed(&["02 compensate", "01 compensate"]);
    check(&w);
    assert_eq!(seen, [vec![], vec![1], vec![0, 1, 2, 3]]);
}

#[test]
fn a_submit_that_says_nothing_new_adds_no_part() {
    let mut w = World::prepare(saga(2));
    w.submit_again(saga(2)).expect("accepted");
    assert_eq!(w.record.parts.len(), 1);
    let mut w = World::prepare(saga(2));
    w.submit_again(with(saga(2), json!({"retry_limit": 3})))
        .expect("accepted");
    assert_eq!(w.record.parts.len(), 2);
    w.crash();
    assert_eq!(w.tx.definition().options.retry_limit, 3);
}

#[test]
fn the_index_says_what_stores_need() {
    let mut w = World::submit(saga(1));
    let i = &w.record.index;
    assert_eq!(
        (i.status, i.created, i.finished, i.attempts, i.driven),
        (Status::Submitted, START, None, 0, true)
    );
    w.now += 50;
    w.succeed(&["01 action"]);
    let i = &w.record.index;
    assert_eq!(
        (i.status, i.due, i.finished, i.driven),
        (Status::Succeed, None, Some(START + 50), false),
        "nobody holds what has ended"
    );
}

/// Branches and bytes as the index has them, and the bytes there are.
fn counted(w: &World) -> (u32, u64, u64) {
    let bytes = w.record.parts.iter().map(|p| p.bytes.len() as u64).sum();
    (w.record.index.branches, w.record.index.bytes, bytes)
}

#[test]
fn the_index_counts_branches_and_bytes_of_all_parts() {
    let mut w = World::prepare(saga(12));
    let (branches, bytes, all) = counted(&w);
    assert_eq!((branches, bytes), (12, all), "what was submitted");
    w.submit_again(with(saga(12), json!({"retry_limit": 3})))
        .expect("accepted");
    let (branches, bytes, more) = counted(&w);
    assert_eq!((branches, bytes), (12, more), "amended");
    assert!(more > all);

    let mut w = World::prepare(crate::bodies::empty("tcc"));
    let (branches, bytes, all) = counted(&w);
    assert_eq!((branches, bytes), (0, all));
    w.register_branches(3);
    w.submit_again(crate::bodies::empty("tcc"))
        .expect("accepted");
    let (branches, bytes, more) = counted(&w);
    assert_eq!((branches, bytes), (3, more), "registered");
    w.succeed(&["03 confirm", "02 confirm", "01 confirm"]);
    assert_eq!(counted(&w), (3, more, more), "unchanged at the end");
}

#[test]
fn rows_of_one_workflow_branch_count_once_and_those_of_the_root_not_at_all() {
    let mut w = World::prepare(workflow());
    for (id, op) in [
        ("01", "action"),
        ("02", "action"),
        ("00", "now-01"),
        ("01", "rollback"),
        ("00", "decision"),
    ] {
        let body = json!({"gid": "g", "trans_type": "workflow", "branch_id": id, "op": op, "status": "succeed"});
        w.register(body).expect("accepted");
    }
    w.end(Status::Succeed, "", "cmVzdWx0").expect("accepted");
    let (branches, bytes, all) = counted(&w);
    assert_eq!((branches, bytes, w.record.parts.len()), (2, all, 7));
}

#[test]
fn only_an_unfinished_workflow_is_left_in_peace_after_a_registration() {
    let quiet = |w: &World| w.record.index.quiet;
    let own = with(
        workflow(),
        json!({"retry_interval": 2, "request_timeout": 60}),
    );
    let mut w = World::prepare(own);
    assert_eq!(quiet(&w), Some(60_000), "new");
    w.load();
    w.let_go();
    assert_eq!(quiet(&w), Some(60_000), "loaded, and not looked at");
    w.end(Status::Failed, "", "").expect("accepted");
    assert_eq!(quiet(&w), None, "ended");
    for other in [saga(1), msg(1), crate::bodies::empty("tcc")] {
        assert_eq!(quiet(&World::prepare(other)), None);
    }
}

#[test]
fn registered_rows_keep_their_order_and_their_progress_across_loads() {
    let mut w = World::prepare(crate::bodies::empty("tcc"));
    w.register_branches(3);
    w.submit_again(crate::bodies::empty("tcc"))
        .expect("accepted");
    w.succeed(&["03 confirm"]);
    w.answer("02 confirm", Outcome::Ongoing);
    w.let_go();
    let before = w.tx.clone();
    w.load();
    assert_eq!(
        w.tx.rows().iter().map(|r| &r.state).collect::<Vec<_>>(),
        before.rows().iter().map(|r| &r.state).collect::<Vec<_>>()
    );
    assert_eq!(w.rows(), "p,p,p,p,p,s");
}

#[test]
fn binary_results_and_unusual_texts_survive() {
    let odd = "\u{0}\"\\\n</script>\u{2028}é🦀";
    let mut w = World::prepare(with(workflow(), json!({"branch_headers": {"x": "a b"}})));
    w.end(Status::Failed, odd, odd).expect("accepted");
    w.load();
    assert_eq!((w.reason(), w.tx.result()), (odd, odd));
}
