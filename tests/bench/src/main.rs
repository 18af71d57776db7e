//! Measures a coordinator beside the floor of the machine: see `amends-bench --help`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod barrier;
mod compare;
mod coordinator;
mod disk;
mod error;
mod finished;
mod grpc;
mod http;
mod load;
mod message;
mod metrics;
mod null;
mod pace;
mod participants;
mod process;
mod report;
mod scale;
mod single;
mod stats;
mod stuck;
mod submit;

use clap::{Parser, Subcommand};
use error::BenchError;
use report::Report;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use tokio::net::TcpListener;

/// The same as the coordinator's, or the null coordinator would not be a floor.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
use tokio::signal::unix::{SignalKind, signal};

/// Load driver, null coordinator and scale checks for Amends and every DTM-compatible coordinator
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 measured, 1 could not be measured or (with --strict) a criterion is missed, 2 usage.\n\n\
        Examples:\n  amends-bench                              everything, with ratios and criteria\n  \
        amends-bench run --rounds 7 --strict       the same with more rounds, for scripts\n  \
        amends-bench load --target http://127.0.0.1:36789 --in-flight 64\n  \
        amends-bench load --target http://127.0.0.1:36789 --rate 500\n  \
        amends-bench load --target http://127.0.0.1:36789 --grpc       branches over gRPC\n  \
        amends-bench sync --data-in .              what one fdatasync costs"
)]
struct Cli {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    run: compare::RunArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

/// How results are told.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Output {
    /// Prints JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// Exits with 1 if a criterion is missed
    #[arg(long, global = true)]
    strict: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Amends, the null coordinator and the disk in one run, over HTTP and over gRPC (the default)
    Run(compare::RunArgs),
    /// Loads a coordinator at an address
    Load(single::LoadArgs),
    /// The disk's sync time
    Sync(single::SyncArgs),
    /// Many unfinished transactions that are due later: restart, idle CPU, memory
    DueLater(scale::DueLaterArgs),
    /// Throughput with many finished transactions retained, against an empty store
    Retained(scale::RetainedArgs),
    /// Latency beside transactions that are stuck on a dead host
    Stuck(stuck::StuckArgs),
    /// What a barrier of the Rust crate costs beside its statements
    Barrier(barrier::BarrierArgs),
    /// Serves the null coordinator, over HTTP and over gRPC on one port
    Null(NullArgs),
    /// Serves participants that say yes to everything, over HTTP and over gRPC on one port
    Participants(ServerArgs),
    /// Becomes another program that ends when its parent does
    #[command(hide = true)]
    Child {
        /// Process id of the parent
        parent: i32,
        /// Program and arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        program: Vec<OsString>,
    },
}

/// Options of the servers.
#[derive(Debug, clap::Args)]
struct ServerArgs {
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Worker threads [default: null: one per core, participants: 1]
    #[arg(long, value_parser = crate::count)]
    threads: Option<usize>,
}

/// Options of `null`.
#[derive(Debug, clap::Args)]
struct NullArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// A second port on 127.0.0.1, as a coordinator has one for gRPC
    #[arg(long)]
    grpc_port: Option<u16>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = cli.output;
    let outcome = match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(args) => print(output, compare::run(&args)),
        Command::Load(args) => print(output, single::load(&args)),
        Command::Sync(args) => print(output, single::sync(&args)),
        Command::DueLater(args) => print(output, scale::due_later(&args)),
        Command::Retained(args) => print(output, scale::retained(&args)),
        Command::Stuck(args) => print(output, stuck::run(&args)),
        Command::Barrier(args) => print(output, barrier::run(&args)),
        Command::Null(args) => serve(&args.server, cores(), async |listener| {
            match args.grpc_port {
                None => null::run(listener).await,
                Some(port) => {
                    let second = http::listen(port).await?;
                    tokio::try_join!(null::run(listener), null::run(second)).map(drop)
                }
            }
        }),
        Command::Participants(args) => serve(&args, 1, participants::run),
        Command::Child { parent, program } => {
            Err(process::become_child(parent, &program[0], &program[1..]))
        }
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("amends-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints. One thread is enough for the load and leaves the other cores to the servers.
fn print(
    output: Output,
    measure: impl Future<Output = Result<Report, BenchError>>,
) -> Result<ExitCode, BenchError> {
    let report = runtime(1)?.block_on(interruptible(measure))?;
    let text = if output.json {
        report.to_json() + "\n"
    } else {
        report.to_text()
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(BenchError::io("printing the report"))?;
    let missed = output.strict && !report.all_hold();
    Ok(if missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Serves until a signal comes.
fn serve(
    args: &ServerArgs,
    threads: usize,
    server: impl AsyncFnOnce(TcpListener) -> Result<(), BenchError>,
) -> Result<ExitCode, BenchError> {
    let serving = async {
        let listener = http::listen(args.port).await?;
        let address = listener
            .local_addr()
            .map_err(BenchError::io("reading the listener's address"))?;
        println!("listening on http://{address}");
        server(listener).await
    };
    match runtime(args.threads.unwrap_or(threads))?.block_on(interruptible(serving)) {
        Ok(()) | Err(BenchError::Interrupted) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

/// Runs `work` until it is done or a signal asks to stop; children end with the dropped work.
async fn interruptible<T>(
    work: impl Future<Output = Result<T, BenchError>>,
) -> Result<T, BenchError> {
    let mut terminate =
        signal(SignalKind::terminate()).map_err(BenchError::io("listening for SIGTERM"))?;
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(BenchError::Interrupted),
        _ = terminate.recv() => Err(BenchError::Interrupted),
    }
}

fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, BenchError> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(BenchError::io("starting the runtime"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// A length of time in seconds, for clap.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=86_400.0).contains(&value) => Ok(value),
        _ => Err("a number of seconds from 0 to 86400".to_owned()),
    }
}

/// A number of at least one, for clap.
fn count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(value) if value > 0 => Ok(value),
        _ => Err("a whole number of at least 1".to_owned()),
    }
}
