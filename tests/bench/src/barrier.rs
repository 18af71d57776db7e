//! What a barrier costs beside its statements: plan and machine, on a host that answers at once.

use crate::error::BenchError;
use crate::report::{Criterion, Report, number};
use crate::stats::median;
use amends::Error;
use amends::machine::{Fact, Machine, Output, Step, StepKind};
use amends::participant::{
    BarrierResult, BarrierRun, Dialect, Identity, Mode, ParamStyle, Place, Table,
};
use bytes::Bytes;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Runs between two looks at the clock.
const BATCH: u64 = 1_000;

/// Options of `barrier`.
#[derive(Debug, clap::Args)]
pub(crate) struct BarrierArgs {
    /// Rounds; the median counts
    #[arg(long, default_value_t = 5, value_parser = crate::count)]
    rounds: usize,
    /// Length of a round at most; one has a million runs at most
    #[arg(long, default_value_t = 1.0, value_parser = crate::seconds)]
    seconds: f64,
    /// Microseconds that a run may cost
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 2.0)]
    at_most: f64,
}

/// The others have met no database yet.
const TESTED: [Dialect; 3] = [Dialect::MySql, Dialect::Postgres, Dialect::Sqlite];

/// What is measured.
#[derive(Clone, Debug)]
struct Kind {
    dialect: Dialect,
    table: Table,
    op: &'static str,
}

/// An action and a compensation on each dialect that was tested, in turns.
pub(crate) async fn run(args: &BarrierArgs) -> Result<Report, BenchError> {
    let limit = Duration::from_secs_f64(args.seconds);
    let kinds: Vec<Kind> = TESTED
        .into_iter()
        .flat_map(|dialect| {
            ["action", "compensate"].map(|op| Kind {
                dialect,
                table: dialect.default_table(),
                op,
            })
        })
        .collect();
    let mut times = vec![Vec::new(); kinds.len()];
    for _ in 0..args.rounds {
        for (kind, times) in kinds.iter().zip(&mut times) {
            times.push(round(kind, limit)?);
            // So that a signal is heard.
            tokio::task::yield_now().await;
        }
    }

    let mut report = Report::new(&["median µs", "least", "most"]);
    report.note(format!(
        "a barrier's own work beside the statements, {} rounds",
        args.rounds
    ));
    let mut slowest = 0.0_f64;
    for (kind, times) in kinds.iter().zip(&times) {
        let middle = median(times);
        let least = times.iter().copied().fold(f64::INFINITY, f64::min);
        let most = times.iter().copied().fold(0.0, f64::max);
        slowest = slowest.max(middle);
        let name = format!("{} on {}", kind.op, kind.dialect);
        report.value(&format!("{name}, µs"), middle);
        report.row(name, &[middle, least, most].map(number));
    }
    report.value("rounds", args.rounds);
    report.criterion(Criterion::at_most(
        "slowest median, µs a run",
        slowest,
        args.at_most,
    ));
    Ok(report)
}

/// Microseconds a run.
fn round(kind: &Kind, limit: Duration) -> Result<f64, BenchError> {
    const RUNS_MAX: u64 = 1_000_000;
    let started = Instant::now();
    let mut runs = 0;
    loop {
        for _ in 0..BATCH {
            let done = once(kind).map_err(|e| BenchError::Refused(e.to_string()))?;
            if done.barrier != Some(BarrierResult::Executed) {
                let Kind { op, dialect, .. } = kind;
                let told = format!("{op} on {dialect} did not reach the user's code: {done:?}");
                return Err(BenchError::Refused(told));
            }
        }
        runs += BATCH;
        let elapsed = started.elapsed();
        if runs >= RUNS_MAX || elapsed >= limit {
            return Ok(elapsed.as_secs_f64() * 1e6 / runs as f64);
        }
    }
}

/// A whole branch call, as an adapter makes it. The compensation finds its action's row, and leaves its own.
fn once(kind: &Kind) -> Result<Output, Error> {
    let place = Place {
        dialect: kind.dialect,
        table: kind.table.clone(),
        style: ParamStyle::Question,
    };
    let who = Identity::new("saga", black_box("a-gid-as-long-as-most"), "01", kind.op)?;
    let mut machine = BarrierRun::new(place, who, "01", Mode::Managed, 7)?;
    let mut found = kind.op == "compensate";
    while let Some(Step { id, kind: step }) = machine.poll() {
        let fact = match black_box(step) {
            StepKind::Exec(_) if found => {
                found = false;
                Fact::Affected(0)
            }
            StepKind::Exec(_) => Fact::Affected(1),
            StepKind::Query(_) => Fact::Text(Some(kind.op.to_owned())),
            StepKind::RunUser(_) => Fact::UserOk(Bytes::new()),
            StepKind::Done(result) => return black_box(result),
            _ => Fact::Done,
        };
        machine.resolve(id, fact)?;
    }
    unreachable!("a machine has an end");
}
