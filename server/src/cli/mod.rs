//! The command line: one file per command. [`run`] is all of it, so that other languages' packages carry it too.

mod barrier;
mod check;
mod client;
mod completions;
mod config;
mod demo;
mod output;
mod serve;
mod settings;
mod topic;
mod tx;

use clap::{Args, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Exit codes, for scripts. Listed in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Unreachable = 4,
    Refused = 5,
}

/// Why a command did not do it: one line for stderr, and the exit code.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure {
            exit,
            message: message.into(),
        }
    }
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage or configuration; nothing was done
  3  no such transaction, topic or subscriber
  4  the server cannot be reached
  5  the server refused: wrong state, exists already, or a token is wanted";

const ABOUT: &str = "\
Amends coordinates transactions that span services and databases: every transaction either
completes everywhere or makes amends, whatever crashes in between. It speaks DTM's protocol.";

const EXAMPLES: &str = "\
Examples:
  amends demo                          watch transfers between banks, on temporary data
  amends serve                         start a server on 127.0.0.1 (HTTP 36789, gRPC 36790), data in ./amends-data
  amends serve -c amends.toml          the same with a configuration file
  amends -c conf.yml                   the same with DTM's file, as dtm takes it
  amends config                        every setting, its value and where it came from
  amends tx list --status submitted    what is under way on the running server";

#[derive(Parser)]
#[command(
    name = "amends",
    about = ABOUT,
    after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
    disable_version_flag = true,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    max_term_width = 100,
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    dtm: DtmForm,
}

/// The flags that DTM's own binary takes.
#[derive(Args)]
#[command(next_help_heading = "Without a command, as dtm takes them")]
struct DtmForm {
    /// Start a server with this file: the same as `amends serve -c FILE`
    #[arg(short = 'c', long = "config", alias = "c", value_name = "FILE")]
    file: Option<std::path::PathBuf>,
    /// Start a server that logs at level debug
    #[arg(short = 'd', long = "debug", alias = "d")]
    debug: bool,
    /// Print the version
    #[arg(short = 'v', long = "version", alias = "v")]
    version: bool,
    /// Refused: DTM empties its store with it
    #[arg(short = 'r', long = "reset", alias = "r")]
    reset: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Start a server
    Serve(serve::Serve),
    /// Watch transfers between banks: some complete, some make amends
    Demo(demo::Demo),
    /// Show every setting, its value and where it came from
    Config(config::ShowConfig),
    /// Look at transactions of a running server, retry or stop one
    Tx(tx::Tx),
    /// Look at topics of a running server, subscribe and unsubscribe
    Topic(topic::Topic),
    /// Verify a data folder that no server holds
    Check(check::Check),
    /// Print what creates the barrier's table in a participant's database
    Barrier(barrier::Barrier),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// Runs the command line. The first argument is the program's name.
///
/// Never exits the process by itself; `amends serve` installs the process's log subscriber and signal handlers.
pub fn run(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed stderr or stdout leaves nobody to tell.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, message }) => {
            output::complain(&message);
            ExitCode::from(exit as u8)
        }
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Some(Command::Serve(args)) => args.run(),
        Some(Command::Demo(args)) => args.run(),
        Some(Command::Config(args)) => args.run(),
        Some(Command::Tx(args)) => args.run(),
        Some(Command::Topic(args)) => args.run(),
        Some(Command::Check(args)) => args.run(),
        Some(Command::Barrier(args)) => args.run(),
        Some(Command::Completions(args)) => args.run(Cli::command()),
        None => cli.dtm.run(),
    }
}

impl DtmForm {
    fn run(self) -> Result<(), Failure> {
        if self.version {
            output::print(&format!("amends version: {}\n", env!("CARGO_PKG_VERSION")));
            return Ok(());
        }
        if self.reset {
            return Err(Failure::new(
                Exit::Usage,
                "-r is refused: it would delete every transaction, unfinished ones included. \
                 Stop the server and remove its data folder by hand if that is what you want",
            ));
        }
        serve::Serve::of_file(self.file, self.debug).run()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
