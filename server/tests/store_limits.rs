//! Every store: what a registration counts, what it refuses at a limit (rules.md 5), and how it moves the due time (2.7).

mod store_support;

use amends::coordinator::record::Index;
use amends::{Status, TransType};
use amends_server::store::embedded::check;
use amends_server::store::{Append, Appended, Store};
use futures_util::future::join_all;
use store_support::*;

conformance!(
    the_branch_past_the_limit_is_refused,
    a_workflow_branch_counts_once_and_the_root_not_at_all,
    concurrent_registrations_stop_at_the_limit,
    the_byte_past_the_limit_is_refused,
    what_a_save_counted_is_counted_on,
    a_registration_moves_the_due_time_of_who_is_left_in_peace,
);

fn workflow() -> Index {
    Index {
        trans_type: TransType::Workflow,
        ..prepared(BEGIN + 10)
    }
}

fn step(branch_id: &str, op: &str, branches_max: u32) -> Append {
    Append {
        required: (TransType::Workflow, Status::Prepared),
        part: part(&[row(branch_id, op)], op),
        branches_max,
        ..register(&gid("g"), branch_id, op)
    }
}

/// Version, branches, bytes and parts of the record `g`.
async fn counts(f: &Fixture) -> (u64, u32, u64, usize) {
    let record = f.store.load(&gid("g")).await.expect("load").expect("there");
    let index = record.index;
    (
        record.version,
        index.branches,
        index.bytes,
        record.parts.len(),
    )
}

async fn the_branch_past_the_limit_is_refused(f: Fixture) {
    create(&*f.store, "g", prepared(BEGIN)).await;
    let branch = |branch_id: &str, content: &str, branches_max| Append {
        branches_max,
        ..register(&gid("g"), branch_id, content)
    };
    let append = async |append| f.store.append(append).await.expect("append");
    for branch_id in ["1", "11", "111"] {
        assert_eq!(append(branch(branch_id, "four", 3)).await, Appended::Done);
    }
    let full = (4, 3, 12, 3);
    assert_eq!(counts(&f).await, full);
    assert_eq!(
        append(branch("2", "four", 3)).await,
        Appended::TooManyBranches
    );
    assert_eq!(
        append(branch("11", "four", 3)).await,
        Appended::Same,
        "what is there is not refused"
    );
    assert_eq!(append(branch("11", "other", 3)).await, Appended::Differs);
    assert_eq!(counts(&f).await, full, "nothing of it was written");
    assert_eq!(append(branch("2", "four", 4)).await, Appended::Done);
    assert_eq!(counts(&f).await, (5, 4, 16, 4));
}

async fn a_workflow_branch_counts_once_and_the_root_not_at_all(f: Fixture) {
    create(&*f.store, "g", workflow()).await;
    let append = async |append| f.store.append(append).await.expect("append");
    for (branch_id, op) in [
        ("1", "action"),
        ("11", "action"),
        ("1", "rollback"),
        ("00", "now-01"),
        ("11", "commit"),
        ("00", "decision"),
    ] {
        assert_eq!(append(step(branch_id, op, 2)).await, Appended::Done, "{op}");
    }
    assert_eq!(counts(&f).await.1, 2);
    assert_eq!(
        append(step("0", "action", 2)).await,
        Appended::TooManyBranches
    );
    assert_eq!(
        append(step("11", "rollback", 1)).await,
        Appended::Done,
        "the limit was lowered, but this is no further branch"
    );
    assert_eq!(counts(&f).await.1, 2);
}

async fn concurrent_registrations_stop_at_the_limit(f: Fixture) {
    create(&*f.store, "g", workflow()).await;
    let appends = (0..60).map(|n| {
        let op = if n % 2 == 0 { "action" } else { "rollback" };
        f.store.append(step(&format!("{:02}", 1 + n / 2), op, 20))
    });
    let answers: Vec<Appended> = join_all(appends)
        .await
        .into_iter()
        .map(|answer| answer.expect("append"))
        .collect();
    assert!(answers[..40].iter().all(|a| *a == Appended::Done));
    assert!(
        answers[40..]
            .iter()
            .all(|a| *a == Appended::TooManyBranches)
    );
    let (version, branches, _, parts) = counts(&f).await;
    assert_eq!((version, branches, parts), (41, 20, 40));
}

async fn the_byte_past_the_limit_is_refused(f: Fixture) {
    let first = with_parts(save(0, prepared(BEGIN), "{}"), vec![part(&[], "12345")]);
    f.store.create(gid("g"), first).await.expect("create");
    let branch = |content: &str, branches_max| Append {
        branches_max,
        bytes_max: 10,
        ..register(&gid("g"), "01", content)
    };
    let append = async |append| f.store.append(append).await.expect("append");
    assert_eq!(append(branch("123456", 1)).await, Appended::TooLarge);
    assert_eq!(
        append(branch("123456", 0)).await,
        Appended::TooManyBranches,
        "before TooLarge"
    );
    assert_eq!(counts(&f).await, (1, 0, 5, 1), "nothing of it was written");
    assert_eq!(append(branch("12345", 1)).await, Appended::Done);
    assert_eq!(counts(&f).await, (2, 1, 10, 2));
    assert_eq!(append(branch("12345", 1)).await, Appended::Same);
}

async fn what_a_save_counted_is_counted_on(f: Fixture) {
    create(&*f.store, "g", prepared(BEGIN)).await;
    let counted = Index {
        branches: 7,
        bytes: 90,
        ..prepared(BEGIN)
    };
    f.store
        .save(gid("g"), save(1, counted, "{}"))
        .await
        .expect("save");
    let appended = f.store.append(register(&gid("g"), "01", "12345")).await;
    assert_eq!(appended.expect("append"), Appended::Done);
    assert_eq!(counts(&f).await, (3, 8, 95, 1));
}

async fn a_registration_moves_the_due_time_of_who_is_left_in_peace(f: Fixture) {
    let due = async || {
        let record = f.store.load(&gid("g")).await.expect("load").expect("there");
        record.index.due
    };
    create(&*f.store, "g", workflow()).await;
    let append = async |append| f.store.append(append).await.expect("append");
    assert_eq!(append(step("01", "action", 9)).await, Appended::Done);
    assert_eq!(due().await, Some(BEGIN + 10), "it says nothing of it");

    let patient = Index {
        quiet: Some(60_000),
        branches: 1,
        ..workflow()
    };
    f.store
        .save(gid("g"), save(2, patient, "{}"))
        .await
        .expect("save");
    let mut later = step("02", "action", 2);
    later.part.created = BEGIN + 5;
    assert_eq!(append(later).await, Appended::Done);
    assert_eq!(due().await, Some(BEGIN + 60_005));

    let mut refused = step("03", "action", 2);
    refused.part.created = BEGIN + 900;
    assert_eq!(append(refused).await, Appended::TooManyBranches);
    let mut same = step("02", "action", 2);
    same.part.created = BEGIN + 900;
    assert_eq!(append(same).await, Appended::Same);
    assert_eq!(
        due().await,
        Some(BEGIN + 60_005),
        "only what is written moves it"
    );
    f.clock.advance(60_004);
    assert_eq!(claimed(&f, 9).await, [""; 0]);
    f.clock.advance(1);
    assert_eq!(claimed(&f, 9).await, ["g"]);
}

#[tokio::test]
async fn check_finds_what_is_counted_wrongly() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    let store = open(folder.path(), &clock);
    create(&store, "right", prepared(BEGIN)).await;
    store
        .append(register(&gid("right"), "01", "branch"))
        .await
        .expect("append");
    let wrong = Index {
        branches: 1,
        bytes: 2,
        ..prepared(BEGIN)
    };
    create(&store, "wrong", wrong).await;
    drop(store);
    assert_eq!(
        check(folder.path()).expect("check").problems,
        [
            "wrong has 0 bytes of content and counts 2",
            "wrong has 0 branches and counts 1"
        ]
    );
}
