//! Keep-alive connections: a stack of idle ones per host. Nothing runs for them: whether one was closed meanwhile is seen when it is taken.

use super::exchange::Line;
use crate::hash::HashMap;
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
    /// Whether it has carried a call before.
    pub(super) reused: bool,
    /// The runtime that watches its socket. Calls are made from there, so that they wake no other thread.
    runtime: Id,
}

impl Conn {
    /// To speak HTTP/1.1 on a fresh socket.
    pub(super) fn new(io: Io) -> Box<Conn> {
        // Boxed, for it has room for the state of TLS, and is moved about with each call.
        Box::new(Conn {
            line: Line::new(TokioIo::new(io)),
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
    /// There is a [`Sweep`].
    sweeping: bool,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A live idle connection of this runtime to this host, if there is one.
    pub(super) fn take(&self, key: &str) -> Option<Box<Conn>> {
        let here = Handle::current().id();
        let mut guard = self.lock();
        let idle = &mut *guard;
        let stack = idle.hosts.get_mut(key)?;
        let (mut taken, mut dead) = (None, Vec::new());
        while let Some(i) = stack.iter().rposition(|(_, conn)| conn.runtime == here) {
            let (_, mut conn) = stack.remove(i);
            idle.total -= 1;
            if conn.line.is_quiet() {
                taken = Some(conn);
                break;
            }
            dead.push(conn);
        }
        // Sockets are closed after the lock is free.
        drop(guard);
        taken
    }

    /// Keeps a connection that can carry another call, unless there are enough.
    pub(super) fn put(self: &Arc<Self>, key: &str, mut conn: Box<Conn>) {
        conn.reused = true;
        let mut guard = self.lock();
        let idle = &mut *guard;
        let full = idle.total >= IDLE_TOTAL;
        if full && !idle.hosts.contains_key(key) {
            return;
        }
        let stack = match idle.hosts.get_mut(key) {
            Some(stack) => stack,
            None => idle.hosts.entry(key.into()).or_default(),
        };
        // The oldest may be of a runtime that needs none any more.
        let oldest =
            (stack.len() >= IDLE_PER_HOST || full && !stack.is_empty()).then(|| stack.remove(0));
        stack.push((Instant::now(), conn));
        idle.total += usize::from(oldest.is_none());
        let sweeps = std::mem::replace(&mut idle.sweeping, true);
        drop(guard);
        if !sweeps {
            tokio::spawn(Sweep(Arc::downgrade(self)).run());
        }
    }

    /// Closes what was idle at `before` already, or was closed by the other side.
    fn close_idle_since(&self, before: Instant) {
        let mut closed = Vec::new();
        let mut idle = self.lock();
        idle.hosts.retain(|_, stack| {
            for (since, mut conn) in std::mem::take(stack) {
                if since >= before && conn.line.is_quiet() {
                    stack.push((since, conn));
                } else {
                    closed.push(conn);
                }
            }
            !stack.is_empty()
        });
        idle.total -= closed.len();
        // As above.
        drop(idle);
    }
}

/// Closes idle connections in time. Ends with the pool, or with its runtime: the next connection that becomes idle starts another one.
struct Sweep(Weak<Pool>);

impl Sweep {
    async fn run(self) {
        loop {
            tokio::time::sleep(SWEEP_PAUSE).await;
            let Some(pool) = self.0.upgrade() else { return };
            if let Some(before) = Instant::now().checked_sub(IDLE_TIME) {
                pool.close_idle_since(before);
            }
        }
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.lock().sweeping = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio::runtime::{Builder, Runtime};

    const HOST: &str = "http://h";

    fn runtime() -> Runtime {
        let mut runtime = Builder::new_current_thread();
        runtime.enable_all().build().expect("a runtime")
    }

    /// A connection of the runtime it is called in, and its other side.
    async fn connection(listener: &TcpListener) -> (Box<Conn>, TcpStream) {
        let at = listener.local_addr().expect("an address");
        let (ours, theirs) = tokio::join!(TcpStream::connect(at), listener.accept());
        let io = Io::Http(TokioIo::new(ours.expect("it connects")));
        (Conn::new(io), theirs.expect("it is accepted").0)
    }

    async fn listener() -> TcpListener {
        let bound = TcpListener::bind("127.0.0.1:0").await;
        bound.expect("a free port")
    }

    #[test]
    fn a_runtime_takes_its_own_and_finds_room_beside_those_of_another() {
        let pool = Arc::new(Pool::default());
        let (one, two) = (runtime(), runtime());
        let mut others = Vec::new();
        one.block_on(async {
            let listener = listener().await;
            for _ in 0..IDLE_PER_HOST {
                let (ours, theirs) = connection(&listener).await;
                others.push(theirs);
                pool.put(HOST, ours);
            }
        });
        two.block_on(async {
            let listener = listener().await;
            assert!(pool.take(HOST).is_none(), "those of the other runtime");
            let (ours, _theirs) = connection(&listener).await;
            pool.put(HOST, ours);
            assert_eq!(pool.lock().total, IDLE_PER_HOST);
            assert!(pool.take(HOST).is_some_and(|conn| conn.reused));
            assert!(pool.take(HOST).is_none());
        });
        one.block_on(async { assert!(pool.take(HOST).is_some()) });
        assert_eq!(pool.lock().total, IDLE_PER_HOST - 2);
    }

    #[test]
    fn whoever_sweeps_ends_with_its_runtime_and_is_replaced() {
        let pool = Arc::new(Pool::default());
        let one = runtime();
        let (ours, _theirs) = one.block_on(async { connection(&listener().await).await });
        one.block_on(async { pool.put(HOST, ours) });
        assert!(pool.lock().sweeping);
        drop(one);
        assert!(!pool.lock().sweeping);
        let two = runtime();
        let (ours, _theirs) = two.block_on(async { connection(&listener().await).await });
        two.block_on(async { pool.put(HOST, ours) });
        assert!(pool.lock().sweeping);
    }

    #[tokio::test]
    async fn what_the_other_side_closed_and_what_is_old_is_swept() {
        let pool = Arc::new(Pool::default());
        let listener = listener().await;
        let (closed, theirs) = connection(&listener).await;
        let (open, _open) = connection(&listener).await;
        pool.put(HOST, closed);
        pool.put(HOST, open);
        let long_ago = Instant::now() - Duration::from_secs(1);
        drop(theirs);
        let deadline = Instant::now() + Duration::from_secs(10);
        while pool.lock().total > 1 && Instant::now() < deadline {
            pool.close_idle_since(long_ago);
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.lock().total, 1);
        pool.close_idle_since(Instant::now());
        assert_eq!(pool.lock().total, 0);
    }
}
