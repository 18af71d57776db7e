//! The load driver: a closed loop (as many sagas in flight as asked, the next one when one has ended) and an open
//! loop (sagas at a fixed rate whatever the coordinator does, timed from the moment each was meant to be sent).

use crate::error::BenchError;
use crate::finished;
use crate::grpc::Channel;
use crate::http::{Connection, Target};
use crate::message::SUBMIT;
use crate::metrics::{FINISHED, SYNCS, Scrape};
use crate::pace::{self, Schedule};
use crate::process::cpu_time;
use crate::stats::Latencies;
use crate::submit::{Gids, Protocol, Template};
use bytes::Bytes;
use hyper::{StatusCode, Uri};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long answers may still come after the end of a measurement.
const DRAIN: Duration = Duration::from_secs(30);
/// Pause of a worker after an error, so that a dead coordinator is not hammered.
const PAUSE: Duration = Duration::from_millis(10);

/// Submits at a time on one gRPC connection.
const CALLS_PER_CHANNEL: usize = 16;

/// How sagas are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    /// This many in flight at every moment.
    Closed {
        /// Sagas, each on a connection of its own.
        in_flight: usize,
    },
    /// This many per second, at even distances.
    Open {
        /// Sagas per second.
        rate: f64,
        /// Connections at most; what is due while all are busy waits, and its latency counts the wait.
        connections: usize,
    },
}

impl Shape {
    /// Senders at most.
    fn senders(self) -> usize {
        match self {
            Shape::Closed { in_flight } => in_flight,
            Shape::Open { connections, .. } => connections,
        }
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How sagas are sent.
    pub(crate) shape: Shape,
    /// What they are submitted over.
    pub(crate) submits: Protocol,
    /// What their branches speak.
    pub(crate) branches: Protocol,
    /// Time before the measurement in which sagas are sent already.
    pub(crate) warmup: Duration,
    /// Length of the measurement.
    pub(crate) measured: Duration,
    /// Whether the answer to a submit waits for the saga's end.
    pub(crate) wait_result: bool,
}

/// How ended sagas were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CountedBy {
    /// Every answer told of an end (`wait_result`).
    Answers,
    /// By the coordinator's own counter.
    Metrics,
    /// By asking for a sample of the gids until all of it had ended.
    Queries,
}

/// What a measurement found.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Sagas that ended well.
    pub(crate) finished: f64,
    /// Time in which they ended, in seconds.
    pub(crate) seconds: f64,
    /// Submits without a good answer, the warm-up's included.
    pub(crate) errors: u64,
    /// The first of them.
    pub(crate) first_error: Option<String>,
    /// From the send time, or the intended one in an open loop, to the answer.
    pub(crate) latencies: Latencies,
    /// The coordinator's CPU time per ended saga in µs, if its process is known.
    pub(crate) cpu_us: Option<f64>,
    /// The store's syncs per ended saga, if the coordinator counts them.
    pub(crate) syncs: Option<f64>,
    /// How `finished` was counted.
    pub(crate) counted_by: CountedBy,
}

impl Measured {
    /// Ended sagas per second.
    pub(crate) fn rate(&self) -> f64 {
        self.finished / self.seconds
    }
}

/// What all senders share.
struct Shared {
    target: Target,
    submit: Uri,
    /// Where sagas are submitted over gRPC.
    channels: Vec<Channel>,
    template: Template,
    gids: Gids,
    stop: AtomicBool,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    opened: Option<Instant>,
    closed: Option<Instant>,
    answered: u64,
    errors: u64,
    first_error: Option<String>,
    latencies: Latencies,
    acknowledged: Vec<u64>,
}

impl Shared {
    fn new(target: &Target, template: Template) -> Shared {
        Shared {
            target: target.clone(),
            submit: Uri::from_static("/api/dtmsvr/submit"),
            channels: Vec::new(),
            template,
            gids: Gids::new(),
            stop: AtomicBool::new(false),
            tally: Mutex::default(),
        }
    }

    /// The same over gRPC, with enough connections for this many senders.
    async fn over_grpc(mut self, senders: usize) -> Result<Shared, BenchError> {
        let authority = self.target.grpc()?;
        let uri = format!("http://{authority}{SUBMIT}");
        let wrong = || BenchError::Setup(format!("`{authority}` is no host:port"));
        self.submit = uri.parse().map_err(|_| wrong())?;
        for _ in 0..senders.div_ceil(CALLS_PER_CHANNEL) {
            self.channels.push(Channel::open(authority).await?);
        }
        Ok(self)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    /// Records one answer; `at` says by its place in the window whether the latency counts.
    fn record(&mut self, at: Instant, latency: Duration, answer: Result<u64, String>) {
        match answer {
            Ok(number) => {
                self.answered += 1;
                self.acknowledged.push(number);
                let opened = self.opened.is_some_and(|opened| opened <= at);
                let closed = self.closed.is_some_and(|closed| closed <= at);
                if opened && !closed {
                    self.latencies.push(latency);
                }
            }
            Err(text) => self.fail(1, text),
        }
    }

    fn fail(&mut self, count: u64, text: String) {
        if count > 0 {
            self.errors += count;
            self.first_error.get_or_insert(text);
        }
    }
}

/// One sender with its connection.
enum Sender {
    Http(Option<Connection>),
    Grpc(Channel),
}

impl Sender {
    /// The sender with this number.
    fn new(shared: &Shared, number: usize) -> Sender {
        let channel = shared.channels.get(number / CALLS_PER_CHANNEL);
        channel.map_or(Sender::Http(None), |open| Sender::Grpc(open.clone()))
    }

    /// Submits the next gid; returns its number.
    async fn submit(&mut self, shared: &Shared) -> Result<u64, String> {
        let number = shared.gids.next();
        let body = shared.template.body(&shared.gids.gid(number));
        self.send(shared, body)
            .await
            .map_err(|error| error.to_string())?;
        Ok(number)
    }

    async fn send(&mut self, shared: &Shared, body: Bytes) -> Result<(), BenchError> {
        let idle = match self {
            Sender::Grpc(channel) => return channel.call(shared.submit.clone(), [], &body).await,
            Sender::Http(idle) => idle,
        };
        let mut connection = match idle.take() {
            Some(connection) => connection,
            None => Connection::open(shared.target.authority()).await?,
        };
        let request = shared.target.post(shared.submit.clone(), body);
        let (status, answer) = connection.send(request).await?;
        *idle = Some(connection);
        if status == StatusCode::OK {
            Ok(())
        } else {
            let answer = String::from_utf8_lossy(&answer);
            Err(BenchError::Refused(format!("{status}: {answer}")))
        }
    }
}

/// A moment with all counters of it.
struct Snapshot {
    at: Instant,
    cpu: Option<Duration>,
    scrape: Scrape,
    answered: u64,
}

impl Snapshot {
    async fn take(shared: &Shared, pid: Option<u32>) -> Result<Snapshot, BenchError> {
        let scrape = Scrape::take(&shared.target).await?;
        Ok(Snapshot {
            at: Instant::now(),
            cpu: pid.map(cpu_time).transpose()?,
            scrape,
            answered: shared.tally().answered,
        })
    }
}

/// Sends two-step sagas to `target`, whose branches are at `participants` (`host:port`). `pid` is the coordinator's.
pub(crate) async fn run(
    target: &Target,
    participants: &str,
    plan: Plan,
    pid: Option<u32>,
) -> Result<Measured, BenchError> {
    let template = Template::saga(plan.submits, plan.branches, participants, plan.wait_result);
    let mut shared = Shared::new(target, template);
    if plan.submits == Protocol::Grpc {
        shared = shared.over_grpc(plan.shape.senders()).await?;
    }
    let shared = Arc::new(shared);
    let begun = Snapshot::take(&shared, pid).await?;
    let end = begun.at + plan.warmup + plan.measured;
    let mut senders = JoinSet::new();
    let mut planned = None;
    match plan.shape {
        Shape::Closed { in_flight } => {
            for number in 0..in_flight {
                let sender = Sender::new(&shared, number);
                senders.spawn(closed_loop(Arc::clone(&shared), sender));
            }
        }
        Shape::Open { rate, connections } => {
            let schedule = Schedule::new(begun.at, end, rate);
            planned = Some(schedule.count());
            senders.spawn(open_loop(Arc::clone(&shared), schedule, connections));
        }
    }
    tokio::time::sleep_until((begun.at + plan.warmup).into()).await;
    let opened = Snapshot::take(&shared, pid).await?;
    shared.tally().opened = Some(opened.at);
    tokio::time::sleep_until((opened.at + plan.measured).max(end).into()).await;
    let mut closed = Snapshot::take(&shared, pid).await?;
    shared.tally().closed = Some(closed.at);
    shared.stop.store(true, Ordering::Relaxed);
    drain(&shared, senders, planned).await;

    let metrics = |now: &Snapshot| now.scrape.sum(FINISHED);
    let (counted_by, start, finished) = if plan.wait_result {
        let answers = closed.answered - opened.answered;
        (CountedBy::Answers, opened, answers as f64)
    } else if let (Some(before), Some(after)) = (metrics(&opened), metrics(&closed)) {
        (CountedBy::Metrics, opened, after - before)
    } else {
        let acknowledged = std::mem::take(&mut shared.tally().acknowledged);
        finished::wait_for_all(target, &shared.gids, &acknowledged).await?;
        closed = Snapshot::take(&shared, pid).await?;
        (CountedBy::Queries, begun, acknowledged.len() as f64)
    };
    if finished < 1.0 {
        let why = shared.tally().first_error.take();
        return Err(BenchError::Setup(format!(
            "no saga ended in {:?}; first error: {}",
            plan.measured,
            why.unwrap_or_else(|| "none".to_owned())
        )));
    }
    let mut tally = shared.tally();
    let cpu = closed.cpu.zip(start.cpu);
    let syncs = closed.scrape.sum(SYNCS).zip(start.scrape.sum(SYNCS));
    Ok(Measured {
        finished,
        seconds: closed.at.duration_since(start.at).as_secs_f64(),
        errors: tally.errors,
        first_error: tally.first_error.take(),
        latencies: std::mem::take(&mut tally.latencies),
        cpu_us: cpu.map(|(after, before)| (after - before).as_secs_f64() * 1e6 / finished),
        syncs: syncs.map(|(after, before)| (after - before) / finished),
        counted_by,
    })
}

async fn closed_loop(shared: Arc<Shared>, mut sender: Sender) {
    while !shared.stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        let answer = sender.submit(&shared).await;
        let failed = answer.is_err();
        let now = Instant::now();
        shared.tally().record(now, now - sent, answer);
        if failed {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn open_loop(shared: Arc<Shared>, schedule: Schedule, connections: usize) {
    let free = Arc::new(Semaphore::new(connections));
    let idle: Arc<Mutex<Vec<Sender>>> = Arc::default();
    let mut due = pace::start(schedule);
    let mut calls = JoinSet::new();
    let mut made = 0;
    while let Some(intended) = due.recv().await {
        let Ok(slot) = Arc::clone(&free).acquire_owned().await else {
            break;
        };
        let taken = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut sender = taken.unwrap_or_else(|| {
            made += 1;
            Sender::new(&shared, made - 1)
        });
        let (shared, idle) = (Arc::clone(&shared), Arc::clone(&idle));
        calls.spawn(async move {
            let answer = sender.submit(&shared).await;
            shared.tally().record(intended, intended.elapsed(), answer);
            idle.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(sender);
            drop(slot);
        });
        while calls.try_join_next().is_some() {}
    }
    while calls.join_next().await.is_some() {}
}

/// Waits for the answers that are still to come; what does not come is an error.
async fn drain(shared: &Shared, mut senders: JoinSet<()>, planned: Option<u64>) {
    let all = async { while senders.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        let mut tally = shared.tally();
        let sent = planned.unwrap_or_else(|| shared.gids.used());
        let missing = sent.saturating_sub(tally.answered + tally.errors);
        tally.fail(missing, format!("no answer within {DRAIN:?} of the end"));
    }
}

/// Submits `count` gids, `in_flight` at a time, each until it is acknowledged; returns how long it took.
pub(crate) async fn fill(
    target: &Target,
    template: Template,
    count: u64,
    in_flight: usize,
) -> Result<Duration, BenchError> {
    let shared = Arc::new(Shared::new(target, template));
    let started = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..in_flight {
        let shared = Arc::clone(&shared);
        senders.spawn(async move {
            let mut sender = Sender::Http(None);
            // All senders share one thread, so no other takes a gid between this look and the submit's own.
            while shared.gids.used() < count && !shared.stop.load(Ordering::Relaxed) {
                if let Err(text) = sender.submit(&shared).await {
                    shared.tally().fail(1, text);
                    shared.stop.store(true, Ordering::Relaxed);
                }
            }
        });
    }
    while senders.join_next().await.is_some() {}
    match shared.tally().first_error.take() {
        None => Ok(started.elapsed()),
        Some(text) => Err(BenchError::Setup(format!(
            "a submit was refused while the store was being filled: {text}"
        ))),
    }
}

#[cfg(test)]
mod tests;
