//! The coordinator inside the process of a test: it keeps everything in memory, listens on free ports, and its clock stands still
//! until the test moves it, so that retries and timeouts take no time (rules.md 11).
//!
//! ```
//! # use amends_server::testing::TestServer;
//! # use std::time::Duration;
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = TestServer::start().await?;
//! // Point the service under test at server.http_url(), start a transaction, let a participant fail. Then:
//! server.clock().advance(Duration::from_secs(22)).await?;
//! // The retry that was due 20 s after the failure has been made and answered, and no second has passed.
//! server.stop().await;
//! # Ok(()) }
//! ```
//!
//! A process that forks must not use it, for a child inherits sockets and no threads: run `amends serve --store memory --clock manual`
//! there.

use crate::config::{ClockKind, Config, StoreKind};
use crate::coordinator::{Coordinator, StartError};
use crate::engine::{AdvanceError, Engine};
use amends::Millis;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

pub use crate::engine::ADVANCE_TIMEOUT;

/// A coordinator for a test. It stops when it is dropped, in the background; [`stop`](TestServer::stop) waits for it.
pub struct TestServer {
    coordinator: Arc<Coordinator>,
    clock: TestClock,
    runtime: Handle,
}

/// The clock of a [`TestServer`]. Cheap to clone, for a test that moves it while something else waits.
#[derive(Clone)]
pub struct TestClock {
    engine: Arc<Engine>,
}

impl TestServer {
    /// Starts one with the default settings.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start() -> Result<TestServer, StartError> {
        TestServer::with(Config::default()).await
    }

    /// Starts one with these settings, but for its own in `listen`, the ports, `store`, `clock`, and a `shutdown_timeout` of at most 1 s.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn with(config: Config) -> Result<TestServer, StartError> {
        let config = Config {
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            http_port: 0,
            grpc_port: 0,
            store: StoreKind::Memory,
            clock: ClockKind::Manual,
            shutdown_timeout: config.shutdown_timeout.min(1),
            ..config
        };
        let coordinator = Coordinator::builder().config(config).start().await?;
        let engine = coordinator.engine().clone();
        Ok(TestServer {
            coordinator: Arc::new(coordinator),
            clock: TestClock { engine },
            runtime: Handle::current(),
        })
    }

    /// Base of the HTTP API, such as `http://127.0.0.1:40321`: what clients take as `AMENDS_SERVER`, and what `/api/…` follows.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.coordinator.http_addr())
    }

    /// Target of the gRPC API, `host:port`.
    pub fn grpc_target(&self) -> String {
        self.coordinator.grpc_addr().to_string()
    }

    /// The coordinator itself.
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// Its clock.
    pub fn clock(&self) -> &TestClock {
        &self.clock
    }

    /// Stops it; calls on the wire get a second to end.
    pub async fn stop(self) {
        self.coordinator.shutdown().await;
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        // After `stop` there is nothing left to do in there.
        let coordinator = self.coordinator.clone();
        self.runtime
            .spawn(async move { coordinator.shutdown().await });
    }
}

impl TestClock {
    /// Where it stands, in ms of the Unix epoch. It begins at the system's time.
    pub fn now(&self) -> Millis {
        self.engine.now()
    }

    /// Moves it on, from one due time to the next, each of which is served before the next comes. Returns when no branch call is in
    /// flight and nothing that is due by then is left. Only due times move: retries, delays, timeouts of transactions, callbacks. A call
    /// that hangs ends with its real request timeout, and so does a request with `wait_result`.
    ///
    /// # Errors
    /// [`AdvanceError::Deadline`] after [`ADVANCE_TIMEOUT`] of real time.
    pub async fn advance(&self, by: Duration) -> Result<(), AdvanceError> {
        self.advance_within(by, ADVANCE_TIMEOUT).await
    }

    /// The same with another limit in real time.
    ///
    /// # Errors
    /// [`AdvanceError::Deadline`] after `within`.
    pub async fn advance_within(&self, by: Duration, within: Duration) -> Result<(), AdvanceError> {
        self.engine.advance(by, within).await.map(drop)
    }
}
