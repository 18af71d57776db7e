//! Keep-alive connections: idle ones by host, driven by whoever uses them.
//!
//! A connection has no task of its own. The call that borrowed it polls its I/O together with the answer it waits for, which saves two
//! wake-ups and two channel hops per call; an idle one is not polled at all, and a close by the peer shows when it is taken next.

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper::client::conn::TrySendError;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A connected socket, with TLS or without.
pub(super) type Io = MaybeHttpsStream<TokioIo<TcpStream>>;

/// One connection, between or within calls.
pub(super) struct Conn {
    gate: Arc<Gate>,
    /// Wakes through the gate.
    waker: Waker,
    sender: SendRequest<Full<Bytes>>,
    /// `None` once the connection has ended.
    driver: Option<Connection<Io, Full<Bytes>>>,
    /// Value of the `Host` header.
    pub(super) host: HeaderValue,
    /// Whether it has carried a call before.
    pub(super) reused: bool,
}

impl Conn {
    /// Speaks HTTP/1.1 on a fresh socket.
    pub(super) async fn new(io: Io, host: HeaderValue) -> hyper::Result<Box<Conn>> {
        let (sender, driver) = hyper::client::conn::http1::handshake(io).await?;
        let gate = Arc::<Gate>::default();
        let waker = Waker::from(gate.clone());
        Ok(Box::new(Conn { gate, waker, sender, driver: Some(driver), host, reused: false }))
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver {
            // How it ended reaches the waiting call through its own channel, which closes with the driver.
            if Pin::new(driver).poll(cx).is_ready() {
                self.driver = None;
            }
        }
    }

    /// Whether the next request may be sent. Looks at the socket, so that a close by the peer is seen.
    fn usable(&mut self) -> bool {
        // Nobody is to be woken, and a finished task is not to be kept in memory by this connection.
        self.gate.task.take();
        let waker = self.waker.clone();
        self.drive(&mut Context::from_waker(&waker));
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Polls the connection's I/O and then whatever waits for it, again while the one gives the other something to do.
    fn poll<T>(&mut self, cx: &mut Context<'_>, mut waiting: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.gate.task.register(cx.waker());
        let waker = self.waker.clone();
        let mut inner = Context::from_waker(&waker);
        for _ in 0..ROUNDS_MAX {
            self.gate.state.store(BUSY, SeqCst);
            self.drive(&mut inner);
            let polled = waiting(&mut inner);
            if self.gate.state.swap(0, SeqCst) & WOKEN == 0 || polled.is_ready() {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends a request and waits for the head of its answer. The error gives the request back if nothing of it was sent.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| self.poll(cx, |cx| answer.as_mut().poll(cx))).await
    }

    /// The next piece of an answer's body.
    pub(super) async fn frame(&mut self, body: &mut Incoming) -> Option<hyper::Result<Frame<Bytes>>> {
        poll_fn(|cx| self.poll(cx, |cx| Pin::new(&mut *body).poll_frame(cx))).await
    }
}

/// Keeps wake-ups that a poll causes within itself (the driver hands an answer to the call, the call asks the driver for more) from the
/// runtime, which would poll the task once more and wake a second worker for it: measured, a quarter of a call's CPU.
#[derive(Default)]
struct Gate {
    state: AtomicU8,
    /// Who uses the connection.
    task: AtomicWaker,
}

/// A poll is going on and will see [`WOKEN`].
const BUSY: u8 = 1;
/// Something happened since the last poll began.
const WOKEN: u8 = 2;
/// How often a poll goes round before it leaves the rest to the runtime; three are enough for an answer and its body. The bound matters
/// when tokio's budget of the task is used up: it wakes at once then, to say "later".
const ROUNDS_MAX: usize = 4;

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.fetch_or(WOKEN, SeqCst) & BUSY == 0 {
            self.task.wake();
        }
    }
}

/// Idle connections kept per host: as many as calls are allowed (rules.md 4.5).
const IDLE_PER_HOST: usize = 256;
/// Idle connections kept in all.
const IDLE_TOTAL: usize = 4_096;
/// Idle longer than this, a connection is closed: less than servers usually wait.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// How often idle connections are looked at.
const SWEEP_PAUSE: Duration = Duration::from_secs(10);

/// Idle connections by scheme and authority, the last one used first.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    hosts: HashMap<Box<str>, Vec<(Instant, Box<Conn>)>>,
    total: usize,
    sweeping: bool,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A live idle connection to this host, if there is one.
    pub(super) fn take(&self, key: &str) -> Option<Box<Conn>> {
        loop {
            let mut conn = {
                let mut idle = self.lock();
                let (_, conn) = idle.hosts.get_mut(key)?.pop()?;
                idle.total -= 1;
                conn
            };
            if conn.usable() {
                return Some(conn);
            }
        }
    }

    /// Keeps a connection whose answer was read to its end, unless it is closed or there are enough.
    pub(super) fn put(self: &Arc<Self>, key: &str, mut conn: Box<Conn>) {
        if !conn.usable() {
            return;
        }
        conn.reused = true;
        let mut idle = self.lock();
        if idle.total >= IDLE_TOTAL {
            return;
        }
        match idle.hosts.get_mut(key) {
            Some(stack) if stack.len() >= IDLE_PER_HOST => return,
            Some(stack) => stack.push((Instant::now(), conn)),
            None => {
                idle.hosts.insert(key.into(), vec![(Instant::now(), conn)]);
            }
        }
        idle.total += 1;
        if !idle.sweeping {
            idle.sweeping = true;
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes what was idle at `before` already; `false` when nothing is left to look after.
    fn close_idle_since(&self, before: Instant) -> bool {
        let mut closed = Vec::new();
        let mut idle = self.lock();
        idle.hosts.retain(|_, stack| {
            let old = stack.partition_point(|(since, _)| *since < before);
            closed.extend(stack.drain(..old));
            !stack.is_empty()
        });
        idle.total -= closed.len();
        idle.sweeping = idle.total > 0;
        let go_on = idle.sweeping;
        // Sockets are closed after the lock is free.
        drop(idle);
        go_on
    }
}

/// Closes idle connections in time; ends when there are none, or with the pool.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP_PAUSE).await;
        let Some(pool) = pool.upgrade() else { return };
        let Some(before) = Instant::now().checked_sub(IDLE_TIME) else { continue };
        if !pool.close_idle_since(before) {
            return;
        }
    }
}
