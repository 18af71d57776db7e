//! The coordinator that users' tests run: its clock moves when they say so, and nobody waits in real time.

mod bank;
mod binary;
#[path = "../dispatch_participant/mod.rs"]
mod dispatch_participant;
mod threads;

use amends::Status;
use amends_server::config::Config;
use amends_server::engine::AdvanceError;
use amends_server::testing::{TestClock, TestServer};
use bank::{Bank, REAL, accepted, error, refuse, request, secs};
use dispatch_participant::{Answer, ok};
use serde_json::{Value, json};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

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
        let before = bank.calls().len();
        for n in 0..SAGAS {
            let saga = bank.saga(&format!("r{round}n{n}"), 1, json!({}));
            accepted(&post(&server, "submit", saga).await);
        }
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
