//! The coordinator binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    amends_server::cli::run(std::env::args_os())
}
