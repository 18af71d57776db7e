//! Every store: pages, values of topics, retention, and what remains.

mod store_support;

use amends::coordinator::record::Index;
use amends::{Status, TransType};
use amends_server::store::{Appended, Filter, Saved};
use futures_util::future::join_all;
use store_support::*;

conformance!(
    an_ended_record_can_be_saved_again,
    a_ping_is_answered,
    pages_add_up_to_all_records,
    a_page_holds_no_more_content_than_memory_bears,
    filters_select,
    values_have_versions,
    values_are_listed_in_order,
    ended_records_are_purged_when_their_time_is_over,
);

async fn pages_add_up_to_all_records(f: Fixture) {
    let mut wanted = Vec::new();
    for n in 0..57 {
        let name = format!("g{n}");
        create(&*f.store, &name, waiting(BEGIN)).await;
        if n % 3 == 0 {
            f.store
                .save(gid(&name), save(1, ended(BEGIN), "{}"))
                .await
                .expect("save");
        }
        wanted.push(name);
    }
    wanted.sort();
    for limit in [1, 10, 19, 57, 100] {
        let (mut found, mut position) = (Vec::new(), None);
        loop {
            let page = f
                .store
                .list(Filter::default(), position, limit)
                .await
                .expect("list");
            assert!(page.records.len() <= limit);
            found.extend(
                page.records
                    .iter()
                    .map(|record| record.gid.as_str().to_owned()),
            );
            position = page.next;
            if position.is_none() {
                break;
            }
        }
        assert_eq!(found, wanted, "pages of {limit}");
    }
}

async fn a_page_holds_no_more_content_than_memory_bears(f: Fixture) {
    for (name, bytes) in [("a", 40 << 20), ("b", 40 << 20), ("c", 20 << 20), ("d", 0)] {
        let large = Index {
            bytes,
            ..waiting(BEGIN)
        };
        create(&*f.store, name, large).await;
    }
    let (mut pages, mut position) = (Vec::new(), None);
    loop {
        let page = f
            .store
            .list(Filter::default(), position, 100)
            .await
            .expect("list");
        let names = page.records.iter().map(|record| record.gid.as_str());
        pages.push(names.collect::<String>());
        position = page.next;
        if position.is_none() {
            break;
        }
    }
    assert_eq!(pages, ["a", "bcd"]);
}

async fn filters_select(f: Fixture) {
    create(
        &*f.store,
        "saga",
        Index {
            created: BEGIN + 1,
            ..waiting(BEGIN)
        },
    )
    .await;
    create(
        &*f.store,
        "tcc",
        Index {
            created: BEGIN + 2,
            ..prepared(BEGIN)
        },
    )
    .await;
    create(
        &*f.store,
        "done",
        Index {
            created: BEGIN + 3,
            ..waiting(BEGIN)
        },
    )
    .await;
    f.store
        .save(
            gid("done"),
            save(
                1,
                Index {
                    created: BEGIN + 3,
                    ..ended(BEGIN + 9)
                },
                "{}",
            ),
        )
        .await
        .expect("save");
    let names = async |filter: Filter| {
        let page = f.store.list(filter, None, 9).await.expect("list");
        page.records
            .iter()
            .map(|record| record.gid.as_str().to_owned())
            .collect::<Vec<_>>()
    };
    let filter = Filter::default();
    assert_eq!(names(filter.clone()).await, ["done", "saga", "tcc"]);
    assert_eq!(
        names(Filter {
            status: Some(Status::Succeed),
            ..filter.clone()
        })
        .await,
        ["done"]
    );
    assert_eq!(
        names(Filter {
            status: Some(Status::Submitted),
            ..filter.clone()
        })
        .await,
        ["saga"]
    );
    assert_eq!(
        names(Filter {
            trans_type: Some(TransType::Saga),
            ..filter.clone()
        })
        .await,
        ["done", "saga"]
    );
    assert_eq!(
        names(Filter {
            created_from: Some(BEGIN + 2),
            ..filter.clone()
        })
        .await,
        ["done", "tcc"]
    );
    assert_eq!(
        names(Filter {
            created_to: Some(BEGIN + 2),
            ..filter.clone()
        })
        .await,
        ["saga", "tcc"]
    );
    let both = Filter {
        created_from: Some(BEGIN + 3),
        trans_type: Some(TransType::Tcc),
        ..filter
    };
    assert_eq!(names(both).await, [""; 0]);
}

async fn values_have_versions(f: Fixture) {
    let put = async |value: &str, base| {
        f.store
            .kv_put("topics", "t", value.to_owned(), base)
            .await
            .expect("put")
    };
    assert_eq!(f.store.kv_get("topics", "t").await.expect("get"), None);
    assert!(!put("too soon", 1).await);
    assert!(put("one", 0).await);
    assert!(!put("again", 0).await);
    f.clock.advance(5);
    assert!(put("two", 1).await);
    let kv = f
        .store
        .kv_get("topics", "t")
        .await
        .expect("get")
        .expect("there");
    assert_eq!(
        (kv.cat.as_str(), kv.key.as_str(), kv.value.as_str()),
        ("topics", "t", "two")
    );
    assert_eq!((kv.version, kv.created, kv.updated), (2, BEGIN, BEGIN + 5));
    assert!(f.store.kv_delete("topics", "t").await.expect("delete"));
    assert!(!f.store.kv_delete("topics", "t").await.expect("delete"));
    assert_eq!(f.store.kv_get("topics", "t").await.expect("get"), None);
    assert!(put("new", 0).await);
    let puts = (0..9).map(|n| f.store.kv_put("topics", "t", n.to_string(), 1));
    let won = join_all(puts)
        .await
        .into_iter()
        .filter(|put| *put.as_ref().expect("put"))
        .count();
    assert_eq!(won, 1, "of concurrent updates one wins");
}

async fn values_are_listed_in_order(f: Fixture) {
    for (cat, key) in [("b", "2"), ("a", "9"), ("b", "10"), ("b", "1"), ("bb", "0")] {
        assert!(
            f.store
                .kv_put(cat, key, String::new(), 0)
                .await
                .expect("put")
        );
    }
    let all = async |cat: &str, limit| {
        let (mut found, mut position) = (Vec::new(), None);
        loop {
            let (values, next) = f.store.kv_list(cat, position, limit).await.expect("list");
            found.extend(
                values
                    .into_iter()
                    .map(|kv| format!("{}/{}", kv.cat, kv.key)),
            );
            position = next;
            if position.is_none() {
                return found;
            }
        }
    };
    for limit in [1, 2, 9] {
        assert_eq!(all("b", limit).await, ["b/1", "b/10", "b/2"]);
        assert_eq!(all("", limit).await, ["a/9", "b/1", "b/10", "b/2", "bb/0"]);
        assert_eq!(all("none", limit).await, [""; 0]);
    }
}

async fn ended_records_are_purged_when_their_time_is_over(f: Fixture) {
    create(&*f.store, "early", driven(BEGIN)).await;
    create(&*f.store, "late", driven(BEGIN)).await;
    create(&*f.store, "straggler", waiting(BEGIN + 3 * EXPIRE)).await;
    create(&*f.store, "tcc", prepared(BEGIN + 3 * EXPIRE)).await;
    f.store
        .append(register(&gid("tcc"), "01", "branch"))
        .await
        .expect("append");
    f.store
        .save(gid("early"), save(1, ended(BEGIN + 1), "{}"))
        .await
        .expect("save");
    let purge = async |before| {
        let mut purged = 0;
        for _ in 0..9 {
            purged += f.store.purge_finished(before, 100).await.expect("purge");
        }
        purged
    };
    assert_eq!(purge(f.clock.now() - EXPIRE).await, 0);
    f.clock.advance(EXPIRE);
    let late = Index {
        finished: Some(f.clock.now()),
        ..ended(BEGIN)
    };
    f.store
        .save(gid("late"), save(1, late, "{}"))
        .await
        .expect("save");
    f.clock.advance(EXPIRE / 2);
    assert_eq!(purge(f.clock.now() - EXPIRE).await, 1);

    assert_eq!(f.store.load(&gid("early")).await.expect("load"), None);
    assert!(
        f.store.load(&gid("late")).await.expect("load").is_some(),
        "it ended not long ago"
    );
    let straggler = f
        .store
        .load(&gid("straggler"))
        .await
        .expect("load")
        .expect("unfinished ones are never purged");
    assert_eq!(straggler.version, 1);
    assert_eq!(
        f.store
            .append(register(&gid("tcc"), "01", "branch"))
            .await
            .expect("append"),
        Appended::Same
    );
    assert_eq!(
        f.store
            .append(register(&gid("tcc"), "02", "branch"))
            .await
            .expect("append"),
        Appended::Done
    );
    let tcc = f
        .store
        .load(&gid("tcc"))
        .await
        .expect("load")
        .expect("there");
    assert_eq!((tcc.version, tcc.parts.len(), tcc.exact), (3, 2, true));
    create(&*f.store, "early", waiting(BEGIN)).await;

    f.clock.advance(2 * EXPIRE);
    f.store
        .save(gid("straggler"), save(1, ended(f.clock.now()), "{}"))
        .await
        .expect("save");
    assert_eq!(purge(f.clock.now() - EXPIRE).await, 1, "late, at last");
    assert!(
        f.store
            .load(&gid("straggler"))
            .await
            .expect("load")
            .is_some()
    );
}

async fn a_ping_is_answered(f: Fixture) {
    f.store.ping().await.expect("ping");
    f.store.ping().await.expect("ping");
    assert_eq!(f.store.now(), BEGIN);
}

async fn an_ended_record_can_be_saved_again(f: Fixture) {
    // The late result of a call that was in flight when an operator stopped the transaction (rules.md 1.3).
    create(&*f.store, "g", driven(BEGIN)).await;
    f.store
        .save(gid("g"), save(1, ended(BEGIN + 1), "stopped"))
        .await
        .expect("save");
    let mut late = save(2, ended(BEGIN + 1), "late result");
    late.parts = vec![part(&[], "more")];
    assert_eq!(
        f.store.save(gid("g"), late).await.expect("save"),
        Saved::Done
    );
    assert_eq!(
        f.store
            .save(gid("g"), save(2, ended(BEGIN + 1), "stale"))
            .await
            .expect("save"),
        Saved::Conflict
    );
    let record = f.store.load(&gid("g")).await.expect("load").expect("there");
    assert_eq!(
        (record.version, &record.state[..], record.parts.len()),
        (3, &b"late result"[..], 1)
    );
    assert_eq!(f.store.stats().unfinished, []);
}
