//! A bank as a service that can go down and come back: over HTTP here, over gRPC in [`super::grpc`].

use super::bank::{Account, Answer, Bank, Branch, Order};
use super::grpc;
use super::timeline::{Entry, Timeline, Tone};
use crate::api::listen::{Http1, Http2, json, read_body, serve};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const BODY_LIMIT: usize = 64 << 10;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// A bank on a port of its own.
pub(super) struct BankService {
    address: SocketAddr,
    speaks: Speaks,
    shared: Shared,
    running: Option<Running>,
    /// While it is down: bound, so that nobody else takes the port, but not listening, so that connections are refused.
    reserved: Option<TcpSocket>,
}

/// The protocol of a bank.
#[derive(Clone, Copy, Debug)]
pub(super) enum Speaks {
    Http,
    Grpc,
}

#[derive(Clone)]
pub(super) struct Shared {
    pub(super) name: &'static str,
    bank: Arc<Mutex<Bank>>,
    pub(super) timeline: Timeline,
}

struct Running {
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl BankService {
    /// Starts it on a free port of the loopback address.
    pub(super) async fn start(
        name: &'static str,
        speaks: Speaks,
        bank: Bank,
        timeline: Timeline,
    ) -> io::Result<BankService> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let bank = Arc::new(Mutex::new(bank));
        let shared = Shared {
            name,
            bank,
            timeline,
        };
        Ok(BankService {
            address: listener.local_addr()?,
            running: Some(run(listener, speaks, shared.clone())),
            speaks,
            shared,
            reserved: None,
        })
    }

    pub(super) fn name(&self) -> &'static str {
        self.shared.name
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, or of a method.
    pub(super) fn url(&self, path: &str) -> String {
        match self.speaks {
            Speaks::Http => format!("http://{}{path}", self.address),
            Speaks::Grpc => format!("grpc://{}{path}", self.address),
        }
    }

    /// Its accounts, as it sees them itself.
    pub(super) fn accounts(&self) -> BTreeMap<String, Account> {
        self.shared.bank().accounts().clone()
    }

    /// Work that this bank does by itself, as the sender of a message.
    pub(super) fn locally(&self, branch: Branch<'_>, order: &Order) -> Answer {
        let answer = self.shared.bank().withdraw(branch, order);
        let (_, note, tone) = parts(&answer);
        self.shared.timeline.add(&Entry {
            from: self.name(),
            to: self.name(),
            call: "local commit",
            branch: &format!("{} {}", branch.branch_id, branch.op),
            answer: note,
            tone,
        });
        answer
    }

    /// Ends its connections and refuses new ones. It forgets nothing: a real bank has its books on disk.
    pub(super) async fn go_down(&mut self) -> io::Result<()> {
        if let Some(Running { stop, serving }) = self.running.take() {
            // One that ended by itself needs not be told.
            let _ = stop.send(());
            let _ = serving.await;
        }
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        self.reserved = Some(socket);
        Ok(())
    }

    /// Listens again, on the same port.
    pub(super) fn come_back(&mut self) -> io::Result<()> {
        if let Some(socket) = self.reserved.take() {
            self.running = Some(run(
                socket.listen(BACKLOG)?,
                self.speaks,
                self.shared.clone(),
            ));
        }
        Ok(())
    }
}

fn run(listener: TcpListener, speaks: Speaks, shared: Shared) -> Running {
    let (stop, stopped) = oneshot::channel();
    let until_stopped = async move {
        let _ = stopped.await;
    };
    let at_once = Duration::ZERO;
    let serving = match speaks {
        Speaks::Http => {
            let service = Http1(move |request| answer(shared.clone(), request));
            tokio::spawn(serve(listener, until_stopped, at_once, service))
        }
        Speaks::Grpc => {
            let service = Http2(move |request| grpc::answer(shared.clone(), request));
            tokio::spawn(serve(listener, until_stopped, at_once, service))
        }
    };
    Running { stop, serving }
}

impl Shared {
    pub(super) fn bank(&self) -> MutexGuard<'_, Bank> {
        self.bank.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(shared: Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let message = |status, text: &str| json(status, json!({ "message": text }).to_string());
    if head.uri.path() == "/accounts" {
        let accounts = json!(shared.bank().accounts());
        return json(StatusCode::OK, accounts.to_string());
    }
    let branch = branch_of(head.uri.query().unwrap_or_default());
    let body = match read_body(body, BODY_LIMIT).await {
        Ok(body) => body,
        Err(error) => return message(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let order = serde_json::from_slice::<Order>(&body);
    let answer = match (head.uri.path(), order) {
        ("/withdraw", Ok(order)) => shared.bank().withdraw(branch, &order),
        ("/deposit", Ok(order)) => shared.bank().deposit(branch, &order),
        ("/sent", _) => shared.bank().was_sent(branch),
        ("/withdraw" | "/deposit", Err(error)) => {
            return message(StatusCode::BAD_REQUEST, &error.to_string());
        }
        _ => return message(StatusCode::NOT_FOUND, "no such service"),
    };
    let (status, note, tone) = parts(&answer);
    let agent = head.headers.get(header::USER_AGENT);
    shared.timeline.add(&Entry {
        from: coordinator_or_app(agent.map(|agent| agent.as_bytes())),
        to: shared.name,
        call: &format!("{} {}", head.method, head.uri.path()),
        branch: &format!("{} {}", branch.branch_id, branch.op),
        answer: &format!("{} {note}", status.as_u16()),
        tone,
    });
    message(status, note)
}

/// Who calls, by the name of its client.
pub(super) fn coordinator_or_app(agent: Option<&[u8]>) -> &'static str {
    match agent {
        Some(agent) if agent.starts_with(b"amends/") => "coordinator",
        _ => "app",
    }
}

/// The branch that a query names. Ids are compared as they are escaped, which is the same in every call.
pub(super) fn branch_of(query: &str) -> Branch<'_> {
    let value = |name: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut found = pairs.filter(|(key, _)| *key == name);
        found.next().map_or("", |(_, value)| value)
    };
    Branch {
        gid: value("gid"),
        branch_id: value("branch_id"),
        op: value("op"),
    }
}

fn parts(answer: &Answer) -> (StatusCode, &str, Tone) {
    match answer {
        Answer::Done(note) => (StatusCode::OK, note, Tone::Good),
        Answer::Refused(note) => (StatusCode::CONFLICT, note, Tone::Bad),
        Answer::NotYet(note) => (StatusCode::TOO_EARLY, note, Tone::Wait),
    }
}
