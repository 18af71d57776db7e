//! Every store: creates, saves and registrations.

mod store_support;

use amends::coordinator::record::Index;
use amends::{Status, TransType};
use amends_server::store::{Append, Appended, Created, Saved};
use futures_util::future::join_all;
use store_support::*;

conformance!(
    a_created_record_is_there_and_its_gid_is_taken,
    of_concurrent_creates_one_wins,
    a_save_needs_the_version_it_read,
    fault_a02_gids_that_are_prefixes_of_one_another_stay_apart,
    a_thousand_parts_keep_their_order,
    queued_saves_of_one_gid_are_applied_in_the_order_of_the_calls,
    what_was_queued_behind_an_unseen_conflict_is_a_conflict,
    an_append_makes_its_checks_in_order,
    an_append_raises_the_version_and_moves_the_due_time,
    concurrent_registrations_of_a_row_write_it_once,
);

async fn a_created_record_is_there_and_its_gid_is_taken(f: Fixture) {
    let mut first = save(0, waiting(BEGIN + 5), r#"{"n":1}"#);
    first.parts = vec![
        part(&[], "payload"),
        part(&[row("01", "action")], "\0\u{1}row"),
    ];
    first.index.failing_hosts = vec!["bank:1".to_owned()];
    first.index.attempts = 7;
    assert_eq!(f.store.load(&gid("g")).await.expect("load"), None);
    assert_eq!(
        f.store
            .create(gid("g"), first.clone())
            .await
            .expect("create"),
        Created::New
    );

    let record = f
        .store
        .load(&gid("g"))
        .await
        .expect("load")
        .expect("it is there");
    assert_eq!((record.gid.as_str(), record.version), ("g", 1));
    assert_eq!(
        (&record.index, &record.state, &record.parts),
        (&first.index, &first.state, &first.parts)
    );

    let again = f
        .store
        .create(gid("g"), save(0, waiting(BEGIN), "other"))
        .await
        .expect("create");
    assert_eq!(
        again,
        Created::Exists(Box::new(record)),
        "the stored record comes back unchanged"
    );

    let saved = f
        .store
        .save(gid("g"), save(1, ended(BEGIN + 9), "done"))
        .await
        .expect("save");
    assert_eq!(saved, Saved::Done);
    let again = f
        .store
        .create(gid("g"), save(0, waiting(BEGIN), "other"))
        .await
        .expect("create");
    let Created::Exists(record) = again else {
        panic!("a finished transaction keeps its gid")
    };
    assert_eq!(
        (record.version, record.index.status, record.parts.len()),
        (2, Status::Succeed, 2)
    );
}

async fn of_concurrent_creates_one_wins(f: Fixture) {
    let creates = (0..20).map(|n| {
        f.store
            .create(gid("g"), save(0, waiting(BEGIN), &format!("{n}")))
    });
    let answers: Vec<Created> = join_all(creates)
        .await
        .into_iter()
        .map(|answer| answer.expect("create"))
        .collect();
    assert_eq!(
        answers
            .iter()
            .filter(|answer| **answer == Created::New)
            .count(),
        1
    );
    assert_eq!(
        answers[0],
        Created::New,
        "the first call is the first write"
    );
    for answer in &answers[1..] {
        let Created::Exists(record) = answer else {
            panic!("the others find it")
        };
        assert_eq!(&record.state[..], b"0");
    }
}

async fn a_save_needs_the_version_it_read(f: Fixture) {
    create(&*f.store, "g", driven(BEGIN)).await;
    assert_eq!(
        f.store
            .save(gid("g"), save(2, driven(BEGIN), "ahead"))
            .await
            .expect("save"),
        Saved::Conflict
    );
    assert_eq!(
        f.store
            .save(gid("g"), save(1, driven(BEGIN), "two"))
            .await
            .expect("save"),
        Saved::Done
    );
    assert_eq!(
        f.store
            .save(gid("g"), save(1, driven(BEGIN), "stale"))
            .await
            .expect("save"),
        Saved::Conflict
    );
    assert_eq!(
        f.store
            .save(gid("nobody"), save(1, driven(BEGIN), ""))
            .await
            .expect("save"),
        Saved::Conflict
    );
    let record = f.store.load(&gid("g")).await.expect("load").expect("there");
    assert_eq!((record.version, &record.state[..]), (2, &b"two"[..]));
    assert_eq!(f.store.load(&gid("nobody")).await.expect("load"), None);
}

async fn fault_a02_gids_that_are_prefixes_of_one_another_stay_apart(f: Fixture) {
    // faults.md A2: upstream loses branches of such gids.
    let names = [
        "pa", "pa0", "pa00", "pa000", "p", "pa ", "pa!", "pa0-01", "på",
    ];
    for name in names {
        create(&*f.store, name, prepared(BEGIN)).await;
    }
    for name in names {
        for branch in ["01", "02", "0"] {
            let appended = f
                .store
                .append(register(&gid(name), branch, &format!("{name}/{branch}")))
                .await
                .expect("append");
            assert_eq!(appended, Appended::Done, "{name} {branch}");
        }
    }
    for name in names {
        let record = f
            .store
            .load(&gid(name))
            .await
            .expect("load")
            .expect("there");
        let contents: Vec<&[u8]> = record.parts.iter().map(|part| &part.bytes[..]).collect();
        let wanted = ["01", "02", "0"].map(|branch| format!("{name}/{branch}"));
        assert_eq!(
            contents,
            wanted.each_ref().map(|text| text.as_bytes()),
            "{name}"
        );
    }
    f.store
        .save(gid("pa0"), save(4, ended(BEGIN), "{}"))
        .await
        .expect("save");
    assert_eq!(
        f.store
            .load(&gid("pa0"))
            .await
            .expect("load")
            .expect("there")
            .parts
            .len(),
        3
    );
    assert_eq!(
        f.store
            .load(&gid("pa"))
            .await
            .expect("load")
            .expect("there")
            .index
            .status,
        Status::Prepared
    );
}

async fn a_thousand_parts_keep_their_order(f: Fixture) {
    create(&*f.store, "g", prepared(BEGIN)).await;
    let appends = (0..1_100).map(|n| {
        f.store.append(register(
            &gid("g"),
            &format!("{n:04}"),
            &format!("part {n}"),
        ))
    });
    for appended in join_all(appends).await {
        assert_eq!(appended.expect("append"), Appended::Done);
    }
    let record = f.store.load(&gid("g")).await.expect("load").expect("there");
    assert_eq!((record.version, record.parts.len()), (1_101, 1_100));
    for (n, part) in record.parts.iter().enumerate() {
        assert_eq!(&part.bytes[..], format!("part {n}").as_bytes());
    }
    let appended = f
        .store
        .append(register(&gid("g"), "0999", "part 999"))
        .await
        .expect("append");
    assert_eq!(
        appended,
        Appended::Same,
        "rows are found far behind the thousandth, too"
    );
}

async fn queued_saves_of_one_gid_are_applied_in_the_order_of_the_calls(f: Fixture) {
    create(&*f.store, "g", driven(BEGIN)).await;
    let saves: Vec<_> = (1..=50)
        .map(|base| {
            let mut next = save(base, driven(BEGIN), &format!("state {}", base + 1));
            next.parts = vec![part(&[], &format!("part {base}"))];
            f.store.save(gid("g"), next)
        })
        .collect();
    // Nobody has polled them yet; the order of the calls is the order of the writes all the same.
    for saved in join_all(saves.into_iter().rev()).await {
        assert_eq!(saved.expect("save"), Saved::Done);
    }
    let record = f.store.load(&gid("g")).await.expect("load").expect("there");
    assert_eq!((record.version, &record.state[..]), (51, &b"state 51"[..]));
    let parts: Vec<_> = (1..=50).map(|n| part(&[], &format!("part {n}"))).collect();
    assert_eq!(record.parts, parts);
}

async fn what_was_queued_behind_an_unseen_conflict_is_a_conflict(f: Fixture) {
    create(&*f.store, "g", prepared(BEGIN)).await;
    // The driver read version 1 and writes three times; a registration comes first, so its first write conflicts. The second has
    // the base that is stored, by accident: written, it would lose the registration's effect.
    let append = f.store.append(register(&gid("g"), "01", "branch"));
    let saves = [1, 2, 3].map(|base| {
        f.store.save(
            gid("g"),
            save(base, prepared(BEGIN), "written in ignorance"),
        )
    });
    assert_eq!(append.await.expect("append"), Appended::Done);
    for saved in join_all(saves).await {
        assert_eq!(saved.expect("save"), Saved::Conflict);
    }
    let record = f.store.load(&gid("g")).await.expect("load").expect("there");
    assert_eq!((record.version, &record.state[..]), (2, &b"{}"[..]));
    assert_eq!(
        f.store
            .save(gid("g"), save(2, prepared(BEGIN), "knowing"))
            .await
            .expect("save"),
        Saved::Done
    );

    // The same over two groups: the second call is made while the first answer is there but not seen.
    let stale = f.store.save(gid("g"), save(1, prepared(BEGIN), "stale"));
    f.store.ping().await.expect("ping");
    create(&*f.store, "another group", prepared(BEGIN)).await;
    let behind = f.store.save(gid("g"), save(3, prepared(BEGIN), "behind"));
    assert_eq!(behind.await.expect("save"), Saved::Conflict);
    assert_eq!(stale.await.expect("save"), Saved::Conflict);
    assert_eq!(
        f.store
            .save(gid("g"), save(3, prepared(BEGIN), "free again"))
            .await
            .expect("save"),
        Saved::Done
    );
}

async fn an_append_makes_its_checks_in_order(f: Fixture) {
    let decision = row("00", "decision");
    let first = register(&gid("g"), "01", "content");
    let append = async |append: &Append| f.store.append(append.clone()).await.expect("append");
    assert_eq!(append(&first).await, Appended::Unknown);
    create(&*f.store, "g", prepared(BEGIN)).await;
    assert_eq!(append(&first).await, Appended::Done);
    assert_eq!(append(&first).await, Appended::Same);
    let later = Append {
        part: amends::coordinator::record::Part {
            created: BEGIN + 9,
            ..first.part.clone()
        },
        ..first.clone()
    };
    assert_eq!(
        append(&later).await,
        Appended::Same,
        "when it was stored is not content"
    );
    assert_eq!(
        append(&register(&gid("g"), "01", "other content")).await,
        Appended::Differs
    );
    let half = Append {
        part: part(&[row("01", "confirm"), row("02", "cancel")], "content"),
        ..first.clone()
    };
    assert_eq!(
        append(&half).await,
        Appended::Differs,
        "one of its rows is there"
    );

    let mut decided = register(&gid("g"), "00", "decided");
    decided.part.keys = vec![decision.clone()];
    decided.forbidden = Some(decision.clone());
    assert_eq!(append(&decided).await, Appended::Done);
    assert_eq!(append(&decided).await, Appended::Forbidden, "before Same");
    let refused = Append {
        forbidden: Some(decision),
        ..register(&gid("g"), "03", "late")
    };
    assert_eq!(append(&refused).await, Appended::Forbidden);

    let wrong = Append {
        required: (TransType::Xa, Status::Prepared),
        ..refused.clone()
    };
    assert_eq!(
        append(&wrong).await,
        Appended::WrongStatus(TransType::Tcc, Status::Prepared),
        "before Forbidden"
    );
    let version = f
        .store
        .load(&gid("g"))
        .await
        .expect("load")
        .expect("there")
        .version;
    let aborting = Index {
        status: Status::Aborting,
        ..prepared(BEGIN)
    };
    assert_eq!(
        f.store
            .save(gid("g"), save(version, aborting, "{}"))
            .await
            .expect("save"),
        Saved::Done
    );
    assert_eq!(
        append(&first).await,
        Appended::WrongStatus(TransType::Tcc, Status::Aborting)
    );
    let failed = Index {
        status: Status::Failed,
        trans_type: TransType::Tcc,
        ..ended(BEGIN)
    };
    assert_eq!(
        f.store
            .save(gid("g"), save(version + 1, failed, "{}"))
            .await
            .expect("save"),
        Saved::Done
    );
    assert_eq!(
        append(&first).await,
        Appended::WrongStatus(TransType::Tcc, Status::Failed)
    );
    assert_eq!(
        f.store
            .load(&gid("g"))
            .await
            .expect("load")
            .expect("there")
            .parts
            .len(),
        2
    );
}

async fn an_append_raises_the_version_and_moves_the_due_time(f: Fixture) {
    let index = Index {
        quiet: Some(500),
        ..prepared(BEGIN + 10)
    };
    create(&*f.store, "g", index).await;
    let moved = register(&gid("g"), "01", "content");
    assert_eq!(f.store.append(moved).await.expect("append"), Appended::Done);
    let record = f.store.load(&gid("g")).await.expect("load").expect("there");
    assert_eq!(
        (record.version, record.index.due, &record.state[..]),
        (2, Some(BEGIN + 500), &b"{}"[..])
    );
    assert!(
        record.exact,
        "it was let go, and a registration does not change that"
    );
    assert_eq!(
        f.store
            .save(gid("g"), save(1, prepared(BEGIN), "{}"))
            .await
            .expect("save"),
        Saved::Conflict
    );
    f.clock.advance(499);
    assert_eq!(claimed(&f, 9).await, [""; 0]);
    f.clock.advance(1);
    assert_eq!(claimed(&f, 9).await, ["g"]);
    let held = register(&gid("g"), "02", "content");
    assert_eq!(f.store.append(held).await.expect("append"), Appended::Done);
    assert_eq!(
        claimed(&f, 9).await,
        [""; 0],
        "a registration does not take it from its holder"
    );
}

async fn concurrent_registrations_of_a_row_write_it_once(f: Fixture) {
    create(&*f.store, "g", prepared(BEGIN)).await;
    let appends = (0..30).map(|n| {
        f.store.append(register(
            &gid("g"),
            "01",
            if n < 20 { "same" } else { "other" },
        ))
    });
    let answers: Vec<_> = join_all(appends)
        .await
        .into_iter()
        .map(|answer| answer.expect("append"))
        .collect();
    assert_eq!(answers[0], Appended::Done);
    assert!(
        answers[1..20]
            .iter()
            .all(|answer| *answer == Appended::Same),
        "{answers:?}"
    );
    assert!(
        answers[20..]
            .iter()
            .all(|answer| *answer == Appended::Differs),
        "{answers:?}"
    );
    assert_eq!(
        f.store
            .load(&gid("g"))
            .await
            .expect("load")
            .expect("there")
            .parts
            .len(),
        1
    );
}
