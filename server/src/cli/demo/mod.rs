//! `amends demo`: a coordinator, three banks and eight transfers between them, in one process and with real HTTP and gRPC.
//!
//! [`bank`] is the example of a participant, [`stories`] the example of an application.

mod bank;
mod books;
mod client;
mod grpc;
mod service;
mod stories;
mod timeline;

use super::serve::Signals;
use super::{EXIT_CODES, Exit, Failure, output};
use crate::config::Config;
use crate::coordinator::Coordinator;
use crate::dispatch::BranchClient;
use bank::Bank;
use client::Client;
use service::{BankService, Speaks};
use std::path::Path;
use std::sync::Arc;
use stories::Stage;
use timeline::{Style, Timeline, Watched};

const HELP: &str = "\
Examples:
  amends demo           watch eight transfers, about 5 s
  amends demo --keep    the same, then try it yourself with curl until Ctrl-C

Everything runs in this process on free ports of 127.0.0.1; its data is in a temporary folder that
is removed at the end. Colours only on a terminal, and not if NO_COLOR is set.
The exit code is 0 only if every transfer ended as it had to and all money is still there.";

const INTRODUCTION: &str = "\
Three banks, an app, and a coordinator that sees every transfer through. All calls are real, on
127.0.0.1, with times in ms: HTTP (the coordinator's own API is under /api/dtmsvr), and gRPC with
the bank that speaks it.
";

/// Watch transfers between banks: some complete, some make amends
#[derive(clap::Args)]
#[command(after_long_help = format!("{HELP}\n\n{EXIT_CODES}"))]
pub(super) struct Demo {
    /// Stay up afterwards and print curl lines to try, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.enable_all().build().map_err(failed)?;
        let folder = tempfile::Builder::new().prefix("amends-demo-").tempdir();
        let folder = folder.map_err(|error| failed(format!("no temporary folder: {error}")))?;
        let ended = runtime.block_on(demo(self.keep, folder.path()));
        // What still runs here was told to stop and had its time.
        runtime.shutdown_background();
        let removed = folder.close().map_err(failed);
        ended.and(removed)
    }
}

async fn demo(keep: bool, folder: &Path) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(failed)?;
    let timeline = Timeline::new(Style::of_stdout());
    let open = async |name, speaks, account, balance| {
        let bank = Bank::new(account, balance);
        BankService::start(name, speaks, bank, timeline.clone())
            .await
            .map_err(failed)
    };
    let alice = open("Alice's bank", Speaks::Http, "alice", 200).await?;
    let bob = open("Bob's bank", Speaks::Http, "bob", 50).await?;
    let carol = open("Carol's bank", Speaks::Grpc, "carol", 50).await?;
    let config = Config {
        http_port: 0,
        grpc_port: 0,
        data: folder.to_owned(),
        disk_reserve_mib: 1,
        shutdown_timeout: 1,
        ..Config::default()
    };
    let watched = Watched {
        inner: BranchClient::new(config.compat, config.limits.answer, false),
        timeline: timeline.clone(),
        names: [&alice, &bob, &carol]
            .map(|bank| (bank.address(), bank.name()))
            .into(),
    };
    let builder = Coordinator::builder().config(config);
    let coordinator = builder.transport(Arc::new(watched)).start().await;
    let coordinator = coordinator.map_err(failed)?;
    let mut stage = Stage {
        client: Client::new(
            coordinator.http_addr(),
            coordinator.grpc_addr(),
            timeline.clone(),
        ),
        alice,
        bob,
        carol,
        timeline,
    };
    let ended = tokio::select! {
        ended = play(&mut stage) => ended,
        name = signals.next() => Err(failed(format!("stopped by {name}"))),
        error = coordinator.fatal() => return Err(lost(coordinator, error)),
    };
    if keep && ended.is_ok() {
        output::print(&invitation(&stage, &coordinator));
        stage.timeline.restart();
        tokio::select! {
            _ = signals.next() => {}
            error = coordinator.fatal() => return Err(lost(coordinator, error)),
        }
    }
    coordinator.shutdown().await;
    ended
}

/// Runs the transfers and checks the books.
async fn play(stage: &mut Stage) -> Result<(), Failure> {
    let style = stage.timeline.style();
    output::print(INTRODUCTION);
    let books = stories::run(stage).await?;
    let checks = books.check(&stage.balances().await?);
    output::print(&format!("\n{}\n", style.bold("The books")));
    for check in &checks {
        output::print(&check.line(style));
    }
    let wrong = checks.iter().filter(|check| !check.holds);
    let wrong: Vec<&str> = wrong.map(|check| check.text.as_str()).collect();
    if !wrong.is_empty() {
        let list = wrong.join("; ");
        return Err(failed(format!("the books do not add up: {list}")));
    }
    output::print("\nThe books add up.\n");
    Ok(())
}

/// Lines to paste into a shell.
fn invitation(stage: &Stage, coordinator: &Coordinator) -> String {
    let base = format!("http://{}/api", coordinator.http_addr());
    let saga = |gid, to| {
        let mut saga = stage.saga(gid, to, 5);
        saga["wait_result"] = true.into();
        format!("curl -s {base}/dtmsvr/submit -d '{saga}'; echo")
    };
    let [good, refused] = [saga("my-1", "bob"), saga("my-2", "bobby")];
    let [alice, bob] = [&stage.alice, &stage.bob].map(|bank| bank.url("/accounts"));
    let grpc = coordinator.grpc_addr();
    format!(
        "\nStill up until Ctrl-C. Lines to paste into another shell; what they do shows up below.

# a transfer of 5 from Alice to Bob; the same gid again is the same transfer, so change it for another
{good}
# one that makes amends: Bob's bank has no account of that name
{refused}
# a transaction and its branches; the newest ones; figures for Prometheus; the balances
curl -s '{base}/dtmsvr/query?gid=my-1'; echo
curl -s '{base}/dtmsvr/all?limit=10'; echo
curl -s {base}/metrics
curl -s {alice} {bob}; echo
# the same over gRPC, if you have a client for it; the server tells its services by reflection
grpcurl -plaintext -d '{{\"gid\":\"demo-7\"}}' {grpc} amends.v1.Operations/Query\n\n"
    )
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failed, error.to_string())
}

/// The store has failed for good.
fn lost(coordinator: Coordinator, error: String) -> Failure {
    // Dropping it could wait for a store that no longer answers.
    let _never_dropped = std::mem::ManuallyDrop::new(coordinator);
    failed(error)
}
