//! Threads for connections, each with a runtime of its own.
//!
//! A connection stays on one of them with what its requests do: the transactions they drive, the calls to branches and the connections
//! those use. So its steps wake no other thread. Measured with two cores, load and participants on the same machine, against one runtime
//! with one worker: 8 % more sagas/s at less processor time each; two workers of one runtime are no better than one.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::{Builder, Handle, Runtime};

/// Runs until it is dropped; what is unfinished then is dropped as well. The default has no threads.
#[derive(Default)]
pub struct ConnectionThreads {
    /// With one worker each: tokio's other kind of runtime makes a system call to wake its own thread, also from that thread.
    runtimes: Vec<Runtime>,
    next: AtomicUsize,
}

impl ConnectionThreads {
    /// Starts this many threads; with none of them, connections live on the runtime that accepts them.
    pub fn start(count: usize) -> io::Result<ConnectionThreads> {
        let runtime = |number| {
            Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name(format!("connections-{number}"))
                .enable_all()
                .build()
        };
        Ok(ConnectionThreads {
            runtimes: (0..count).map(runtime).collect::<io::Result<_>>()?,
            next: AtomicUsize::new(0),
        })
    }

    /// Where the next connection is to live, in turns.
    pub(super) fn next(&self) -> Option<&Handle> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let place = turn.checked_rem(self.runtimes.len())?;
        self.runtimes.get(place).map(Runtime::handle)
    }
}

impl Drop for ConnectionThreads {
    fn drop(&mut self) {
        for runtime in self.runtimes.drain(..) {
            // Who reads from a disk that hangs is not waited for.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn name_on(runtime: &Handle) -> String {
        let (tell, told) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let name = thread::current().name().map(str::to_owned);
            tell.send(name).expect("the test listens");
        });
        told.recv().expect("it runs").expect("it has a name")
    }

    #[test]
    fn connections_take_turns() {
        let threads = ConnectionThreads::start(2).expect("they start");
        let names: Vec<String> = (0..3)
            .map(|_| name_on(threads.next().expect("there are two")))
            .collect();
        assert_eq!(names, ["connections-0", "connections-1", "connections-0"]);
        assert!(
            ConnectionThreads::start(0)
                .expect("none starts")
                .next()
                .is_none()
        );
    }

    #[test]
    fn what_is_unfinished_is_dropped_with_them() {
        let threads = ConnectionThreads::start(1).expect("it starts");
        let (unfinished, gone) = std::sync::mpsc::channel::<()>();
        threads.next().expect("there is one").spawn(async move {
            std::future::pending::<()>().await;
            drop(unfinished);
        });
        drop(threads);
        assert!(gone.recv().is_err(), "its sender is dropped");
    }
}
