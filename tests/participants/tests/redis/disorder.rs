//! Calls that come twice, late, at the same time or in another order; and a cluster.

use crate::client::{Client, body, branch, kind, pairs};
use amends::ErrorKind;
use amends::participant::BarrierResult::{self, Duplicate, Executed, NullCompensation, Suspended};
use amends::participant::Identity;
use amends_interop::Redis;
use amends_participants::{ORDERS, call};
use redis::{FromRedisValue, Value};
use std::time::{Duration, Instant};

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

/// The calls of a saga's branch, and of a tcc's that is confirmed or cancelled.
const MODES: [(&str, [&str; 4]); 3] = [
    ("saga", ["action", "action", "compensate", "compensate"]),
    ("tcc", ["try", "try", "confirm", "cancel"]),
    ("tcc", ["try", "try", "cancel", "cancel"]),
];

/// What a barrier must report, had the calls come one after another.
fn model(before: &[&str], op: &str) -> BarrierResult {
    let is_undo = |op: &&str| matches!(*op, "cancel" | "compensate");
    let forward = |op: &&str| matches!(*op, "try" | "action");
    let undone = before.iter().position(is_undo);
    let made = before.iter().position(forward);
    let made = made.is_some_and(|made| undone.is_none_or(|undone| made < undone));
    match op {
        "try" | "action" if made => Duplicate,
        "try" | "action" if undone.is_some() => Suspended,
        op if before.contains(&op) => Duplicate,
        op if is_undo(&op) && !made => NullCompensation,
        _ => Executed,
    }
}

#[test]
fn every_order_of_every_mode() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);
    client.set("account", "0");
    let (mut n, mut expected) = (0, 0);
    for (mode, ops) in MODES {
        for order in 0..256 {
            let places = [order & 3, order >> 2 & 3, order >> 4 & 3, order >> 6];
            if (0..4).any(|place| !places.contains(&place)) {
                continue;
            }
            n += 1;
            let mut before = Vec::new();
            for op in places.map(|place| ops[place]) {
                let who = Identity::new(mode, &format!("mode{n}"), "01", op).expect("an identity");
                let amount = if op == "confirm" { 1_000_000 } else { 30 };
                let want = model(&before, op);
                let got = client.adjust(&who, "account", amount);
                assert_eq!(got, Ok(want), "{op} after {before:?}");
                before.push(op);
                if want == Executed {
                    expected += amount;
                }
            }
        }
    }
    assert_eq!(n, 3 * 24);
    assert_eq!(client.get("account"), Some(expected.to_string()));
}

/// The four calls of 1,000 branches of each mode from 16 connections, so that calls of one branch are under way at the same time.
#[test]
fn a_storm_from_16_connections() {
    const ROUNDS: usize = 3_000;
    const START: i64 = 1_000_000;
    let redis = Redis::start();
    Client::new(&redis).set("account", &START.to_string());
    let port = redis.port();
    let amount_of = |op: &str| match op {
        "action" | "try" => -30,
        "confirm" => 0,
        _ => 30,
    };
    let results: Vec<(usize, &str, BarrierResult)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..16)
            .map(|worker| {
                scope.spawn(move || {
                    let mut client = Client::of(port);
                    let mut results = Vec::new();
                    // Each worker has every fourth of a branch's calls, and four workers have the same one.
                    for round in (worker / 4..ROUNDS).step_by(4) {
                        let (mode, ops) = MODES[round % MODES.len()];
                        let order = ORDERS[round / MODES.len() % ORDERS.len()].0;
                        // The third and the fourth call are both undos in the orders' own words.
                        let earlier = order[..worker % 4].iter();
                        let like_it = |op: &&&str| **op == order[worker % 4];
                        let nth = earlier.filter(like_it).count();
                        let forward = order[worker % 4] == "action";
                        let op = ops[nth + if forward { 0 } else { 2 }];
                        let who = Identity::new(mode, &format!("storm{round}"), "01", op);
                        let who = who.expect("an identity");
                        let result = client.adjust(&who, "account", amount_of(op));
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
    let mut rounds = vec![(0, 0, 0); ROUNDS];
    for (round, op, result) in results {
        let (taken, given, null) = &mut rounds[round];
        match (op, result) {
            ("action" | "try", Executed) => *taken += 1,
            ("compensate" | "cancel", Executed) => *given += 1,
            ("compensate" | "cancel", NullCompensation) => *null += 1,
            ("action" | "try", Suspended | Duplicate)
            | ("compensate" | "cancel", Duplicate)
            | ("confirm", Executed) => {}
            (op, result) => panic!("{op} was {result:?}"),
        }
    }
    for (round, counts) in rounds.into_iter().enumerate() {
        assert!(
            counts == (1, 1, 0) || counts == (0, 0, 1),
            "round {round}: taken, given back, nothing to undo: {counts:?}"
        );
    }
    let left = Client::new(&redis).get("account");
    assert_eq!(left, Some(START.to_string()));
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
            _ => assert_eq!(client.run("DEL gone"), Value::Int(1)),
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
    for (part, want) in [("01", Executed), ("02", Executed), ("01", Duplicate)] {
        let got = client.adjust_of(&branch(&who).part(part), "account", -1);
        assert_eq!(got, Ok(want), "{part}");
    }
    assert_eq!(client.get("account").as_deref(), Some("98"));
}

/// A subscriber of a topic, and the branch of another gid that has the same marker by DTM's rule.
#[test]
fn a_topic_s_subscribers_are_apart_from_others() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);
    client.set("account", "100");
    for (gid, branch_id) in [("g", "01-01"), ("g", "01-02"), ("g-01", "01")] {
        let who = Identity::new("msg", gid, branch_id, "action").expect("an identity");
        for want in [Executed, Duplicate] {
            assert_eq!(
                client.adjust(&who, "account", -1),
                Ok(want),
                "{gid} {branch_id}"
            );
        }
    }
    assert_eq!(client.get("account").as_deref(), Some("97"));
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
        assert!(client.check_back(&sent).is_ok());
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
    assert_eq!(all, Value::Okay);
    let end = Instant::now() + Duration::from_secs(60);
    let mut ready = || {
        let info = String::from_redis_value(client.run("CLUSTER INFO"));
        info.expect("a text").contains("cluster_state:ok")
    };
    while !ready() {
        assert!(Instant::now() < end, "the cluster does not get ready");
        std::thread::sleep(Duration::from_millis(20));
    }
    client.set("account{shop}", "100");
    for (op, amount) in [("action", -30), ("compensate", 30)] {
        let who = call("tagged", op);
        let tagged = branch(&who).hash_tag("shop");
        for want in [Executed, Duplicate] {
            let got = client.adjust_of(&tagged, "account{shop}", amount);
            assert_eq!(got, Ok(want), "{op}");
        }
        // A key with another tag is refused before anything is sent, and one without by Redis before it runs anything.
        let elsewhere = client.adjust_of(&tagged, "account{home}", amount);
        assert_eq!(kind(&elsewhere), ErrorKind::Invalid);
        let error = client.adjust(&who, "account{shop}", amount);
        let error = error.expect_err("to be refused");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("hash tag"), "{error}");
    }
    assert_eq!(client.get("account{shop}").as_deref(), Some("100"));
}
