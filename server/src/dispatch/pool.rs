//! Keep-alive connections: a stack of idle ones per host. Nothing runs for them: whether one was closed meanwhile is seen when it is taken.

use super::exchange::Line;
use crate::hash::HashMap;
use http::HeaderValue;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::{Handle, Id};

/// A connected socket, with TLS or without.
pub(super) type Io = MaybeHttpsStream<TokioIo<TcpStream>>;

/// One connection, between or within calls.
pub(super) struct Conn {
    pub(super) line: Line<TokioIo<Io>>,
    /// Value of the `Host` header.
    pub(super) host: HeaderValue,
    /// Whether it has carried a call before.
    pub(super) reused: bool,
    /// The runtime that watches its socket. Calls are made from there, so that they wake no other thread.
    runtime: Id,
}

impl Conn {
    /// To speak HTTP/1.1 on a fresh socket.
    pub(super) fn new(io: Io, host: HeaderValue) -> Box<Conn> {
        // Boxed, for it has room for the state of TLS, and is moved about with each call.
        Box::new(Conn {
            line: Line::new(TokioIo::new(io)),
            host,
            reused: false,
            runtime: Handle::current().id(),
        })
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

    /// A live idle connection of this runtime to this host, if there is one.
    pub(super) fn take(&self, key: &str) -> Option<Box<Conn>> {
        let here = Handle::current().id();
        let mut idle = self.lock();
        let stack = idle.hosts.get_mut(key)?;
        let before = stack.len();
        let mut taken = None;
        while let Some(i) = stack.iter().rposition(|(_, conn)| conn.runtime == here) {
            let (_, mut conn) = stack.remove(i);
            if conn.line.is_quiet() {
                taken = Some(conn);
                break;
            }
        }
        idle.total -= before - stack.len();
        taken
    }

    /// Keeps a connection that can carry another call, unless there are enough.
    pub(super) fn put(self: &Arc<Self>, key: &str, mut conn: Box<Conn>) {
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
        let Some(before) = Instant::now().checked_sub(IDLE_TIME) else {
            continue;
        };
        if !pool.close_idle_since(before) {
            return;
        }
    }
}
