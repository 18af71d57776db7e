//! Prometheus metrics: DTM's names (dtm-server.md 13) with bounded labels, and ours, which say what is durable.
//!
//! A registry per coordinator, nothing global. Counting on the hot path resolves no labels by text after the first time: each counter is
//! kept at an index computed from the words.

mod process;

use crate::store::Stats;
use amends::{Millis, Op, Outcome, Status, TransType};
use process::Process;
use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The `api` labels: last segments of the routes and names of the gRPC methods, in lower case, sorted. Everything else is `other`.
const APIS: [&str; 26] = [
    "abort",
    "advance",
    "all",
    "deletetopic",
    "forcestop",
    "json-rpc",
    "list",
    "metrics",
    "newgid",
    "prepare",
    "prepareworkflow",
    "query",
    "querykv",
    "registerbranch",
    "registertccbranch",
    "registerxabranch",
    "reset",
    "resetall",
    "resetcrontime",
    "resetnextcrontime",
    "scankv",
    "submit",
    "subscribe",
    "topic",
    "unsubscribe",
    "version",
];
const OTHER: &str = "other";

const TYPES: usize = TransType::ALL.len();
const OPS: [Op; 10] = [
    Op::ACTION,
    Op::COMPENSATE,
    Op::TRY,
    Op::CONFIRM,
    Op::CANCEL,
    Op::COMMIT,
    Op::ROLLBACK,
    Op::MSG,
    Op::BUSINESS,
    Op::DECISION,
];
const OUTCOMES: [&str; 4] = ["success", "failure", "ongoing", "error"];
/// `00` to `99`, and `other`.
const BRANCH_IDS: usize = 101;
const OK_FAIL: [&str; 2] = ["fail", "ok"];

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// Over HTTP, JSON-RPC included.
    Http,
    /// Over gRPC.
    Grpc,
}

impl Front {
    fn label(self) -> &'static str {
        match self {
            Front::Http => "http",
            Front::Grpc => "grpc",
        }
    }
}

/// How the delivery of an alert ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertEnd {
    /// The webhook answered with 2xx.
    Delivered,
    /// Given up after its tries.
    Failed,
    /// Pushed out by newer ones.
    Dropped,
}

/// The metrics of one coordinator.
pub struct Metrics {
    registry: Registry,
    requests: Table,
    durations: HistogramVec,
    duration: Box<[OnceLock<Histogram>]>,
    process: Table,
    handled: Vec<Histogram>,
    branches: Table,
    attempts: Table,
    finished: Table,
    alerts: Table,
    /// Transactions being driven now.
    pub driven: IntGauge,
    /// Branch calls on the wire now.
    pub calls_in_flight: IntGauge,
    /// Transactions that wait for a slot of a host or of the total (rules.md 4.5).
    pub calls_waiting: IntGauge,
    /// Transactions marked for attention (rules.md 4.3).
    pub attention: IntGauge,
    scrape: Mutex<Scraped>,
}

/// What is read when somebody looks.
struct Scraped {
    unfinished: Vec<((TransType, Status), IntGauge)>,
    saga_prepared: IntGauge,
    oldest_age: Gauge,
    due_lag: Gauge,
    syncs: IntCounter,
    written: IntCounter,
    process: Process,
}

/// Counters by an index, made when they are first counted.
struct Table {
    vec: IntCounterVec,
    cells: Box<[OnceLock<IntCounter>]>,
}

impl Table {
    fn new(registry: &Registry, name: &str, help: &str, labels: &[&str], cells: usize) -> Table {
        Table {
            vec: register(registry, IntCounterVec::new(Opts::new(name, help), labels)),
            cells: cells_of(cells),
        }
    }

    fn count<const N: usize>(&self, cell: usize, labels: impl FnOnce() -> [&'static str; N]) {
        self.cells[cell]
            .get_or_init(|| self.vec.with_label_values(&labels()))
            .inc();
    }
}

fn cells_of<T>(n: usize) -> Box<[OnceLock<T>]> {
    (0..n).map(|_| OnceLock::new()).collect()
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("names and labels of metrics are constants, and valid");
    registry
        .register(Box::new(metric.clone()))
        .expect("no two metrics have one name");
    metric
}

impl Metrics {
    /// A registry with everything at zero.
    pub fn new() -> Arc<Metrics> {
        let registry = Registry::new();
        let r = &registry;
        let int_gauge = |name: &str, help: &str| register(r, IntGauge::new(name, help));
        let gauge = |name: &str, help: &str| register(r, Gauge::new(name, help));
        let int_counter = |name: &str, help: &str| register(r, IntCounter::new(name, help));
        let info = register(
            r,
            IntGaugeVec::new(
                Opts::new("dtm_server_info", "The information of this dtm server."),
                &["gin_version", "grpc_version"],
            ),
        );
        let version = concat!("amends ", env!("CARGO_PKG_VERSION"));
        info.with_label_values(&[version, version]).set(1);
        let durations = histogram(
            "dtm_server_response_duration",
            "The request durations of a dtm server api",
            &["type", "api"],
        );
        let durations = register(r, durations);
        let handled = histogram(
            "dtm_transaction_handled_duration",
            "Histogram of handling latency of the transaction that handled by the server.",
            &["model"],
        );
        let handled = register(r, handled);
        let unfinished = Opts::new(
            "amends_transactions_unfinished",
            "Stored transactions that have not ended",
        );
        let unfinished = register(r, IntGaugeVec::new(unfinished, &["trans_type", "status"]));
        let scraped = Scraped {
            unfinished: open_states()
                .map(|(t, s)| {
                    (
                        (t, s),
                        unfinished.with_label_values(&[t.as_str(), s.as_str()]),
                    )
                })
                .collect(),
            saga_prepared: int_gauge(
                "amends_saga_prepared",
                "Sagas that were prepared and not submitted: nothing of them has run",
            ),
            oldest_age: gauge(
                "amends_transactions_oldest_age_seconds",
                "Age of the oldest transaction that has not ended",
            ),
            due_lag: gauge(
                "amends_due_lag_seconds",
                "How long the transaction that waits longest for its turn has been due",
            ),
            syncs: int_counter(
                "amends_store_syncs_total",
                "Times the store synced its log to the disk",
            ),
            written: int_counter(
                "amends_store_written_bytes_total",
                "Bytes written to the store's log",
            ),
            process: Process::new(r),
        };
        let metrics = Metrics {
            requests: Table::new(
                r,
                "dtm_server_process_total",
                "All request received by dtm",
                &["type", "api", "status"],
                (APIS.len() + 1) * 2 * 2,
            ),
            durations,
            duration: cells_of((APIS.len() + 1) * 2),
            process: Table::new(
                r,
                "dtm_transaction_process_total",
                "All transactions processed by dtm",
                &["model", "status"],
                TYPES * 2,
            ),
            handled: TransType::ALL
                .iter()
                .map(|t| handled.with_label_values(&[t.as_str()]))
                .collect(),
            branches: Table::new(
                r,
                "dtm_branch_process_total",
                "All branches processed by dtm",
                &["model", "branchid", "branchtype", "status"],
                TYPES * BRANCH_IDS * (OPS.len() + 1) * 2,
            ),
            attempts: Table::new(
                r,
                "amends_branch_attempts_total",
                "Calls of branches by what they meant",
                &["trans_type", "op", "outcome"],
                TYPES * (OPS.len() + 1) * OUTCOMES.len(),
            ),
            finished: Table::new(
                r,
                "amends_transactions_finished_total",
                "Transactions whose final status is durable; forced ones (forceStop) apart",
                &["trans_type", "status"],
                TYPES * 3,
            ),
            alerts: Table::new(
                r,
                "amends_alerts_total",
                "Alerts by what became of them",
                &["result"],
                3,
            ),
            driven: int_gauge(
                "amends_transactions_driven",
                "Transactions being driven now",
            ),
            calls_in_flight: int_gauge("amends_calls_in_flight", "Branch calls on the wire now"),
            calls_waiting: int_gauge(
                "amends_calls_waiting",
                "Transactions that wait for a slot of a host or of the total",
            ),
            attention: int_gauge("amends_attention", "Transactions marked for attention"),
            scrape: Mutex::new(scraped),
            registry,
        };
        Arc::new(metrics)
    }

    /// A request was answered. `api` is the last segment of its route; `ok` means a status below 400.
    pub fn request(&self, front: Front, api: &str, ok: bool, took: Duration) {
        let i = APIS.binary_search(&api).unwrap_or(APIS.len());
        let label = APIS.get(i).copied().unwrap_or(OTHER);
        let cell = (APIS.len() + 1) * front as usize + i;
        self.requests.count(2 * cell + usize::from(ok), || {
            [front.label(), label, OK_FAIL[usize::from(ok)]]
        });
        self.duration[cell]
            .get_or_init(|| self.durations.with_label_values(&[front.label(), label]))
            .observe(took.as_secs_f64());
    }

    /// A transaction was processed once, from being picked up to being let go; `age` is the time since its creation, ms.
    pub fn process(&self, trans_type: TransType, ok: bool, age: Millis) {
        let t = trans_type as usize;
        self.process.count(2 * t + usize::from(ok), || {
            [trans_type.as_str(), OK_FAIL[usize::from(ok)]]
        });
        self.handled[t].observe(age.max(0) as f64 / 1_000.0);
    }

    /// A branch call ended.
    pub fn branch(&self, trans_type: TransType, branch_id: &str, op: &Op, outcome: &Outcome) {
        let t = trans_type as usize;
        let o = OPS
            .iter()
            .position(|known| known == op)
            .unwrap_or(OPS.len());
        let op_label = || static_op(o);
        let result = match outcome {
            Outcome::Success => 0,
            Outcome::Failure(_) => 1,
            Outcome::Ongoing => 2,
            Outcome::Error(_) => 3,
        };
        let cell = (t * (OPS.len() + 1) + o) * OUTCOMES.len() + result;
        self.attempts
            .count(cell, || [trans_type.as_str(), op_label(), OUTCOMES[result]]);
        let b = match branch_id.as_bytes() {
            [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => {
                usize::from(tens - b'0') * 10 + usize::from(ones - b'0')
            }
            _ => BRANCH_IDS - 1,
        };
        let ok = usize::from(result == 0);
        let cell = ((t * BRANCH_IDS + b) * (OPS.len() + 1) + o) * 2 + ok;
        self.branches.count(cell, || {
            [
                trans_type.as_str(),
                branch_label(b),
                op_label(),
                OK_FAIL[ok],
            ]
        });
    }

    /// A transaction's final status is durable. `forced`: an operator stopped it.
    pub fn finished(&self, trans_type: TransType, status: Status, forced: bool) {
        let (i, label) = match status {
            _ if forced => (2, "forced"),
            Status::Succeed => (0, status.as_str()),
            _ => (1, Status::Failed.as_str()),
        };
        self.finished
            .count(3 * trans_type as usize + i, || [trans_type.as_str(), label]);
    }

    /// What became of an alert.
    pub fn alert(&self, end: AlertEnd) {
        self.alerts.count(end as usize, || {
            [["delivered", "failed", "dropped"][end as usize]]
        });
    }

    /// The text of `GET /api/metrics`: gauges are brought up to date from the store's `stats` first. `now` is the store's clock.
    pub fn render(&self, stats: &Stats, now: Millis) -> String {
        // One at a time, for counters of the store are set here.
        let scrape = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        for (state, gauge) in &scrape.unfinished {
            gauge.set(
                stats
                    .unfinished
                    .iter()
                    .filter(|(s, _)| s == state)
                    .map(|(_, n)| *n as i64)
                    .sum(),
            );
            if *state == (TransType::Saga, Status::Prepared) {
                scrape.saga_prepared.set(gauge.get());
            }
        }
        let since = |at: Option<Millis>| {
            at.map_or(0.0, |at| now.saturating_sub(at).max(0) as f64 / 1_000.0)
        };
        self.attention
            .set(i64::try_from(stats.attention).unwrap_or(i64::MAX));
        scrape.oldest_age.set(since(stats.oldest_created));
        scrape.due_lag.set(since(stats.earliest_due));
        scrape
            .syncs
            .inc_by(stats.syncs.saturating_sub(scrape.syncs.get()));
        scrape
            .written
            .inc_by(stats.bytes_written.saturating_sub(scrape.written.get()));
        scrape.process.read();
        let families = self.registry.gather();
        TextEncoder::new()
            .encode_to_string(&families)
            .unwrap_or_else(|e| format!("# cannot encode metrics: {e}\n"))
    }
}

fn histogram(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
    HistogramVec::new(HistogramOpts::new(name, help), labels)
}

fn open_states() -> impl Iterator<Item = (TransType, Status)> {
    let open = || Status::ALL.iter().copied().filter(|s| !s.is_final());
    TransType::ALL
        .iter()
        .flat_map(move |t| open().map(move |s| (*t, s)))
}

fn static_op(i: usize) -> &'static str {
    const WORDS: [&str; OPS.len()] = [
        "action",
        "compensate",
        "try",
        "confirm",
        "cancel",
        "commit",
        "rollback",
        "msg",
        "business",
        "decision",
    ];
    WORDS.get(i).copied().unwrap_or(OTHER)
}

/// Two digits as a static text.
fn branch_label(n: usize) -> &'static str {
    const DIGITS: &str = "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849\
                          5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";
    DIGITS.get(2 * n..2 * n + 2).unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_agree_with_the_words() {
        assert!(APIS.is_sorted());
        for (i, op) in OPS.iter().enumerate() {
            assert_eq!(static_op(i), op.as_str());
        }
        for (i, t) in TransType::ALL.iter().enumerate() {
            assert_eq!(*t as usize, i);
        }
        assert_eq!(
            [
                branch_label(0),
                branch_label(7),
                branch_label(99),
                branch_label(100)
            ],
            ["00", "07", "99", "other"]
        );
    }
}
