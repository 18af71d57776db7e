//! The driver against small servers of its own.

use super::*;
use crate::grpc;
use crate::http::{SUCCESS, json, listen, serve};
use http_body_util::Either;
use std::sync::atomic::AtomicU64;

fn plan(shape: Shape, wait_result: bool) -> Plan {
    Plan {
        shape,
        submits: Protocol::Http,
        branches: Protocol::Http,
        warmup: Duration::from_millis(100),
        measured: Duration::from_secs(1),
        wait_result,
    }
}

/// A server that answers submits with success, all other paths with what `other` returns, and stands still from
/// `stall.0` to `stall.1`.
async fn server(
    stall: Option<(Instant, Instant)>,
    other: impl Fn(&str) -> Option<String> + Clone + Send + Sync + 'static,
) -> Target {
    let listener = listen(0).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve(listener, move |request| {
        let path = request.uri().path().to_owned();
        let other = other.clone();
        async move {
            if path == "/api/dtmsvr/submit" {
                let now = Instant::now();
                if let Some((_, end)) = stall.filter(|(start, end)| (*start..*end).contains(&now)) {
                    tokio::time::sleep_until(end.into()).await;
                }
                return json(StatusCode::OK, Bytes::from_static(SUCCESS));
            }
            match other(&path) {
                Some(text) => json(StatusCode::OK, text),
                None => json(StatusCode::NOT_FOUND, "404 page not found"),
            }
        }
    }));
    Target::parse(&url).unwrap()
}

#[tokio::test]
async fn a_closed_loop_counts_answers_within_the_window() {
    let target = server(None, |_| None).await;
    let shape = Shape::Closed { in_flight: 4 };
    let found = run(
        &target,
        "127.0.0.1:1",
        plan(shape, true),
        Some(std::process::id()),
    );
    let found = found.await.unwrap();
    assert_eq!((found.errors, found.first_error.as_deref()), (0, None));
    assert_eq!(found.counted_by, CountedBy::Answers);
    // A wide margin: the machine may be busy, but a loop that waits between sagas would be far below.
    assert!(found.finished > 100.0, "{found:?}");
    assert!((0.9..5.0).contains(&found.seconds), "{found:?}");
    let difference = found.finished - found.latencies.len() as f64;
    assert!(
        difference.abs() < 8.0,
        "counted {} and {} latencies",
        found.finished,
        found.latencies.len()
    );
    assert!(found.cpu_us.is_some_and(|us| us > 0.0));
    assert_eq!(found.syncs, None);
}

#[tokio::test]
async fn an_open_loop_omits_no_saga_that_a_stall_held_up() {
    let start = Instant::now() + Duration::from_millis(500);
    let stall = Some((start, start + Duration::from_millis(400)));
    let target = server(stall, |_| None).await;
    let shape = Shape::Open {
        rate: 400.0,
        connections: 2,
    };
    let found = run(&target, "127.0.0.1:1", plan(shape, true), None);
    let mut found = found.await.unwrap();
    assert_eq!(found.errors, 0, "{:?}", found.first_error);
    // 160 of 400 sagas were due while the server stood still, though only two were on the wire.
    assert!(
        (380..=420).contains(&found.latencies.len()),
        "{}",
        found.latencies.len()
    );
    assert!(found.latencies.percentile_ms(99.0) > 350.0);
    assert!(found.latencies.percentile_ms(85.0) > 150.0);
    assert!(found.latencies.percentile_ms(50.0) < 150.0);
}

#[tokio::test]
async fn without_waiting_the_coordinators_counters_count() {
    let scrapes = Arc::new(AtomicU64::new(0));
    let target = server(None, move |path| {
        (path == "/api/metrics").then(|| {
            let n = scrapes.fetch_add(1, Ordering::Relaxed);
            format!(
                "{FINISHED}{{status=\"succeed\"}} {}\n{SYNCS} {}\n",
                n * 1000,
                n * 250
            )
        })
    });
    let target = target.await;
    let shape = Shape::Closed { in_flight: 1 };
    let found = run(&target, "127.0.0.1:1", plan(shape, false), None);
    let found = found.await.unwrap();
    assert_eq!(found.counted_by, CountedBy::Metrics);
    assert_eq!((found.finished, found.syncs), (1000.0, Some(0.25)));
}

#[tokio::test]
async fn without_a_counter_the_gids_are_asked_for() {
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let target = server(None, move |path| {
        (path == "/api/dtmsvr/query").then(|| {
            // The first look finds it unfinished.
            let status = match count.fetch_add(1, Ordering::Relaxed) {
                0 => "submitted",
                _ => "succeed",
            };
            format!(r#"{{"branches":[],"transaction":{{"gid":"g","status":"{status}"}}}}"#)
        })
    });
    let target = target.await;
    let shape = Shape::Closed { in_flight: 2 };
    let found = run(&target, "127.0.0.1:1", plan(shape, false), None);
    let found = found.await.unwrap();
    assert_eq!(found.counted_by, CountedBy::Queries);
    assert!(found.finished > 50.0);
    let asked = asked.load(Ordering::Relaxed);
    assert!((2..=1002).contains(&asked), "{asked}");
}

#[tokio::test]
async fn refusals_are_errors_and_not_sagas() {
    let listener = listen(0).await.unwrap();
    let target = Target::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(serve(listener, |_| async {
        json(StatusCode::CONFLICT, r#"{"message":"no"}"#)
    }));
    let shape = Shape::Closed { in_flight: 1 };
    let error = run(&target, "127.0.0.1:1", plan(shape, true), None).await;
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("409 Conflict") && text.contains("no saga ended"),
        "{text}"
    );
    let template = Template::saga(Protocol::Http, Protocol::Http, "127.0.0.1:1", true);
    let refused = fill(&target, template, 3, 2).await;
    assert!(refused.unwrap_err().to_string().contains("409 Conflict"));
}

#[tokio::test]
async fn refusals_over_grpc_are_errors_with_their_status() {
    let listener = listen(0).await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    tokio::spawn(serve(listener, |request| async move {
        // The metrics are asked for over HTTP all the same.
        if grpc::is_call(request.headers()) {
            grpc::internal("no room").map(Either::Left)
        } else {
            json(StatusCode::NOT_FOUND, "404 page not found").map(Either::Right)
        }
    }));
    let target = Target::parse(&format!("http://{authority}")).unwrap();
    let plan = Plan {
        submits: Protocol::Grpc,
        ..plan(Shape::Closed { in_flight: 20 }, true)
    };
    let refused = run(&target, "127.0.0.1:1", plan, None).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("no gRPC address"), "{text}");
    let target = target.with_grpc(authority);
    let refused = run(&target, "127.0.0.1:1", plan, None).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("gRPC status 13, message no room"), "{text}");
}

#[tokio::test]
async fn a_fill_sends_exactly_as_many_as_asked() {
    let listener = listen(0).await.unwrap();
    let target = Target::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&seen);
    tokio::spawn(serve(listener, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        async { json(StatusCode::OK, Bytes::from_static(SUCCESS)) }
    }));
    fill(&target, Template::delayed_message("127.0.0.1:1", 9), 101, 8)
        .await
        .unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 101);
}
