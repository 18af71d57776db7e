//! An engine in its world: store, network and clock.

use super::net::{Act, Net, Seen};
use super::store::Faulty;
use amends::coordinator::Transaction;
use amends::wire::request::{BranchRequest, GlobalRequest};
use amends::{Error, Millis, Policy, Status};
use amends_server::alert::Alerts;
use amends_server::dispatch::Slots;
use amends_server::dispatch::slots::SlotLimits;
use amends_server::engine::{Engine, Parts};
use amends_server::metrics::Metrics;
use amends_server::store::Store;
use amends_server::store::memory::Clock;
use amends_server::topics::Topics;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// The store's clock at the start of a world.
pub(crate) const EPOCH: Millis = 1_700_000_000_000;

/// How an engine is set up.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) policy: Policy,
    pub(crate) slots: SlotLimits,
    pub(crate) in_flight_max: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            policy: Policy::default(),
            slots: SlotLimits::default(),
            in_flight_max: 10_000,
        }
    }
}

pub(crate) struct World {
    pub(crate) engine: Arc<Engine>,
    pub(crate) store: Arc<Faulty>,
    pub(crate) net: Arc<Net>,
    pub(crate) topics: Arc<Topics>,
    start: Instant,
}

/// The store's clock, which begins at `from` now.
pub(crate) fn clock(from: Millis) -> Clock {
    let start = Instant::now();
    Arc::new(move || from + start.elapsed().as_millis() as Millis)
}

impl World {
    /// With default settings, on a network that behaves like this.
    pub(crate) fn new(behaviour: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> World {
        World::with(Setup::default(), behaviour)
    }

    pub(crate) fn with(
        setup: Setup,
        behaviour: impl Fn(&Seen) -> Act + Send + Sync + 'static,
    ) -> World {
        World::on(setup, Faulty::new(clock(EPOCH)), Net::new(behaviour))
    }

    /// An engine on a store and a network that are there.
    pub(crate) fn on(setup: Setup, store: Arc<Faulty>, net: Arc<Net>) -> World {
        let shared: Arc<dyn Store> = store.clone();
        let metrics = Metrics::new();
        let topics = Arc::new(Topics::new(shared.clone(), setup.policy.limits.clone()));
        let engine = Engine::start(Parts {
            store: shared,
            topics: topics.clone(),
            transport: net.clone(),
            slots: Slots::new(setup.slots),
            alerts: Alerts::new(
                String::new(),
                1_000,
                Duration::from_secs(1),
                net.clone(),
                metrics.clone(),
            ),
            metrics,
            policy: setup.policy,
            in_flight_max: setup.in_flight_max,
        });
        World {
            engine,
            store,
            net,
            topics,
            start: Instant::now(),
        }
    }

    /// Virtual time since the world began, ms.
    pub(crate) fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    pub(crate) async fn submit(&self, body: Value) -> Result<(), Error> {
        self.engine.submit(global(&body)).await
    }

    /// A submit by a client of its own; resolves to the answer and when it came.
    pub(crate) fn submitting(&self, body: Value) -> JoinHandle<(Result<(), Error>, u64)> {
        let (engine, start) = (self.engine.clone(), self.start);
        tokio::spawn(async move {
            let answer = engine.submit(global(&body)).await;
            (answer, start.elapsed().as_millis() as u64)
        })
    }

    pub(crate) async fn prepare(&self, body: Value) -> Result<(), Error> {
        self.engine.prepare(global(&body)).await
    }

    pub(crate) async fn abort(&self, body: Value) -> Result<(), Error> {
        self.engine.abort(global(&body)).await
    }

    pub(crate) async fn register(&self, body: Value) -> Result<(), Error> {
        self.engine.register_branch(branch(&body)).await
    }

    /// A prepared tcc or xa with `n` branches.
    pub(crate) async fn prepared(&self, trans_type: &str, gid: &str, n: usize) {
        let body = json!({"gid": gid, "trans_type": trans_type});
        self.prepare(body).await.expect("prepare");
        for k in 1..=n {
            self.register(registration(trans_type, gid, k))
                .await
                .expect("registerBranch");
        }
    }

    /// The transaction as it is stored.
    pub(crate) async fn stored(&self, gid: &str) -> Transaction {
        let found = self.engine.query(gid).await.expect("a query");
        found.unwrap_or_else(|| panic!("{gid} is stored"))
    }

    /// Waits until the stored status is final.
    pub(crate) async fn ended(&self, gid: &str, within_ms: u64) -> Transaction {
        let deadline = self.now() + within_ms;
        loop {
            let index = self.store.record(gid).index;
            if index.status.is_final() {
                return self.stored(gid).await;
            }
            if self.now() >= deadline {
                let due = index.due.map(|d| d - self.store.now());
                panic!(
                    "{gid} is {} after {within_ms} ms, due in {due:?} ms",
                    index.status
                );
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing is driven any more and no call is on the wire.
    pub(crate) async fn idle(&self, within_ms: u64) {
        let deadline = self.now() + within_ms;
        while self.engine.driven() > 0 || self.engine.calls_in_flight() > 0 {
            let (driven, calls) = (self.engine.driven(), self.engine.calls_in_flight());
            assert!(
                self.now() < deadline,
                "{driven} driven, {calls} calls after {within_ms} ms"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lets virtual time pass.
    pub(crate) async fn pass(&self, ms: u64) {
        sleep(Duration::from_millis(ms)).await;
    }

    /// Waits for a condition.
    pub(crate) async fn until(&self, what: &str, within_ms: u64, condition: impl Fn() -> bool) {
        let deadline = self.now() + within_ms;
        while !condition() {
            assert!(self.now() < deadline, "no {what} within {within_ms} ms");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// What must never happen has not.
    pub(crate) fn check(&self) {
        assert_eq!(self.net.wrong(), Vec::<String>::new());
        assert_eq!(self.store.wrong(), Vec::<String>::new());
    }

    /// Ends with this status, is let go of, and nothing that must not happen has.
    pub(crate) async fn ends(&self, gid: &str, status: Status, within_ms: u64) -> Transaction {
        let tx = self.ended(gid, within_ms).await;
        assert_eq!(tx.status(), status, "{gid}: {}", tx.state().reason);
        self.idle(5_000).await;
        self.check();
        tx
    }
}

pub(crate) fn global(body: &Value) -> GlobalRequest {
    GlobalRequest::from_json(body.to_string().as_bytes()).expect("a request")
}

pub(crate) fn branch(body: &Value) -> BranchRequest {
    BranchRequest::from_json(body.to_string().as_bytes()).expect("a registerBranch")
}

/// A saga of `n` steps, each at a host of its own, with `more` on top.
pub(crate) fn saga(gid: &str, n: usize, more: Value) -> Value {
    let step = |k: usize| json!({"action": format!("http://b{k}/do"), "compensate": format!("http://b{k}/undo")});
    let steps: Vec<Value> = (1..=n).map(step).collect();
    merged(
        json!({"gid": gid, "trans_type": "saga", "steps": steps, "payloads": vec!["{}"; n]}),
        more,
    )
}

/// A message of `n` steps.
pub(crate) fn msg(gid: &str, n: usize, more: Value) -> Value {
    let steps: Vec<Value> = (1..=n)
        .map(|k| json!({"action": format!("http://b{k}/do")}))
        .collect();
    merged(
        json!({"gid": gid, "trans_type": "msg", "steps": steps, "payloads": vec!["{}"; n], "query_prepared": "http://q/query"}),
        more,
    )
}

/// The k-th branch of a tcc or xa.
pub(crate) fn registration(trans_type: &str, gid: &str, k: usize) -> Value {
    let url = format!("http://b{k}");
    json!({"gid": gid, "trans_type": trans_type, "branch_id": format!("{k:02}"), "data": "{}",
        "confirm": format!("{url}/confirm"), "cancel": format!("{url}/cancel"), "url": url})
}

pub(crate) fn merged(mut body: Value, more: Value) -> Value {
    if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
        body.extend(more.clone());
    }
    body
}
