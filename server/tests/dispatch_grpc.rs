//! Branch calls over gRPC (dtm-server.md 7.4), against participants that answer frame by frame.

mod grpc_participant;

use amends::Outcome;
use amends::wire::grpc::GrpcCall;
use amends_server::dispatch::{GrpcTransport, Reply};
use bytes::Bytes;
use grpc_participant::{Answer, GRPC, Participant, Seen, answer, status};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn call(url: &str) -> GrpcCall {
    GrpcCall {
        url: url.to_owned(),
        metadata: vec![
            ("dtm-gid".into(), "gü".into()),
            ("dtm-dtm".into(), "".into()),
        ],
        message: Bytes::from_static(b"\x08\x1e"),
        timeout: 5_000,
    }
}

async fn reply(url: &str) -> Reply {
    GrpcTransport::new(false).call(call(url)).await
}

fn error(reply: Reply) -> (String, bool) {
    match reply.outcome {
        Outcome::Error(text) => (text, reply.unreachable),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_goes_out_is_what_dtm_sends() {
    let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
    let log = seen.clone();
    let p = Participant::start(move |s| {
        log.lock().expect("no panic").push(s);
        status("0", "")
    })
    .await;
    let transport = GrpcTransport::new(false);
    for _ in 0..3 {
        let reply = transport.call(call(&p.url("busi.Busi/TransOut"))).await;
        assert_eq!(reply.outcome, Outcome::Success);
    }
    assert_eq!(p.connections.load(SeqCst), 1, "one connection for all");
    let seen = seen.lock().expect("no panic");
    assert_eq!(seen.len(), 3);
    let s = &seen[0];
    assert_eq!(
        (s.path.as_str(), s.version),
        ("/busi.Busi/TransOut", http::Version::HTTP_2)
    );
    assert_eq!(&s.body[..], b"\0\0\0\0\x02\x08\x1e");
    for (name, want) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "5000m"),
        ("dtm-gid", "gü"),
    ] {
        assert_eq!(s.header(name), want, "{name}");
    }
    assert!(s.headers.contains_key("dtm-dtm"), "sent, though empty");
    assert!(s.header("user-agent").starts_with("amends/"));
}

#[tokio::test]
async fn statuses_are_read_wherever_they_stand_and_messages_are_dropped() {
    let big = vec![7u8; 300_000];
    let p = Participant::start(move |s| match &s.path[..] {
        "/p.S/ok" => status("0", ""),
        "/p.S/failure" => status("10", "no%20money%21%zz"),
        "/p.S/long" => status("10", &"x".repeat(100_000)),
        "/p.S/ongoing" => status("9", ""),
        "/p.S/headers" => answer(
            &[GRPC, ("grpc-status", "10"), ("grpc-message", "x")],
            &[],
            &[],
        ),
        "/p.S/no-message" => answer(&[GRPC], &[], &[("grpc-status", "0")]),
        "/p.S/huge" => answer(
            &[GRPC],
            &[&big, &big, &big, b"garbage"],
            &[("grpc-status", "0")],
        ),
        "/p.S/two" => answer(&[GRPC], &[], &[("grpc-status", "0"), ("grpc-status", "10")]),
        "/p.S/plus" => status("+0", ""),
        // A status in front of a message is none.
        "/p.S/early" => answer(&[GRPC, ("grpc-status", "0")], &[b"\0\0\0\0\0"], &[]),
        "/p.S/reset" => Answer::Reset(&[GRPC, ("grpc-status", "0")]),
        "/p.S/proxy" => {
            let Answer::Now(mut response) = answer(&[GRPC, ("grpc-status", "0")], &[], &[]) else {
                unreachable!("it is one")
            };
            *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            Answer::Now(response)
        }
        "/p.S/text" => answer(
            &[("content-type", "text/html")],
            &[],
            &[("grpc-status", "0")],
        ),
        "/p.S/details" => answer(
            &[GRPC],
            &[],
            &[("grpc-status", "10"), ("grpc-status-details-bin", "!!")],
        ),
        "/p.S/no-number" => status("abc", ""),
        "/p.S/no-status" => answer(&[GRPC], &[b"\0\0\0\0\0"], &[]),
        "/p.S/html" => {
            let Answer::Now(mut response) =
                answer(&[("content-type", "text/html")], &[b"<p>"], &[])
            else {
                unreachable!("it is one")
            };
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            Answer::Now(response)
        }
        other => panic!("{other}"),
    })
    .await;
    let failure = |text: &str| Outcome::Failure(text.to_owned());
    let error = |text: &str| Outcome::Error(text.to_owned());
    for (method, want) in [
        ("ok", Outcome::Success),
        ("failure", failure("no money!%zz")),
        ("long", failure(&"x".repeat(100_000))),
        ("ongoing", Outcome::Ongoing),
        ("headers", failure("x")),
        ("no-message", Outcome::Success),
        ("huge", Outcome::Success),
        ("details", failure("")),
        (
            "no-number",
            error("its answer has no grpc-status that is one"),
        ),
        ("two", error("its answer has no grpc-status that is one")),
        ("plus", error("its answer has no grpc-status that is one")),
        ("early", error("its answer has no grpc-status")),
        (
            "proxy",
            error("answered HTTP 503 Service Unavailable, which is no gRPC"),
        ),
        (
            "text",
            error("its answer has no content-type application/grpc"),
        ),
        ("no-status", error("its answer has no grpc-status")),
        (
            "html",
            error("answered HTTP 404 Not Found, which is no gRPC"),
        ),
    ] {
        let reply = reply(&p.url(&format!("p.S/{method}"))).await;
        assert_eq!(
            (reply.outcome, reply.unreachable),
            (want, false),
            "{method}"
        );
    }
    let (text, _) = self::error(reply(&p.url("p.S/reset")).await);
    assert!(text.contains("within its answer"), "{text}");
}

#[tokio::test]
async fn a_connection_that_went_away_is_replaced() {
    let p = Participant::start(|_| status("0", "")).await;
    let (address, url) = (p.address, p.url("p.S/M"));
    let transport = GrpcTransport::new(false);
    assert_eq!(transport.call(call(&url)).await.outcome, Outcome::Success);
    p.stop().await;
    let (text, unreachable) = error(transport.call(call(&url)).await);
    assert!(unreachable && text.contains("connection refused"), "{text}");
    let p = Participant::on(address, |_| status("0", ""));
    assert_eq!(transport.call(call(&url)).await.outcome, Outcome::Success);
    assert_eq!(p.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn a_call_without_an_answer_is_unknown_and_ends_its_connection() {
    let p = Participant::start(|s| match &s.path[..] {
        "/p.S/silence" => Answer::Silence,
        "/p.S/hang-up" => Answer::HangUp,
        _ => status("0", ""),
    })
    .await;
    let transport = GrpcTransport::new(false);
    let mut slow = call(&p.url("p.S/silence"));
    slow.timeout = 100;
    let (text, unreachable) = error(transport.call(slow).await);
    assert!(unreachable, "{text}");
    assert_eq!(
        text,
        format!("no answer from grpc://{} within 100 ms", p.address)
    );
    assert_eq!(
        transport.call(call(&p.url("p.S/M"))).await.outcome,
        Outcome::Success
    );
    assert_eq!(p.connections.load(SeqCst), 2, "the slow one is not trusted");
    let (text, unreachable) = error(transport.call(call(&p.url("p.S/hang-up"))).await);
    assert!(unreachable && text.contains("before it answered"), "{text}");
    assert_eq!(
        transport.call(call(&p.url("p.S/M"))).await.outcome,
        Outcome::Success
    );
}

/// A server that is restarted in good order says which calls it did not look at: they are made again, at once.
#[tokio::test]
async fn what_the_server_did_not_look_at_is_called_again_once() {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    // The last stream it looked at is 0, and nothing is wrong.
    const GO_AWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (leaving, want) in [(1, true), (2, false)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let served = tokio::spawn(async move {
            for _ in 0..leaving {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut buffer = [0; 1_024];
                stream
                    .read_exact(&mut buffer[..24])
                    .await
                    .expect("a preface");
                stream.write_all(SETTINGS).await.expect("written");
                stream.write_all(GO_AWAY).await.expect("written");
                // Until the client has gone, too.
                while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
            }
            let (stream, _) = listener.accept().await.expect("a connection");
            grpc_participant::serve(stream, Arc::new(|_| status("0", ""))).await;
        });
        let reply = reply(&format!("{address}/p.S/M")).await;
        assert_eq!(
            reply.outcome == Outcome::Success,
            want,
            "{:?}",
            reply.outcome
        );
        served.abort();
    }
}

/// A call with little time must not wait for one with much that cannot connect.
#[tokio::test]
async fn a_target_that_accepts_and_says_nothing_is_given_up_soon() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("grpcs://{}/p.S/M", silent.local_addr().expect("an address"));
    let transport = GrpcTransport::new(false);
    let mut patient = call(&url);
    patient.timeout = 100_000;
    let start = std::time::Instant::now();
    let first = transport.call(patient.clone());
    let second = transport.call(patient);
    let (first, second) = tokio::join!(first, second);
    for reply in [first, second] {
        let (text, unreachable) = error(reply);
        assert!(unreachable && text.contains("no connection to"), "{text}");
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(30));
}

#[tokio::test]
async fn calls_share_a_connection_at_the_same_time() {
    let p = Participant::start(|_| status("0", "")).await;
    let transport = GrpcTransport::new(false);
    let calls = (0..200).map(|_| transport.call(call(&p.url("p.S/M"))));
    for reply in futures_util::future::join_all(calls).await {
        assert_eq!(reply.outcome, Outcome::Success);
    }
    assert_eq!(p.connections.load(SeqCst), 1);
}

#[test]
fn each_runtime_has_a_connection_of_its_own() {
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build();
        runtime.expect("a runtime")
    };
    let (one, two) = (runtime(), runtime());
    let p = one.block_on(Participant::start(|_| status("0", "")));
    let transport = GrpcTransport::new(false);
    for (runtime, connections) in [(&one, 1), (&one, 1), (&two, 2), (&two, 2), (&one, 2)] {
        let reply = runtime.block_on(transport.call(call(&p.url("p.S/M"))));
        assert_eq!(reply.outcome, Outcome::Success);
        assert_eq!(p.connections.load(SeqCst), connections);
    }
}

#[tokio::test]
async fn who_does_not_speak_grpc_is_told_from_who_is_not_there() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address");
    drop(taken);
    let (text, unreachable) = error(reply(&format!("{address}/p.S/M")).await);
    assert_eq!(text, format!("connection refused by grpc://{address}"));
    assert!(unreachable);

    let http1 = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = http1.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in http1.incoming() {
            let mut stream = stream.expect("a connection");
            let mut buffer = [0; 1_024];
            let _ = stream.read(&mut buffer);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let (text, _) = error(reply(&format!("{address}/p.S/M")).await);
    assert!(
        text.contains(&format!("grpc://{address}"))
            && text.ends_with("(does it speak gRPC, without TLS?)"),
        "{text}"
    );
    let (text, unreachable) = error(reply(&format!("grpcs://{address}/p.S/M")).await);
    assert!(unreachable, "{text}");
    assert!(
        text.starts_with(&format!("no TLS with grpcs://{address}: ")),
        "{text}"
    );
    let (text, unreachable) = error(reply("nowhere.invalid:1/p.S/M").await);
    assert!(unreachable && text.contains("cannot be resolved"), "{text}");
}
