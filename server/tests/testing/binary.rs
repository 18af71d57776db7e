//! The same of the binary, for tests in other processes.

use super::bank::{Bank, REAL, accepted, error, request};
use super::dispatch_participant::{Answer, ok};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// The binary; killed when dropped.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(folder: &std::path::Path, args: &[&str]) -> Process {
        let mut child = binary(folder, args).spawn().expect("the binary runs");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            line["address"].as_str().map(str::to_owned)
        });
        // A server whose log nobody takes any more cannot go on.
        std::thread::spawn(move || lines.for_each(drop));
        let mut process = Process {
            child,
            url: String::new(),
        };
        process.url = format!("http://{}", address.expect("it is ready"));
        process
    }

    fn advance(&self, body: &str) -> (u16, String) {
        request(&self.url, "POST", "/api/amends/clock/advance", body)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary(folder: &std::path::Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amends"));
    command
        .args(args)
        .args(["--http-port", "0", "--grpc-port", "0"])
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

#[test]
fn the_binary_with_a_manual_clock_is_moved_over_http() {
    let began = Instant::now();
    let bank = Bank::new(|_, before| if before < 2 { error() } else { ok("") });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let args = ["serve", "--store", "memory", "--clock", "manual"];
    let server = Process::start(folder.path(), &args);
    let saga = bank.saga("g", 1, json!({})).to_string();
    accepted(&request(&server.url, "POST", "/api/dtmsvr/submit", &saga));
    for (body, calls) in [
        (r#"{"seconds":0}"#, 1),
        (r#"{"seconds":19.5}"#, 1),
        (r#"{"seconds":2.5}"#, 2),
        (r#"{"seconds":44}"#, 3),
    ] {
        let answer = server.advance(body);
        accepted(&answer);
        assert!(answer.1.contains("\"now_ms\":"), "{}", answer.1);
        assert_eq!(bank.calls().len(), calls, "{body}");
    }
    let (_, body) = request(&server.url, "GET", "/api/dtmsvr/query?gid=g", "");
    assert!(body.contains(r#""status":"succeed""#), "{body}");
    for (body, expected) in [
        ("", "want {\\\"seconds\\\": N}"),
        (
            r#"{"seconds":-1}"#,
            "seconds is -1: it must be a number from 0 to",
        ),
        (r#"{"seconds":1e300}"#, "it must be a number from 0 to"),
        (r#"{"seconds":1,"within":-1}"#, "within is -1"),
    ] {
        let answer = server.advance(body);
        assert_eq!(answer.0, 400, "{}", answer.1);
        assert!(answer.1.contains(expected), "{}", answer.1);
    }
    assert!(began.elapsed() < 2 * REAL, "{:?}", began.elapsed());
}

#[test]
fn over_http_a_call_that_hangs_is_a_503_that_names_it() {
    let bank = Bank::new(|_, _| Answer::Silence);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let args = ["serve", "--store", "memory", "--clock", "manual"];
    let server = Process::start(folder.path(), &args);
    let saga = bank
        .saga("g", 1, json!({"request_timeout": 60}))
        .to_string();
    accepted(&request(&server.url, "POST", "/api/dtmsvr/submit", &saga));
    let answer = server.advance(r#"{"seconds":1,"within":0.2}"#);
    assert_eq!(answer.0, 503, "{}", answer.1);
    assert!(
        answer.1.contains("1 transactions under way (g)"),
        "{}",
        answer.1
    );
}

#[test]
fn a_manual_clock_on_a_durable_store_is_refused_and_leaves_no_data() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let args = ["serve", "--clock", "manual"];
    let output = binary(folder.path(), &args).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().unwrap_or_default();
    assert!(
        last.contains("clock = manual is for tests and goes with store = memory"),
        "{text}"
    );
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 0, "no data folder was made");
}

#[test]
fn with_the_systems_clock_there_is_nothing_to_advance() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Process::start(folder.path(), &["serve", "--store", "memory"]);
    let answer = server.advance(r#"{"seconds":1}"#);
    assert_eq!(answer, (404, "404 page not found".to_owned()));
}
