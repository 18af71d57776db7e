//! Messages that are dropped wherever they wait, and TCCs at each of their calls: whatever was done of them, the coordinator brings it to an end
//! that is the same everywhere.

use crate::place::{Place, write};
use amends::adapters::sqlx::Backend;
use amends::client::TccRun;
use amends::initiator::Try;
use amends::machine::Calls;
use amends::{Error, ErrorKind};
use amends_interop::Databases;
use amends_participants::{
    Bank, Crash, CrashingCalls, Stop, ever_later, mariadb, polled, postgres, sqlite,
};
use futures_util::future::join_all;
use std::sync::Arc;

/// A message whose local transaction writes a line, and which is refused in the end or not.
async fn message<DB: Backend>(place: &Place<DB>, gid: &str, refused: bool) -> Result<(), Error> {
    let calls: Arc<dyn Calls> = Arc::new(place.client.clone());
    let message = place.message(gid);
    let mut run = message
        .begin(place.client.server(), calls, &place.bank.pool)
        .await?;
    write::<DB>(&mut run, gid, "local").await?;
    if refused {
        return Err(run.refuse("no").await);
    }
    run.commit().await.map(|_| ())
}

/// Whether there were runs of each kind: stopped or not, and how the coordinator ended them.
fn all_seen(runs: &[(bool, Option<String>)], wanted: &[(bool, Option<&str>)]) {
    for (crashed, end) in wanted {
        let seen = runs
            .iter()
            .any(|(whole, e)| whole != crashed && e.as_deref() == *end);
        assert!(seen, "crashed {crashed}, ended {end:?}: {runs:?}");
    }
}

/// How the coordinator ended a message, and that its receiver was called if and only if its local transaction was committed.
async fn delivered<DB: Backend>(
    place: &Place<DB>,
    gid: &str,
    refused: bool,
    run: Option<Result<(), Error>>,
) -> Option<String> {
    let end = place.ended(gid).await;
    let lines = place.lines(gid).await;
    match end.as_deref() {
        Some("succeed") => assert_eq!(lines, ["local", "01 action"], "{gid}"),
        Some("failed") | None => assert!(lines.is_empty(), "{gid}: {end:?} {lines:?}"),
        Some(other) => panic!("{gid} is {other}"),
    }
    match run {
        Some(Ok(())) => assert_eq!(end.as_deref(), Some("succeed"), "{gid}"),
        Some(Err(error)) => assert!(
            refused && error.kind() == ErrorKind::Failure && end.as_deref() == Some("failed"),
            "{gid}: {error}"
        ),
        None => {}
    }
    end
}

/// Invariant 6 of faults.md: the local commit is the delivery.
async fn messages<DB: Backend>(place: &Arc<Place<DB>>) {
    let mut all = Vec::new();
    for refused in [false, true] {
        ever_later(40, async |polls| {
            let runs = polls.map(|times| async move {
                let gid = format!("msg-{refused}-{times}");
                let run = polled(message(place, &gid, refused), times).await;
                (gid, run)
            });
            let runs = join_all(runs).await;
            place.ask().await;
            let uncut = runs.iter().all(|(_, run)| run.is_some());
            for (gid, run) in runs {
                all.push((run.is_some(), delivered(place, &gid, refused, run).await));
            }
            uncut
        })
        .await;
    }
    all_seen(
        &all,
        &[
            (true, None),
            (true, Some("failed")),
            (false, Some("failed")),
            (false, Some("succeed")),
        ],
    );
}

/// Invariant 5 of faults.md: all branches confirmed, or all undone.
async fn tccs<DB: Backend>(place: &Arc<Place<DB>>) {
    let mut runs = Vec::new();
    for second in ["fine", "refuses"] {
        for stop in Stop::ALL {
            for at in 0..8 {
                let place = place.clone();
                runs.push(async move {
                    let gid = format!("tcc-{second}-{stop:?}-{at}");
                    let crash = Crash::at(at, stop);
                    let calls = CrashingCalls {
                        calls: Arc::new(place.client.clone()),
                        crash: crash.clone(),
                        decisions: true,
                    };
                    let run = async {
                        let mut tcc = TccRun::begin(
                            place.client.server(),
                            Arc::new(calls),
                            &gid,
                            Place::<DB>::soon(),
                        )
                        .await?;
                        for path in ["fine", second] {
                            let url = place.at(path);
                            let branch = Try {
                                try_url: url.clone(),
                                confirm: url.clone(),
                                cancel: url,
                                payload: "{}".into(),
                            };
                            if let Err(error) = tcc.branch(&branch).await {
                                return Err(tcc.abort(error).await);
                            }
                        }
                        tcc.submit().await
                    };
                    let run = tokio::select! {
                        biased;
                        () = crash.reached() => None,
                        result = run => Some(result),
                    };
                    (gid, run)
                });
            }
        }
    }
    let runs = join_all(runs).await;
    place.ask().await;
    let mut all = Vec::new();
    for (gid, run) in runs {
        let end = place.ended(&gid).await;
        let lines = place.lines(&gid).await;
        let count = |line: &str| lines.iter().filter(|l| *l == line).count();
        match end.as_deref() {
            Some("succeed") => assert_eq!(
                lines,
                ["01 confirm", "01 try", "02 confirm", "02 try"],
                "{gid}"
            ),
            Some("failed") | None => {
                for branch in ["01", "02"] {
                    assert_eq!(
                        count(&format!("{branch} try")),
                        count(&format!("{branch} cancel")),
                        "{gid}: {lines:?}"
                    );
                    assert_eq!(count(&format!("{branch} confirm")), 0, "{gid}: {lines:?}");
                }
            }
            Some(other) => panic!("{gid} is {other}"),
        }
        if let Some(Ok(())) = run {
            assert_eq!(end.as_deref(), Some("succeed"), "{gid}");
        }
        all.push((run.is_some(), end));
    }
    all_seen(
        &all,
        &[
            (true, None),
            (true, Some("failed")),
            (true, Some("succeed")),
            (false, Some("succeed")),
        ],
    );
}

async fn everything<DB: Backend>(bank: Bank<DB>) {
    let place = Place::new(bank).await;
    messages(&place).await;
    tccs(&place).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_anywhere_on_mariadb() {
    let databases = Databases::start();
    everything(mariadb(databases.mariadb(), "repeatable read", "dtm_barrier").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_anywhere_on_postgresql() {
    let databases = Databases::start();
    everything(postgres(databases.postgres(), "dtm_barrier").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_anywhere_on_sqlite() {
    let dir = tempfile::tempdir().expect("a folder");
    everything(sqlite(dir.path()).await).await;
}
