//! A process that writes to an embedded store until it is killed, and says on standard output what was acknowledged:
//! `done GID VERSION NOW ENDED`, `full` (writes are refused, it tries again), and `fatal WHY` before it ends with code 3.
//!
//! `store-under-load FOLDER CLOCK_START RUN`

use amends::coordinator::record::Save;
use amends::{Gid, Millis, Status, TransType};
use amends_faults::{CLOCK_SPEED, EXPIRE, index, part, state};
use amends_server::store::embedded::{DEFAULT_RESERVE_BYTES, EmbeddedOptions, EmbeddedStore};
use amends_server::store::{Append, Appended, Created, Saved, Store, StoreError};
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const TASKS: u64 = 24;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, start, run] = arguments.as_slice() else {
        return Err("usage: store-under-load FOLDER CLOCK_START RUN".into());
    };
    std::fs::create_dir_all(folder)?;
    let stat = rustix::fs::statvfs(folder)?;
    say(&format!("free {}", stat.f_bavail * stat.f_frsize));

    let (start, begun) = (start.parse::<Millis>()?, Instant::now());
    let store = EmbeddedStore::open(EmbeddedOptions {
        path: folder.into(),
        data_expire_ms: EXPIRE,
        reserve_bytes: DEFAULT_RESERVE_BYTES,
        clock: Arc::new(move || start + begun.elapsed().as_millis() as Millis * CLOCK_SPEED),
    })?;
    let store = Arc::new(store);
    for task in 0..TASKS {
        let (store, run) = (store.clone(), run.clone());
        tokio::spawn(async move {
            for n in 0u64.. {
                transaction(&store, &format!("{run}-{task}-{n}"), n).await;
            }
        });
    }
    let purging = store.clone();
    tokio::spawn(async move {
        while purging
            .purge_finished(purging.now() - EXPIRE, 1_000)
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let fatal = store.fatal().await;
    say(&format!("fatal {fatal}"));
    Ok(ExitCode::from(3))
}

fn say(line: &str) {
    // The test ends this process while it speaks.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Create, two registrations, and for most the end; others stay unfinished for good.
async fn transaction(store: &EmbeddedStore, name: &str, n: u64) {
    let gid = Gid::stored(name);
    let created = store.now();
    let ends = !n.is_multiple_of(5);
    let save = |base: u64, now, ended| Save {
        base,
        // One to create it, and one before each of the two saves that follow registrations.
        index: index(name, 1 + (base / 2) as u32, created, now, ended),
        state: state(base + 1),
        parts: Vec::new(),
    };

    let first = Save {
        parts: vec![part(name, 0, created)],
        ..save(0, created, false)
    };
    if written(store.create(gid.clone(), first)).await != Some(Created::New) {
        return;
    }
    acknowledged(store, name, 1, false);
    for number in 1..3 {
        let append = Append {
            gid: gid.clone(),
            required: (TransType::Tcc, Status::Prepared),
            forbidden: None,
            part: part(name, number, created),
            branches_max: u32::MAX,
            bytes_max: u64::MAX,
        };
        // A registration leaves the state as it is, so a save brings it up to date.
        if written(store.append(append)).await != Some(Appended::Done) {
            return;
        }
        let version = 2 * u64::from(number);
        if written(store.save(gid.clone(), save(version, store.now(), false))).await
            != Some(Saved::Done)
        {
            return;
        }
        acknowledged(store, name, version + 1, false);
    }
    if ends && written(store.save(gid, save(5, store.now(), true))).await == Some(Saved::Done) {
        acknowledged(store, name, 6, true);
    }
}

fn acknowledged(store: &EmbeddedStore, name: &str, version: u64, ended: bool) {
    say(&format!("done {name} {version} {} {ended}", store.now()));
}

async fn written<T>(write: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
    match write.await {
        Ok(answer) => Some(answer),
        Err(StoreError::Full(_)) => {
            say("full");
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        }
        Err(_) => {
            // `main` reports it and ends the process.
            std::future::pending().await
        }
    }
}
