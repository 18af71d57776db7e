//! `stuck`: fresh sagas to a healthy host, beside sagas that are stuck on a dead one.

use crate::coordinator::{Coordinator, data_folder, find_binary, free_port};
use crate::error::BenchError;
use crate::http::listen;
use crate::load::{self, Plan, Shape};
use crate::metrics::{Scrape, UNFINISHED};
use crate::process::Child;
use crate::report::{Criterion, Report, number};
use crate::scale::PlaceArgs;
use crate::stats::median;
use crate::submit::{Protocol, Template};
use std::time::Duration;
use tokio::net::TcpListener;

/// Options of `stuck`.
#[derive(Debug, clap::Args)]
pub(crate) struct StuckArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Sagas that are stuck on each kind of dead host
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// Fresh sagas per second
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
    /// Rounds; each measures a coordinator without and two with stuck sagas
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of one measurement
    #[arg(long, default_value_t = 4.0, value_parser = crate::seconds)]
    seconds: f64,
}

/// Latencies of fresh sagas in one measurement, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Fresh {
    p50: f64,
    p99: f64,
}

/// Measures three coordinators in turns: free, stuck on a closed port, stuck on a host that never answers.
pub(crate) async fn run(args: &StuckArgs) -> Result<Report, BenchError> {
    let binary = find_binary(args.place.amends.as_deref())?;
    let folder = data_folder(args.place.data_in.as_deref())?;
    let (_participants, healthy) = Child::own("participants", &["participants"])?;
    let closed = format!("127.0.0.1:{}", free_port()?);
    let silent = listen(0).await?;
    let silent_at = silent
        .local_addr()
        .map_err(BenchError::io("reading the listener's address"))?
        .to_string();
    let _silence = tokio::spawn(accept_and_say_nothing(silent));

    let mut coordinators = Vec::new();
    for (name, dead) in [
        ("free", None),
        ("closed", Some(closed)),
        ("silent", Some(silent_at)),
    ] {
        let amends = Coordinator::start(&binary, &folder.path().join(name)).await?;
        if let Some(host) = dead {
            let template = Template::saga(Protocol::Http, Protocol::Http, &host, false);
            load::fill(amends.target(), template, args.count, 16).await?;
        }
        coordinators.push(amends);
    }
    let mut measured: Vec<Vec<Fresh>> = vec![Vec::new(); coordinators.len()];
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        for (amends, found) in coordinators.iter().zip(&mut measured) {
            found.push(fresh(amends, &healthy, args).await?);
        }
    }
    let mut still_stuck = Vec::new();
    for amends in coordinators {
        still_stuck.push(Scrape::take(amends.target()).await?.sum(UNFINISHED));
        amends.stop().await?;
    }
    let mut report = summarize(&measured);
    report.note(format!(
        "amends: {} · {} fresh sagas/s · {} stuck sagas on each dead host · medians of {} rounds",
        binary.display(),
        number(args.rate),
        args.count,
        args.rounds
    ));
    for (name, left) in ["a closed port", "a silent host"]
        .iter()
        .zip(&still_stuck[1..])
    {
        report.criterion(Criterion::at_least(
            format!("{name}: sagas still stuck at the end, by {UNFINISHED}"),
            left.unwrap_or(f64::NAN),
            args.count as f64,
        ));
    }
    Ok(report)
}

async fn accept_and_say_nothing(listener: TcpListener) {
    let mut held = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        held.push(stream);
    }
}

async fn fresh(
    amends: &Coordinator,
    participants: &str,
    args: &StuckArgs,
) -> Result<Fresh, BenchError> {
    let plan = Plan {
        shape: Shape::Open {
            rate: args.rate,
            connections: 256,
        },
        submits: Protocol::Http,
        branches: Protocol::Http,
        warmup: Duration::from_millis(500),
        measured: Duration::from_secs_f64(args.seconds),
        wait_result: true,
    };
    let mut found = load::run(amends.target(), participants, plan, None).await?;
    match found.first_error {
        None => Ok(Fresh {
            p50: found.latencies.percentile_ms(50.0),
            p99: found.latencies.percentile_ms(99.0),
        }),
        Some(error) => Err(BenchError::Setup(format!(
            "a fresh saga to a healthy host went wrong: {error}"
        ))),
    }
}

/// A coordinator with stuck sagas is measurably slower when its median lies beyond everything that the free one
/// showed in any round, by more than a tenth.
fn summarize(measured: &[Vec<Fresh>]) -> Report {
    type Get = fn(&Fresh) -> f64;
    let values = |i: usize, get: Get| measured[i].iter().map(get).collect::<Vec<_>>();
    let mut report = Report::new(&["none stuck", "closed port", "silent host"]);
    let p50: Get = |fresh| fresh.p50;
    let p99: Get = |fresh| fresh.p99;
    for (what, get) in [("p50", p50), ("p99", p99)] {
        let medians: Vec<f64> = (0..3).map(|i| median(&values(i, get))).collect();
        let cells: Vec<String> = medians.iter().map(|ms| number(*ms)).collect();
        report.row(format!("fresh sagas: {what} ms"), &cells);
        report.value(&format!("{what}_ms"), medians.clone());
        let worst = values(0, get).into_iter().fold(0.0, f64::max);
        for (i, host) in [(1, "a closed port"), (2, "a silent host")] {
            report.criterion(Criterion::at_most(
                format!("{host}: {what} ms; 1.1 × the worst round with none stuck"),
                medians[i],
                worst * 1.1,
            ));
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slower_means_beyond_the_noise_of_the_free_one() {
        let rounds = |pairs: [(f64, f64); 3]| pairs.map(|(p50, p99)| Fresh { p50, p99 }).to_vec();
        let free = rounds([(1.0, 5.0), (1.2, 4.0), (0.9, 9.0)]);
        let same = rounds([(1.3, 9.5), (1.0, 5.0), (1.1, 4.0)]);
        let slow = rounds([(2.0, 30.0), (1.9, 40.0), (0.9, 5.0)]);
        let report = summarize(&[free, same, slow]);
        let value: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        let verdicts: Vec<_> = (0..4).map(|i| value["criteria"][i]["ok"].clone()).collect();
        assert_eq!(verdicts, [true, false, true, false]);
    }
}
