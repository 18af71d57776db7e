//! A scripted branch service: records every call and answers each path from its own queue.

use crate::grpc::{SERVICE, listen_grpc};
use crate::listen::{Call, Listener, Response, listen};
use crate::wait::DEADLINE;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Something calls wait for until a test opens it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Default for Gate {
    fn default() -> Self {
        Gate(Arc::new(watch::Sender::new(false)))
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Lets everything through, now and later.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn wait(&self) {
        // The sender lives as long as `self`, so this ends only when the gate is open.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// One scripted answer.
#[derive(Clone, Debug)]
pub struct Reply {
    response: Response,
    delay: Duration,
    gate: Option<Gate>,
    cut: bool,
}

impl Reply {
    /// An answer with this status and body.
    pub fn new(status: u16, body: &str) -> Reply {
        let response = Response {
            status,
            headers: Vec::new(),
            body: body.to_owned(),
        };
        Reply {
            response,
            delay: Duration::ZERO,
            gate: None,
            cut: false,
        }
    }

    /// 200 with DTM's word for success.
    pub fn ok() -> Reply {
        Reply::new(200, r#"{"dtm_result":"SUCCESS"}"#)
    }

    /// 409: a definite no.
    pub fn failure(why: &str) -> Reply {
        Reply::new(409, why)
    }

    /// 425: not done yet.
    pub fn ongoing() -> Reply {
        Reply::new(425, "")
    }

    /// 500: nobody knows.
    pub fn error() -> Reply {
        Reply::new(500, "boom")
    }

    /// A JSON-RPC error.
    pub fn jsonrpc_error(code: i64, message: &str) -> Reply {
        let body = serde_json::json!({"jsonrpc": "2.0", "id": "x", "error": {"code": code, "message": message}});
        Reply::new(200, &body.to_string())
    }

    /// A JSON-RPC success.
    pub fn jsonrpc_ok() -> Reply {
        Reply::new(200, r#"{"jsonrpc":"2.0","id":"x","result":{}}"#)
    }

    /// The connection is cut without an answer.
    pub fn cut() -> Reply {
        Reply {
            cut: true,
            ..Reply::ok()
        }
    }

    /// The same answer, later.
    pub fn after(self, delay: Duration) -> Reply {
        Reply { delay, ..self }
    }

    /// The same answer, once the gate is open.
    pub fn behind(self, gate: &Gate) -> Reply {
        Reply {
            gate: Some(gate.clone()),
            ..self
        }
    }

    /// The same answer with one more header.
    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.response
            .headers
            .push((name.to_owned(), value.to_owned()));
        self
    }
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<Call>,
    scripts: HashMap<String, VecDeque<Reply>>,
}

/// The service. Paths without a script answer 200.
#[derive(Debug)]
pub struct Branches {
    listener: Listener,
    grpc: Listener,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Branches {
    /// Starts it on two free ports, for HTTP and for gRPC.
    pub async fn start() -> Branches {
        let state = Arc::new(Mutex::new(State::default()));
        let changed = watch::Sender::new(());
        let (shared, changes) = (state.clone(), changed.clone());
        let handler = move |call| record(shared.clone(), changes.clone(), call);
        let listener = listen(handler.clone()).await;
        let grpc = listen_grpc(handler).await;
        Branches {
            listener,
            grpc,
            state,
            changed,
        }
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listener.addr)
    }

    /// The gRPC target that is recorded and scripted under the same path.
    pub fn grpc_url(&self, path: &str) -> String {
        format!("{}/{SERVICE}{path}", self.grpc.addr)
    }

    /// Sets what a path answers, call by call; the last reply stays for all later calls.
    pub fn script(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        lock(&self.state)
            .scripts
            .insert(path.to_owned(), replies.into_iter().collect());
    }

    /// The calls of one path so far.
    pub fn calls(&self, path: &str) -> Vec<Call> {
        lock(&self.state)
            .calls
            .iter()
            .filter(|c| c.path == path)
            .cloned()
            .collect()
    }

    /// How often a path was called so far.
    pub fn count(&self, path: &str) -> usize {
        lock(&self.state)
            .calls
            .iter()
            .filter(|c| c.path == path)
            .count()
    }

    /// The paths of all calls so far, in order of arrival.
    pub fn trace(&self) -> Vec<String> {
        lock(&self.state)
            .calls
            .iter()
            .map(|c| c.path.clone())
            .collect()
    }

    /// Waits until a path was called `n` times, at most [`DEADLINE`], and returns its calls.
    ///
    /// # Panics
    ///
    /// When the deadline has passed, with all calls that did arrive.
    pub async fn wait(&self, path: &str, n: usize) -> Vec<Call> {
        let mut changes = self.changed.subscribe();
        let enough = changes.wait_for(|()| self.count(path) >= n);
        let waited = tokio::time::timeout(DEADLINE, enough).await.is_ok();
        let calls = self.calls(path);
        assert!(
            waited,
            "{} of {n} calls of {path} within {DEADLINE:?}; all calls: {:?}",
            calls.len(),
            self.trace()
        );
        calls
    }
}

async fn record(
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
    call: Call,
) -> Option<Response> {
    let (index, reply) = {
        let mut state = lock(&state);
        let reply = match state.scripts.get_mut(&call.path) {
            Some(queue) if queue.len() > 1 => queue.pop_front(),
            Some(queue) => queue.front().cloned(),
            None => None,
        };
        state.calls.push(call);
        (state.calls.len() - 1, reply.unwrap_or_else(Reply::ok))
    };
    changed.send_replace(());
    if let Some(gate) = &reply.gate {
        gate.wait().await;
    }
    tokio::time::sleep(reply.delay).await;
    lock(&state).calls[index].ended = Some(Instant::now());
    changed.send_replace(());
    (!reply.cut).then_some(reply.response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use http::Method;

    async fn fetch(b: &Branches, path: &str) -> Option<(u16, String)> {
        let client = Client::new(b.listener.addr);
        let answer = client.send(Method::POST, path, "{}").await.ok()?;
        Some((answer.status, answer.text()))
    }

    #[tokio::test]
    async fn scripts_answer_in_order_and_the_last_one_stays() {
        let b = Branches::start().await;
        b.script("/a", [Reply::failure("no"), Reply::ongoing()]);
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(
                fetch(&b, "/a?op=action&gid=a+b%2F")
                    .await
                    .map(|(status, _)| status),
            );
        }
        assert_eq!(seen, [Some(409), Some(425), Some(425)]);
        assert_eq!(fetch(&b, "/b").await.map(|(status, _)| status), Some(200));
        let calls = b.wait("/a", 3).await;
        assert_eq!(
            (calls[0].param("op"), calls[0].param("gid")),
            ("action".to_owned(), "a b/".to_owned())
        );
        assert_eq!(
            (calls[0].text(), calls[0].param("x")),
            ("{}".to_owned(), String::new())
        );
        assert_eq!(b.trace(), ["/a", "/a", "/a", "/b"]);
    }

    #[tokio::test]
    async fn gates_hold_and_cuts_cut() {
        let b = Branches::start().await;
        let gate = Gate::new();
        b.script("/a", [Reply::ok().behind(&gate)]);
        b.script("/b", [Reply::cut()]);
        let held = fetch(&b, "/a");
        let open = async {
            assert!(b.wait("/a", 1).await[0].ended.is_none());
            gate.open();
        };
        let (answer, ()) = tokio::join!(held, open);
        assert_eq!(answer.map(|(status, _)| status), Some(200));
        assert!(b.calls("/a")[0].ended.is_some());
        assert_eq!(fetch(&b, "/b").await, None);
    }

    #[tokio::test]
    async fn delays_and_headers() {
        let b = Branches::start().await;
        let delay = Duration::from_millis(50);
        b.script(
            "/a",
            [Reply::new(307, "").header("location", "/b").after(delay)],
        );
        let start = Instant::now();
        assert_eq!(fetch(&b, "/a").await, Some((307, String::new())));
        assert!(start.elapsed() >= delay);
    }
}
