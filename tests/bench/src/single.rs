//! `load` and `sync`: one measurement of a coordinator that runs already, and of a disk.

use crate::disk::sync_times;
use crate::error::BenchError;
use crate::http::Target;
use crate::load::{self, CountedBy, Plan, Shape};
use crate::process::Child;
use crate::report::{Report, number};
use crate::submit::Protocol;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Options of `load`.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// Address of the coordinator, as http://host:port
    #[arg(long, value_name = "URL")]
    target: String,
    /// host:port of the participants [default: starts its own]
    #[arg(long, value_name = "HOST:PORT")]
    participants: Option<String>,
    /// Submits over gRPC to this address; the metrics are read at --target all the same
    #[arg(long, value_name = "HOST:PORT")]
    grpc_target: Option<String>,
    /// Branches are called over gRPC
    #[arg(long)]
    grpc: bool,
    /// Closed loop: sagas in flight
    #[arg(long, default_value_t = 64, value_parser = crate::count)]
    in_flight: usize,
    /// Open loop: sagas per second, timed from when each was meant to be sent
    #[arg(long, value_name = "PER_SECOND", value_parser = rate, conflicts_with = "in_flight")]
    rate: Option<f64>,
    /// Open loop: connections at most
    #[arg(long, default_value_t = 1024, value_parser = crate::count, requires = "rate")]
    connections: usize,
    /// Submits without wait_result; ended sagas are then counted by the coordinator's metrics, else by asking for some
    #[arg(long)]
    no_wait_result: bool,
    /// Length of the measurement
    #[arg(long, default_value_t = 10.0, value_parser = crate::seconds)]
    seconds: f64,
    /// Load before it that is not counted
    #[arg(long, default_value_t = 2.0, value_parser = crate::seconds)]
    warmup: f64,
    /// The coordinator's process id, if it runs on this machine, for its CPU time
    #[arg(long)]
    pid: Option<u32>,
}

/// Options of `sync`.
#[derive(Debug, clap::Args)]
pub(crate) struct SyncArgs {
    /// Folder on the disk to measure
    #[arg(long, value_name = "DIR", default_value = ".")]
    data_in: PathBuf,
    /// Syncs
    #[arg(long, default_value_t = 1000, value_parser = crate::count)]
    count: usize,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.strip_suffix("/s").unwrap_or(text).parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e6 => Ok(rate),
        _ => Err("a number of sagas per second, up to a million".to_owned()),
    }
}

/// One measurement of the coordinator at an address.
pub(crate) async fn load(args: &LoadArgs) -> Result<Report, BenchError> {
    let mut target = Target::parse(&args.target)?;
    let mut submits = Protocol::Http;
    if let Some(address) = &args.grpc_target {
        target = target.with_grpc(address);
        submits = Protocol::Grpc;
    }
    let (_own, participants) = match &args.participants {
        Some(address) => (None, address.clone()),
        None => {
            let (child, address) = Child::own("participants", &["participants"])?;
            (Some(child), address)
        }
    };
    let (shape, shape_text) = match args.rate {
        Some(rate) => (
            Shape::Open {
                rate,
                connections: args.connections,
            },
            format!("open loop, {} sagas/s", number(rate)),
        ),
        None => (
            Shape::Closed {
                in_flight: args.in_flight,
            },
            format!("closed loop, {} in flight", args.in_flight),
        ),
    };
    let plan = Plan {
        shape,
        submits,
        branches: if args.grpc {
            Protocol::Grpc
        } else {
            Protocol::Http
        },
        warmup: Duration::from_secs_f64(args.warmup),
        measured: Duration::from_secs_f64(args.seconds),
        wait_result: !args.no_wait_result,
    };
    let mut found = load::run(&target, &participants, plan, args.pid).await?;

    let counted = match found.counted_by {
        CountedBy::Answers => "by the answers (wait_result)",
        CountedBy::Metrics => "by the coordinator's metrics",
        CountedBy::Queries => "by asking for a sample until all had ended, warm-up included",
    };
    let mut report = Report::new(&["value"]);
    report.note(format!(
        "{shape_text}, {} s, submits over {}, branches over {}, ended sagas counted {counted}",
        args.seconds,
        submits.name(),
        plan.branches.name()
    ));
    if let Some(error) = &found.first_error {
        report.note(format!("ERRORS: {}, first: {error}", found.errors));
    }
    let what = if plan.wait_result {
        "to the end"
    } else {
        "to the acknowledgement"
    };
    let rows = [
        ("finished sagas/s".to_owned(), "rate", Some(found.rate())),
        ("errors".to_owned(), "errors", Some(found.errors as f64)),
        (
            format!("p50 ms {what}"),
            "p50_ms",
            Some(found.latencies.percentile_ms(50.0)),
        ),
        (
            format!("p99 ms {what}"),
            "p99_ms",
            Some(found.latencies.percentile_ms(99.0)),
        ),
        (
            format!("p99.9 ms {what}"),
            "p999_ms",
            Some(found.latencies.percentile_ms(99.9)),
        ),
        ("CPU µs per saga".to_owned(), "cpu_us", found.cpu_us),
        ("syncs per saga".to_owned(), "syncs", found.syncs),
    ];
    for (name, key, value) in rows {
        report.row(name, &[number(value.unwrap_or(f64::NAN))]);
        report.value(key, json!(value));
    }
    Ok(report)
}

/// The sync time of a disk.
pub(crate) async fn sync(args: &SyncArgs) -> Result<Report, BenchError> {
    let mut times = sync_times(&args.data_in, args.count, Duration::from_secs(60))?;
    let mut report = Report::new(&["ms"]);
    report.note(format!(
        "{} appends of 4 KiB in {}, each with fdatasync",
        times.len(),
        args.data_in.display()
    ));
    for (name, percent) in [("p50", 50.0), ("p90", 90.0), ("p99", 99.0)] {
        let ms = times.percentile_ms(percent);
        report.row(name, &[number(ms)]);
        report.value(&format!("{name}_ms"), ms);
    }
    Ok(report)
}
