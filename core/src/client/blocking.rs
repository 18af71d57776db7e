//! The client for hosts that block, and that fork (rules.md 8.9): PHP-FPM, Puma, gunicorn and their like. Everything happens on the calling
//! thread; no thread is started, and nothing of a parent process is used in its child.
//!
//! ```no_run
//! # use amends::{Options, client::blocking::Client, initiator::Saga};
//! # fn transfer() -> Result<(), amends::Error> {
//! let client = Client::new("http://127.0.0.1:36789")?;
//! let mut saga = Saga::new("transfer-1", Options::default());
//! saga.step("http://bank-a/out", "http://bank-a/out-undo", r#"{"amount":30}"#);
//! client.submit(&saga)?;
//! # Ok(()) }
//! ```
//!
//! Each call borrows a runtime with its own connections, so threads do not wait for each other; a runtime that two of them shared would hang.
//! As with every blocking client, its functions panic on a thread that drives asynchronous tasks: use [`super::Client`] there.

mod workflow;

pub use workflow::{WorkflowBranch, WorkflowRun, Workflows};

use super::builder::{Parts, url_from_env};
use super::workflow::alone::Running;
use super::{ClientBuilder, Submit, TccRun as AsyncTccRun, XaRun as AsyncXaRun};
use crate::branch::{Status, TransType};
use crate::error::{Error, ErrorKind};
use crate::initiator::xa::Action;
use crate::initiator::{Message, Server, Try};
use crate::machine::{Calls, Fact, Request};
use crate::options::Options;
use crate::participant::Identity;
use crate::time::{Millis, duration};
use bytes::Bytes;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::fmt;
use std::net::ToSocketAddrs;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// A client of one coordinator that blocks. Cheap to clone; clones share connections. It may be used by several threads, and after a fork.
#[derive(Clone)]
pub struct Client {
    parts: Parts,
    deadline: Option<Instant>,
    /// Of the process that made the client; those of its children follow.
    first: Arc<OfProcess>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("blocking::Client")
            .field(&self.parts.server)
            .finish()
    }
}

/// What belongs to one process. A child leaves what it inherited alone: its sockets are the parent's, and so may be a lock that was held when it
/// was born.
struct OfProcess {
    pid: u32,
    idle: Mutex<Vec<Pair>>,
    /// Workflows.
    running: Running,
    child: OnceLock<Box<OfProcess>>,
}

impl OfProcess {
    fn new() -> OfProcess {
        OfProcess {
            pid: std::process::id(),
            idle: Mutex::default(),
            running: Mutex::default(),
            child: OnceLock::new(),
        }
    }

    fn own(&self) -> &OfProcess {
        let pid = std::process::id();
        let mut of = self;
        while of.pid != pid {
            of = of.child.get_or_init(|| Box::new(OfProcess::new()));
        }
        of
    }
}

impl Drop for OfProcess {
    fn drop(&mut self) {
        if self.pid == std::process::id() {
            return;
        }
        // The parent's runtimes: to close them here would take its sockets out of its own epoll.
        let idle = self.idle.get_mut().unwrap_or_else(PoisonError::into_inner);
        std::mem::forget(std::mem::take(idle));
    }
}

/// Turns of a runtime before it is used again.
const TURNS: usize = 3;

/// A runtime, and a client whose connections it drives.
struct Pair {
    runtime: Runtime,
    client: super::Client,
}

/// A pair that is in use; it goes back when this is dropped.
struct Borrowed {
    pair: Option<Pair>,
    first: Arc<OfProcess>,
    pid: u32,
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let (pair, own) = (self.pair.take(), self.first.own());
        if own.pid == self.pid {
            let mut idle = own.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.extend(pair);
        } else {
            // The parent's.
            std::mem::forget(pair);
        }
    }
}

impl Borrowed {
    fn pair(&self) -> Result<&Pair, Error> {
        match &self.pair {
            Some(pair) if self.pid == std::process::id() => Ok(pair),
            _ => Err(Error::invalid(
                "this was begun in the parent process: a child begins its own",
            )),
        }
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> Result<T, Error> {
        Ok(self.pair()?.runtime.block_on(async {
            // Between two calls nobody looks at the connections: one that was closed meanwhile would be written to, and nobody could say
            // whether that call arrived. The first turn hears of it, the second lets the connection's task take it in; one is to spare.
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            future.await
        }))
    }
}

/// Looks names up on the calling thread: tokio's own resolver would start one.
struct OnThisThread;

impl Resolve for OnThisThread {
    fn resolve(&self, name: Name) -> Resolving {
        let found = (name.as_str(), 0).to_socket_addrs();
        Box::pin(async move { Ok(Box::new(found?) as Addrs) })
    }
}

impl Client {
    /// As [`super::Client::new`].
    pub fn new(url: &str) -> Result<Client, Error> {
        Client::builder(url).build_blocking()
    }

    /// As [`super::Client::builder`]; end it with [`ClientBuilder::build_blocking`].
    pub fn builder(url: &str) -> ClientBuilder {
        ClientBuilder::new(url)
    }

    pub(super) fn of(parts: Parts) -> Client {
        Client {
            parts,
            deadline: None,
            first: Arc::new(OfProcess::new()),
        }
    }

    /// As [`super::Client::from_env`].
    pub fn from_env() -> Result<Client, Error> {
        Client::new(&url_from_env()?)
    }

    /// As [`super::Client::until`].
    pub fn until(&self, deadline: Instant) -> Client {
        Client {
            deadline: Some(deadline),
            ..self.clone()
        }
    }

    /// The coordinator.
    pub fn server(&self) -> &Server {
        &self.parts.server
    }

    fn borrow(&self) -> Result<Borrowed, Error> {
        let own = self.first.own();
        let idle = own
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let pair = match idle {
            Some(pair) => pair,
            None => {
                let runtime = Builder::new_current_thread().enable_all().build();
                let resolver: Arc<dyn Resolve> = Arc::new(OnThisThread);
                Pair {
                    runtime: runtime.map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?,
                    client: self.parts.client(Some(resolver))?,
                }
            }
        };
        Ok(Borrowed {
            pair: Some(pair),
            first: self.first.clone(),
            pid: own.pid,
        })
    }

    fn without_deadline(&self) -> Client {
        Client {
            deadline: None,
            ..self.clone()
        }
    }

    /// Runs something on a pair of one's own.
    fn on<T>(&self, work: impl AsyncFnOnce(super::Client) -> Result<T, Error>) -> Result<T, Error> {
        let on = self.borrow()?;
        let client = self.client(&on)?;
        on.block_on(work(client))?
    }

    /// The client of a pair.
    fn client(&self, on: &Borrowed) -> Result<super::Client, Error> {
        let client = &on.pair()?.client;
        Ok(match self.deadline {
            Some(deadline) => client.until(deadline),
            None => client.clone(),
        })
    }

    /// Waits between two calls, no longer than there is time for another one.
    fn pause(&self, ms: Millis) -> Fact {
        let left = self
            .deadline
            .map(|d| d.saturating_duration_since(Instant::now()));
        let (pause, fact) = match left {
            Some(left) if left < duration(ms) => (left, Fact::Cancelled),
            _ => (duration(ms), Fact::Done),
        };
        std::thread::sleep(pause);
        fact
    }

    /// Makes one call: the transport for machines that a host drives itself. It reports [`Fact::Answer`] or [`Fact::NoAnswer`].
    pub fn call(&self, request: Request) -> Fact {
        let called = self.on(async |client| Ok(client.call(request).await));
        called.unwrap_or_else(|error| Fact::NoAnswer {
            sent: false,
            message: error.to_string(),
        })
    }

    /// As [`super::Client::status`].
    pub fn status(&self, gid: &str) -> Result<Status, Error> {
        self.on(async |client| client.status(gid).await)
    }

    /// As [`super::Client::wait`].
    pub fn wait(&self, gid: &str, within: Duration) -> Result<Status, Error> {
        self.on(async |client| client.wait(gid, within).await)
    }

    /// As [`super::Client::submit`].
    pub fn submit(&self, what: &impl Submit) -> Result<(), Error> {
        self.on(async |client| client.submit(what).await)
    }

    /// As [`super::Client::prepare`].
    pub fn prepare(&self, message: &Message) -> Result<(), Error> {
        self.on(async |client| client.prepare(message).await)
    }

    /// As [`super::Client::abort`].
    pub fn abort(&self, mode: TransType, gid: &str, reason: &str) -> Result<(), Error> {
        self.on(async |client| client.abort(mode, gid, reason).await)
    }

    /// As [`super::Client::tcc`].
    pub fn tcc(&self, gid: &str, options: Options) -> Result<TccRun, Error> {
        let on = self.borrow()?;
        let client = self.client(&on)?;
        let run = on.block_on(client.tcc(gid, options))??;
        Ok(TccRun { run, on })
    }

    /// As [`super::Client::nested_tcc`].
    pub fn nested_tcc(&self, who: &Identity, options: Options) -> Result<TccRun, Error> {
        let on = self.borrow()?;
        let client = self.client(&on)?;
        let run = on.block_on(client.nested_tcc(who, options))??;
        Ok(TccRun { run, on })
    }

    /// As [`super::Client::xa`].
    pub fn xa(&self, gid: &str, options: Options) -> Result<XaRun, Error> {
        let on = self.borrow()?;
        let client = self.client(&on)?;
        let run = on.block_on(client.xa(gid, options))??;
        Ok(XaRun { run, on })
    }
}

/// An XA that is open, as [`super::XaRun`]. It belongs to the process that began it.
#[must_use = "an xa that is dropped is rolled back by its timeout"]
pub struct XaRun {
    run: AsyncXaRun,
    on: Borrowed,
}

impl fmt::Debug for XaRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("blocking::XaRun").field(&self.run).finish()
    }
}

impl XaRun {
    /// As [`super::XaRun::call`].
    pub fn call(&mut self, url: &str, payload: impl AsRef<[u8]>) -> Result<Bytes, Error> {
        self.on.block_on(self.run.call(url, payload))?
    }

    /// As [`super::XaRun::calls`].
    pub fn calls(&mut self, all: &[Action]) -> Result<Vec<Result<Bytes, Error>>, Error> {
        self.on.block_on(self.run.calls(all))?
    }

    /// As [`super::XaRun::submit`].
    pub fn submit(self) -> Result<(), Error> {
        self.on.block_on(self.run.submit())?
    }

    /// As [`super::XaRun::abort`].
    pub fn abort(self, error: Error) -> Error {
        match self.on.block_on(self.run.abort(error)) {
            Ok(error) | Err(error) => error,
        }
    }
}

/// A TCC that is open, as [`super::TccRun`]. It belongs to the process that began it.
#[must_use = "a tcc that is dropped is cancelled by its timeout"]
pub struct TccRun {
    run: AsyncTccRun,
    on: Borrowed,
}

impl fmt::Debug for TccRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("blocking::TccRun").field(&self.run).finish()
    }
}

impl TccRun {
    /// As [`super::TccRun::branch`].
    pub fn branch(&mut self, branch: &Try) -> Result<Bytes, Error> {
        self.on.block_on(self.run.branch(branch))?
    }

    /// As [`super::TccRun::branches`].
    pub fn branches(&mut self, all: &[Try]) -> Result<Vec<Result<Bytes, Error>>, Error> {
        self.on.block_on(self.run.branches(all))?
    }

    /// As [`super::TccRun::submit`].
    pub fn submit(self) -> Result<(), Error> {
        self.on.block_on(self.run.submit())?
    }

    /// As [`super::TccRun::abort`].
    pub fn abort(self, error: Error) -> Error {
        match self.on.block_on(self.run.abort(error)) {
            Ok(error) | Err(error) => error,
        }
    }
}
