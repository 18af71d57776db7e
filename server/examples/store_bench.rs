//! Measures the embedded store alone: writes per second, syncs and CPU per write, and what a restart with many unfinished records takes.
//!
//! `cargo run --profile demo -p amends-server --example store_bench -- FOLDER [write|restart|retained|check] [IN_FLIGHT|RECORDS]`

use amends::coordinator::record::{Index, Part, Save};
use amends::{Gid, Millis, Status, TransType};
use amends_server::store::Store;
use amends_server::store::embedded::{EmbeddedOptions, EmbeddedStore, check};
use bytes::Bytes;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

const STATE_BYTES: usize = 300;
const MEASURED: Duration = Duration::from_secs(8);
const WEEK: Millis = 7 * 24 * 3_600 * 1_000;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().ok_or("a folder to write to is missing")?;
    let mode = arguments.get(1).map_or("write", String::as_str);
    let number = arguments
        .get(2)
        .map(|number| number.parse::<u64>())
        .transpose()?;
    match mode {
        "write" => {
            let store = open(Path::new(folder))?;
            write(&store, number.unwrap_or(64)).await
        }
        "restart" => restart(Path::new(folder), number.unwrap_or(1_000_000)).await,
        "retained" => {
            let store = open(Path::new(folder))?;
            fill(&store, number.unwrap_or(300_000), true).await?;
            write(&store, 64).await
        }
        "check" => {
            let begun = Instant::now();
            let report = check(Path::new(folder))?;
            println!("{:?}: {report:?}", begun.elapsed());
            Ok(())
        }
        other => Err(format!("unknown mode {other}").into()),
    }
}

fn now() -> Millis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as Millis)
}

fn open(folder: &Path) -> Result<Arc<EmbeddedStore>> {
    let begun = Instant::now();
    let options = EmbeddedOptions {
        path: folder.to_owned(),
        data_expire_ms: WEEK,
        reserve_bytes: 0,
        clock: Arc::new(now),
    };
    let store = EmbeddedStore::open(options)?;
    println!(
        "opened in {:?}, {} MiB resident",
        begun.elapsed(),
        resident_mib()
    );
    Ok(Arc::new(store))
}

/// Two writes per record, as a two-step saga makes: create with a payload, then the final state.
async fn saga(store: &EmbeddedStore, name: u128, finish: bool) -> Result<()> {
    // Spread like the random gids that clients use; keys that begin alike are slower to tell apart.
    let gid =
        Gid::random((name.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).to_be_bytes());
    let state = Bytes::from(format!(
        "{{\"state\":\"{}\"}}",
        "x".repeat(STATE_BYTES - 13)
    ));
    let created = now();
    let index = Index {
        status: Status::Submitted,
        trans_type: TransType::Saga,
        due: Some(created + WEEK),
        quiet: None,
        created,
        finished: None,
        attempts: 0,
        failing_hosts: Vec::new(),
        attention: false,
        branches: 0,
        bytes: state.len() as u64,
        driven: finish,
    };
    let payload = Part {
        keys: Vec::new(),
        created,
        bytes: state.clone(),
    };
    let first = Save {
        base: 0,
        index: index.clone(),
        state: state.clone(),
        parts: vec![payload],
    };
    store.create(gid.clone(), first).await?;
    if finish {
        let ended = Index {
            status: Status::Succeed,
            due: None,
            finished: Some(now()),
            driven: false,
            ..index
        };
        store
            .save(
                gid,
                Save {
                    base: 1,
                    index: ended,
                    state,
                    parts: Vec::new(),
                },
            )
            .await?;
    }
    Ok(())
}

async fn write(store: &Arc<EmbeddedStore>, in_flight: u64) -> Result<()> {
    let (begun, cpu, before) = (Instant::now(), cpu_seconds(), store.stats());
    let (until, run) = (begun + MEASURED, now().unsigned_abs());
    let tasks: Vec<_> = (0..in_flight)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                for n in 0u64.. {
                    let sent = Instant::now();
                    if sent >= until {
                        break;
                    }
                    saga(
                        &store,
                        (u128::from(run) << 64) | u128::from(task) << 40 | u128::from(n),
                        true,
                    )
                    .await?;
                    latencies.push(sent.elapsed() / 2);
                }
                Result::Ok(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    latencies.sort();
    let (took, stats, writes) = (
        begun.elapsed().as_secs_f64(),
        store.stats(),
        2 * latencies.len(),
    );
    let syncs = stats.syncs - before.syncs;
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "{in_flight} in flight: {:.0} writes/s, {:.0} syncs/s, {:.1} writes per sync, {:.1} µs CPU per write, write p50 {:?} p99 {:?}",
        writes as f64 / took,
        syncs as f64 / took,
        writes as f64 / syncs as f64,
        (cpu_seconds() - cpu) * 1e6 / writes as f64,
        at(0.5),
        at(0.99),
    );
    Ok(())
}

async fn fill(store: &Arc<EmbeddedStore>, records: u64, finish: bool) -> Result<()> {
    let (begun, next) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..512)
        .map(|_| {
            let (store, next) = (store.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= records {
                        return Result::Ok(());
                    }
                    saga(&store, u128::from(n), finish).await?;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    println!(
        "wrote {records} records in {:?}, {} MiB resident",
        begun.elapsed(),
        resident_mib()
    );
    Ok(())
}

async fn restart(folder: &Path, records: u64) -> Result<()> {
    let store = open(folder)?;
    fill(&store, records, false).await?;
    drop(store);
    let store = open(folder)?;
    let unfinished: u64 = store
        .stats()
        .unfinished
        .iter()
        .map(|(_, count)| count)
        .sum();
    println!(
        "{unfinished} unfinished records; again in a fresh process for a fair resident size: mode `write`"
    );
    Ok(())
}

fn cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |n: usize| {
        after_name
            .split_whitespace()
            .nth(n)
            .and_then(|t| t.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or_default();
    line.trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .unwrap_or(0)
        >> 10
}
