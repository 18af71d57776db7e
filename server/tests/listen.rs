//! The listener over real sockets: bodies and their limits, keep-alive, shutdown.

use amends_server::api::listen::{BodyError, Http1, json, read_body, serve};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

const LIMIT: usize = 1_000;

struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    done: JoinHandle<()>,
    /// Told when a request to /slow has arrived; it is answered when `release` is.
    arrived: Arc<Notify>,
    release: Arc<Notify>,
}

async fn server(grace: Duration) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("address");
    let (stop, stopped) = oneshot::channel::<()>();
    let (arrived, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (a, r) = (arrived.clone(), release.clone());
    let handler = move |request: Request<Incoming>| answer(request, a.clone(), r.clone());
    let shutdown = async {
        stopped.await.unwrap_or_default();
    };
    let done = tokio::spawn(serve(listener, shutdown, grace, Http1(handler)));
    Server {
        address,
        stop: Some(stop),
        done,
        arrived,
        release,
    }
}

async fn answer(
    request: Request<Incoming>,
    arrived: Arc<Notify>,
    release: Arc<Notify>,
) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/slow" => {
            arrived.notify_one();
            release.notified().await;
        }
        "/panic" => panic!("as asked"),
        _ => {}
    }
    match read_body(request, LIMIT).await {
        Ok(body) => json(StatusCode::OK, format!("{{\"bytes\":{}}}", body.len())),
        Err(e @ BodyError::TooLarge { .. }) => json(StatusCode::PAYLOAD_TOO_LARGE, e.to_string()),
        Err(e @ (BodyError::Broken | BodyError::Stalled)) => {
            json(StatusCode::BAD_REQUEST, e.to_string())
        }
    }
}

/// A blocking client on a thread of its own.
async fn client<T: Send + 'static>(
    address: SocketAddr,
    f: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> T {
    let run = move || {
        let stream = TcpStream::connect(address).expect("connection");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("timeout");
        f(stream)
    };
    tokio::task::spawn_blocking(run).await.expect("client")
}

fn send(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).expect("sent");
}

/// One answer: its head in lower case and its body.
fn receive(stream: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(
            stream.read(&mut byte).expect("answer"),
            1,
            "closed within {:?}",
            String::from_utf8_lossy(&head)
        );
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "))
        .map_or(0, |v| v.parse().expect("number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("body");
    (head, String::from_utf8(body).expect("text"))
}

fn post(path: &str, length: usize) -> Vec<u8> {
    let mut request =
        format!("POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n").into_bytes();
    request.resize(request.len() + length, b'x');
    request
}

fn closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(n) => n == 0,
        Err(e) => e.kind() == ErrorKind::ConnectionReset,
    }
}

#[tokio::test]
async fn bodies_are_read_to_the_limit_and_refused_one_past_it() {
    let s = server(Duration::from_secs(5)).await;
    client(s.address, |mut stream| {
        send(&mut stream, &post("/", LIMIT));
        let (head, body) = receive(&mut stream);
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(
            head.contains("content-type: application/json; charset=utf-8\r\n"),
            "{head}"
        );
        assert_eq!(body, "{\"bytes\":1000}");
        // On the same connection: chunked, in pieces.
        send(
            &mut stream,
            b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        );
        send(&mut stream, b"2\r\nde\r\n0\r\n\r\n");
        assert_eq!(receive(&mut stream).1, "{\"bytes\":5}");
        send(&mut stream, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n");
        assert_eq!(receive(&mut stream).1, "{\"bytes\":0}");
        send(&mut stream, &post("/", LIMIT + 1));
        let (head, body) = receive(&mut stream);
        assert!(head.starts_with("http/1.1 413"), "{head}");
        assert_eq!(body, "the request body is larger than 1000 bytes");
    })
    .await;
    client(s.address, |mut stream| {
        let chunk = format!("3E9\r\n{}\r\n0\r\n\r\n", "x".repeat(LIMIT + 1));
        send(
            &mut stream,
            b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n",
        );
        send(&mut stream, chunk.as_bytes());
        assert!(receive(&mut stream).0.starts_with("http/1.1 413"));
    })
    .await;
    // Far too large: refused by what it announces.
    client(s.address, |mut stream| {
        send(
            &mut stream,
            b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000000\r\n\r\n",
        );
        assert!(receive(&mut stream).0.starts_with("http/1.1 413"));
    })
    .await;
}

#[tokio::test]
async fn a_body_that_breaks_off_hurts_nobody_else() {
    let s = server(Duration::from_secs(5)).await;
    client(s.address, |mut stream| {
        send(
            &mut stream,
            b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc",
        )
    })
    .await;
    client(s.address, |mut stream| send(&mut stream, b"\0\0\0 no HTTP")).await;
    client(s.address, |mut stream| {
        send(&mut stream, &post("/panic", 0));
        assert!(closed(&mut stream));
    })
    .await;
    client(s.address, |mut stream| {
        send(&mut stream, &post("/", 1));
        assert_eq!(receive(&mut stream).1, "{\"bytes\":1}");
    })
    .await;
}

#[tokio::test]
async fn shutdown_closes_what_is_idle_and_lets_the_busy_finish() {
    let mut s = server(Duration::from_secs(10)).await;
    let address = s.address;
    let idle = client(address, |mut stream| {
        send(&mut stream, &post("/", 1));
        receive(&mut stream);
        stream
    })
    .await;
    let untouched = client(address, |stream| stream).await;
    let busy = tokio::spawn(client(address, |mut stream| {
        send(&mut stream, &post("/slow", 3));
        let answer = receive(&mut stream);
        assert!(closed(&mut stream), "no request is taken after the last");
        answer
    }));
    s.arrived.notified().await;
    s.stop.take().expect("once").send(()).expect("running");
    for mut stream in [idle, untouched] {
        assert!(
            tokio::task::spawn_blocking(move || closed(&mut stream))
                .await
                .expect("client")
        );
    }
    assert!(!s.done.is_finished(), "a request is being answered");
    s.release.notify_one();
    let (head, body) = busy.await.expect("client");
    assert_eq!(body, "{\"bytes\":3}");
    assert!(head.contains("connection: close\r\n"), "{head}");
    tokio::time::timeout(Duration::from_secs(5), s.done)
        .await
        .expect("in time")
        .expect("no panic");
    assert!(TcpStream::connect(address).is_err(), "the port is free");
}

#[tokio::test]
async fn shutdown_does_not_wait_beyond_its_grace() {
    let mut s = server(Duration::from_millis(200)).await;
    let busy = tokio::spawn(client(s.address, |mut stream| {
        send(&mut stream, &post("/slow", 0));
        closed(&mut stream)
    }));
    s.arrived.notified().await;
    let start = Instant::now();
    s.stop.take().expect("once").send(()).expect("running");
    tokio::time::timeout(Duration::from_secs(5), s.done)
        .await
        .expect("in time")
        .expect("no panic");
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert!(busy.await.expect("client"), "cut off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the next test, which limits its descriptors"]
async fn with_few_descriptors() {
    let s = server(Duration::from_secs(5)).await;
    let address = s.address;
    let answered = tokio::task::spawn_blocking(move || {
        let mut open = Vec::new();
        while let Ok(stream) = TcpStream::connect(address) {
            open.push(stream);
        }
        // It took the last descriptor, so it is not accepted yet.
        let mut last = open.pop().expect("a connection");
        last.set_read_timeout(Some(Duration::from_secs(10)))
            .expect("timeout");
        send(&mut last, &post("/", 1));
        drop(open);
        receive(&mut last).1
    });
    println!("answered: {}", answered.await.expect("client"));
}

#[test]
fn running_out_of_descriptors_delays_connections_and_ends_nothing() {
    let program = std::env::current_exe().expect("this program");
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -n 40 && exec \"$0\" --exact with_few_descriptors --ignored --nocapture",
        ])
        .arg(program)
        .output()
        .expect("child");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("answered: {\"bytes\":1}"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
