//! The binary as people and scripts see it: help, exit codes, starting and stopping, and what is asked of a running server.

mod check;
mod remote;
mod serve;
mod usage;

use std::process::{Command, Output, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

const BINARY: &str = env!("CARGO_BIN_EXE_amends");

/// The binary in a folder of its own, without this process's environment.
fn amends(folder: &std::path::Path, args: &[&str]) -> Command {
    program(BINARY, folder, args)
}

/// Another program that starts it, alike.
fn program(program: &str, folder: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(folder)
        .env_clear()
        // Not the default, where another test or a person may have a server; only HTTP ports are given as flags.
        .env("AMENDS_GRPC_PORT", "0")
        .stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    run_with(args, &[])
}

fn run_with(args: &[&str], env: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    amends(folder.path(), args)
        .envs(env.iter().copied())
        .output()
        .expect("the binary runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("ended by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
