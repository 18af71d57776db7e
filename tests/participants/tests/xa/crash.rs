//! Whoever dies at whichever effect of an XA, the coordinator brings all of its branches to one end, and nothing stays prepared
//! (invariants 5 and 7 of faults.md).

use crate::place::{Cut, How, Place};
use crate::support::ended;
use amends::Error;
use amends_interop::Databases;
use amends_participants::{Bank, Books, Crash, Stop, ever_later, mariadb, polled, postgres};
use amends_scenarios::DEADLINE;
use futures_util::future::join_all;

/// Of a participant: it dies before a step or behind it, or does not learn what came of it, and goes on.
const PARTICIPANTS: [Stop; 4] = [Stop::Before, Stop::Unheard, Stop::Unmade, Stop::Lost];

/// Of an initiator: it dies.
const INITIATORS: [Stop; 3] = [Stop::Before, Stop::Unheard, Stop::After];

/// Transactions at a time: their branches are prepared together, and PostgreSQL has room for 64.
const AT_A_TIME: usize = 24;

/// A transaction, and which call of the participant is cut off in it.
#[derive(Debug)]
struct Case {
    gid: String,
    /// The path of the second branch: it is `fine`, or `refuses`, so that both are rolled back.
    second: &'static str,
    name: &'static str,
    how: How,
}

/// Calls that are cut off, the path of the second branch, and how many steps such a call has at most.
const CALLS: [(&str, &str, usize); 3] = [
    ("02 action", "fine", 10),
    ("01 commit", "fine", 4),
    ("01 rollback", "refuses", 9),
];

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let mut add = |what: String, name: &'static str, second: &'static str, how: How| {
        let gid = format!("{}-{what}", name.replace(' ', "-"));
        all.push(Case {
            gid,
            second,
            name,
            how,
        });
    };
    for (name, second, steps) in CALLS {
        for at in 0..=steps {
            for stop in PARTICIPANTS {
                let cut = Cut { at, stop };
                add(format!("{stop:?}-{at}"), name, second, How::Step(cut));
                if name == "02 action" {
                    let gid = format!("again-{stop:?}-{at}");
                    add(gid, name, second, How::Repeated(cut));
                }
            }
        }
        for times in 0..2 * steps {
            add(format!("polled-{times}"), name, second, How::Polled(times));
        }
    }
    all
}

/// The participant dies in its action, or in phase 2; the coordinator calls that again.
async fn participants<DB: Books>(place: &Place<DB>) {
    for cases in cases().chunks(AT_A_TIME) {
        let never = Crash::never();
        let runs = cases.iter().map(|case| {
            place.plan(&case.gid, case.name, case.how.clone());
            place.initiate(&case.gid, case.second, &never)
        });
        let results = join_all(runs).await;
        for (case, result) in cases.iter().zip(results) {
            let end = place.ended(&case.gid).await;
            let end = end.as_deref();
            place.balanced(&case.gid, end).await;
            if matches!(case.how, How::Repeated(_)) {
                result
                    .as_ref()
                    .unwrap_or_else(|error| panic!("{case:?}: {error}"));
            }
            let commits = result.is_ok() || case.name == "01 commit";
            let want = if commits { "succeed" } else { "failed" };
            assert_eq!(end, Some(want), "{case:?}");
        }
        ended(place.bank(), [0, 0]).await;
    }
    for (name, _, steps) in CALLS {
        let reached = place.reached(name);
        let count = reached.len();
        assert!(reached.iter().copied().eq(0..count), "{name}: {reached:?}");
        assert!(0 < count && count <= steps, "{name}: {reached:?}");
        println!("{}: {name} was cut off at {count} steps", DB::DIALECT);
    }
}

/// The initiator dies at a call of its own, or while it waits for whatever it waits for; the timeout ends what it began.
async fn initiators<DB: Books>(place: &Place<DB>) {
    let mut effects = Vec::new();
    for second in ["fine", "refuses"] {
        for stop in INITIATORS {
            effects.extend((0..8).map(|at| (second, stop, at)));
        }
    }
    let mut seen = Vec::new();
    for effects in effects.chunks(AT_A_TIME) {
        let runs = effects
            .iter()
            .map(|(second, stop, at)| cut_off(place, second, *stop, *at));
        seen.extend(outcomes(place, join_all(runs).await).await);
    }
    for second in ["fine", "refuses"] {
        ever_later(AT_A_TIME, async |polls| {
            let runs = join_all(polls.map(|times| dropped(place, second, times))).await;
            let uncut = runs.iter().all(|(_, result)| result.is_some());
            seen.extend(outcomes(place, runs).await);
            uncut
        })
        .await;
    }
    for wanted in [
        (true, None),
        (true, Some("failed")),
        (true, Some("succeed")),
        (false, Some("failed")),
        (false, Some("succeed")),
    ] {
        let found = seen
            .iter()
            .any(|(cut, end)| (*cut, end.as_deref()) == wanted);
        assert!(found, "never {wanted:?}: {seen:?}");
    }
}

/// An initiator's gid, and what it ended with if it did not die.
type Ran = (String, Option<Result<(), Error>>);

async fn cut_off<DB: Books>(place: &Place<DB>, second: &str, stop: Stop, at: usize) -> Ran {
    let gid = format!("cut-{second}-{stop:?}-{at}");
    let crash = Crash::at(at, stop);
    let result = crash.cut(place.initiate(&gid, second, &crash)).await;
    (gid, result)
}

async fn dropped<DB: Books>(place: &Place<DB>, second: &str, times: usize) -> Ran {
    let gid = format!("dropped-{second}-{times}");
    let never = Crash::never();
    let result = polled(place.initiate(&gid, second, &never), times).await;
    (gid, result)
}

async fn outcomes<DB: Books>(place: &Place<DB>, runs: Vec<Ran>) -> Vec<(bool, Option<String>)> {
    let mut seen = Vec::new();
    for (gid, result) in runs {
        let end = place.ended(&gid).await;
        place.balanced(&gid, end.as_deref()).await;
        match &result {
            Some(Ok(())) => assert_eq!(end.as_deref(), Some("succeed"), "{gid}"),
            Some(Err(error)) => assert_eq!(end.as_deref(), Some("failed"), "{gid}: {error}"),
            None => {}
        }
        seen.push((result.is_none(), end));
    }
    ended(place.bank(), [0, 0]).await;
    seen
}

/// A rollback that comes while the action runs, and is registered, waits for it: "not yet" (425) until the action is prepared.
async fn running<DB: Books>(place: &Place<DB>) {
    let pause = Crash::pause(0, Stop::Unheard);
    place.plan("running", "02 action", How::Paused(pause.clone()));
    let never = Crash::never();
    let initiator = place.initiate("running", "fine", &never);
    let meanwhile = async {
        let registered = tokio::time::timeout(DEADLINE, pause.reached());
        registered.await.expect("registered");
        // The initiator is slower than its transaction's timeout.
        place.advance(36).await;
        assert_eq!(place.status("running").await.as_deref(), Some("aborting"));
        let answers = place.answers("running", "02 rollback");
        assert!(
            !answers.is_empty() && answers.iter().all(|a| *a == 425),
            "{answers:?}"
        );
        assert_eq!(place.answers("running", "02 action"), [0u16; 0]);
        pause.go_on();
    };
    let (submitted, ()) = tokio::join!(initiator, meanwhile);
    assert_eq!(place.answers("running", "02 action"), [200]);
    submitted.expect_err("it was aborted");
    let end = place.ended("running").await;
    assert_eq!(end.as_deref(), Some("failed"));
    assert_eq!(place.answers("running", "02 rollback").last(), Some(&200));
    place.balanced("running", end.as_deref()).await;
    ended(place.bank(), [0, 0]).await;
}

async fn everything<DB: Books>(bank: Bank<DB>) {
    let place = Place::new(crate::support::two_accounts(bank).await).await;
    running(&place).await;
    participants(&place).await;
    initiators(&place).await;
    place.bank().pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_anywhere_on_mariadb_and_postgresql() {
    let databases = Databases::start();
    tokio::join!(
        everything(mariadb(databases.mariadb(), "repeatable read", "dtm_barrier").await),
        everything(postgres(databases.postgres(), "dtm_barrier").await),
    );
}
