//! Calls that come twice, late, at the same time or in another order; and a cluster.

use crate::client::{Client, Value, body, kind, pairs, verdict};
use amends::ErrorKind;
use amends::participant::BarrierResult::{self, Duplicate, Executed, NullCompensation, Suspended};
use amends::participant::Identity;
use amends::participant::redis::{DEFAULT_TTL, Work, plan};
use amends_interop::Redis;
use amends_participants::call;
use std::time::{Duration, Instant};

/// The orders of two actions and two compensations, and what each call must report.
const ORDERS: [([&str; 4], [BarrierResult; 4]); 6] = [
    (
        ["action", "action", "compensate", "compensate"],
        [Executed, Duplicate, Executed, Duplicate],
    ),
    (
        ["action", "compensate", "action", "compensate"],
        [Executed, Executed, Duplicate, Duplicate],
    ),
    (
        ["action", "compensate", "compensate", "action"],
        [Executed, Executed, Duplicate, Duplicate],
    ),
    (
        ["compensate", "action", "action", "compensate"],
        [NullCompensation, Suspended, Suspended, Duplicate],
    ),
    (
        ["compensate", "action", "compensate", "action"],
        [NullCompensation, Suspended, Duplicate, Suspended],
    ),
    (
        ["compensate", "compensate", "action", "action"],
        [NullCompensation, Duplicate, Suspended, Suspended],
    ),
];

fn amount(op: &str) -> i64 {
    if op == "action" { -30 } else { 30 }
}

#[test]
fn every_order() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);
    client.set("account", "100");
    for (n, (ops, want)) in ORDERS.iter().enumerate() {
        let gid = format!("order{n}");
        for (i, (op, want)) in ops.iter().zip(want).enumerate() {
            let got = client.adjust(&call(&gid, op), "account", amount(op));
            assert_eq!(got, Ok(*want), "{ops:?}, call {i}");
        }
        let action = if ops[0] == "action" {
            "action"
        } else {
            "rollback"
        };
        assert_eq!(
            client.markers(&gid),
            pairs(&[
                (&format!("{gid}-01-action-01"), action),
                (&format!("{gid}-01-compensate-01"), "compensate"),
            ])
        );
    }
    assert_eq!(client.get("account").as_deref(), Some("100"));
}

/// The four calls of 400 gids from 16 connections, so that calls of one gid are under way at the same time.
#[test]
fn overlaps_from_16_connections() {
    const ROUNDS: usize = 400;
    let redis = Redis::start();
    Client::new(&redis).set("account", "100000");
    let port = redis.port();
    let results: Vec<(usize, &str, BarrierResult)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..16)
            .map(|worker| {
                scope.spawn(move || {
                    let mut client = Client::of(port);
                    let mut results = Vec::new();
                    // Each worker has every fourth of a gid's calls, and four workers have the same one.
                    for round in (worker / 4..ROUNDS).step_by(4) {
                        let op = ORDERS[round % ORDERS.len()].0[worker % 4];
                        let who = call(&format!("overlap{round}"), op);
                        let result = client.adjust(&who, "account", amount(op));
                        results.push((round, op, result.expect("no error")));
                    }
                    results
                })
            })
            .collect();
        let joined = workers
            .into_iter()
            .map(|worker| worker.join().expect("no panic"));
        joined.flatten().collect()
    });
    assert_eq!(results.len(), 4 * ROUNDS);
    for round in 0..ROUNDS {
        let (mut taken, mut given, mut null) = (0, 0, 0);
        for (_, op, result) in results.iter().filter(|(of, ..)| *of == round) {
            match (*op, result) {
                ("action", Executed) => taken += 1,
                ("compensate", Executed) => given += 1,
                ("compensate", NullCompensation) => null += 1,
                ("action", Suspended | Duplicate) | ("compensate", Duplicate) => {}
                (op, result) => panic!("{op} was {result:?}"),
            }
        }
        assert!(
            (taken, given, null) == (1, 1, 0) || (taken, given, null) == (0, 0, 1),
            "round {round}: taken {taken}, given back {given}, nothing to undo {null}"
        );
    }
    let left = Client::new(&redis).get("account");
    assert_eq!(left.as_deref(), Some("100000"));
}

/// Where DTM is wrong (dtm-clients.md 2.13).
#[test]
fn the_faults_of_dtm_s_script() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);

    // 10 - 8, then the same call again: DTM looks at the balance first and answers FAILURE.
    client.set("low", "10");
    let take = call("retried", "action");
    assert_eq!(client.adjust(&take, "low", -8), Ok(Executed));
    assert_eq!(client.adjust(&take, "low", -8), Ok(Duplicate));
    assert_eq!(client.get("low").as_deref(), Some("2"));

    // The undo of an increase that never came: DTM answers FAILURE, writes nothing, and lets the late action through.
    let late = call("late", "action");
    let undo = call("late", "compensate");
    assert_eq!(client.adjust(&undo, "low", -8), Ok(NullCompensation));
    assert_eq!(client.adjust(&late, "low", 8), Ok(Suspended));
    assert_eq!(client.get("low").as_deref(), Some("2"));

    // A workflow's rollback undoes an action: DTM adds 8 from nothing.
    let step = |op| Identity::new("workflow", "flow", "01", op).expect("an identity");
    assert_eq!(
        client.adjust(&step("rollback"), "low", 8),
        Ok(NullCompensation)
    );
    let late = client.adjust(&step("action"), "low", -1);
    assert_eq!(kind(&late), ErrorKind::Failure);
    assert_eq!(client.get("low").as_deref(), Some("2"));
    assert_eq!(
        client.markers("flow"),
        pairs(&[
            ("flow-01-action-01", "rollback"),
            ("flow-01-rollback-01", "rollback"),
        ])
    );

    // Two kinds of undo for one action that never ran.
    for op in ["compensate", "rollback"] {
        let undo = client.adjust(&call("twofold", op), "low", 8);
        assert_eq!(undo, Ok(NullCompensation), "{op}");
    }
    assert_eq!(client.get("low").as_deref(), Some("2"));

    // A compensation is carried out though the money was spent, or the key is gone.
    for gid in ["spent", "gone"] {
        client.set(gid, "0");
        assert_eq!(client.adjust(&call(gid, "action"), gid, 8), Ok(Executed));
        match gid {
            "spent" => client.set(gid, "3"),
            _ => assert_eq!(client.run("DEL gone"), Value::Integer(1)),
        }
        let undo = call(gid, "compensate");
        assert_eq!(client.adjust(&undo, gid, -8), Ok(Executed));
        let left = if gid == "spent" { "-5" } else { "-8" };
        assert_eq!(client.get(gid).as_deref(), Some(left));
    }
}

#[test]
fn parts_of_a_branch_are_apart() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);
    client.set("account", "100");
    let who = call("parts", "action");
    let take = Work::adjust(&who.op, "account", -1).expect("work");
    for (part, want) in [("01", Executed), ("02", Executed), ("01", Duplicate)] {
        let script = plan(&who, part, None, DEFAULT_TTL, &take).expect("a plan");
        let answer = client.eval(&script);
        assert_eq!(verdict(&who, &answer).0, Ok(want), "{part}");
    }
    assert_eq!(client.get("account").as_deref(), Some("98"));
}

/// Whatever comes first decides: the message's own script, or the question whether it was carried out.
#[test]
fn check_backs_both_ways() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);
    client.set("account", "100");
    let msg = |gid| Identity::new("msg", gid, "00", "msg").expect("an identity");

    let sent = msg("sent");
    assert_eq!(client.adjust(&sent, "account", -30), Ok(Executed));
    for _ in 0..2 {
        assert_eq!(client.check_back(&sent), Ok(Duplicate));
    }
    let again = client.adjust(&sent, "account", -30);
    assert_eq!(kind(&again), ErrorKind::Duplicated);
    assert_eq!(client.markers("sent"), pairs(&[("sent-00-msg-01", "msg")]));

    let asked = msg("asked");
    for _ in 0..2 {
        assert_eq!(kind(&client.check_back(&asked)), ErrorKind::Failure);
    }
    let late = client.adjust(&asked, "account", -30);
    assert_eq!(kind(&late), ErrorKind::Duplicated);
    assert_eq!(
        client.markers("asked"),
        pairs(&[("asked-00-msg-01", "rollback")])
    );

    // A refused message leaves nothing; a half done one has no answer.
    let poor = msg("poor");
    let result = client.adjust(&poor, "account", -300);
    assert_eq!(kind(&result), ErrorKind::Failure);
    assert_eq!(kind(&client.check_back(&poor)), ErrorKind::Failure);
    let half = msg("half");
    let failing = body("redis.call('INCR', KEYS[1]) error('half')", &["other"]);
    assert_eq!(kind(&client.call(&half, &failing).0), ErrorKind::HalfDone);
    assert_eq!(kind(&client.check_back(&half)), ErrorKind::HalfDone);
    assert_eq!(client.get("account").as_deref(), Some("70"));
}

#[test]
fn in_a_cluster_a_hash_tag_keeps_keys_together() {
    let redis = Redis::start_cluster();
    let mut client = Client::new(&redis);
    let all = client.run("CLUSTER ADDSLOTSRANGE 0 16383");
    assert_eq!(all.text(), "OK");
    let end = Instant::now() + Duration::from_secs(60);
    while !client
        .run("CLUSTER INFO")
        .text()
        .contains("cluster_state:ok")
    {
        assert!(Instant::now() < end, "the cluster does not get ready");
        std::thread::sleep(Duration::from_millis(20));
    }
    client.set("account{shop}", "100");
    for (op, amount) in [("action", -30), ("compensate", 30)] {
        let who = call("tagged", op);
        let work = Work::adjust(&who.op, "account{shop}", amount).expect("work");
        let script = plan(&who, "01", Some("shop"), DEFAULT_TTL, &work).expect("a plan");
        for want in [Executed, Duplicate] {
            assert_eq!(verdict(&who, &client.eval(&script)).0, Ok(want), "{op}");
        }
        // Without one, Redis refuses before it runs anything, and the error says what to do.
        let error = client.call(&who, &work).0.expect_err("to be refused");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("hash tag"), "{error}");
    }
    assert_eq!(client.get("account{shop}").as_deref(), Some("100"));
}
