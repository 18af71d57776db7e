//! `amends serve`: the server as a process.

use super::settings::Settings;
use super::{EXIT_CODES, Exit, Failure};
use crate::config::{ClockKind, Config, Environment, StoreKind};
use crate::coordinator::{Coordinator, StartError};
use crate::telemetry::{self, TelemetryError};
use std::num::NonZero;
use std::path::PathBuf;
use tokio::signal::unix::{Signal, SignalKind, signal};

const HELP: &str = "\
Examples:
  amends serve
  amends serve --data /var/lib/amends --http-port 8080
  amends serve -c amends.toml -d
  AMENDS_OPERATOR_TOKEN=... amends serve --listen 0.0.0.0
  amends serve --store memory --http-port 0 --grpc-port 0     for tests; the log says which ports
  amends serve --store memory --clock manual                  for tests; due times come when they are told to:
    curl -d '{\"seconds\":20}' localhost:36789/api/amends/clock/advance

Settings: defaults < file < environment < flags; `amends config` shows the result. Every key of the
file is also an environment variable (http_port is AMENDS_HTTP_PORT); DTM's names work too.
AMENDS_LOG takes a finer log filter, such as amends_server=debug,info.

SIGINT or SIGTERM: stops accepting, lets calls end, exits with 0. A second one: exits at once with 1.";

/// Start a server
#[derive(clap::Args)]
#[command(after_long_help = format!("{HELP}\n\n{EXIT_CODES}"))]
pub(super) struct Serve {
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    /// What `dtm -c FILE` means.
    pub(super) fn of_file(file: Option<PathBuf>, debug: bool) -> Serve {
        Serve {
            settings: Settings::of_file(file, debug),
        }
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let environment = Environment::of_process();
        let usage = |error: String| Failure::new(Exit::Usage, error);
        let filter = environment
            .get("AMENDS_LOG")
            .map_err(|error| usage(error.to_string()))?;
        let filter = filter.map(str::to_owned);
        let loaded = self.settings.load(environment)?;
        let config = loaded.config;
        match telemetry::init(config.log_level, config.log_format, filter.as_deref()) {
            // A program that carries this command line may have its own subscriber.
            Ok(()) | Err(TelemetryError::Taken) => {}
            Err(error) => return Err(usage(error.to_string())),
        }
        for note in &loaded.notes {
            tracing::warn!("configuration: {note}");
        }
        if config.open_to_the_network() {
            tracing::warn!(
                listen = %config.listen,
                "everybody who reaches this address can stop transactions and delete topics: set operator_token"
            );
        }
        without_huge_pages();
        with_all_descriptors();
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, error.to_string());
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.enable_all();
        let threads = match config.worker_threads {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            threads => threads,
        };
        // A second worker on two cores costs more in wake-ups than it does.
        runtime.worker_threads(threads.saturating_sub(1).max(1));
        let runtime = runtime.build().map_err(failed)?;
        let ended = runtime.block_on(serve(config, threads));
        // What still runs here was told to stop and had its time.
        runtime.shutdown_background();
        ended
    }
}

/// Payloads come and go: as huge pages their memory would be zeroed again and again (5 to 10 % of the coordinator's time was spent on it),
/// and be given back late. Where the system refuses, it is only slower.
fn without_huge_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Connections, calls and the tables of the store take a descriptor each: many systems start with 1,024 of them, and allow far more to who
/// asks. A store that cannot open a table must end.
fn with_all_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::debug!(%error, "the number of descriptors stays as it is");
    }
}

async fn serve(config: Config, threads: usize) -> Result<(), Failure> {
    let failed = |error: String| Failure::new(Exit::Failed, error);
    let mut signals = Signals::new().map_err(|error| failed(error.to_string()))?;
    let data = match config.store {
        StoreKind::Embedded => config.data.display().to_string(),
        StoreKind::Memory => "in memory: gone when this process ends".to_owned(),
    };
    if config.clock == ClockKind::Manual {
        tracing::warn!(
            "for tests: the clock stands still until POST /api/amends/clock/advance moves it"
        );
    }
    let coordinator = Coordinator::builder()
        .config(config)
        .connection_threads(threads);
    let coordinator = tokio::select! {
        started = coordinator.start() => {
            started.map_err(|error| match error {
                StartError::ManualClock => Failure::new(Exit::Usage, error.to_string()),
                error => failed(error.to_string()),
            })?
        }
        name = signals.next() => return Err(failed(format!("stopped by {name} before it was ready"))),
    };
    let (address, grpc) = (coordinator.http_addr(), coordinator.grpc_addr());
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(%address, %grpc, data, version, "ready on http://{address}, gRPC on {grpc}");
    match until_stopped(&coordinator, &mut signals).await {
        Ok(()) => {
            tracing::info!("stopped");
            Ok(())
        }
        Err(why) => {
            // Dropping it could wait for a store that no longer answers; this must end at once.
            let _never_dropped = std::mem::ManuallyDrop::new(coordinator);
            Err(failed(why))
        }
    }
}

async fn until_stopped(coordinator: &Coordinator, signals: &mut Signals) -> Result<(), String> {
    tokio::select! {
        error = coordinator.fatal() => return Err(error),
        name = signals.next() => tracing::info!("{name}: stopping; once more to stop at once"),
    }
    tokio::select! {
        () = coordinator.shutdown() => Ok(()),
        error = coordinator.fatal() => Err(error),
        name = signals.next() => {
            Err(format!("stopped at once by a second {name}; unfinished work is taken up at the next start"))
        }
    }
}

/// The signals that ask a process to stop.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
