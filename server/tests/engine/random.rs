//! Thousands of transactions in a world where everything fails now and then. Then the faults stop, and everything must end, right.

use super::net::{Act, End, Seen, end, ok, status};
use super::rng::Rng;
use super::store::{Fault, Kind, What};
use super::world::{Setup, World, branch, global, merged, msg, registration, saga};
use amends::{ErrorKind, Status, TransType};
use amends_server::dispatch::slots::SlotLimits;
use amends_server::engine::Engine;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Which sagas are refused at a step of theirs: a matter of the gid, not of luck, so that every attempt gets the same answer.
fn refused(call: &Seen) -> bool {
    let n = number(&call.gid);
    call.op == "action"
        && call.gid.starts_with("saga")
        && n.is_multiple_of(5)
        && call.branch == format!("{:02}", 1 + n / 5 % 3)
}

fn number(gid: &str) -> u64 {
    gid.chars()
        .filter(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap_or(0)
}

/// Whether the local transaction of a message committed.
fn committed(gid: &str) -> bool {
    !number(gid).is_multiple_of(3)
}

fn right(call: &Seen) -> Act {
    if refused(call) || (call.op == "msg" && !committed(&call.gid)) {
        return status(409, 5);
    }
    ok(5)
}

fn faulty(call: &Seen, rng: &Rng) -> Act {
    let after = rng.below(300);
    match rng.below(100) {
        0..5 => end(End::Unreachable),
        5..12 => status(500, after),
        12..17 => status(425, after),
        17..20 => end(End::Silence),
        // The work is done, its answer is lost; or it is done later, or twice.
        20..27 if !refused(call) && call.op != "msg" => Act {
            runs: Some(rng.below(6_000)),
            twice: rng.chance(50),
            end: End::Silence,
        },
        27 => end(End::PanicAtOnce),
        28 => end(End::Panic(after)),
        _ if refused(call) || call.op == "msg" => right(call),
        _ => ok(after),
    }
}

fn store_faults(rng: &Rng, kind: Kind) -> Fault {
    let what = match rng.below(200) {
        0 if kind.writes() => What::Full,
        1 => What::Unavailable,
        2 if kind != Kind::ClaimDue => What::AnswerLost,
        _ => What::Nothing,
    };
    let delay = if rng.chance(40) { rng.below(30) } else { 0 };
    Fault { delay, what }
}

/// Asks until the answer is no fault of the coordinator's.
async fn ask<F: Future<Output = Result<(), amends::Error>>>(
    mut request: impl FnMut() -> F,
) -> Result<(), ErrorKind> {
    loop {
        match request().await {
            Err(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Internal) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            answer => return answer.map_err(|e| e.kind()),
        }
    }
}

/// One client with one transaction.
async fn client(engine: Arc<Engine>, gid: String, trans_type: &'static str, rng: Arc<Rng>) {
    let pause = |ms: u64| tokio::time::sleep(Duration::from_millis(ms));
    pause(rng.below(20_000)).await;
    let submit = |body: Value| {
        let engine = engine.clone();
        ask(move || {
            let (engine, body) = (engine.clone(), global(&body));
            async move { engine.submit(body).await }
        })
    };
    let wait = json!({"wait_result": rng.chance(30)});
    let common = merged(json!({"retry_interval": 1 + rng.below(3)}), wait);
    match trans_type {
        "saga" => {
            let data = json!({"custom_data": json!({"concurrent": rng.chance(40)}).to_string()});
            let body = saga(&gid, 3, merged(common, data));
            let _ = submit(body.clone()).await;
            if rng.chance(20) {
                pause(rng.below(500)).await;
                let _ = submit(body).await;
            }
        }
        "msg" => {
            let body = msg(
                &gid,
                2,
                merged(
                    common,
                    json!({"timeout_to_fail": 5, "concurrent": rng.chance(50)}),
                ),
            );
            let prepared = ask(|| {
                let (engine, body) = (engine.clone(), global(&body));
                async move { engine.prepare(body).await }
            });
            let _ = prepared.await;
            pause(rng.below(7_000)).await;
            // A client may die before it submits.
            if committed(&gid) && rng.chance(70) {
                let _ = submit(body).await;
            }
        }
        "workflow" => workflow(&engine, &gid, &rng).await,
        _ => {
            let body = merged(
                json!({"gid": gid, "trans_type": trans_type, "timeout_to_fail": 15}),
                common,
            );
            let prepared = ask(|| {
                let (engine, body) = (engine.clone(), global(&body));
                async move { engine.prepare(body).await }
            });
            let _ = prepared.await;
            let mut registered = true;
            for k in 1..=3 {
                let answer = ask(|| {
                    let (engine, body) =
                        (engine.clone(), branch(&registration(trans_type, &gid, k)));
                    async move { engine.register_branch(body).await }
                });
                registered &= answer.await.is_ok();
                pause(rng.below(300)).await;
            }
            match rng.below(10) {
                0 => {}
                1..3 => {
                    let abort = ask(|| {
                        let (engine, body) = (engine.clone(), global(&body));
                        async move { engine.abort(body).await }
                    });
                    let _ = abort.await;
                }
                _ if registered => drop(submit(body).await),
                _ => {}
            }
        }
    }
}

/// Whether a workflow's client decides to go forward.
fn goes_forward(gid: &str) -> bool {
    !number(gid).is_multiple_of(4)
}

async fn workflow(engine: &Arc<Engine>, gid: &str, rng: &Rng) {
    let body = json!({"gid": gid, "trans_type": "workflow", "query_prepared": "http://b1/resume",
        "custom_data": json!({"name": "wf"}).to_string()});
    let prepared = ask(|| {
        let (engine, body) = (engine.clone(), global(&body));
        async move { engine.prepare_workflow(body).await.map(|_| ()) }
    });
    prepared.await.expect("prepareWorkflow");
    for k in 1..=3 {
        // Some clients are silent for so long that they are called back.
        tokio::time::sleep(Duration::from_millis(rng.below(if rng.chance(20) {
            15_000
        } else {
            100
        })))
        .await;
        let step = json!({"gid": gid, "trans_type": "workflow", "branch_id": format!("{k:02}"), "op": "action",
            "status": "succeed", "data": "r", "run": gid});
        let registered = ask(|| {
            let (engine, step) = (engine.clone(), branch(&step));
            async move { engine.register_branch(step).await }
        });
        registered.await.expect("registerBranch");
    }
    let status = if goes_forward(gid) {
        "succeed"
    } else {
        "failed"
    };
    let end = json!({"gid": gid, "trans_type": "workflow", "req_extra": {"status": status}});
    let ended = ask(|| {
        let (engine, end) = (engine.clone(), global(&end));
        async move { engine.submit(end).await }
    });
    ended.await.expect("the end");
}

async fn assert_right(w: &World, gid: &str, seed: u64) {
    let tx = w.ended(gid, 600_000).await;
    let forward = tx.status() == Status::Succeed;
    let branches = match tx.trans_type() {
        TransType::Msg => 2,
        TransType::Saga => 3,
        TransType::Workflow => 0,
        _ => tx.rows().len() / 2,
    };
    for k in 1..=branches {
        let effect = w.net.effect(gid, &format!("{k:02}"));
        assert_eq!(
            effect.stays(),
            forward,
            "seed {seed}: {gid} is {}, branch {k} is {effect:?}",
            tx.status()
        );
    }
    match tx.trans_type() {
        TransType::Saga => assert_eq!(
            forward,
            !number(gid).is_multiple_of(5),
            "seed {seed}: {gid}"
        ),
        TransType::Msg => assert_eq!(forward, committed(gid), "seed {seed}: {gid}"),
        TransType::Workflow => assert_eq!(forward, goes_forward(gid), "seed {seed}: {gid}"),
        _ => {}
    }
}

async fn run(seed: u64, transactions: u64, setup: Setup) {
    let rng = Arc::new(Rng::new(seed));
    let net_rng = rng.clone();
    let w = World::with(setup, move |call| faulty(call, &net_rng));
    let store_rng = rng.clone();
    w.store.fail(move |kind, _| store_faults(&store_rng, kind));
    let mut clients = Vec::new();
    for n in 0..transactions {
        let trans_type = ["saga", "saga", "msg", "tcc", "xa", "workflow"][(n % 6) as usize];
        let second = if n % 6 == 1 { "-b" } else { "" };
        let gid = format!("{trans_type}{second}{}", n / 6);
        clients.push(tokio::spawn(client(
            w.engine.clone(),
            gid,
            trans_type,
            rng.clone(),
        )));
    }
    w.pass(40_000).await;
    w.net.behave(right);
    w.store.heal();
    for client in clients {
        client.await.expect("a client ends");
    }
    let healed = w.now();
    for gid in w.store.gids() {
        assert_right(&w, gid.as_str(), seed).await;
    }
    let took = w.now() - healed;
    assert!(
        took < 90_000,
        "seed {seed}: {took} ms, though nothing is due later than 22 s and a nap of 30 s"
    );
    w.idle(10_000).await;
    w.check();
    let stats = amends_server::store::Store::stats(&*w.store);
    assert!(
        stats.unfinished.is_empty(),
        "seed {seed}: {:?}",
        stats.unfinished
    );
}

fn impatient() -> Setup {
    let mut setup = Setup::default();
    setup.policy.retry_cap = 20_000;
    setup
}

#[tokio::test(start_paused = true)]
async fn two_thousand_transactions_end_right() {
    run(1, 2_000, impatient()).await;
}

#[tokio::test(start_paused = true)]
async fn they_end_right_through_narrow_limits() {
    let mut setup = impatient();
    setup.in_flight_max = 20;
    setup.slots = SlotLimits {
        total: 30,
        per_host: 12,
        ..SlotLimits::default()
    };
    run(2, 600, setup).await;
}

#[tokio::test(start_paused = true)]
async fn they_end_right_for_other_seeds() {
    for seed in 10..16 {
        run(seed, 150, impatient()).await;
    }
}
