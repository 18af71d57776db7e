//! Replays seeds of the simulation and runs it for long: `cargo run -p amends-simulation -- --seed N --trace`.

use amends::TransType;
use amends_simulation::{run, run_many};
use clap::Parser;
use std::process::ExitCode;

/// Deterministic simulation of Amends' coordinator under faults.
#[derive(Parser)]
struct Args {
    /// Run this one seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Print everything that happens (with --seed).
    #[arg(long)]
    trace: bool,
    /// Run this many seeds.
    #[arg(long, default_value_t = 100_000)]
    runs: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Only this mode: saga, msg, tcc, xa or workflow.
    #[arg(long)]
    mode: Option<String>,
    /// Stop at so many failures.
    #[arg(long, default_value_t = 1)]
    failures: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let only = args.mode.as_deref().and_then(TransType::parse);
    if let Some(seed) = args.seed {
        let report = run(seed, only, None, args.trace);
        println!(
            "seed {seed}: {} events, {} steps, {} crashes",
            report.events, report.steps, report.crashes
        );
        return match report.violation {
            Some(what) => {
                println!("BROKEN: {what}");
                ExitCode::FAILURE
            }
            None => ExitCode::SUCCESS,
        };
    }
    let total = run_many(
        args.first,
        args.runs,
        only,
        None,
        args.threads,
        args.failures,
    );
    println!(
        "{} runs, {} events, {} steps, {} crashes, {} failures",
        total.runs,
        total.events,
        total.steps,
        total.crashes,
        total.failures.len()
    );
    let mode = args
        .mode
        .map(|m| format!(" --mode {m}"))
        .unwrap_or_default();
    for (seed, what) in &total.failures {
        println!(
            "seed {seed}: {what}\n  replay: cargo run -p amends-simulation --{mode} --seed {seed} --trace"
        );
    }
    if total.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
