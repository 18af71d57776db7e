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
    /// With one worker each: tokio's other kind of runtime makes a system call to wake itself, also from its own thread.
    runtimes: Vec<Runtime>,
    next: AtomicUsize,
}

impl ConnectionThreads {
    /// Starts this many threads, each of which takes a few descriptors; with none of them, connections live on the runtime that accepts them.
    pub fn start(count: usize) -> io::Result<ConnectionThreads> {
        // Those that run already when one does not are ended as its drop ends them.
        let mut threads = ConnectionThreads::default();
        for number in 0..count {
            let mut runtime = Builder::new_multi_thread();
            runtime.worker_threads(1).enable_all();
            runtime.thread_name(format!("connections-{number}"));
            threads.runtimes.push(runtime.build()?);
        }
        Ok(threads)
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
    use std::sync::mpsc::RecvTimeoutError;
    use std::thread;
    use std::time::Duration;

    /// Longer than any of this takes.
    const LONG: Duration = Duration::from_secs(60);

    fn name_on(runtime: &Handle) -> String {
        let (tell, told) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let name = thread::current().name().map(str::to_owned);
            tell.send(name).expect("the test listens");
        });
        told.recv_timeout(LONG)
            .expect("it runs")
            .expect("it has a name")
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
        assert_eq!(
            gone.recv_timeout(LONG),
            Err(RecvTimeoutError::Disconnected),
            "its sender is dropped"
        );
    }
}
