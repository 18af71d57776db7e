//! A client of Redis, as small as it can be.

use amends::ErrorKind;
use amends::error::Error;
use amends::participant::redis::{DEFAULT_TTL, Reply, Script, Work, plan, query_prepared, read};
use amends::participant::{BarrierResult, Identity};
use amends_interop::Redis;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What Redis answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Error(String),
    Integer(i64),
    Nil,
    Array(Vec<Value>),
}

impl Value {
    pub(crate) fn text(&self) -> &str {
        match self {
            Value::Text(text) => text,
            _ => "",
        }
    }
}

/// One connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn new(redis: &Redis) -> Client {
        Client::of(redis.port())
    }

    pub(crate) fn of(port: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).expect("a timeout");
        Client {
            stream: BufReader::new(stream),
        }
    }

    pub(crate) fn send(&mut self, words: &[&[u8]]) -> Value {
        let mut message = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            message.extend(format!("${}\r\n", word.len()).bytes());
            message.extend(*word);
            message.extend(b"\r\n");
        }
        self.stream.get_mut().write_all(&message).expect("sent");
        self.receive()
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line");
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().expect("a number");
        match kind {
            "+" => Value::Text(rest.to_owned()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Integer(number()),
            "$" | "*" if number() < 0 => Value::Nil,
            "$" => {
                let mut text = vec![0; usize::try_from(number()).expect("a length") + 2];
                self.stream.read_exact(&mut text).expect("a text");
                text.truncate(text.len() - 2);
                Value::Text(String::from_utf8(text).expect("UTF-8"))
            }
            "*" => Value::Array((0..number()).map(|_| self.receive()).collect()),
            _ => panic!("{line:?}"),
        }
    }

    /// A command of plain words.
    pub(crate) fn run(&mut self, command: &str) -> Value {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        self.send(&words)
    }

    pub(crate) fn eval(&mut self, script: &Script) -> Value {
        let count = script.keys.len().to_string();
        let mut words: Vec<&[u8]> = vec![b"EVAL", script.text.as_bytes(), count.as_bytes()];
        words.extend(script.keys.iter().map(String::as_bytes));
        words.extend(script.args.iter().map(|arg| &arg[..]));
        self.send(&words)
    }

    /// A branch call, with what its body returned.
    pub(crate) fn call(
        &mut self,
        who: &Identity,
        work: &Work,
    ) -> (Result<BarrierResult, Error>, Value) {
        let script = plan(who, "01", None, DEFAULT_TTL, work).expect("a plan");
        let answer = self.eval(&script);
        verdict(who, &answer)
    }

    /// Takes or gives back.
    pub(crate) fn adjust(
        &mut self,
        who: &Identity,
        key: &str,
        amount: i64,
    ) -> Result<BarrierResult, Error> {
        let work = Work::adjust(&who.op, key, amount).expect("work");
        self.call(who, &work).0
    }

    pub(crate) fn check_back(&mut self, who: &Identity) -> Result<BarrierResult, Error> {
        let script = query_prepared(who, None, DEFAULT_TTL).expect("a plan");
        verdict(who, &self.eval(&script)).0
    }

    pub(crate) fn get(&mut self, key: &str) -> Option<String> {
        match self.send(&[b"GET", key.as_bytes()]) {
            Value::Text(text) => Some(text),
            Value::Nil => None,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        let answer = self.send(&[b"SET", key.as_bytes(), value.as_bytes()]);
        assert_eq!(answer.text(), "OK");
    }

    /// The markers of a gid and their values, in order; each must have its lifetime.
    pub(crate) fn markers(&mut self, gid: &str) -> Vec<(String, String)> {
        let Value::Array(keys) = self.run(&format!("KEYS {gid}-*")) else {
            panic!("no keys")
        };
        let mut markers = Vec::new();
        for key in keys {
            let key = key.text().to_owned();
            let left = match self.run(&format!("PTTL {key}")) {
                Value::Integer(left) => left,
                other => panic!("{other:?}"),
            };
            assert!(
                (DEFAULT_TTL - 600_000..=DEFAULT_TTL).contains(&left),
                "{key} lives {left} ms"
            );
            let value = self.get(&key).expect("a marker");
            markers.push((key, value));
        }
        markers.sort();
        markers
    }
}

pub(crate) fn verdict(who: &Identity, answer: &Value) -> (Result<BarrierResult, Error>, Value) {
    match answer {
        Value::Array(elements) => {
            let value = elements.get(1).cloned().unwrap_or(Value::Nil);
            let reply = Reply::Array {
                word: elements[0].text(),
                text: value.text(),
            };
            (read(who, reply), value)
        }
        Value::Error(text) => (read(who, Reply::Error(text)), Value::Nil),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn body(body: &str, keys: &[&str]) -> Work {
    Work {
        body: body.to_owned(),
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
        args: Vec::new(),
    }
}

pub(crate) fn kind(result: &Result<BarrierResult, Error>) -> ErrorKind {
    result.as_ref().expect_err("an error").kind()
}

pub(crate) fn pairs(markers: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
    markers.iter().map(owned).collect()
}
