//! A participant of the tests of branch calls, on a thread, byte by byte, and what they share.

#![allow(unreachable_pub, dead_code, missing_docs)]

use amends::wire::call::HttpCall;
use amends::{Compat, Outcome, Purpose};
use amends_server::dispatch::{HttpTransport, Reply};
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};

/// A request as it came in.
pub struct Seen {
    pub head: String,
    pub body: String,
}

/// A participant whose behaviour is a function of (connection, request on it, request).
pub struct Participant {
    pub url: String,
    pub connections: Arc<AtomicUsize>,
    pub requests: Receiver<Seen>,
    pub closed: Receiver<()>,
}

pub enum Answer {
    Bytes(String),
    Close(String),
    Silence,
}

pub fn ok(body: &str) -> Answer {
    Answer::Bytes(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

pub fn participant(
    behaviour: impl Fn(usize, usize, &Seen) -> Answer + Send + Sync + 'static,
) -> Participant {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let connections = Arc::new(AtomicUsize::new(0));
    let (count, behaviour) = (connections.clone(), Arc::new(behaviour));
    let (sender, requests) = channel();
    let (closing, closed) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("connection");
            let number = count.fetch_add(1, SeqCst);
            let (sender, closing, behaviour) = (sender.clone(), closing.clone(), behaviour.clone());
            std::thread::spawn(move || {
                let mut nth = 0;
                while let Some(seen) = read_request(&mut stream) {
                    let answer = behaviour(number, nth, &seen);
                    nth += 1;
                    let _ = sender.send(seen);
                    match answer {
                        Answer::Bytes(bytes) => {
                            stream.write_all(bytes.as_bytes()).unwrap_or_default()
                        }
                        Answer::Close(bytes) => {
                            stream.write_all(bytes.as_bytes()).unwrap_or_default();
                            drop(stream);
                            closing.send(()).unwrap_or_default();
                            return;
                        }
                        Answer::Silence => {}
                    }
                }
            });
        }
    });
    Participant {
        url,
        connections,
        requests,
        closed,
    }
}

pub fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            _ => return None,
        }
    }
    let head = String::from_utf8(bytes).expect("text");
    let length = header(&head, "content-length").map_or(0, |v| v.parse().expect("number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Seen {
        head,
        body: String::from_utf8(body).expect("text"),
    })
}

pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|l| {
        l.split_once(": ")
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
    })
}

pub fn call(url: &str, body: &str) -> HttpCall {
    HttpCall {
        post: !body.is_empty(),
        url: url.to_owned(),
        headers: vec![("content-type".into(), "application/json".into())],
        body: Bytes::copy_from_slice(body.as_bytes()),
        timeout: 5_000,
        purpose: Purpose::Branch,
        json_rpc: false,
    }
}

pub fn transport() -> HttpTransport {
    HttpTransport::new(Compat::default(), 1_024)
}

pub fn error_of(reply: Reply) -> (String, bool) {
    match reply.outcome {
        Outcome::Error(text) => (text, reply.unreachable),
        other => panic!("no error but {other:?}"),
    }
}
