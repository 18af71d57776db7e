//! `due-later` and `retained`: a coordinator that holds many transactions.

use crate::coordinator::{Coordinator, data_folder, find_binary};
use crate::error::BenchError;
use crate::load::{self, Plan, Shape};
use crate::metrics::{Scrape, UNFINISHED};
use crate::process::{Child, cpu_time, resident_mib};
use crate::report::{Criterion, Report, number};
use crate::stats::median;
use crate::submit::{Protocol, Template};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Delay of the messages that are due later: farther away than any measurement.
const DELAY_SECONDS: u64 = 10 * 86_400;
/// How long the idle coordinator is watched.
const IDLE: Duration = Duration::from_secs(10);

/// Where the coordinator is and where its data goes.
#[derive(Debug, clap::Args)]
pub(crate) struct PlaceArgs {
    /// The coordinator's binary [default: `amends` beside this program, else in ../release, ../demo, ../debug]
    #[arg(long, value_name = "PATH")]
    pub(crate) amends: Option<PathBuf>,
    /// Folder in which data folders are made [default: beside this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_in: Option<PathBuf>,
}

/// Options of `due-later`.
#[derive(Debug, clap::Args)]
pub(crate) struct DueLaterArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Unfinished transactions
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// Submits in flight while they are made
    #[arg(long, default_value_t = 256, value_parser = crate::count)]
    in_flight: usize,
    /// Time after the restart in which the store may still tidy up, before idle CPU is measured
    #[arg(long, default_value_t = 5.0, value_parser = crate::seconds)]
    settle: f64,
    /// Ends the coordinator with SIGKILL instead of SIGTERM before the restart
    #[arg(long)]
    kill: bool,
}

/// Makes unfinished transactions, restarts, and watches the coordinator do nothing.
pub(crate) async fn due_later(args: &DueLaterArgs) -> Result<Report, BenchError> {
    let binary = find_binary(args.place.amends.as_deref())?;
    let folder = data_folder(args.place.data_in.as_deref())?;
    let data = folder.path().join("data");
    let amends = Coordinator::start(&binary, &data).await?;
    let template = Template::delayed_message("127.0.0.1:1", DELAY_SECONDS);
    let filling = load::fill(amends.target(), template, args.count, args.in_flight).await?;
    let filled_mib = resident_mib(amends.pid())?;
    let stopping = Instant::now();
    if args.kill {
        drop(amends);
    } else {
        amends.stop().await?;
    }
    let stopped = stopping.elapsed();

    let amends = Coordinator::start(&binary, &data).await?;
    let ready = amends.ready_after();
    let unfinished = Scrape::take(amends.target()).await?.sum(UNFINISHED);
    let ready_mib = resident_mib(amends.pid())?;
    tokio::time::sleep(Duration::from_secs_f64(args.settle)).await;
    let cpu_before = cpu_time(amends.pid())?;
    let settle_cpu = cpu_before.as_secs_f64();
    let watched = Instant::now();
    tokio::time::sleep(IDLE).await;
    let cpu = cpu_time(amends.pid())?.saturating_sub(cpu_before);
    let idle_percent = cpu.as_secs_f64() / watched.elapsed().as_secs_f64() * 100.0;
    let idle_mib = resident_mib(amends.pid())?;
    amends.stop().await?;

    let mut report = Report::new(&["value"]);
    report.note(format!(
        "amends: {} · {} messages, each due in 10 days",
        binary.display(),
        number(args.count as f64)
    ));
    let rate = args.count as f64 / filling.as_secs_f64();
    let rows = [
        ("submits/s while filling", "fill_rate", rate),
        ("RSS MiB before the restart", "filled_mib", filled_mib),
        ("stop s", "stop_seconds", stopped.as_secs_f64()),
        (
            "ready s after the start",
            "ready_seconds",
            ready.as_secs_f64(),
        ),
        ("RSS MiB when ready", "ready_mib", ready_mib),
        (
            "CPU s of start and settling",
            "settle_cpu_seconds",
            settle_cpu,
        ),
        (
            "idle CPU % over 10 s after it",
            "idle_percent",
            idle_percent,
        ),
        ("RSS MiB at the end", "idle_mib", idle_mib),
    ];
    for (name, key, value) in rows {
        report.row(name, &[number(value)]);
        report.value(key, value);
    }
    report.value("count", args.count);
    report.criterion(Criterion::at_most(
        "restart: ready s",
        ready.as_secs_f64(),
        10.0,
    ));
    report.criterion(Criterion::at_most(
        "idle CPU % of one core",
        idle_percent,
        1.0,
    ));
    report.criterion(Criterion::at_most(
        "RSS MiB",
        ready_mib.max(idle_mib),
        2048.0,
    ));
    report.criterion(Criterion::at_least(
        format!("unfinished after the restart, by {UNFINISHED}"),
        unfinished.unwrap_or(f64::NAN),
        args.count as f64,
    ));
    Ok(report)
}

/// Options of `retained`.
#[derive(Debug, clap::Args)]
pub(crate) struct RetainedArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Finished transactions that are retained
    #[arg(long, default_value_t = 300_000)]
    count: u64,
    /// Sagas in flight
    #[arg(long, default_value_t = 64, value_parser = crate::count)]
    in_flight: usize,
    /// Rounds; each measures both, with a fresh empty store
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of one measurement
    #[arg(long, default_value_t = 4.0, value_parser = crate::seconds)]
    seconds: f64,
}

/// Throughput of an empty store and of one that retains finished transactions, in turns.
pub(crate) async fn retained(args: &RetainedArgs) -> Result<Report, BenchError> {
    let binary = find_binary(args.place.amends.as_deref())?;
    let folder = data_folder(args.place.data_in.as_deref())?;
    let (_participants, at) = Child::own("participants", &["participants"])?;
    let full = Coordinator::start(&binary, &folder.path().join("full")).await?;
    let template = Template::saga(Protocol::Http, Protocol::Http, &at, true);
    load::fill(full.target(), template, args.count, args.in_flight).await?;

    let mut rates = Vec::new();
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        let data = folder.path().join(format!("empty-{round}"));
        let empty_rate = empty_rate(&binary, &data, &at, args).await?;
        let full_rate = rate(&full, &at, args).await?;
        rates.push((empty_rate, full_rate));
    }
    full.stop().await?;

    let middle = |get: fn(&(f64, f64)) -> f64| median(&rates.iter().map(get).collect::<Vec<_>>());
    let (empty, full) = (middle(|r| r.0), middle(|r| r.1));
    let mut report = Report::new(&["empty", "retained"]);
    report.note(format!(
        "amends: {} · {} finished transactions retained · medians of {} rounds",
        binary.display(),
        number(args.count as f64),
        args.rounds
    ));
    report.row(
        format!("{} in flight: sagas/s", args.in_flight),
        &[number(empty), number(full)],
    );
    report.value("empty_rate", empty);
    report.value("retained_rate", full);
    report.value("count", args.count);
    report.criterion(Criterion::at_least(
        "share of the empty store's sagas/s",
        middle(|r| r.1 / r.0),
        0.85,
    ));
    Ok(report)
}

async fn empty_rate(
    binary: &Path,
    data: &Path,
    participants: &str,
    args: &RetainedArgs,
) -> Result<f64, BenchError> {
    let empty = Coordinator::start(binary, data).await?;
    let found = rate(&empty, participants, args).await?;
    empty.stop().await?;
    Ok(found)
}

async fn rate(
    amends: &Coordinator,
    participants: &str,
    args: &RetainedArgs,
) -> Result<f64, BenchError> {
    let plan = Plan {
        shape: Shape::Closed {
            in_flight: args.in_flight,
        },
        submits: Protocol::Http,
        branches: Protocol::Http,
        warmup: Duration::from_secs(1),
        measured: Duration::from_secs_f64(args.seconds),
        wait_result: true,
    };
    let found = load::run(amends.target(), participants, plan, Some(amends.pid())).await?;
    match found.first_error {
        None => Ok(found.rate()),
        Some(error) => Err(BenchError::Setup(format!(
            "{} errors, first: {error}",
            found.errors
        ))),
    }
}
