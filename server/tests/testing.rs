//! The coordinator that users' tests run: its clock moves when they say so, and nobody waits in real time.

mod dispatch_participant;

use amends::Status;
use amends_server::config::Config;
use amends_server::engine::AdvanceError;
use amends_server::testing::{TestClock, TestServer};
use dispatch_participant::{Answer, Participant, Seen, ok, participant};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Nothing here may take this long in real time.
const REAL: Duration = Duration::from_secs(5);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn error() -> Answer {
    Answer::Bytes("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n".to_owned())
}

fn refuse() -> Answer {
    Answer::Bytes("HTTP/1.1 409 X\r\ncontent-length: 0\r\n\r\n".to_owned())
}

/// A participant that remembers which paths were called, and answers by path and how often it was called before.
struct Bank {
    at: Participant,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Bank {
    fn new(behaviour: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Bank {
        let calls: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = calls.clone();
        let at = participant(move |_, _, request: &Seen| {
            let path = request.head.split(' ').nth(1).unwrap_or_default();
            let path = path.split('?').next().unwrap_or_default().to_owned();
            let before = {
                let mut seen = seen.lock().expect("no panic");
                seen.push(path.clone());
                seen.iter().filter(|p| **p == path).count() - 1
            };
            behaviour(&path, before)
        });
        Bank { at, calls }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.at.url)
    }

    /// The paths called so far.
    fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("no panic").clone()
    }

    fn saga(&self, gid: &str, n: usize, more: Value) -> Value {
        let step = |k| json!({"action": self.url(&format!("/{gid}/do{k}")), "compensate": self.url(&format!("/{gid}/undo{k}"))});
        let steps: Vec<Value> = (1..=n).map(step).collect();
        let mut body =
            json!({"gid": gid, "trans_type": "saga", "steps": steps, "payloads": vec!["{}"; n]});
        let (Some(body_of), Some(more)) = (body.as_object_mut(), more.as_object()) else {
            panic!("objects");
        };
        body_of.extend(more.clone());
        body
    }
}

/// Sends a request and returns status and body.
fn request(base: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let host = base.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).expect("it listens");
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (status.expect("a status"), body.to_owned())
}

/// A request, while the runtime of the test goes on.
async fn send(
    server: &TestServer,
    method: &'static str,
    path: &str,
    body: String,
) -> (u16, String) {
    let (base, path) = (server.http_url(), path.to_owned());
    tokio::task::spawn_blocking(move || request(&base, method, &path, &body))
        .await
        .expect("no panic")
}

/// A request to DTM's API.
async fn post(server: &TestServer, route: &str, body: Value) -> (u16, String) {
    let path = format!("/api/dtmsvr/{route}");
    send(server, "POST", &path, body.to_string()).await
}

#[track_caller]
fn accepted(answer: &(u16, String)) {
    assert_eq!(answer.0, 200, "{}", answer.1);
}

async fn status(server: &TestServer, gid: &str) -> Status {
    let found = server.coordinator().engine().query(gid).await;
    found.expect("a query").expect("it is stored").status()
}

#[tokio::test]
async fn retries_take_advances_and_no_time() {
    let began = Instant::now();
    let bank = Bank::new(|_, before| if before < 2 { error() } else { ok("") });
    let server = TestServer::start().await.expect("starts");
    accepted(&post(&server, "submit", bank.saga("g", 1, json!({}))).await);
    let clock = server.clock();
    clock.advance(secs(19)).await.expect("done");
    assert_eq!(bank.calls(), ["/g/do1"], "the first error waits 20 s");
    clock.advance(secs(3)).await.expect("done");
    assert_eq!(bank.calls().len(), 2);
    assert_eq!(status(&server, "g").await, Status::Submitted);
    clock.advance(secs(44)).await.expect("done");
    assert_eq!(bank.calls().len(), 3);
    assert_eq!(status(&server, "g").await, Status::Succeed);
    server.stop().await;
    assert!(began.elapsed() < REAL, "{:?}", began.elapsed());
}

#[tokio::test]
async fn one_advance_serves_every_due_time_when_it_comes() {
    let clock: Arc<OnceLock<TestClock>> = Arc::default();
    let times: Arc<Mutex<Vec<i64>>> = Arc::default();
    let (seen, at) = (times.clone(), clock.clone());
    let bank = Bank::new(move |_, before| {
        let now = at.get().expect("set before the submit").now();
        seen.lock().expect("no panic").push(now);
        if before < 4 { error() } else { ok("") }
    });
    let server = TestServer::start().await.expect("starts");
    let start = server.clock().now();
    assert!(clock.set(server.clock().clone()).is_ok());
    accepted(&post(&server, "submit", bank.saga("g", 1, json!({}))).await);
    server.clock().advance(secs(3_600)).await.expect("done");
    assert_eq!(server.clock().now(), start + 3_600_000);
    assert_eq!(status(&server, "g").await, Status::Succeed);
    let times = times.lock().expect("no panic").clone();
    assert_eq!(times[0], start);
    let gaps: Vec<i64> = times.windows(2).map(|t| t[1] - t[0]).collect();
    let wanted = [20_000, 40_000, 80_000, 160_000];
    let fits = |(gap, want): (&i64, &i64)| (*want..=want + want / 10).contains(gap);
    assert!(
        gaps.len() == 4 && gaps.iter().zip(&wanted).all(fits),
        "{gaps:?}"
    );
}

#[tokio::test]
async fn quick_retries_wait_for_the_clock_too() {
    let bank = Bank::new(|path, _| if path == "/g/do1" { error() } else { ok("") });
    let server = TestServer::start().await.expect("starts");
    let saga = bank.saga("g", 1, json!({"retry_limit": 2}));
    accepted(&post(&server, "submit", saga).await);
    server.clock().advance(Duration::ZERO).await.expect("done");
    assert_eq!(bank.calls(), ["/g/do1"]);
    server.clock().advance(secs(1)).await.expect("done");
    assert_eq!(bank.calls(), ["/g/do1", "/g/do1", "/g/do1", "/g/undo1"]);
    assert_eq!(status(&server, "g").await, Status::Failed);
}

#[tokio::test]
async fn a_messages_delay_and_its_check_back_come_with_the_clock() {
    let began = Instant::now();
    let bank = Bank::new(|path, _| if path == "/no" { refuse() } else { ok("") });
    let server = TestServer::start().await.expect("starts");
    let message = |gid: &str, query: &str, custom: &str| {
        json!({"gid": gid, "trans_type": "msg", "steps": [{"action": bank.url(&format!("/{gid}"))}], "payloads": ["{}"],
            "query_prepared": bank.url(query), "custom_data": custom})
    };
    accepted(
        &post(
            &server,
            "submit",
            message("late", "/yes", r#"{"delay":60}"#),
        )
        .await,
    );
    accepted(&post(&server, "prepare", message("left", "/yes", "")).await);
    accepted(&post(&server, "prepare", message("lost", "/no", "")).await);
    let clock = server.clock();
    clock.advance(secs(34)).await.expect("done");
    assert!(bank.calls().is_empty(), "{:?}", bank.calls());
    clock.advance(secs(1)).await.expect("done");
    let mut calls = bank.calls();
    calls.sort();
    assert_eq!(calls, ["/left", "/no", "/yes"]);
    assert_eq!(status(&server, "left").await, Status::Succeed);
    assert_eq!(status(&server, "lost").await, Status::Failed);
    clock.advance(secs(24)).await.expect("done");
    assert_eq!(bank.calls().len(), 3, "its delay is not over");
    clock.advance(secs(1)).await.expect("done");
    assert_eq!(bank.calls()[3..], ["/late"]);
    assert_eq!(status(&server, "late").await, Status::Succeed);
    assert!(began.elapsed() < REAL, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_workflow_is_called_back_and_a_tcc_given_up() {
    let began = Instant::now();
    let bank = Bank::new(|_, _| ok(""));
    let server = TestServer::start().await.expect("starts");
    let workflow = json!({"gid": "w", "trans_type": "workflow", "query_prepared": bank.url("/back"), "protocol": "http",
        "custom_data": "{\"name\":\"n\",\"data\":\"e30=\"}"});
    accepted(&post(&server, "prepareWorkflow", workflow).await);
    let tcc = json!({"gid": "t", "trans_type": "tcc"});
    accepted(&post(&server, "prepare", tcc).await);
    let branch = json!({"gid": "t", "trans_type": "tcc", "branch_id": "01", "data": "{}",
        "confirm": bank.url("/confirm"), "cancel": bank.url("/cancel")});
    accepted(&post(&server, "registerBranch", branch).await);
    let clock = server.clock();
    clock.advance(secs(9)).await.expect("done");
    assert!(bank.calls().is_empty(), "{:?}", bank.calls());
    clock.advance(secs(1)).await.expect("done");
    assert_eq!(bank.calls(), ["/back"]);
    let end = json!({"gid": "w", "trans_type": "workflow", "req_extra": {"status": "succeed"}});
    accepted(&post(&server, "submit", end).await);
    clock.advance(secs(24)).await.expect("done");
    assert_eq!(bank.calls(), ["/back"]);
    clock.advance(secs(1)).await.expect("done");
    assert_eq!(bank.calls(), ["/back", "/cancel"]);
    assert_eq!(status(&server, "t").await, Status::Failed);
    assert!(began.elapsed() < REAL, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_call_that_hangs_is_named_at_the_deadline() {
    let bank = Bank::new(|_, _| Answer::Silence);
    let server = TestServer::start().await.expect("starts");
    let start = server.clock().now();
    let saga = bank.saga("g", 1, json!({"request_timeout": 60}));
    accepted(&post(&server, "submit", saga).await);
    let within = Duration::from_millis(300);
    let began = Instant::now();
    let late = server.clock().advance_within(secs(7), within).await;
    assert!(began.elapsed() >= within && began.elapsed() < REAL);
    let text = late.as_ref().map_err(ToString::to_string);
    assert_eq!(
        text,
        Err("not done within 0.3 s: 1 calls in flight, 1 transactions under way (g); the clock stands 7 s before where it was to go".to_owned())
    );
    assert!(
        matches!(
            late,
            Err(AdvanceError::Deadline {
                calls: 1,
                driven: 1,
                ..
            })
        ),
        "{late:?}"
    );
    assert_eq!(server.clock().now(), start, "it did not move on");
    let began = Instant::now();
    server.stop().await;
    assert!(
        began.elapsed() < REAL,
        "a call that hangs does not hold it up"
    );
}

#[tokio::test]
async fn a_wait_ends_with_the_result_or_in_real_time() {
    let bank = Bank::new(|path, before| match path {
        "/a/do1" if before < 1 => error(),
        "/b/do1" => error(),
        _ => ok(""),
    });
    let server = TestServer::start().await.expect("starts");
    let more = json!({"wait_result": true, "retry_interval": 1, "request_timeout": 1});
    let (a, b) = (bank.saga("a", 1, more.clone()), bank.saga("b", 1, more));
    // The request is on its way while the clock moves, if not yet when it first does.
    let moving = async {
        let end = Instant::now() + REAL;
        while status_or_none(&server, "a").await != Some(Status::Succeed) && Instant::now() < end {
            server
                .clock()
                .advance(Duration::from_millis(500))
                .await
                .expect("done");
        }
    };
    let (answer, ()) = tokio::join!(post(&server, "submit", a), moving);
    accepted(&answer);
    // Nobody moves it: the retry that the wait goes on for does not come, and the wait is over after 3 s all the same.
    let began = Instant::now();
    let answer = post(&server, "submit", b).await;
    assert_eq!(answer.0, 425, "{}", answer.1);
    assert!(began.elapsed() < secs(20), "{:?}", began.elapsed());
    assert_eq!(
        bank.calls().iter().filter(|path| *path == "/b/do1").count(),
        1
    );
}

async fn status_or_none(server: &TestServer, gid: &str) -> Option<Status> {
    let found = server.coordinator().engine().query(gid).await;
    found.expect("a query").map(|tx| tx.status())
}

#[tokio::test]
async fn a_result_is_seen_although_the_clock_stands() {
    let bank = Bank::new(|path, _| {
        if path == "/g/do2" {
            Answer::Silence
        } else {
            ok("")
        }
    });
    let server = TestServer::start().await.expect("starts");
    let saga = bank.saga("g", 2, json!({"request_timeout": 60}));
    accepted(&post(&server, "submit", saga).await);
    let end = Instant::now() + REAL;
    loop {
        let (_, body) = send(&server, "GET", "/api/dtmsvr/query?gid=g", String::new()).await;
        if body.contains("succeed") {
            break;
        }
        assert!(Instant::now() < end, "{body}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every transaction is called exactly as often as it is due, however the threads race.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_that_is_due_is_left_behind() {
    const SAGAS: usize = 40;
    let bank = Bank::new(|_, before| if before < 2 { error() } else { ok("") });
    let config = Config {
        calls_per_host_max: 7,
        ..Config::default()
    };
    let server = TestServer::with(config).await.expect("starts");
    for round in 0..5 {
        for n in 0..SAGAS {
            let saga = bank.saga(&format!("r{round}n{n}"), 1, json!({}));
            accepted(&post(&server, "submit", saga).await);
        }
        let before = bank.calls().len()
            - bank
                .calls()
                .iter()
                .filter(|p| p.starts_with(&format!("/r{round}n")))
                .count();
        for (seconds, calls) in [(0, 1), (22, 2), (44, 3)] {
            server.clock().advance(secs(seconds)).await.expect("done");
            assert_eq!(bank.calls().len() - before, calls * SAGAS, "round {round}");
        }
        for n in 0..SAGAS {
            let gid = format!("r{round}n{n}");
            assert_eq!(status(&server, &gid).await, Status::Succeed, "{gid}");
        }
    }
}

#[tokio::test]
async fn two_advances_at_once_add_up() {
    let server = TestServer::start().await.expect("starts");
    let (clock, start) = (server.clock(), server.clock().now());
    let (a, b) = tokio::join!(clock.advance(secs(10)), clock.advance(secs(5)));
    assert_eq!((a, b), (Ok(()), Ok(())));
    assert_eq!(clock.now(), start + 15_000);
}

#[tokio::test]
async fn it_stops_when_it_is_dropped() {
    let server = TestServer::start().await.expect("starts");
    let targets = [
        server.http_url().replace("http://", ""),
        server.grpc_target(),
    ];
    let clock = server.clock().clone();
    assert!(targets.iter().all(|at| TcpStream::connect(at).is_ok()));
    drop(server);
    let end = Instant::now() + REAL;
    while targets.iter().any(|at| TcpStream::connect(at).is_ok()) {
        assert!(Instant::now() < end, "it still listens");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(clock.advance(secs(1)).await, Err(AdvanceError::Stopping));
}

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
