//! A participant that remembers its calls, and a client.

use super::dispatch_participant::{Answer, Participant, Seen, participant};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Nothing here may take this long in real time.
pub(crate) const REAL: Duration = Duration::from_secs(5);

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) fn error() -> Answer {
    Answer::Bytes("HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n".to_owned())
}

pub(crate) fn refuse() -> Answer {
    Answer::Bytes("HTTP/1.1 409 X\r\ncontent-length: 0\r\n\r\n".to_owned())
}

/// A participant that remembers which paths were called, and answers by path and how often it was called before.
pub(crate) struct Bank {
    at: Participant,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Bank {
    pub(crate) fn new(behaviour: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Bank {
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

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.at.url)
    }

    /// The paths called so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().expect("no panic").clone()
    }

    pub(crate) fn saga(&self, gid: &str, n: usize, more: Value) -> Value {
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
pub(crate) fn request(base: &str, method: &str, path: &str, body: &str) -> (u16, String) {
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

#[track_caller]
pub(crate) fn accepted(answer: &(u16, String)) {
    assert_eq!(answer.0, 200, "{}", answer.1);
}
