//! The null coordinator: the floor that a coordinator is measured against. It parses a submit, makes the calls and
//! answers; it stores nothing, retries nothing and decides nothing.

use crate::error::BenchError;
use crate::grpc::{self, Channel};
use crate::http::{Connection, SUCCESS, Target, json, serve};
use crate::message;
use bytes::Bytes;
use http_body_util::{BodyExt, Either};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use prost::Message;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;

const GID: HeaderName = HeaderName::from_static("dtm-gid");
const TRANS_TYPE: HeaderName = HeaderName::from_static("dtm-trans_type");
const BRANCH_ID: HeaderName = HeaderName::from_static("dtm-branch_id");
const OP: HeaderName = HeaderName::from_static("dtm-op");

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

/// Connections by `host:port`.
#[derive(Default)]
struct Pool {
    hosts: Mutex<HashMap<String, Host>>,
    /// One for each host, as the coordinator does it. Locked while one is opened.
    channels: tokio::sync::Mutex<HashMap<String, Channel>>,
}

/// HTTP connections that are idle, the last used one on top.
struct Host {
    target: Target,
    idle: Vec<Connection>,
}

/// What a call tells a participant beside its payload.
struct Branch<'a> {
    gid: &'a str,
    trans_type: &'a str,
    id: String,
}

impl Pool {
    async fn call(&self, url: &str, branch: &Branch<'_>, body: Bytes) -> Result<(), BenchError> {
        let bad = || BenchError::Setup(format!("`{url}` cannot be called"));
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        match scheme {
            "http" => {
                let separator = match path {
                    "" => "/?",
                    path if path.contains('?') => "&",
                    _ => "?",
                };
                let (gid, trans_type) = (encode(branch.gid), encode(branch.trans_type));
                let id = &branch.id;
                let query = format!("branch_id={id}&gid={gid}&op=action&trans_type={trans_type}");
                let uri = format!("{path}{separator}{query}");
                let uri = uri.parse().map_err(|_| bad())?;
                match self.post(authority, uri, body).await? {
                    StatusCode::OK => Ok(()),
                    status => Err(BenchError::Refused(format!("{url} answered {status}"))),
                }
            }
            "grpc" => {
                let value = |text: &str| HeaderValue::from_str(text).map_err(|_| bad());
                let metadata = [
                    (GID, value(branch.gid)?),
                    (TRANS_TYPE, value(branch.trans_type)?),
                    (BRANCH_ID, value(&branch.id)?),
                    (OP, HeaderValue::from_static("action")),
                ];
                let uri = format!("http://{rest}").parse().map_err(|_| bad())?;
                let mut channel = self.channel(authority).await?;
                channel.call(uri, metadata, &body).await
            }
            _ => Err(bad()),
        }
    }

    async fn channel(&self, authority: &str) -> Result<Channel, BenchError> {
        let mut channels = self.channels.lock().await;
        if let Some(channel) = channels.get(authority).filter(|open| !open.is_closed()) {
            return Ok(channel.clone());
        }
        let channel = Channel::open(authority).await?;
        channels.insert(authority.to_owned(), channel.clone());
        Ok(channel)
    }

    async fn post(&self, authority: &str, uri: Uri, body: Bytes) -> Result<StatusCode, BenchError> {
        let (target, idle) = self.take(authority)?;
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(authority).await?,
        };
        let request = target.post(uri, body);
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

/// Coordinates nothing on `listener`, over HTTP and over gRPC.
pub(crate) async fn run(listener: TcpListener) -> Result<(), BenchError> {
    let pool = Arc::new(Pool::default());
    serve(listener, move |request| {
        let pool = Arc::clone(&pool);
        async move {
            let is_grpc = grpc::is_call(request.headers());
            let outcome = handle(&pool, request, is_grpc).await;
            match (outcome, is_grpc) {
                (Ok(()), false) => {
                    json(StatusCode::OK, Bytes::from_static(SUCCESS)).map(Either::Left)
                }
                (Err(error), false) => {
                    let body = serde_json::json!({ "message": error.to_string() }).to_string();
                    json(StatusCode::INTERNAL_SERVER_ERROR, body).map(Either::Left)
                }
                (Ok(()), true) => grpc::ok().map(Either::Right),
                (Err(error), true) => grpc::internal(&error.to_string()).map(Either::Right),
            }
        }
    })
    .await
}

async fn handle(pool: &Pool, request: Request<Incoming>, is_grpc: bool) -> Result<(), BenchError> {
    if request.method() == Method::GET {
        return Ok(());
    }
    let broken = BenchError::http("reading a submit");
    let body = request
        .into_body()
        .collect()
        .await
        .map_err(broken)?
        .to_bytes();
    if is_grpc {
        let submit = message::Submit::decode(grpc::unframed(body)?)
            .map_err(|error| BenchError::Refused(error.to_string()))?;
        let steps: Vec<Step<'_>> = parse(submit.steps.as_bytes())?;
        make_calls(
            pool,
            &submit.gid,
            &submit.trans_type,
            &steps,
            submit.payloads,
        )
        .await
    } else {
        let submit: Submit<'_> = parse(&body)?;
        let (gid, steps) = (&submit.gid, &submit.steps);
        make_calls(pool, gid, &submit.trans_type, steps, submit.payloads).await
    }
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, BenchError> {
    serde_json::from_slice(json).map_err(|error| BenchError::Refused(error.to_string()))
}

async fn make_calls(
    pool: &Pool,
    gid: &str,
    trans_type: &str,
    steps: &[Step<'_>],
    payloads: Vec<impl Into<Bytes>>,
) -> Result<(), BenchError> {
    if payloads.len() != steps.len() {
        let text = "steps and payloads differ in number";
        return Err(BenchError::Refused(text.to_owned()));
    }
    for (number, (step, payload)) in (1..).zip(steps.iter().zip(payloads)) {
        let branch = Branch {
            gid,
            trans_type,
            id: format!("{number:02}"),
        };
        pool.call(&step.action, &branch, payload.into()).await?;
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
    use crate::submit::{Protocol, Template};
    use hyper::Version;
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
        let template = Template::saga(
            Protocol::Http,
            Protocol::Http,
            &format!("127.0.0.1:{busi_port}"),
            true,
        );
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
    async fn a_saga_with_grpc_branches_is_two_calls_whatever_it_is_submitted_over() {
        let (sender, mut calls) = mpsc::unbounded_channel();
        let busi = listen(0).await.unwrap();
        let host = busi.local_addr().unwrap().to_string();
        tokio::spawn(serve(busi, move |request: Request<Incoming>| {
            let sender = sender.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                sender.send((head, body)).unwrap();
                grpc::ok()
            }
        }));
        let null = listen(0).await.unwrap();
        let target = Target::parse(&format!("http://{}", null.local_addr().unwrap())).unwrap();
        tokio::spawn(run(null));
        for submits in [Protocol::Http, Protocol::Grpc] {
            let body = Template::saga(submits, Protocol::Grpc, &host, true).body("g1");
            if submits == Protocol::Http {
                let mut connection = Connection::open(target.authority()).await.unwrap();
                let submit = target.post(Uri::from_static("/api/dtmsvr/submit"), body);
                let (status, body) = connection.send(submit).await.unwrap();
                assert_eq!((status, &body[..]), (StatusCode::OK, SUCCESS));
            } else {
                let mut channel = Channel::open(target.authority()).await.unwrap();
                let uri = format!("http://{}{}", target.authority(), message::SUBMIT);
                channel.call(uri.parse().unwrap(), [], &body).await.unwrap();
            }
            for (branch, path) in [("01", "/bench.Bench/Out"), ("02", "/bench.Bench/In")] {
                let call = tokio::time::timeout(Duration::from_secs(5), calls.recv());
                let (head, body) = call.await.unwrap().unwrap();
                assert_eq!(head.method, Method::POST);
                assert_eq!((head.version, head.uri.path()), (Version::HTTP_2, path));
                for (name, value) in [
                    ("content-type", "application/grpc"),
                    ("te", "trailers"),
                    ("dtm-gid", "g1"),
                    ("dtm-trans_type", "saga"),
                    ("dtm-branch_id", branch),
                    ("dtm-op", "action"),
                ] {
                    assert_eq!(head.headers[name], value, "{name}");
                }
                assert_eq!(body, b"\0\0\0\0\x0d{\"amount\":30}"[..]);
            }
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
        let template = Template::saga(
            Protocol::Http,
            Protocol::Http,
            &format!("127.0.0.1:{port}"),
            true,
        );
        let mut connection = Connection::open(target.authority()).await.unwrap();
        let submit = target.post(Uri::from_static("/api/dtmsvr/submit"), template.body("g"));
        let (status, body) = connection.send(submit).await.unwrap();
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(String::from_utf8_lossy(&body).contains("connecting to"));
    }
}
