//! Power cuts, full disks and failing syncs under the embedded store (faults.md D25, D26).
//!
//! A child process writes under a shim that can make its disk fail; this test takes back what was never synced, opens the folder again
//! and looks for everything that was acknowledged.

mod disk;

use amends::{Gid, Millis};
use amends_faults::{EXPIRE, content, state};
use amends_server::store::Store;
use amends_server::store::embedded::{EmbeddedOptions, EmbeddedStore, check};
use disk::{Cut, Disk, Random, Running, Trouble};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const CLOCK_START: Millis = 1_800_000_000_000;

/// What a child said was durable.
#[derive(Default)]
struct Acknowledged {
    /// By gid: the highest version, and when it ended.
    versions: HashMap<String, (u64, Option<Millis>)>,
    now: Millis,
}

impl Acknowledged {
    fn take(&mut self, line: &str) -> bool {
        let mut words = line.split(' ');
        let (Some("done"), Some(gid), Some(version), Some(now), Some(ended), None) = (
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
        ) else {
            return false;
        };
        let (Ok(version), Ok(now)) = (version.parse::<u64>(), now.parse::<Millis>()) else {
            return false;
        };
        self.now = self.now.max(now);
        self.versions.insert(
            gid.to_owned(),
            (version, Some(now).filter(|_| ended == "true")),
        );
        true
    }
}

/// Opens what a crash left and looks for all that was acknowledged; returns how many records were found.
async fn verify(disk: &Disk, acknowledged: &mut Acknowledged, story: &str) -> usize {
    let report = check(&disk.folder).unwrap_or_else(|error| panic!("{story}: {error}"));
    assert!(
        report.is_clean(),
        "{story}: before opening: {:#?}",
        report.problems
    );
    let now = acknowledged.now;
    let store = EmbeddedStore::open(EmbeddedOptions {
        path: disk.folder.clone(),
        data_expire_ms: EXPIRE,
        reserve_bytes: 0,
        clock: Arc::new(move || now),
    });
    let store = store.unwrap_or_else(|error| panic!("{story}: {error}"));
    let mut found = 0;
    for (name, (version, ended)) in &mut acknowledged.versions {
        let record = store
            .load(&Gid::stored(name))
            .await
            .unwrap_or_else(|error| panic!("{story}: {name}: {error}"));
        let Some(record) = record else {
            // A clock tick that was never printed may have let it expire.
            let expired = ended.is_some_and(|ended| ended + EXPIRE <= now + 5_000);
            assert!(
                expired,
                "{story}: {name} was acknowledged at version {version} and is gone"
            );
            continue;
        };
        found += 1;
        assert!(
            record.version >= *version,
            "{story}: {name} went back from {version} to {}",
            record.version
        );
        // A registration raises the version and leaves the state, which is the one of an odd version then.
        let states = [state(record.version), state(record.version - 1)];
        assert!(
            states.contains(&record.state),
            "{story}: {name} at version {}: {:?}",
            record.version,
            record.state
        );
        for (number, part) in record.parts.iter().enumerate() {
            assert_eq!(
                part.bytes,
                content(name, number as u32),
                "{story}: part {number} of {name}"
            );
        }
        assert_eq!(
            record.parts.len() as u64,
            (record.version / 2 + 1).min(3),
            "{story}: {name}"
        );
        // What was durable without having been acknowledged must stay from now on, and may expire.
        (*version, *ended) = (record.version, record.index.finished);
    }
    drop(store);
    let report = check(&disk.folder).unwrap_or_else(|error| panic!("{story}: {error}"));
    assert!(
        report.is_clean() && !report.torn_tail,
        "{story}: after opening: {report:#?}"
    );
    found
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_in_a_power_cut() {
    let Some(disk) = Disk::new() else { return };
    let mut random = Random::from_entropy();
    println!("seed {}", random.seed());
    let mut acknowledged = Acknowledged {
        now: CLOCK_START,
        ..Default::default()
    };
    let (mut torn, mut written) = (0, 0);
    for round in 0..6 {
        let before = acknowledged.versions.len();
        let mut child = disk.start(acknowledged.now, &format!("r{round}"));
        let enough = before + 200 + random.below(600);
        while acknowledged.versions.len() < enough {
            let line = child.line();
            assert!(
                acknowledged.take(&line) || line.starts_with("free"),
                "round {round}: {line}"
            );
        }
        for line in child.kill() {
            acknowledged.take(&line);
        }
        let cut = Cut::ALL[round % Cut::ALL.len()];
        torn += usize::from(disk.power_cut(cut, &mut random));
        let story = format!("seed {} round {round} {cut:?}", random.seed());
        written += verify(&disk, &mut acknowledged, &story).await;
        // What a later round finds again is only what this one may still have.
        let now = acknowledged.now;
        acknowledged
            .versions
            .retain(|_, (_, ended)| ended.is_none_or(|ended| ended + EXPIRE > now));
    }
    println!("{written} records verified in 6 rounds, {torn} of them took back unsynced writes");
    assert!(
        torn > 0,
        "no round took anything back: the shim saw no unsynced write"
    );
}

#[tokio::test]
async fn a_power_cut_while_a_folder_is_created_leaves_one_that_opens() {
    let mut random = Random::from_entropy();
    for round in 0..8 {
        let Some(disk) = Disk::new() else { return };
        let mut acknowledged = Acknowledged {
            now: CLOCK_START,
            ..Default::default()
        };
        let mut child = disk.start(CLOCK_START, "run");
        disk.wait_for_undo_log(random.below(8_000) as u64);
        for line in child.kill() {
            acknowledged.take(&line);
        }
        let cut = Cut::ALL[round % Cut::ALL.len()];
        disk.power_cut(cut, &mut random);
        let story = format!("seed {} round {round} {cut:?}", random.seed());
        disk.open_anew(&story);
        verify(&disk, &mut acknowledged, &story).await;
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_resumes_by_itself() {
    let Some(disk) = Disk::new() else { return };
    let mut acknowledged = Acknowledged {
        now: CLOCK_START,
        ..Default::default()
    };
    disk.report_free(1 << 30);
    let mut child = disk.start(CLOCK_START, "run");
    assert_eq!(
        child.line(),
        format!("free {}", 1u64 << 30),
        "the shim answers for the disk"
    );
    child.until(|line| acknowledged.take(line));
    disk.report_free(100 << 20);
    child.until(|line| {
        acknowledged.take(line);
        line == "full"
    });
    disk.report_free(1 << 30);
    child.until(|line| acknowledged.take(line));
    for line in child.kill() {
        acknowledged.take(&line);
    }
    verify(&disk, &mut acknowledged, "a full disk that was freed").await;
}

/// An error of a write or a sync ends the process, and what was acknowledged before it is there after a restart (rules.md 7.1).
async fn fatal_trouble(trouble: Trouble) {
    let Some(disk) = Disk::new() else { return };
    let mut random = Random::from_entropy();
    let mut acknowledged = Acknowledged {
        now: CLOCK_START,
        ..Default::default()
    };
    for round in 0..2 {
        let before = acknowledged.versions.len();
        let mut child = disk.start(acknowledged.now, &format!("r{round}"));
        while acknowledged.versions.len() < before + 200 {
            acknowledged.take(&child.line());
        }
        disk.set(trouble);
        let last = child.until(|line| {
            acknowledged.take(line);
            line.starts_with("fatal")
        });
        assert!(
            last.contains("store failed") && !last.contains("panicked"),
            "{last}"
        );
        assert_eq!(child.exit_code(), Some(3));
        disk.set(Trouble::None);
        disk.power_cut(Cut::Torn, &mut random);
        let story = format!("seed {} round {round} {trouble:?}", random.seed());
        assert!(verify(&disk, &mut acknowledged, &story).await >= 200);
    }
}

#[tokio::test]
async fn a_write_that_fails_is_fatal_and_loses_nothing() {
    fatal_trouble(Trouble::Full).await;
}

#[tokio::test]
async fn a_sync_that_fails_is_fatal_and_loses_nothing() {
    fatal_trouble(Trouble::SyncFails).await;
}

impl Disk {
    /// Opens and closes the folder: `check` takes only one that was created.
    fn open_anew(&self, story: &str) {
        let opened = EmbeddedStore::open(EmbeddedOptions {
            path: self.folder.clone(),
            data_expire_ms: EXPIRE,
            reserve_bytes: 0,
            clock: Arc::new(|| CLOCK_START),
        });
        if let Err(error) = opened {
            panic!("{story}: {error}");
        }
    }
}

impl Running {
    /// Reads on to the first line that satisfies `wanted`.
    fn until(&mut self, mut wanted: impl FnMut(&str) -> bool) -> String {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            let line = self.line();
            if wanted(&line) {
                return line;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "the child never said it; last: {line}"
            );
        }
    }
}
