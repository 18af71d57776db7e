//! The process dies: what was not acknowledged may be gone, and the next one finishes everything (rules.md 1.2, 1.4).

use super::net::{Act, End, Net, Seen, end, ok, status};
use super::rng::Rng;
use super::store::{Fault, Faulty, Kind, What};
use super::world::{EPOCH, Setup, World, clock, saga};
use amends::{Millis, Status};
use serde_json::json;
use std::sync::Arc;

/// Runs a process in a runtime of its own, which dies with it; time goes on from `from`.
fn process<T>(life: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(life)
}

const SAGAS: usize = 60;
const STEPS: usize = 4;

fn gids() -> Vec<String> {
    (0..SAGAS).map(|k| format!("g{k}")).collect()
}

/// Calls of all kinds, by a random number of the call itself.
fn any(rng: &Rng) -> Act {
    let quick = rng.below(40);
    match rng.below(20) {
        0 => end(End::Unreachable),
        1 => status(500, quick),
        2 => status(425, quick),
        // It runs, but its caller never learns.
        3 => Act {
            runs: Some(quick),
            twice: rng.chance(30),
            end: End::Silence,
        },
        _ => ok(quick),
    }
}

fn behaviour(rng: Arc<Rng>) -> impl Fn(&Seen) -> Act + Send + Sync {
    move |call| match call.op.as_str() {
        "action" if call.gid.ends_with('3') && call.branch == "03" => status(409, 5),
        _ => any(&rng),
    }
}

/// Wide limits, or few transactions or calls at a time.
fn limits(seed: u64) -> Setup {
    let mut setup = Setup::default();
    match seed % 3 {
        1 => setup.in_flight_max = 5,
        2 => (setup.slots.total, setup.slots.per_host) = (8, 3),
        _ => {}
    }
    setup
}

/// A first life of random length, then another one on what is left.
fn die_and_live_again(seed: u64, lives: usize) {
    let rng = Arc::new(Rng::new(seed));
    let mut now: Millis = EPOCH;
    let mut left: Option<(Arc<Faulty>, Arc<Net>)> = None;
    let mut acked: Vec<String> = Vec::new();
    for life in 0..lives {
        let length = 20 + rng.below(8_000);
        let (store, net, done) = process(async {
            let (store, net) = match &left {
                None => (Faulty::new(clock(now)), Net::new(behaviour(rng.clone()))),
                Some((store, net)) => (
                    store.crash(clock(now), rng.next()),
                    Net::after(net, behaviour(rng.clone())),
                ),
            };
            let delays = rng.clone();
            store.fail(move |kind, _| Fault {
                delay: if kind.writes() { delays.below(20) } else { 0 },
                what: match delays.below(100) {
                    0 if kind.writes() => What::Full,
                    1 => What::Unavailable,
                    2 if kind != Kind::ClaimDue => What::AnswerLost,
                    _ => What::Nothing,
                },
            });
            let w = World::on(limits(seed), store.clone(), net.clone());
            let mut clients = Vec::new();
            if life == 0 {
                for (k, gid) in gids().into_iter().enumerate() {
                    let data = json!({"concurrent": k % 4 == 1}).to_string();
                    clients.push((
                        gid.clone(),
                        w.submitting(saga(
                            &gid,
                            STEPS,
                            json!({"custom_data": data, "retry_interval": 2}),
                        )),
                    ));
                }
            }
            w.pass(length).await;
            let mut done = Vec::new();
            for (gid, client) in clients {
                if client.is_finished() && client.await.expect("an answer").0.is_ok() {
                    done.push(gid);
                }
            }
            (store, net, done)
        });
        acked.extend(done);
        now += length as Millis + 50;
        left = Some((store, net));
    }
    let (store, net) = left.expect("a life");
    process(async {
        let quiet = Net::after(&net, |call| match call.op.as_str() {
            "action" if call.gid.ends_with('3') && call.branch == "03" => status(409, 5),
            _ => ok(5),
        });
        let w = World::on(Setup::default(), store.crash(clock(now), rng.next()), quiet);
        for gid in &acked {
            assert!(
                w.store.gids().iter().any(|g| g.as_str() == gid),
                "seed {seed}: {gid} was acknowledged and is gone"
            );
        }
        for gid in w.store.gids() {
            let gid = gid.as_str();
            let tx = w.ended(gid, 900_000).await;
            // Late runners are shut out by barriers; let them come.
            for step in 1..=STEPS {
                let effect = w.net.effect(gid, &format!("{step:02}"));
                assert_eq!(
                    effect.stays(),
                    tx.status() == Status::Succeed,
                    "seed {seed}: {gid} step {step}: {effect:?}"
                );
            }
            assert_no_needless_compensation(&w, gid, seed);
        }
        w.idle(5_000).await;
        assert_eq!(w.store.wrong(), Vec::<String>::new(), "seed {seed}");
    });
    assert_eq!(net.wrong(), Vec::<String>::new(), "seed {seed}");
    assert_eq!(store.wrong(), Vec::<String>::new(), "seed {seed}");
}

/// Of a saga whose steps run one after the other, nothing is undone that is more than two levels behind the last action that ran.
fn assert_no_needless_compensation(w: &World, gid: &str, seed: u64) {
    let log = w.net.log();
    let most = |op: &str| {
        let of = |c: &&Seen| c.gid == gid && c.op == op;
        log.iter()
            .filter(of)
            .filter_map(|c| c.branch.parse::<usize>().ok())
            .max()
            .unwrap_or(0)
    };
    let (ran, undone) = (most("action"), most("compensate"));
    assert!(
        undone <= ran + 2,
        "seed {seed}: {gid} undoes step {undone}, but none after {ran} was called"
    );
}

/// Lives that end in an orderly way hand over exactly what they know: no action is undone that was never called.
#[test]
fn what_is_handed_over_is_exact() {
    for seed in 0..8 {
        let rng = Arc::new(Rng::new(seed));
        let mut now: Millis = EPOCH;
        let mut left: Option<(Arc<Faulty>, Arc<Net>)> = None;
        for _life in 0..4 {
            let (store, net, length) = process(async {
                let (store, net) = match &left {
                    None => (Faulty::new(clock(now)), Net::new(behaviour(rng.clone()))),
                    Some((store, net)) => (
                        store.handed_over(clock(now)),
                        Net::after(net, behaviour(rng.clone())),
                    ),
                };
                let delays = rng.clone();
                store.fail(move |_, _| Fault {
                    delay: delays.below(20),
                    ..Fault::default()
                });
                let w = World::on(limits(seed), store.clone(), net.clone());
                if left.is_none() {
                    for (k, gid) in gids().into_iter().enumerate() {
                        let data = json!({"concurrent": k % 4 == 1}).to_string();
                        drop(w.submitting(saga(
                            &gid,
                            STEPS,
                            json!({"custom_data": data, "retry_interval": 2}),
                        )));
                    }
                }
                w.pass(50 + rng.below(3_000)).await;
                w.engine.shutdown(std::time::Duration::from_secs(20)).await;
                (store, net, w.now())
            });
            assert!(
                store
                    .gids()
                    .iter()
                    .all(|gid| !store.record(gid.as_str()).index.driven),
                "seed {seed}"
            );
            now += length as Millis + 50;
            left = Some((store, net));
        }
        let (store, net) = left.expect("a life");
        process(async {
            let w = World::on(
                Setup::default(),
                store.handed_over(clock(now)),
                Net::after(&net, behaviour(rng.clone())),
            );
            for gid in gids() {
                w.ended(&gid, 900_000).await;
                let log: Vec<Seen> = w.net.log().into_iter().filter(|c| c.gid == gid).collect();
                for undone in log.iter().filter(|c| c.op == "compensate") {
                    let called = log
                        .iter()
                        .any(|c| c.op == "action" && c.branch == undone.branch);
                    assert!(
                        called,
                        "seed {seed}: {gid} undoes {}, which was never called",
                        undone.branch
                    );
                }
            }
            w.check();
        });
    }
}

#[test]
fn everything_ends_after_a_crash_at_any_moment() {
    for seed in 0..12 {
        die_and_live_again(seed, 1);
    }
}

#[test]
fn everything_ends_after_several_crashes() {
    for seed in 100..106 {
        die_and_live_again(seed, 3);
    }
}

#[test]
fn a_compensation_waits_until_a_call_of_the_dead_process_has_ended() {
    let (store, net) = process(async {
        // The action's call is on its way when the process dies; it runs two seconds later.
        let w = World::new(|_| Act {
            runs: Some(2_500),
            twice: false,
            end: End::Status(200, 2_500),
        });
        w.submit(saga("g", 1, json!({}))).await.expect("submit");
        w.pass(1_000).await;
        (w.store.clone(), w.net.clone())
    });
    process(async {
        let w = World::on(
            Setup::default(),
            store.crash(clock(EPOCH + 1_000), 0),
            Net::after(&net, |call| {
                if call.op == "action" {
                    status(409, 0)
                } else {
                    ok(0)
                }
            }),
        );
        w.ended("g", 10_000).await;
        assert_eq!(
            w.net.times("g", "01 compensate"),
            [3_000],
            "request_timeout after the load"
        );
    });
}

#[test]
fn what_was_let_go_of_needs_no_second_look_after_a_restart() {
    let (store, net) = process(async {
        let w = World::new(|call| {
            if call.name() == "02 action" {
                status(425, 0)
            } else {
                ok(0)
            }
        });
        w.submit(saga("g", 4, json!({}))).await.expect("submit");
        w.pass(5_000).await;
        w.engine.shutdown(std::time::Duration::from_secs(1)).await;
        (w.store.clone(), w.net.clone())
    });
    process(async {
        let w = World::on(
            Setup::default(),
            store.crash(clock(EPOCH + 5_000), 0),
            Net::after(&net, |_| ok(0)),
        );
        w.ended("g", 10_000).await;
        let times = w.net.times("g", "02 action");
        assert!(
            (5_000..=6_100).contains(times.last().expect("a call")),
            "its due time holds: {times:?}"
        );
        assert_eq!(
            w.net.calls("g"),
            "01 action, 02 action, 02 action, 03 action, 04 action"
        );
    });
}
