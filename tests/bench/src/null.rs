//! The null coordinator: the floor that a coordinator is measured against. It parses a submit, makes the calls and
//! answers; it stores nothing, retries nothing and decides nothing.

use crate::error::BenchError;
use crate::http::{Connection, SUCCESS, Target, json, serve};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode, Uri};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;

/// What a coordinator must read of a submit.
#[derive(Deserialize)]
struct Submit<'a> {
    #[serde(borrow)]
    gid: Cow<'a, str>,
    #[serde(borrow)]
    trans_type: Cow<'a, str>,
    #[serde(borrow)]
    steps: Vec<Step<'a>>,
    payloads: Vec<String>,
}

#[derive(Deserialize)]
struct Step<'a> {
    #[serde(borrow)]
    action: Cow<'a, str>,
}

/// Idle connections by `host:port`, the last used first.
#[derive(Default)]
struct Pool {
    hosts: Mutex<HashMap<String, Host>>,
}

struct Host {
    target: Target,
    idle: Vec<Connection>,
}

impl Pool {
    async fn post(&self, url: &str, query: &str, body: String) -> Result<StatusCode, BenchError> {
        let bad = || BenchError::Setup(format!("`{url}` cannot be called"));
        let rest = url.strip_prefix("http://").ok_or_else(bad)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let separator = match path {
            "" => "/?",
            path if path.contains('?') => "&",
            _ => "?",
        };
        let uri: Uri = format!("{path}{separator}{query}")
            .parse()
            .map_err(|_| bad())?;

        let (target, idle) = self.take(authority)?;
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(authority).await?,
        };
        let request = target.post(uri, Bytes::from(body));
        let (status, _) = connection.send(request).await?;
        self.give_back(authority, connection);
        Ok(status)
    }

    fn take(&self, authority: &str) -> Result<(Target, Option<Connection>), BenchError> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get_mut(authority) {
            let mut idle = host.idle.pop();
            while idle.as_ref().is_some_and(Connection::is_closed) {
                idle = host.idle.pop();
            }
            return Ok((host.target.clone(), idle));
        }
        let target = Target::parse(&format!("http://{authority}"))?;
        let host = Host {
            target: target.clone(),
            idle: Vec::new(),
        };
        hosts.insert(authority.to_owned(), host);
        Ok((target, None))
    }

    fn give_back(&self, authority: &str, connection: Connection) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get_mut(authority) {
            host.idle.push(connection);
        }
    }
}

/// Coordinates nothing on `listener`.
pub(crate) async fn run(listener: TcpListener) -> Result<(), BenchError> {
    let pool = Arc::new(Pool::default());
    serve(listener, move |request| {
        let pool = Arc::clone(&pool);
        async move {
            match handle(&pool, request).await {
                Ok(()) => json(StatusCode::OK, Bytes::from_static(SUCCESS)),
                Err(message) => {
                    let body = serde_json::json!({ "message": message }).to_string();
                    json(StatusCode::INTERNAL_SERVER_ERROR, body)
                }
            }
        }
    })
    .await
}

async fn handle(pool: &Pool, request: Request<Incoming>) -> Result<(), String> {
    if request.method() == Method::GET {
        return Ok(());
    }
    let body = request
        .into_body()
        .collect()
        .await
        .map_err(|error| error.to_string())?
        .to_bytes();
    let submit: Submit<'_> = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    if submit.payloads.len() != submit.steps.len() {
        return Err("steps and payloads differ in number".to_owned());
    }
    let gid = encode(&submit.gid);
    let trans_type = encode(&submit.trans_type);
    for (number, (step, payload)) in (1..).zip(submit.steps.iter().zip(submit.payloads)) {
        let query = format!("branch_id={number:02}&gid={gid}&op=action&trans_type={trans_type}");
        let status = pool
            .post(&step.action, &query, payload)
            .await
            .map_err(|error| error.to_string())?;
        if status != StatusCode::OK {
            return Err(format!("{} answered {status}", step.action));
        }
    }
    Ok(())
}

/// Percent-encoding of a query value; nearly every gid needs none.
fn encode(value: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    if value.bytes().all(plain) {
        return Cow::Borrowed(value);
    }
    let mut encoded = String::with_capacity(value.len() * 3);
    for b in value.bytes() {
        if plain(b) {
            encoded.push(char::from(b));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{b:02X}");
        }
    }
    Cow::Owned(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::listen;
    use std::time::Duration;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn a_saga_is_two_calls_as_dtm_makes_them() {
        let (sender, mut calls) = mpsc::unbounded_channel();
        let busi = listen(0).await.unwrap();
        let busi_port = busi.local_addr().unwrap().port();
        tokio::spawn(serve(busi, move |request: Request<Incoming>| {
            let sender = sender.clone();
            async move {
                let line = format!("{} {}", request.method(), request.uri());
                let kind = request.headers()["content-type"].clone();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                sender.send((line, kind, body)).unwrap();
                json(StatusCode::OK, Bytes::from_static(SUCCESS))
            }
        }));
        let null = listen(0).await.unwrap();
        let target = format!("http://{}", null.local_addr().unwrap());
        tokio::spawn(run(null));

        let target = Target::parse(&target).unwrap();
        let template = crate::submit::Template::saga(&format!("127.0.0.1:{busi_port}"), true);
        let mut connection = Connection::open(target.authority()).await.unwrap();
        let submit = target.post(Uri::from_static("/api/dtmsvr/submit"), template.body("g 1"));
        let (status, body) = connection.send(submit).await.unwrap();
        assert_eq!((status, &body[..]), (StatusCode::OK, SUCCESS));

        for (branch, path) in [("01", "/busi/out"), ("02", "/busi/in")] {
            let call = tokio::time::timeout(Duration::from_secs(5), calls.recv());
            let (line, kind, body) = call.await.unwrap().unwrap();
            let query = format!("branch_id={branch}&gid=g%201&op=action&trans_type=saga");
            assert_eq!(line, format!("POST {path}?{query}"));
            assert_eq!(kind, "application/json");
            assert_eq!(&body[..], br#"{"amount":30}"#);
        }
    }

    #[tokio::test]
    async fn a_dead_participant_is_an_error_of_the_saga() {
        let closed = listen(0).await.unwrap();
        let port = closed.local_addr().unwrap().port();
        drop(closed);
        let null = listen(0).await.unwrap();
        let target = Target::parse(&format!("http://{}", null.local_addr().unwrap())).unwrap();
        tokio::spawn(run(null));
        let template = crate::submit::Template::saga(&format!("127.0.0.1:{port}"), true);
        let mut connection = Connection::open(target.authority()).await.unwrap();
        let submit = target.post(Uri::from_static("/api/dtmsvr/submit"), template.body("g"));
        let (status, body) = connection.send(submit).await.unwrap();
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(String::from_utf8_lossy(&body).contains("connecting to"));
    }
}
