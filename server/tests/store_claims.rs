//! Every store: due times, who holds what, and counts.

mod store_support;

use amends::coordinator::record::Index;
use amends::{Status, TransType};
use futures_util::FutureExt;
use std::collections::BTreeSet;
use store_support::*;

conformance!(
    driven_records_are_held_until_they_are_let_go,
    a_claim_takes_the_earliest_and_honours_its_bounds,
    a_claimed_record_is_exact_only_after_it_was_let_go,
    unclaimed_records_wait_for_their_stored_due_time,
    a_claim_by_gid_ignores_the_due_time,
    a_claim_that_nobody_takes_is_given_back,
    due_later_counts_what_is_later,
    failing_finds_what_waits_for_a_host,
    released_records_may_be_claimed,
    stats_count_what_is_unfinished,
);

async fn driven_records_are_held_until_they_are_let_go(f: Fixture) {
    create(&*f.store, "driven", driven(BEGIN - 1)).await;
    create(&*f.store, "waiting", waiting(BEGIN - 1)).await;
    assert_eq!(claimed(&f, 9).await, ["waiting"]);
    assert_eq!(claimed(&f, 9).await, [""; 0], "claimed records are held");
    f.store
        .save(gid("driven"), save(1, driven(BEGIN - 1), "{}"))
        .await
        .expect("save");
    assert_eq!(claimed(&f, 9).await, [""; 0], "still driven");
    f.store
        .save(gid("driven"), save(2, waiting(BEGIN - 1), "{}"))
        .await
        .expect("save");
    f.store
        .save(gid("waiting"), save(1, ended(BEGIN), "{}"))
        .await
        .expect("save");
    assert_eq!(
        claimed(&f, 9).await,
        ["driven"],
        "let go, and what ended is not due"
    );
}

async fn a_claim_takes_the_earliest_and_honours_its_bounds(f: Fixture) {
    for n in [3, 1, 4, 2, 5] {
        let mut new = save(0, waiting(BEGIN + n), "{}");
        new.parts = vec![part(&[], &"x".repeat(100))];
        f.store
            .create(gid(&format!("g{n}")), new)
            .await
            .expect("create");
    }
    assert_eq!(claimed(&f, 9).await, [""; 0], "none is due");
    f.clock.advance(4);
    let now = f.clock.now();
    let by_limit = f.store.claim_due(now, 1, usize::MAX).await.expect("claim");
    assert_eq!(
        (
            by_limit.records.len(),
            by_limit.records[0].gid.as_str(),
            by_limit.next_due
        ),
        (1, "g1", Some(BEGIN + 2))
    );
    let by_bytes = f.store.claim_due(now, 9, 210).await.expect("claim");
    assert_eq!(
        (
            by_bytes.records.len(),
            by_bytes.records[1].gid.as_str(),
            by_bytes.next_due
        ),
        (2, "g3", Some(BEGIN + 4))
    );
    let at_least_one = f.store.claim_due(now, 9, 1).await.expect("claim");
    assert_eq!(
        (at_least_one.records.len(), at_least_one.next_due),
        (1, Some(BEGIN + 5))
    );
    assert!(
        at_least_one.records[0].exact,
        "given back unseen and claimed again, it is as exact as before"
    );
    let none = f.store.claim_due(now, 9, 1).await.expect("claim");
    assert_eq!((none.records.len(), none.next_due), (0, Some(BEGIN + 5)));
    f.store
        .save(gid("g5"), save(1, ended(now), "{}"))
        .await
        .expect("save");
    assert_eq!(
        f.store.claim_due(now, 9, 1).await.expect("claim").next_due,
        None
    );
}

async fn a_claimed_record_is_exact_only_after_it_was_let_go(f: Fixture) {
    create(&*f.store, "g", driven(BEGIN)).await;
    let held = f
        .store
        .claim(&gid("g"))
        .await
        .expect("claim")
        .expect("there");
    assert!(!held.exact, "it is being driven");
    f.store
        .save(gid("g"), save(1, waiting(BEGIN), "{}"))
        .await
        .expect("save");
    let record = f
        .store
        .claim(&gid("g"))
        .await
        .expect("claim")
        .expect("there");
    assert!(record.exact && !record.index.driven);
    // A claim without a write may have started actions that no state names.
    f.store.unclaim(&gid("g"));
    assert!(
        !f.store
            .claim(&gid("g"))
            .await
            .expect("claim")
            .expect("there")
            .exact
    );
    f.store
        .save(gid("g"), save(2, driven(BEGIN), "{}"))
        .await
        .expect("save");
    f.store.unclaim(&gid("g"));
    let record = f
        .store
        .claim(&gid("g"))
        .await
        .expect("claim")
        .expect("there");
    assert!(!record.exact && record.index.driven);
    f.store
        .save(gid("g"), save(3, waiting(BEGIN), "{}"))
        .await
        .expect("save");
    let due = f
        .store
        .claim_due(BEGIN, 1, usize::MAX)
        .await
        .expect("claim");
    assert!(due.records[0].exact);
}

async fn unclaimed_records_wait_for_their_stored_due_time(f: Fixture) {
    create(&*f.store, "g", waiting(BEGIN + 10)).await;
    f.store
        .claim(&gid("g"))
        .await
        .expect("claim")
        .expect("there");
    f.store.unclaim(&gid("g"));
    f.store.unclaim(&gid("g"));
    f.store.unclaim(&gid("unknown"));
    assert_eq!(claimed(&f, 9).await, [""; 0]);
    assert_eq!(f.store.stats().earliest_due, Some(BEGIN + 10));
    f.clock.advance(10);
    assert_eq!(claimed(&f, 9).await, ["g"]);
}

async fn a_claim_by_gid_ignores_the_due_time(f: Fixture) {
    assert_eq!(f.store.claim(&gid("g")).await.expect("claim"), None);
    create(&*f.store, "g", waiting(BEGIN + 1_000_000)).await;
    let record = f
        .store
        .claim(&gid("g"))
        .await
        .expect("claim")
        .expect("there");
    assert_eq!(
        (record.version, record.index.due),
        (1, Some(BEGIN + 1_000_000))
    );
    f.clock.advance(2_000_000);
    assert_eq!(claimed(&f, 9).await, [""; 0], "it is held");
    assert_eq!(
        f.store
            .claim(&gid("g"))
            .await
            .expect("claim")
            .map(|record| record.version),
        Some(1),
        "held, and returned all the same"
    );
    f.store
        .save(gid("g"), save(1, ended(BEGIN), "{}"))
        .await
        .expect("save");
    let record = f
        .store
        .claim(&gid("g"))
        .await
        .expect("claim")
        .expect("there");
    assert_eq!(record.index.status, Status::Succeed);
}

async fn a_claim_that_nobody_takes_is_given_back(f: Fixture) {
    create(&*f.store, "g", waiting(BEGIN)).await;
    // Polled once, so that it is under way, then dropped.
    if let Some(claimed) = f.store.claim_due(BEGIN, 9, usize::MAX).now_or_never() {
        claimed
            .expect("claim")
            .records
            .iter()
            .for_each(|record| f.store.unclaim(&record.gid));
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while claimed(&f, 9).await.is_empty() {
        assert!(
            std::time::Instant::now() < deadline,
            "the record stayed held"
        );
        tokio::task::yield_now().await;
    }
}

async fn due_later_counts_what_is_later(f: Fixture) {
    for n in 0..5 {
        create(&*f.store, &format!("g{n}"), waiting(BEGIN + n)).await;
    }
    create(&*f.store, "held", driven(BEGIN + 3)).await;
    let names = |gids: Vec<amends::Gid>| {
        gids.iter()
            .map(|gid| gid.as_str().to_owned())
            .collect::<BTreeSet<_>>()
    };
    let (gids, more) = f.store.due_later(BEGIN + 2, 9).await.expect("due_later");
    assert_eq!(
        (names(gids), more),
        (["g3", "g4", "held"].map(str::to_owned).into(), false)
    );
    let (gids, more) = f.store.due_later(BEGIN + 2, 2).await.expect("due_later");
    assert_eq!((gids.len(), more), (2, true));
    let (gids, more) = f.store.due_later(i64::MAX, 2).await.expect("due_later");
    assert_eq!((gids.len(), more), (0, false));
}

async fn failing_finds_what_waits_for_a_host(f: Fixture) {
    let failing = |host: &str| Index {
        failing_hosts: vec![host.to_owned()],
        attention: false,
        ..waiting(BEGIN)
    };
    for (name, host) in [
        ("a", "dead:1"),
        ("b", "dead:1"),
        ("c", "slow:2"),
        ("d", "dead:1"),
    ] {
        create(&*f.store, name, failing(host)).await;
    }
    create(&*f.store, "e", waiting(BEGIN)).await;
    let names = async |host: &str, limit| {
        let gids = f.store.failing(host, limit).await.expect("failing");
        gids.iter()
            .map(|gid| gid.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("dead:1", 9).await, ["a", "b", "d"]);
    assert_eq!(names("dead:1", 2).await, ["a", "b"]);
    assert_eq!(names("unknown", 9).await, [""; 0]);
    f.store.claim(&gid("a")).await.expect("claim");
    f.store
        .save(gid("b"), save(1, waiting(BEGIN), "{}"))
        .await
        .expect("save");
    assert_eq!(
        names("dead:1", 9).await,
        ["d"],
        "held ones and recovered ones are not waiting for it"
    );
    f.store
        .save(gid("d"), save(1, ended(BEGIN), "{}"))
        .await
        .expect("save");
    assert_eq!(names("dead:1", 9).await, [""; 0]);
    assert_eq!(names("slow:2", 9).await, ["c"]);
}

async fn released_records_may_be_claimed(f: Fixture) {
    create(&*f.store, "g", driven(BEGIN)).await;
    assert_eq!(claimed(&f, 9).await, [""; 0]);
    assert_eq!(
        f.store.heartbeat().await.expect("heartbeat"),
        f.store.heartbeat().await.expect("heartbeat")
    );
    f.store.release().await.expect("release");
    let claimed = f
        .store
        .claim_due(BEGIN, 9, usize::MAX)
        .await
        .expect("claim");
    assert_eq!(claimed.records.len(), 1);
    assert!(!claimed.records[0].exact, "its driver did not let it go");
}

async fn stats_count_what_is_unfinished(f: Fixture) {
    assert_eq!(f.store.stats().unfinished, []);
    create(
        &*f.store,
        "a",
        Index {
            created: BEGIN + 7,
            ..waiting(BEGIN + 30)
        },
    )
    .await;
    create(
        &*f.store,
        "b",
        Index {
            created: BEGIN + 5,
            ..waiting(BEGIN + 20)
        },
    )
    .await;
    create(
        &*f.store,
        "c",
        Index {
            created: BEGIN + 9,
            ..prepared(BEGIN + 40)
        },
    )
    .await;
    create(&*f.store, "d", driven(BEGIN + 10)).await;
    let stats = f.store.stats();
    let counts = [
        ((TransType::Saga, Status::Submitted), 3),
        ((TransType::Tcc, Status::Prepared), 1),
    ];
    assert_eq!(stats.unfinished, counts);
    assert_eq!(
        (stats.oldest_created, stats.earliest_due),
        (Some(BEGIN), Some(BEGIN + 20))
    );
    for (name, at) in [("d", 1), ("b", 1)] {
        f.store
            .save(gid(name), save(at, ended(BEGIN), "{}"))
            .await
            .expect("save");
    }
    let stats = f.store.stats();
    assert_eq!(
        (stats.oldest_created, stats.earliest_due),
        (Some(BEGIN + 7), Some(BEGIN + 30))
    );
    assert_eq!(stats.unfinished.iter().map(|(_, n)| n).sum::<u64>(), 2);
}
