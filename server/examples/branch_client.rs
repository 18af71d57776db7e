//! What a branch call costs: the built-in client against hyper-util's pooled client and against a pool whose connections are tasks.
//!
//! `cargo run --profile demo -p amends-server --example branch_client [ms] [in flight] [only one]` measures the three in turn, eleven times, and prints the
//! medians of calls per second and of this process's CPU per call; the participant runs in a second process. Linux only (reads `/proc/self/stat`).

use amends::wire::call::HttpCall;
use amends::{Compat, Outcome, Purpose};
use amends_server::dispatch::HttpTransport;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// How often each client is measured.
const ROUNDS: usize = 11;

type AnyError = Box<dyn Error + Send + Sync>;
type Call = Arc<dyn Fn(HttpCall) -> BoxFuture<'static, Outcome> + Send + Sync>;

fn main() -> Result<(), AnyError> {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    if args.get(1).is_some_and(|a| a == "participant") {
        return runtime.block_on(participant());
    }
    let time = Duration::from_millis(args.get(1).map_or(Ok(1_000), |a| a.parse())?);
    let in_flight: usize = args.get(2).map_or(Ok(64), |a| a.parse())?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("participant")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut port = String::new();
    BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut port)?;
    let host = format!("127.0.0.1:{}", port.trim());
    let outcome = runtime.block_on(async {
        let clients = [("built-in", built_in()), ("hyper-util", legacy()), ("connection tasks", tasks(host.clone()))];
        let mut cost: Vec<Vec<[f64; 3]>> = vec![Vec::new(); clients.len()];
        for _ in 0..ROUNDS {
            for ((name, call), cost) in clients.iter().zip(&mut cost) {
                if args.get(3).is_some_and(|only| only != name) {
                    cost.push([0.0; 3]);
                    continue;
                }
                cost.push(measure(call.clone(), &host, in_flight, time).await?);
            }
        }
        for ((name, _), cost) in clients.iter().zip(cost) {
            let [calls, user, system] = [0, 1, 2].map(|i| median(cost.iter().map(|c| c[i]).collect()));
            println!("{name:<18} {calls:>8.0} calls/s  {user:>5.1} us user and {system:>5.1} us system CPU per call");
        }
        Ok(())
    });
    child.kill()?;
    child.wait()?;
    outcome
}

async fn participant() -> Result<(), AnyError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async {
            let _ = request.into_body().collect().await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(
                b"{\"dtm_result\":\"SUCCESS\"}",
            ))))
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

fn built_in() -> Call {
    let transport = HttpTransport::new(Compat::default(), 65_536);
    Arc::new(move |call| {
        let reply = transport.call(call);
        Box::pin(async move { reply.await.outcome })
    })
}

fn request(call: &HttpCall, uri: Uri) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(call.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    for (name, value) in &call.headers {
        if let (Ok(name), Ok(value)) = (
            http::HeaderName::from_bytes(name.as_bytes()),
            http::HeaderValue::from_str(value),
        ) {
            request.headers_mut().insert(name, value);
        }
    }
    request
}

fn legacy() -> Call {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    Arc::new(move |call| {
        let client = client.clone();
        Box::pin(async move {
            let answer = async {
                let answer = client.request(request(&call, call.url.parse()?)).await?;
                let status = answer.status().as_u16();
                let body = answer.into_body().collect().await?.to_bytes();
                Ok::<_, AnyError>(call.classify(status, &body, &Compat::default()))
            };
            match tokio::time::timeout(Duration::from_millis(3_000), answer).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(e)) => Outcome::Error(e.to_string()),
                Err(e) => Outcome::Error(e.to_string()),
            }
        })
    })
}

/// The usual small pool: a stack of senders, each with a task that drives its connection.
fn tasks(host: String) -> Call {
    let idle: Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>> = Arc::default();
    Arc::new(move |call| {
        let (idle, host) = (idle.clone(), host.clone());
        Box::pin(async move {
            let answer = async {
                let taken = idle.lock().ok().and_then(|mut i| i.pop());
                let mut sender = match taken {
                    Some(sender) => sender,
                    None => {
                        let stream = TcpStream::connect(&host).await?;
                        stream.set_nodelay(true)?;
                        let (sender, connection) =
                            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                        tokio::spawn(connection);
                        sender
                    }
                };
                sender.ready().await?;
                let path: Uri = call.url[7 + host.len()..].parse()?;
                let mut request = request(&call, path);
                request.headers_mut().insert("host", host.parse()?);
                let answer = sender.send_request(request).await?;
                let status = answer.status().as_u16();
                let body = answer.into_body().collect().await?.to_bytes();
                if let Ok(mut idle) = idle.lock() {
                    idle.push(sender);
                }
                Ok::<_, AnyError>(call.classify(status, &body, &Compat::default()))
            };
            match tokio::time::timeout(Duration::from_millis(3_000), answer).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(e)) => Outcome::Error(e.to_string()),
                Err(e) => Outcome::Error(e.to_string()),
            }
        })
    })
}

/// Calls per second, user and system CPU per call in microseconds.
async fn measure(
    call: Call,
    host: &str,
    in_flight: usize,
    time: Duration,
) -> Result<[f64; 3], AnyError> {
    let url = format!(
        "http://{host}/api/busi/TransIn?branch_id=01&gid=23456789ABCDEFGHJKLMNP&op=action&trans_type=saga"
    );
    let (before, start) = (cpu()?, Instant::now());
    let workers: Vec<_> = (0..in_flight)
        .map(|_| {
            let (call, url) = (call.clone(), url.clone());
            tokio::spawn(async move {
                let mut calls = 0u64;
                while start.elapsed() < time {
                    let json = "application/json".to_owned();
                    let request = HttpCall {
                        post: true,
                        url: url.clone(),
                        headers: vec![
                            ("content-type".into(), json.clone().into()),
                            ("accept".into(), json.into()),
                        ],
                        body: Bytes::from_static(
                            b"{\"amount\":30,\"from\":\"alice\",\"to\":\"bob\"}",
                        ),
                        timeout: 3_000,
                        purpose: Purpose::Branch,
                        json_rpc: false,
                    };
                    assert_eq!(call(request).await, Outcome::Success);
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    let mut calls = 0;
    for worker in workers {
        calls += worker.await?;
    }
    let (user, system) = cpu()?;
    Ok([
        calls as f64 / start.elapsed().as_secs_f64(),
        (user - before.0) / calls as f64,
        (system - before.1) / calls as f64,
    ])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// User and system time of this process in microseconds; the kernel counts in ticks of 10 ms.
fn cpu() -> Result<(f64, f64), AnyError> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .ok_or("stat")?
        .1
        .split_whitespace()
        .collect();
    Ok((
        fields[11].parse::<f64>()? * 1e4,
        fields[12].parse::<f64>()? * 1e4,
    ))
}
