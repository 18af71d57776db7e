//! Branch calls over real sockets: what is sent, how answers are read, and what the errors say.

mod dispatch_participant;

use amends::{Compat, Outcome};
use amends_server::dispatch::{HttpTransport, Reply};
use dispatch_participant::{Answer, call, error_of, header, ok, participant, transport};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

#[tokio::test]
async fn a_call_is_sent_as_told_and_the_connection_is_kept() {
    let p = participant(|_, _, _| ok("{}"));
    let t = transport();
    for _ in 0..3 {
        let mut c = call(&format!("{}/in?x=1&op=action", p.url), "{\"amount\":30}");
        c.headers.push(("x-tenant".into(), "one".into()));
        c.headers.push(("x-tenant".into(), "two".into()));
        assert_eq!(
            t.call(c).await,
            Reply {
                outcome: Outcome::Success,
                unreachable: false
            }
        );
        let seen = p.requests.recv().expect("request");
        assert!(
            seen.head.starts_with("POST /in?x=1&op=action HTTP/1.1\r\n"),
            "{}",
            seen.head
        );
        assert_eq!(header(&seen.head, "host"), p.url.strip_prefix("http://"));
        assert_eq!(header(&seen.head, "content-type"), Some("application/json"));
        assert_eq!(header(&seen.head, "x-tenant"), Some("two"));
        assert!(header(&seen.head, "user-agent").is_some_and(|v| v.starts_with("amends/")));
        assert_eq!(seen.body, "{\"amount\":30}");
    }
    assert_eq!(t.call(call(&p.url, "")).await.outcome, Outcome::Success);
    assert!(
        p.requests
            .recv()
            .expect("request")
            .head
            .starts_with("GET / HTTP/1.1\r\n")
    );
    assert_eq!(p.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn headers_of_the_connection_are_not_a_transactions_to_set() {
    let p = participant(|_, _, _| ok(""));
    let mut c = call(&p.url, "body");
    for (name, value) in [
        ("host", "evil"),
        ("content-length", "1"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("expect", "100-continue"),
    ] {
        c.headers
            .push((name.to_owned().into(), value.to_owned().into()));
    }
    assert_eq!(transport().call(c).await.outcome, Outcome::Success);
    let seen = p.requests.recv().expect("request");
    assert_eq!(header(&seen.head, "host"), p.url.strip_prefix("http://"));
    assert_eq!(header(&seen.head, "content-length"), Some("4"));
    for absent in ["transfer-encoding", "connection", "expect"] {
        assert_eq!(header(&seen.head, absent), None, "{absent}");
    }
}

#[tokio::test]
async fn every_status_is_an_answer() {
    for (status, want) in [
        ("409 Conflict", Outcome::Failure("no stock".to_owned())),
        ("425 Too Early", Outcome::Ongoing),
        ("202 Accepted", Outcome::Ongoing),
        (
            "500 Oops",
            Outcome::Error("answered 500: no stock".to_owned()),
        ),
        (
            "302 Found\r\nlocation: /x",
            Outcome::Error("answered 302: no stock".to_owned()),
        ),
        (
            "307 No Location",
            Outcome::Error("answered 307: no stock".to_owned()),
        ),
    ] {
        let p = participant(move |_, _, _| {
            Answer::Bytes(format!(
                "HTTP/1.1 {status}\r\ncontent-length: 8\r\n\r\nno stock"
            ))
        });
        assert_eq!(
            transport().call(call(&p.url, "{}")).await,
            Reply {
                outcome: want,
                unreachable: false
            },
            "{status}"
        );
    }
}

/// Cookies and policies make heads long.
#[tokio::test]
async fn the_head_of_an_answer_may_be_long() {
    for (status, wanted) in [
        (200, Outcome::Success),
        (409, Outcome::Failure("no".to_owned())),
    ] {
        let p = participant(move |_, _, _| {
            let cookies = format!("set-cookie: {}\r\n", "c".repeat(1_000)).repeat(30);
            Answer::Bytes(format!(
                "HTTP/1.1 {status} R\r\n{cookies}content-length: 2\r\n\r\nno"
            ))
        });
        let reply = transport().call(call(&p.url, "{}")).await;
        assert_eq!(reply.outcome, wanted);
    }
}

#[tokio::test]
async fn chunked_answers_and_answers_without_a_length_are_read() {
    let chunked =
        "HTTP/1.1 409 C\r\ntransfer-encoding: chunked\r\n\r\n3\r\nno \r\n5\r\nstock\r\n0\r\n\r\n";
    let p = participant(move |_, nth, _| {
        if nth == 0 {
            Answer::Bytes(chunked.to_owned())
        } else {
            ok("")
        }
    });
    let t = transport();
    assert_eq!(
        t.call(call(&p.url, "{}")).await.outcome,
        Outcome::Failure("no stock".to_owned())
    );
    assert_eq!(t.call(call(&p.url, "{}")).await.outcome, Outcome::Success);
    assert_eq!(
        p.connections.load(SeqCst),
        1,
        "a chunked answer leaves the connection usable"
    );

    let p = participant(|_, _, _| Answer::Close("HTTP/1.1 409 C\r\n\r\nno stock".to_owned()));
    assert_eq!(
        t.call(call(&p.url, "{}")).await.outcome,
        Outcome::Failure("no stock".to_owned())
    );
}

#[tokio::test]
async fn at_the_limit_an_answer_is_whole_and_beyond_it_cut() {
    for (length, kept, connections) in [(1_024, 1_024, 1), (1_025, 1_024, 2), (200_000, 1_024, 2)] {
        let p = participant(move |_, _, _| {
            Answer::Bytes(format!(
                "HTTP/1.1 409 C\r\ncontent-length: {length}\r\n\r\n{}",
                "x".repeat(length)
            ))
        });
        let t = transport();
        for _ in 0..2 {
            assert_eq!(
                t.call(call(&p.url, "{}")).await.outcome,
                Outcome::Failure("x".repeat(kept)),
                "{length}"
            );
        }
        assert_eq!(p.connections.load(SeqCst), connections, "{length}");
    }
}

#[tokio::test]
async fn nobody_there() {
    let free = TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("address");
    let (text, unreachable) = error_of(
        transport()
            .call(call(&format!("http://{free}/a?b"), "{}"))
            .await,
    );
    assert_eq!(text, format!("connection refused by http://{free}"));
    assert!(unreachable);
}

#[tokio::test]
async fn no_answer_in_time() {
    let p = participant(|_, _, _| Answer::Silence);
    let mut c = call(&p.url, "{}");
    c.timeout = 150;
    assert_eq!(
        error_of(transport().call(c).await),
        (format!("no answer from {} within 150 ms", p.url), true)
    );
    // An answer whose body does not end is none either.
    let p = participant(|_, _, _| {
        Answer::Bytes("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_owned())
    });
    let mut c = call(&p.url, "{}");
    c.timeout = 1_000;
    assert_eq!(
        error_of(transport().call(c).await),
        (format!("no answer from {} within 1 s", p.url), true)
    );
}

#[tokio::test]
async fn a_call_that_may_have_arrived_is_never_repeated() {
    let p = participant(|_, _, _| Answer::Close(String::new()));
    assert_eq!(
        error_of(transport().call(call(&p.url, "{}")).await),
        (
            format!("{} closed the connection before it answered", p.url),
            true
        )
    );
    assert_eq!(p.requests.try_iter().count(), 1);

    let p = participant(|_, nth, _| {
        if nth == 0 {
            ok("")
        } else {
            Answer::Close(String::new())
        }
    });
    let t = transport();
    assert_eq!(t.call(call(&p.url, "{}")).await.outcome, Outcome::Success);
    let (text, unreachable) = error_of(t.call(call(&p.url, "{}")).await);
    assert_eq!(
        (text, unreachable),
        (
            format!("{} closed the connection before it answered", p.url),
            true
        )
    );
    assert_eq!(
        p.requests.try_iter().count(),
        2,
        "also not on a reused connection"
    );

    let p = participant(|_, _, _| {
        Answer::Close("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_owned())
    });
    let (text, unreachable) = error_of(t.call(call(&p.url, "{}")).await);
    assert_eq!(
        (text, unreachable),
        (
            format!("{} closed the connection within its answer", p.url),
            false
        )
    );
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_replaced() {
    let p = participant(|_, _, _| {
        Answer::Close("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned())
    });
    let other = participant(|_, _, _| ok(""));
    let t = transport();
    for round in 1..=20 {
        assert_eq!(
            t.call(call(&p.url, "{}")).await.outcome,
            Outcome::Success,
            "round {round}"
        );
        p.closed
            .recv_timeout(Duration::from_secs(5))
            .expect("the participant closes");
        // An event that comes after the close: the runtime has seen both then.
        assert_eq!(
            t.call(call(&other.url, "{}")).await.outcome,
            Outcome::Success
        );
    }
    assert_eq!(p.connections.load(SeqCst), 20);
}

/// So many that a task which looks at each of them has used up its turn.
#[tokio::test]
async fn kept_connections_that_were_all_closed_meanwhile_are_replaced_by_one() {
    const MANY: usize = 200;
    let all_came = std::sync::Barrier::new(MANY);
    let p = participant(move |connection, _, _| {
        if connection < MANY {
            all_came.wait();
        }
        Answer::Close("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned())
    });
    let other = participant(|_, _, _| ok(""));
    let t = transport();
    let calls = (0..MANY).map(|_| tokio::spawn(t.call(call(&p.url, "{}"))));
    for reply in futures_util::future::join_all(calls).await {
        assert_eq!(reply.expect("no panic").outcome, Outcome::Success);
    }
    for _ in 0..MANY {
        p.closed
            .recv_timeout(Duration::from_secs(5))
            .expect("it closes");
    }
    // As above.
    assert_eq!(
        t.call(call(&other.url, "{}")).await.outcome,
        Outcome::Success
    );
    let reply = tokio::spawn(t.call(call(&p.url, "{}"))).await;
    assert_eq!(reply.expect("no panic").outcome, Outcome::Success);
    assert_eq!(p.connections.load(SeqCst), MANY + 1);
}

#[tokio::test]
async fn a_call_that_was_given_up_takes_its_connection_with_it() {
    let p = participant(|connection, _, _| {
        if connection == 0 {
            Answer::Silence
        } else {
            ok("")
        }
    });
    let t = transport();
    let mut late = call(&p.url, "{}");
    late.timeout = 100;
    assert!(error_of(t.call(late).await).1);
    for _ in 0..2 {
        assert_eq!(t.call(call(&p.url, "{}")).await.outcome, Outcome::Success);
    }
    assert_eq!(p.connections.load(SeqCst), 2);
}

#[tokio::test]
async fn what_is_no_http_is_an_answer_all_the_same() {
    let p = participant(|_, _, _| Answer::Bytes("SSH-2.0-OpenSSH\r\n\r\n".to_owned()));
    let (text, unreachable) = error_of(transport().call(call(&p.url, "{}")).await);
    assert!(
        text.starts_with(&format!("the answer of {} is no valid HTTP: ", p.url)),
        "{text}"
    );
    assert!(!unreachable);
}

#[tokio::test]
async fn https_to_a_port_without_tls_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let plain = format!("https://{}", listener.local_addr().expect("address"));
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("connection");
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read(&mut [0; 1_024]);
    });
    let (text, unreachable) = error_of(transport().call(call(&plain, "{}")).await);
    assert!(
        text.starts_with(&format!("no TLS with {plain}: ")),
        "{text}"
    );
    assert!(unreachable);
}

#[tokio::test]
async fn calls_at_the_same_time_share_what_is_idle() {
    let p = participant(|_, _, _| ok("{}"));
    let t = transport();
    for _ in 0..5 {
        let calls = (0..64).map(|_| tokio::spawn(t.call(call(&p.url, "{}"))));
        for reply in futures_util::future::join_all(calls).await {
            assert_eq!(reply.expect("no panic").outcome, Outcome::Success);
        }
    }
    assert!(
        p.connections.load(SeqCst) <= 64,
        "{}",
        p.connections.load(SeqCst)
    );
}

#[tokio::test]
async fn unusable_urls_and_headers_are_errors_that_say_why() {
    for (url, text) in [
        (
            "http://h:99999/x?secret=1",
            "the called URL has no valid host and port: http://h:99999/x",
        ),
        (
            "gopher://h/",
            "the called URL has no valid host and port: gopher://h/",
        ),
    ] {
        assert_eq!(
            error_of(transport().call(call(url, "")).await),
            (text.to_owned(), false)
        );
    }
    let p = participant(|_, _, _| ok(""));
    let mut c = call(&p.url, "");
    c.headers.push(("x-a".into(), "line\nbreak".into()));
    let (text, unreachable) = error_of(transport().call(c).await);
    assert!(
        text.starts_with("the value of branch header \"x-a\" cannot be sent"),
        "{text}"
    );
    assert!(!unreachable);
}

#[tokio::test]
async fn in_a_container_localhost_is_the_machine_outside() {
    let t = HttpTransport::with_docker(Compat::default(), 1_024, true);
    // A port that cannot be: the host is never looked up, only the text shows what would be called.
    let (text, _) = error_of(
        t.call(call("http://localhost:99999/127.0.0.1/localhost", ""))
            .await,
    );
    assert_eq!(
        text,
        "the called URL has no valid host and port: http://host.docker.internal:99999/host.docker.internal/localhost"
    );
}
