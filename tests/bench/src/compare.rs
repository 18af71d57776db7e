//! `run`: the coordinator beside the null coordinator and the disk, in one run, over HTTP and over gRPC. Machines here
//! are shared and noisy, so all are measured in turns, in several short rounds, and the medians are compared.

use crate::coordinator::{Coordinator, data_folder, find_binary};
use crate::disk::sync_times;
use crate::error::BenchError;
use crate::http::Target;
use crate::load::{self, Measured, Plan, Shape};
use crate::participants::Calls;
use crate::process::{Child, cpu_time};
use crate::report::{Criterion, Report, number};
use crate::stats::median;
use crate::submit::Protocol;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The coordinator's binary [default: `amends` beside this program, else in ../release, ../demo, ../debug]
    #[arg(long, value_name = "PATH")]
    amends: Option<PathBuf>,
    /// Folder in which the data folder is made, and whose disk is measured [default: beside this program]
    #[arg(long, value_name = "DIR")]
    data_in: Option<PathBuf>,
    /// Rounds; each measures both coordinators, with many in flight (HTTP, gRPC branches, all gRPC) and with one
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of one measurement
    #[arg(long, default_value_t = 3.0, value_parser = crate::seconds)]
    seconds: f64,
    /// Load before each measurement that is not counted
    #[arg(long, default_value_t = 1.0, value_parser = crate::seconds)]
    warmup: f64,
    /// Sagas in flight where throughput is measured
    #[arg(long, default_value_t = 64, value_parser = crate::count)]
    in_flight: usize,
}

/// What is sent in one measurement.
#[derive(Clone, Copy, Debug)]
struct Load {
    in_flight: usize,
    submits: Protocol,
    branches: Protocol,
}

/// The numbers of one measurement that the medians are taken of.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    cpu_us: f64,
    syncs: f64,
}

/// Both coordinators under the same load.
#[derive(Clone, Copy, Debug)]
struct Pair {
    null: Numbers,
    amends: Numbers,
}

impl Pair {
    /// The coordinator's value by the floor's.
    fn ratio(&self, get: Get) -> f64 {
        get(&self.amends) / get(&self.null)
    }
}

/// All measurements of one round, and the disk's sync time just before it.
#[derive(Clone, Copy, Debug)]
struct Round {
    sync_ms: [f64; 3],
    many: Pair,
    /// The same with gRPC branches.
    grpc: Pair,
    /// The same with submits over gRPC as well.
    all_grpc: Pair,
    one: Pair,
}

type Get = fn(&Numbers) -> f64;
type Pick = fn(&Round) -> &Pair;

/// What is shown of every pair.
const SHOWN: [(&str, Get); 5] = [
    ("sagas/s", |n| n.rate),
    ("p50 ms", |n| n.p50_ms),
    ("p99 ms", |n| n.p99_ms),
    ("p99.9 ms", |n| n.p999_ms),
    ("CPU µs per saga", |n| n.cpu_us),
];

/// Runs the comparison.
pub(crate) async fn run(args: &RunArgs) -> Result<Report, BenchError> {
    let binary = find_binary(args.amends.as_deref())?;
    let folder = data_folder(args.data_in.as_deref())?;
    let (_participants, participants_at) = Child::own("participants", &["participants"])?;
    let (null, null_at) = Child::own("null coordinator", &["null"])?;
    let null_target = Target::parse(&format!("http://{null_at}"))?.with_grpc(null_at);
    let amends = Coordinator::start(&binary, &folder.path().join("data")).await?;

    let mut problems = Vec::new();
    let mut errors = 0;
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        eprintln!("round {number} of {}", args.rounds);
        let mut sync = sync_times(folder.path(), 300, Duration::from_secs(2))?;
        let mut measure = async |name: &str, target: &Target, pid: u32, load: Load| {
            let plan = Plan {
                shape: Shape::Closed {
                    in_flight: load.in_flight,
                },
                submits: load.submits,
                branches: load.branches,
                warmup: Duration::from_secs_f64(args.warmup),
                measured: Duration::from_secs_f64(args.seconds),
                wait_result: true,
            };
            quiet(amends.pid()).await?;
            let found = load::run(target, &participants_at, plan, Some(pid)).await?;
            errors += found.errors;
            if let Some(error) = &found.first_error {
                problems.push(format!(
                    "{name}, {} in flight, {} submits, {} branches, round {number}: {} errors, first: {error}",
                    load.in_flight,
                    load.submits.name(),
                    load.branches.name(),
                    found.errors
                ));
            }
            Ok::<_, BenchError>(Numbers::of(found))
        };
        let (null_pid, amends_pid) = (null.pid(), amends.pid());
        let (many, one) = (args.in_flight, 1);
        let load = |in_flight, submits, branches| Load {
            in_flight,
            submits,
            branches,
        };
        let http = |in_flight| load(in_flight, Protocol::Http, Protocol::Http);
        let grpc = load(many, Protocol::Http, Protocol::Grpc);
        let all_grpc = load(many, Protocol::Grpc, Protocol::Grpc);
        // What is compared stands side by side.
        let null_all_grpc = measure("null", &null_target, null_pid, all_grpc).await?;
        let null_grpc = measure("null", &null_target, null_pid, grpc).await?;
        let null_many = measure("null", &null_target, null_pid, http(many)).await?;
        let amends_many = measure("amends", amends.target(), amends_pid, http(many)).await?;
        let amends_grpc = measure("amends", amends.target(), amends_pid, grpc).await?;
        let amends_all_grpc = measure("amends", amends.target(), amends_pid, all_grpc).await?;
        let null_one = measure("null", &null_target, null_pid, http(one)).await?;
        let amends_one = measure("amends", amends.target(), amends_pid, http(one)).await?;
        let pair = |null, amends| Pair { null, amends };
        rounds.push(Round {
            sync_ms: [50.0, 90.0, 99.0].map(|percent| sync.percentile_ms(percent)),
            many: pair(null_many, amends_many),
            grpc: pair(null_grpc, amends_grpc),
            all_grpc: pair(null_all_grpc, amends_all_grpc),
            one: pair(null_one, amends_one),
        });
    }
    let calls = Calls::of(&participants_at).await?;
    amends.stop().await?;

    let mut report = summarize(&rounds, args.in_flight);
    report.value("branch_calls", json!(calls));
    report.note(format!(
        "amends: {} · medians of {} rounds of {} s · two-step sagas, wait_result, embedded store",
        binary.display(),
        args.rounds,
        args.seconds
    ));
    if binary.components().any(|part| part.as_os_str() == "debug") {
        report.note("WARNING: this is a debug build of amends; its numbers mean nothing");
    }
    if errors > 0 {
        report.criterion(Criterion::at_most("errors", errors as f64, 0.0));
    }
    for problem in problems {
        report.note(format!("ERRORS: {problem}"));
    }
    Ok(report)
}

/// Waits until the coordinator rests, so that what its store tidies up after one measurement does not weigh on the
/// next one; not forever, for one that never rests is measured as it is.
async fn quiet(pid: u32) -> Result<(), BenchError> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let before = cpu_time(pid)?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let used = cpu_time(pid)?.saturating_sub(before);
        if used <= Duration::from_millis(10) || Instant::now() > deadline {
            return Ok(());
        }
    }
}

impl Numbers {
    fn of(mut found: Measured) -> Numbers {
        Numbers {
            rate: found.rate(),
            p50_ms: found.latencies.percentile_ms(50.0),
            p99_ms: found.latencies.percentile_ms(99.0),
            p999_ms: found.latencies.percentile_ms(99.9),
            cpu_us: found.cpu_us.unwrap_or(f64::NAN),
            syncs: found.syncs.unwrap_or(f64::NAN),
        }
    }
}

/// Medians over the rounds. Ratios and bounds are taken within a round, where both sides saw the same noise.
fn summarize(rounds: &[Round], in_flight: usize) -> Report {
    let middle = |get: &dyn Fn(&Round) -> f64| median(&rounds.iter().map(get).collect::<Vec<_>>());
    let mut report = Report::new(&["null", "amends", "amends/null"]);
    let many = format!("{in_flight} in flight");
    let grpc = format!("{many}, gRPC branches");
    let all_grpc = format!("{many}, all gRPC");
    let loads: [(&str, Pick); 4] = [
        (&many, |round| &round.many),
        (&grpc, |round| &round.grpc),
        (&all_grpc, |round| &round.all_grpc),
        ("1 in flight", |round| &round.one),
    ];
    let (mut table, mut by_http_table) = (Vec::new(), Vec::new());
    for (load, pick) in loads {
        for (what, get) in SHOWN {
            let floor = middle(&|round| get(&pick(round).null));
            let amends = middle(&|round| get(&pick(round).amends));
            let ratio = middle(&|round| pick(round).ratio(get));
            report.row(
                format!("{load}: {what}"),
                &[number(floor), number(amends), number(ratio)],
            );
            table.push(
                json!({ "load": load, "what": what, "null": floor, "amends": amends, "ratio": ratio }),
            );
        }
    }
    let none = || "–".to_owned();
    for (load, pick) in &loads[1..3] {
        for (what, get) in [SHOWN[0], SHOWN[4]] {
            let by_http = |side: fn(&Pair) -> &Numbers| {
                middle(&|round| get(side(pick(round))) / get(side(&round.many)))
            };
            let (floor, amends) = (by_http(|pair| &pair.null), by_http(|pair| &pair.amends));
            report.row(
                format!("{load}: {what}, by HTTP's"),
                &[number(floor), number(amends), none()],
            );
            by_http_table
                .push(json!({ "load": load, "what": what, "null": floor, "amends": amends }));
        }
    }
    let syncs_many = middle(&|round| round.many.amends.syncs);
    let syncs_one = middle(&|round| round.one.amends.syncs);
    report.row(
        format!("{many}: syncs per saga"),
        &[none(), number(syncs_many), none()],
    );
    report.row(
        "1 in flight: syncs per saga",
        &[none(), number(syncs_one), none()],
    );
    let sync_ms = [0, 1, 2].map(|i| middle(&|round| round.sync_ms[i]));
    report.note(format!(
        "disk: 4 KiB append and fdatasync, p50 {} ms, p90 {} ms, p99 {} ms",
        number(sync_ms[0]),
        number(sync_ms[1]),
        number(sync_ms[2])
    ));

    let ceiling = in_flight as f64 / (2.0 * sync_ms[0] / 1e3);
    report.note(format!(
        "a saga waits for two syncs, so this disk alone allows at most {} sagas/s with {in_flight} in flight",
        number(ceiling)
    ));

    report.criterion(Criterion::at_least(
        format!("{many}: sagas/s, share of null's"),
        middle(&|round| round.many.ratio(|n| n.rate)),
        0.55,
    ));
    report.criterion(Criterion::at_most(
        format!("{many}: CPU per saga, times null's"),
        middle(&|round| round.many.ratio(|n| n.cpu_us)),
        2.0,
    ));
    report.criterion(Criterion::at_most(
        format!("{many}: syncs per saga; max(0.3, 1.2 / (sync time × rate))"),
        syncs_many,
        middle(&|round| syncs_bound(round.sync_ms[0], round.many.amends.rate)),
    ));
    report.criterion(Criterion::at_most(
        "1 in flight: p50 ms; null's + 3 syncs + 0.5 ms",
        middle(&|round| round.one.amends.p50_ms),
        middle(&|round| round.one.null.p50_ms + 3.0 * round.sync_ms[0] + 0.5),
    ));
    report.criterion(Criterion::at_least(
        format!("{many}: sagas/s with gRPC branches, share of those with HTTP"),
        middle(&|round| round.grpc.amends.rate / round.many.amends.rate),
        0.75,
    ));
    report.value("in_flight", in_flight);
    report.value("ceiling_of_two_syncs", ceiling);
    report.value("table", table);
    report.value("by_http", by_http_table);
    report.value(
        "sync_ms",
        json!({ "p50": sync_ms[0], "p90": sync_ms[1], "p99": sync_ms[2] }),
    );
    report.value(
        "syncs_per_saga",
        json!({ "many": syncs_many, "one": syncs_one }),
    );
    report
}

/// The most syncs per saga that a store which gathers as it should needs: one sync after the other, all the time, or
/// 0.3 where syncs are so fast that gathering buys nothing.
fn syncs_bound(sync_ms: f64, rate: f64) -> f64 {
    (1.2 / (sync_ms / 1e3 * rate)).max(0.3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(null_rate: f64, amends_rate: f64) -> Round {
        let numbers = |rate: f64, p50_ms: f64, cpu_us: f64, syncs: f64| Numbers {
            rate,
            p50_ms,
            p99_ms: p50_ms * 2.0,
            p999_ms: p50_ms * 3.0,
            cpu_us,
            syncs,
        };
        Round {
            sync_ms: [0.1, 0.2, 0.3],
            many: Pair {
                null: numbers(null_rate, 4.0, 70.0, f64::NAN),
                amends: numbers(amends_rate, 6.0, 126.0, 0.4),
            },
            grpc: Pair {
                null: numbers(null_rate * 0.9, 5.0, 77.0, f64::NAN),
                amends: numbers(amends_rate * 0.8, 8.0, 189.0, 0.4),
            },
            all_grpc: Pair {
                null: numbers(null_rate * 0.8, 5.0, 70.0, f64::NAN),
                amends: numbers(amends_rate * 0.7, 8.0, 252.0, 0.4),
            },
            one: Pair {
                null: numbers(4000.0, 0.2, 70.0, f64::NAN),
                amends: numbers(1000.0, 1.1, 130.0, 2.0),
            },
        }
    }

    #[test]
    fn the_criteria_are_judged_on_medians_of_ratios() {
        // The machine was half as fast in the second round and busy with something else in the third.
        let rounds = [
            round(10_000.0, 6_000.0),
            round(5_000.0, 3_000.0),
            round(10_000.0, 1_000.0),
        ];
        let report = summarize(&rounds, 64);
        let value: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        let found: Vec<_> = (0..5).map(|i| value["criteria"][i].clone()).collect();
        assert!((found[0]["measured"].as_f64().unwrap() - 0.6).abs() < 1e-9);
        assert_eq!(found[0]["ok"], true);
        assert!((found[1]["measured"].as_f64().unwrap() - 1.8).abs() < 1e-9);
        assert_eq!(found[1]["ok"], true);
        assert!((found[2]["at_most"].as_f64().unwrap() - 4.0).abs() < 1e-9);
        assert_eq!(found[2]["ok"], true);
        assert!((found[3]["at_most"].as_f64().unwrap() - 1.0).abs() < 1e-9);
        assert_eq!(found[3]["ok"], false);
        assert!((found[4]["measured"].as_f64().unwrap() - 0.8).abs() < 1e-9);
        assert_eq!(found[4]["at_least"], 0.75);
        assert_eq!(found[4]["ok"], true);
        assert!(!report.all_hold());
        let by_http = |row: usize, side: &str| value["by_http"][row][side].as_f64().unwrap();
        assert!((by_http(1, "null") - 1.1).abs() < 1e-9);
        assert!((by_http(1, "amends") - 1.5).abs() < 1e-9);
        assert!((by_http(2, "amends") - 0.7).abs() < 1e-9);
        let text = report.to_text();
        assert!(text.contains("64 in flight: sagas/s"), "{text}");
        assert!(
            text.contains("64 in flight, gRPC branches: p99 ms"),
            "{text}"
        );
        assert!(text.contains("NOT met"), "{text}");
    }

    #[test]
    fn the_bound_on_syncs_has_a_floor() {
        assert_eq!(syncs_bound(1.0, 8000.0), 0.3);
        assert!((syncs_bound(0.1, 8000.0) - 1.5).abs() < 1e-9);
    }
}
