//! The program as it is used, with the null coordinator in the place of `amends`.
#![allow(clippy::unwrap_used)]

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BENCH: &str = env!("CARGO_BIN_EXE_amends-bench");

/// A program that takes `serve --data DIR --http-port PORT` and the port of gRPC from the environment, and is the null
/// coordinator.
fn stand_in(folder: &Path) -> PathBuf {
    let path = folder.join("amends");
    let script =
        format!("#!/bin/sh\nexec '{BENCH}' null --port \"$5\" --grpc-port \"$AMENDS_GRPC_PORT\"\n");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn bench(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BENCH);
    command
        .args(args)
        .arg("--amends")
        .arg(stand_in(folder))
        .arg("--data-in")
        .arg(folder);
    command
}

/// Process ids of the direct children.
fn children(of: u32) -> Vec<Pid> {
    let path = format!("/proc/{of}/task/{of}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| Pid::from_raw(pid.parse().unwrap()))
        .collect()
}

/// Gone, or dead and waiting to be reaped by whoever inherited it.
fn is_gone(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_err() || stat.map_or(true, |stat| stat.contains(") Z "))
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 60 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_run_measures_both_over_http_and_grpc_and_judges_five_criteria() {
    let folder = tempfile::tempdir().unwrap();
    let args = [
        "run",
        "--json",
        "--strict",
        "--rounds",
        "1",
        "--seconds",
        "0.5",
        "--warmup",
        "0.1",
    ];
    let output = bench(folder.path(), &args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: serde_json::Value = serde_json::from_str(&text).expect(&errors);
    // The null coordinator counts no syncs, so one criterion cannot be met.
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(report["criteria"].as_array().unwrap().len(), 5, "{text}");
    let table = report["table"].as_array().unwrap();
    for side in ["null", "amends"] {
        assert!(
            table.iter().all(|row| row[side].as_f64().is_some()),
            "{text}"
        );
        assert!(table[0][side].as_f64().unwrap() > 10.0, "{text}");
    }
    let finished = |load: &str| -> f64 {
        let rates = table
            .iter()
            .filter(|row| row["what"] == "sagas/s" && row["load"] == load);
        let sides =
            rates.flat_map(|row| ["null", "amends"].map(|side| row[side].as_f64().unwrap()));
        sides.sum::<f64>() * 0.5
    };
    // Two calls each; the warm-up's sagas come on top.
    let calls = |protocol: &str| report["branch_calls"][protocol].as_f64().unwrap();
    let over_grpc = finished("64 in flight, gRPC branches");
    assert!(
        over_grpc > 10.0 && calls("grpc") >= 2.0 * over_grpc,
        "{text}"
    );
    let over_http = finished("64 in flight") + finished("1 in flight");
    assert!(
        over_http > 10.0 && calls("http") >= 2.0 * over_http,
        "{text}"
    );
    assert!(report["sync_ms"]["p50"].as_f64().unwrap() > 0.0, "{text}");
    // Only the script is left: no data and no log.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_barriers_own_work_is_measured_and_judged() {
    for (at_most, code) in [("1000", 0), ("0.001", 1)] {
        let mut command = Command::new(BENCH);
        command.args(["barrier", "--json", "--strict", "--rounds", "3"]);
        command.args(["--seconds", "0.01", "--at-most", at_most]);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let report: serde_json::Value = serde_json::from_str(&text).expect(&errors);
        assert_eq!(output.status.code(), Some(code), "{text}");
        let slowest = report["criteria"][0]["measured"].as_f64().unwrap();
        let all = report.as_object().unwrap();
        let medians = all.iter().filter(|(name, _)| name.ends_with(", µs"));
        let medians: Vec<f64> = medians.map(|(_, value)| value.as_f64().unwrap()).collect();
        assert_eq!(medians.len(), 6, "{text}");
        assert!(
            medians.iter().all(|us| (0.01..=slowest).contains(us)),
            "{text}"
        );
        assert!(medians.contains(&slowest), "{text}");
    }
}

#[test]
fn a_coordinator_that_does_not_start_is_told_with_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = bench(folder.path(), &["retained"]);
    fs::write(
        folder.path().join("amends"),
        "#!/bin/sh\necho 'the port is taken' >&2\nexit 3\n",
    )
    .unwrap();
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        errors.contains("the port is taken") && errors.contains("exit status: 3"),
        "{errors}"
    );
}

#[test]
fn children_end_with_the_bench_however_it_ends() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let folder = tempfile::tempdir().unwrap();
        let started = bench(folder.path(), &["run", "--seconds", "600"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut running = Reaped(started);
        eventually("three children", || children(running.0.id()).len() == 3);
        let pids = children(running.0.id());
        kill_process(Pid::from_child(&running.0), signal).unwrap();
        let status = running.0.wait().unwrap();
        assert!(!status.success());
        eventually("children gone", || pids.iter().all(|pid| is_gone(*pid)));
    }
}
