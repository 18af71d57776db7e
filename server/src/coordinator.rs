//! The coordinator as a library: tests and bindings run it inside their own process. It installs nothing process-wide and never exits
//! (rules.md 6.5).

use crate::alert::Alerts;
use crate::api::listen::{self, Http1, Http2};
use crate::api::threads::ConnectionThreads;
use crate::api::{self, Api};
use crate::clock::ManualClock;
use crate::config::{ClockKind, Config, StoreKind};
use crate::dispatch::slots::SlotLimits;
use crate::dispatch::{BranchClient, Slots, Transport};
use crate::engine::{Engine, Parts};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::embedded::{EmbeddedOptions, EmbeddedStore};
use crate::store::memory::{Clock, MemoryStore};
use crate::topics::Topics;
use amends::Millis;
use amends::time::seconds;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often finished transactions are looked through for expired ones, at most and at least.
const PURGE_PAUSE: std::ops::RangeInclusive<Millis> = 1_000..=60_000;
/// Pause before an alert that was not delivered is sent again.
const ALERT_PAUSE: Duration = Duration::from_secs(1);
/// Removed at a time.
const PURGE_BATCH: usize = 10_000;

/// A running coordinator.
pub struct Coordinator {
    http_addr: SocketAddr,
    grpc_addr: SocketAddr,
    engine: Arc<Engine>,
    store: Arc<dyn Store>,
    grace: Duration,
    stop: watch::Sender<bool>,
    serving: Mutex<Option<[JoinHandle<()>; 2]>>,
    purging: JoinHandle<()>,
    /// Transactions are driven there as long as this is held.
    _threads: Arc<ConnectionThreads>,
}

/// Makes a [`Coordinator`].
#[derive(Default)]
pub struct Builder {
    config: Config,
    store: Option<Arc<dyn Store>>,
    transport: Option<Arc<dyn Transport>>,
    threads: usize,
}

/// Why a coordinator did not start: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, or the address is not ours.
    #[error(
        "cannot listen on {address} for {what}: {source}{}",
        remedy(source, setting)
    )]
    Listen {
        /// What for.
        what: &'static str,
        /// The setting that chooses the port.
        setting: &'static str,
        /// What was wanted.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A manual clock was asked for, and the store goes by another one.
    #[error(
        "clock = manual is for tests and goes with store = memory: use --store memory --clock manual, or leave the clock at system"
    )]
    ManualClock,
    /// The system gives no further descriptors.
    #[error("cannot start the threads for connections: {0}. worker_threads sets how many")]
    Threads(std::io::Error),
    /// The data folder cannot be opened.
    #[error(transparent)]
    Store(#[from] crate::store::embedded::OpenError),
}

/// What to do about a port that cannot be listened on, where its cause tells.
fn remedy(cause: &std::io::Error, setting: &str) -> String {
    match cause.kind() {
        ErrorKind::AddrInUse => {
            format!(". Is another server running there? {setting} chooses another port")
        }
        ErrorKind::AddrNotAvailable => ". listen must be an address of this machine".to_owned(),
        ErrorKind::PermissionDenied => format!(". {setting} chooses another port"),
        _ => String::new(),
    }
}

/// A socket to accept on, and its address.
async fn bind(
    listen: IpAddr,
    port: u16,
    what: &'static str,
    setting: &'static str,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let address = SocketAddr::new(listen, port);
    let failed = |source| StartError::Listen {
        what,
        setting,
        address,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

impl Builder {
    /// Sets the configuration.
    pub fn config(mut self, config: Config) -> Builder {
        self.config = config;
        self
    }

    /// Uses this store instead of the configured one.
    pub fn store(mut self, store: Arc<dyn Store>) -> Builder {
        self.store = Some(store);
        self
    }

    /// Makes branch calls through this instead of the built-in client.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Builder {
        self.transport = Some(transport);
        self
    }

    /// Serves HTTP connections, and drives what they submit, on this many threads of its own instead of the runtime it starts on. They
    /// end with the coordinator.
    pub fn connection_threads(mut self, count: usize) -> Builder {
        self.threads = count;
        self
    }

    /// Starts on the runtime it is called in. The ports are bound and the store opened when this returns.
    pub async fn start(self) -> Result<Coordinator, StartError> {
        let config = self.config;
        let mut policy = config.policy();
        if config.clock == ClockKind::Manual {
            let manual = self
                .store
                .as_ref()
                .map_or(config.store == StoreKind::Memory, |store| {
                    store.manual_clock().is_some()
                });
            if !manual {
                return Err(StartError::ManualClock);
            }
            // Nobody moves the clock for a write that is only to be gathered with others.
            policy.late_write = 0;
        }
        let (http, http_addr) = bind(config.listen, config.http_port, "HTTP", "http_port").await?;
        let (grpc, grpc_addr) = bind(config.listen, config.grpc_port, "gRPC", "grpc_port").await?;
        let threads = ConnectionThreads::start(self.threads).map_err(StartError::Threads)?;
        let threads = Arc::new(threads);
        let store = match self.store {
            Some(store) => store,
            None => open_store(&config).await?,
        };
        let transport = match self.transport {
            Some(transport) => transport,
            None => Arc::new(BranchClient::new(
                policy.compat,
                policy.limits.answer,
                std::env::var_os("IS_DOCKER").is_some(),
            )),
        };
        let metrics = Metrics::new();
        let topics = Arc::new(Topics::new(store.clone(), policy.limits.clone()));
        let limits = SlotLimits {
            total: config.calls_max,
            per_host: config.calls_per_host_max,
            ..SlotLimits::default()
        };
        let alerts = Alerts::new(
            config.alert_web_hook.expose().to_owned(),
            policy.request_timeout,
            ALERT_PAUSE,
            transport.clone(),
            metrics.clone(),
        );
        let engine = Engine::start(Parts {
            store: store.clone(),
            topics: topics.clone(),
            transport,
            slots: Slots::new(limits),
            alerts,
            metrics: metrics.clone(),
            policy,
            in_flight_max: config.in_flight_max,
        });
        let (stop, stopped) = watch::channel(false);
        let grace = Duration::from_secs(config.shutdown_timeout);
        let api = Api::new(
            engine.clone(),
            topics,
            metrics,
            Some(config.operator_token.expose().to_owned()),
        );
        let until_stopped = |mut stopped: watch::Receiver<bool>| async move {
            // A sender that is gone stops it as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let services = api::grpc::services(api.clone());
        let serving = [
            tokio::spawn(listen::serve_on(
                threads.clone(),
                http,
                until_stopped(stopped.clone()),
                grace,
                Http1(move |request| api::handle(api.clone(), request)),
            )),
            // One connection may carry all requests of a client: its streams are spread over this runtime's workers.
            tokio::spawn(listen::serve(
                grpc,
                until_stopped(stopped),
                grace,
                Http2(move |request| services(request)),
            )),
        ];
        let purging = tokio::spawn(purge(store.clone(), seconds(config.data_expire)));
        Ok(Coordinator {
            http_addr,
            grpc_addr,
            engine,
            store,
            grace,
            stop,
            serving: Mutex::new(Some(serving)),
            purging,
            _threads: threads,
        })
    }
}

async fn open_store(config: &Config) -> Result<Arc<dyn Store>, StartError> {
    let clock = system_clock();
    match config.store {
        StoreKind::Memory if config.clock == ClockKind::Manual => Ok(Arc::new(
            MemoryStore::with_manual_clock(ManualClock::new(clock())),
        )),
        StoreKind::Memory => Ok(Arc::new(MemoryStore::new(clock))),
        StoreKind::Embedded => {
            let options = EmbeddedOptions {
                path: config.data.clone(),
                data_expire_ms: seconds(config.data_expire),
                reserve_bytes: config.disk_reserve_mib << 20,
                clock,
            };
            let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(options)).await;
            match opened {
                Ok(store) => Ok(Arc::new(store?)),
                Err(ended) => std::panic::resume_unwind(ended.into_panic()),
            }
        }
    }
}

/// The system's time at the start, and monotonic time since: it never goes backwards in the life of a process (architecture 5).
pub fn system_clock() -> Clock {
    let start = Instant::now();
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let millis = |time: Duration| Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX);
    let then = millis(since_1970);
    Arc::new(move || then.saturating_add(millis(start.elapsed())))
}

/// Removes finished transactions that have expired, batch by batch.
async fn purge(store: Arc<dyn Store>, expire: Millis) {
    // Buckets are an eighth of the expiry wide.
    let pause = (expire / 8).clamp(*PURGE_PAUSE.start(), *PURGE_PAUSE.end());
    let pause = Duration::from_millis(pause.unsigned_abs());
    loop {
        match store
            .purge_finished(store.now() - expire, PURGE_BATCH)
            .await
        {
            Ok(0) => {}
            Ok(removed) => {
                tracing::info!(removed, "expired transactions removed");
                continue;
            }
            Err(e) => {
                tracing::warn!(error = %e, "expired transactions could not be removed; tried again later")
            }
        }
        tokio::time::sleep(pause).await;
    }
}

impl Coordinator {
    /// A builder with the default configuration.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where the HTTP API listens.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where the gRPC API listens.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// The engine behind the API.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Resolves with the error when the store failed for good: what it says is durable can no longer be kept, and the process must end.
    pub async fn fatal(&self) -> String {
        self.store.fatal().await.to_string()
    }

    /// Stops accepting, lets requests and calls end for at most the configured `shutdown_timeout`, and hands over what is unfinished.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        self.purging.abort();
        let serving = self
            .serving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let served = async {
            for task in serving.into_iter().flatten() {
                let _ = task.await;
            }
        };
        // Requests that wait for a result end when the engine lets go of their transactions.
        tokio::join!(served, self.engine.shutdown(self.grace));
    }
}
