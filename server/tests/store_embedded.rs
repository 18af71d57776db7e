//! What only a store on a disk can be asked: what a restart finds, who may open a folder, and what becomes of damaged ones.

mod store_support;

use amends::coordinator::record::Index;
use amends::{Status, TransType};
use amends_server::store::embedded::{EmbeddedStore, OpenError, check};
use amends_server::store::{Appended, Created, Saved, Store, StoreError};
use futures_util::future::join_all;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use store_support::*;

fn journal(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder.join("fjall")).expect("the data");
    let mut journals: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    journals.retain(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    journals.pop().expect("a journal")
}

/// The length of a journal without the zeros it was preallocated with.
fn written(journal: &Path) -> usize {
    let bytes = fs::read(journal).expect("the journal");
    bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1)
}

/// A text that fjall's compression does not shorten much.
fn incompressible(length: usize) -> String {
    let mut seed = 7u32;
    let letters = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + (seed >> 24) as u8 % 90)
    });
    letters.take(length).collect()
}

fn open_error(path: &Path, clock: &ManualClock) -> String {
    match EmbeddedStore::open(options(path, clock)) {
        Ok(_) => panic!("the folder opened"),
        Err(error) => error.to_string(),
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_writer_is_less_urgent_than_those_that_wait_for_it() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    let store = open(folder.path(), &clock);
    create(&store, "one", driven(BEGIN)).await;
    let nice = |stat: String| -> Option<(String, i32)> {
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        Some((
            name.to_owned(),
            rest.split_whitespace().nth(16)?.parse().ok()?,
        ))
    };
    let threads = fs::read_dir("/proc/self/task").expect("the threads");
    let threads: Vec<_> = threads
        .filter_map(|thread| nice(fs::read_to_string(thread.ok()?.path().join("stat")).ok()?))
        .collect();
    let own = fs::read_to_string("/proc/thread-self/stat").expect("this thread");
    let (_, own) = nice(own).expect("this thread's");
    // As urgent as nobody can be less, at the end of the scale. Writers of other tests may just have begun.
    let wanted = ("store-writer".to_owned(), (own + 3).min(19));
    assert!(threads.contains(&wanted), "{threads:?}");
}

#[tokio::test]
async fn a_restart_finds_everything_and_holds_nothing() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    let store = open(folder.path(), &clock);
    create(&store, "driven", driven(BEGIN + 500)).await;
    let looked_at = Index {
        attention: true,
        ..waiting(BEGIN + 500)
    };
    create(&store, "waiting", looked_at).await;
    create(&store, "tcc", prepared(BEGIN + 600)).await;
    create(&store, "ended", driven(BEGIN)).await;
    store
        .append(register(&gid("tcc"), "01", "branch"))
        .await
        .expect("append");
    store
        .save(gid("ended"), save(1, ended(BEGIN), "{}"))
        .await
        .expect("save");
    assert!(
        store
            .kv_put("topics", "t", "[]".to_owned(), 0)
            .await
            .expect("put")
    );
    let before = store.stats();
    assert!(before.syncs > 0 && before.bytes_written > 0);
    drop(store);

    let store = open(folder.path(), &clock);
    let stats = store.stats();
    assert_eq!(
        (&stats.unfinished, stats.oldest_created, stats.attention),
        (&before.unfinished, before.oldest_created, 1)
    );
    let claimed = store
        .claim_due(clock.now(), 9, usize::MAX)
        .await
        .expect("claim");
    let names: Vec<_> = claimed
        .records
        .iter()
        .map(|record| record.gid.as_str())
        .collect();
    assert_eq!(
        names,
        ["driven"],
        "whose driver is gone is due at once, the others as they say"
    );
    assert_eq!(claimed.next_due, Some(BEGIN + 500));
    assert!(claimed.records[0].index.driven && !claimed.records[0].exact);

    let waiting_one = store
        .claim(&gid("waiting"))
        .await
        .expect("claim")
        .expect("there");
    assert!(
        !waiting_one.exact,
        "after a process start no record is exact (rules.md 1.2)"
    );
    store
        .save(gid("waiting"), save(1, waiting(BEGIN + 500), "{}"))
        .await
        .expect("save");
    assert_eq!(store.stats().attention, 0, "the save says it is well");
    assert!(
        store
            .claim(&gid("waiting"))
            .await
            .expect("claim")
            .expect("there")
            .exact
    );

    let same = store
        .append(register(&gid("tcc"), "01", "branch"))
        .await
        .expect("append");
    assert_eq!(same, Appended::Same);
    assert!(
        !store
            .load(&gid("tcc"))
            .await
            .expect("load")
            .expect("there")
            .exact
    );
    let again = store
        .create(gid("ended"), save(0, waiting(BEGIN), "{}"))
        .await
        .expect("create");
    assert!(matches!(again, Created::Exists(record) if record.index.status == Status::Succeed));
    assert_eq!(
        store
            .kv_get("topics", "t")
            .await
            .expect("get")
            .map(|kv| kv.version),
        Some(1)
    );
    drop(store);

    let report = check(folder.path()).expect("check");
    assert!(report.is_clean(), "{:?}", report.problems);
    let counts = [
        ((TransType::Saga, Status::Submitted), 2),
        ((TransType::Saga, Status::Succeed), 1),
        ((TransType::Tcc, Status::Prepared), 1),
    ];
    assert_eq!(
        (
            &report.records[..],
            report.parts,
            report.rows,
            report.values
        ),
        (&counts[..], 1, 2, 1)
    );
    assert!(!report.torn_tail);
}

#[tokio::test]
async fn a_registration_does_not_postpone_what_lost_its_driver() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    let store = open(folder.path(), &clock);
    create(
        &store,
        "g",
        Index {
            driven: true,
            quiet: Some(900),
            ..prepared(BEGIN + 500)
        },
    )
    .await;
    drop(store);
    let store = open(folder.path(), &clock);
    let later = register(&gid("g"), "01", "branch");
    assert_eq!(store.append(later).await.expect("append"), Appended::Done);
    let claimed = store
        .claim_due(clock.now(), 9, usize::MAX)
        .await
        .expect("claim");
    assert_eq!(claimed.records.len(), 1);
}

#[tokio::test]
async fn a_second_process_is_refused_in_one_line_that_names_the_first() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    let store = open(folder.path(), &clock);
    let pid = std::process::id().to_string();
    for error in [
        open_error(folder.path(), &clock),
        check(folder.path()).expect_err("it is held").to_string(),
    ] {
        assert!(error.contains(&pid) && !error.contains('\n'), "{error}");
    }
    store.close();
    let closed = store.save(gid("g"), save(1, waiting(BEGIN), "{}")).await;
    assert!(
        matches!(closed, Err(StoreError::Unavailable(_))),
        "{closed:?}"
    );
    drop(store);
    drop(open(folder.path(), &clock));
}

#[test]
fn a_foreign_or_newer_folder_is_left_alone() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    fs::write(folder.path().join("thesis.tex"), "years of work").expect("write");
    assert!(open_error(folder.path(), &clock).contains("not an Amends data folder"));
    assert!(matches!(check(folder.path()), Err(OpenError::NoData(_))));
    fs::remove_file(folder.path().join("thesis.tex")).expect("remove");
    fs::write(
        folder.path().join("format"),
        "amends data folder, format 2\n",
    )
    .expect("write");
    assert!(open_error(folder.path(), &clock).contains("format 2"));
    assert!(check(&folder.path().join("nowhere")).is_err());
}

#[test]
fn a_creation_that_was_interrupted_is_begun_again() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    drop(open(folder.path(), &clock));
    // As a crash leaves it before fjall wrote its marker: a journal of zeros, no marker, a format that says nothing of use.
    let format = folder.path().join("format");
    fs::write(format, "amends data folder, format 1\n").expect("write");
    let data = folder.path().join("fjall");
    fs::remove_dir_all(&data).expect("remove");
    fs::create_dir_all(data.join("keyspaces")).expect("create");
    fs::write(data.join("0.jnl"), [0; 4_096]).expect("write");
    drop(open(folder.path(), &clock));
    // Once there are keyspaces it was used, and a missing marker is damage.
    fs::remove_file(data.join("version")).expect("remove");
    assert!(open_error(folder.path(), &clock).contains("damaged"));
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_nothing_acknowledged_is_lost() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    let store = open(folder.path(), &clock);
    let first = with_parts(
        save(0, waiting(BEGIN), "{}"),
        vec![part(&[], &incompressible(16_000))],
    );
    store
        .create(gid("acknowledged"), first.clone())
        .await
        .expect("create");
    drop(store);
    let sound = written(&journal(folder.path()));
    let store = open(folder.path(), &clock);
    store
        .create(gid("torn"), first.clone())
        .await
        .expect("create");
    drop(store);
    let path = journal(folder.path());
    let end = written(&path);
    assert!(end > sound);
    let whole = fs::read(&path).expect("read");

    for (cut, hole) in [
        (sound + 1, 0),
        (sound + 700, 0),
        (end - 1, 0),
        (end, 30),
        (end, 90),
    ] {
        let mut torn = whole[..cut].to_vec();
        torn[sound + hole / 2..sound + hole].fill(0);
        fs::write(&path, &torn).expect("write");
        assert!(check(folder.path()).expect("check").torn_tail);
        let store = open(folder.path(), &clock);
        assert_eq!(store.load(&gid("torn")).await.expect("load"), None);
        let record = store
            .load(&gid("acknowledged"))
            .await
            .expect("load")
            .expect("there");
        assert_eq!(record.parts, first.parts);
        let again = store
            .create(gid("torn"), first.clone())
            .await
            .expect("create");
        assert_eq!(again, Created::New, "it goes on where the sound part ended");
        drop(store);
        let store = open(folder.path(), &clock);
        assert!(store.load(&gid("torn")).await.expect("load").is_some());
        drop(store);
        let report = check(folder.path()).expect("check");
        assert!(
            report.is_clean() && !report.torn_tail,
            "{:?}",
            report.problems
        );
    }
}

#[tokio::test]
async fn data_that_is_gone_is_damage_and_not_a_new_folder() {
    let gone: [fn(&Path); 3] = [
        |folder| fs::remove_dir_all(folder.join("fjall")).expect("remove"),
        |folder| fs::remove_file(journal(folder)).expect("remove"),
        |folder| fs::write(folder.join("fjall/version"), "").expect("empty"),
    ];
    for lose in gone {
        let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
        let store = open(folder.path(), &clock);
        create(&store, "g", waiting(BEGIN)).await;
        drop(store);
        lose(folder.path());
        let error = open_error(folder.path(), &clock);
        assert!(error.contains("is damaged"), "{error}");
        let report = check(folder.path()).expect("check");
        assert!(!report.is_clean(), "{error}");
    }
}

#[tokio::test]
async fn damage_in_the_middle_is_an_error_that_says_so() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    let store = open(folder.path(), &clock);
    for n in 0..5 {
        create(&store, &format!("g{n}"), waiting(BEGIN)).await;
    }
    drop(store);
    let path = journal(folder.path());
    let middle = written(&path) / 2;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle as u64).expect("read");
    file.write_all_at(&[byte[0] ^ 0x40], middle as u64)
        .expect("write");
    let length = file.metadata().expect("metadata").len();

    let error = open_error(folder.path(), &clock);
    assert!(
        error.contains("damaged at byte") && error.contains("amends check"),
        "{error}"
    );
    let report = check(folder.path()).expect("check");
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    assert_eq!(
        file.metadata().expect("metadata").len(),
        length,
        "nothing was cut"
    );
}

#[tokio::test]
async fn check_leaves_the_folder_as_it_was() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    let store = open(folder.path(), &clock);
    let creates = (0..300).map(|n| {
        let content = part(&[row("01", "action")], &"x".repeat(1_000));
        let new = with_parts(save(0, waiting(BEGIN), "{}"), vec![content]);
        store.create(gid(&format!("g{n}")), new)
    });
    for created in join_all(creates).await {
        assert_eq!(created.expect("create"), Created::New);
    }
    drop(store);
    let snapshot = || {
        let (mut files, mut folders) = (Vec::new(), vec![folder.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push((fs::read(&path).expect("read"), path)),
                }
            }
        }
        files.sort_by(|a, b| a.1.cmp(&b.1));
        files
    };
    let before = snapshot();
    let report = check(folder.path()).expect("check");
    assert!(report.is_clean(), "{:?}", report.problems);
    assert_eq!(
        (report.records[0].1, report.parts, report.rows),
        (300, 300, 300)
    );
    assert!(before == snapshot(), "a file changed");
}

#[tokio::test]
async fn without_room_writes_are_refused_and_reads_go_on() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    let store = open(folder.path(), &clock);
    create(&store, "g", waiting(BEGIN)).await;
    drop(store);
    let mut greedy = options(folder.path(), &clock);
    greedy.reserve_bytes = u64::MAX;
    let store = EmbeddedStore::open(greedy).expect("it opens");
    let full = store.create(gid("h"), save(0, waiting(BEGIN), "{}")).await;
    assert!(
        matches!(&full, Err(StoreError::Full(why)) if why.contains("resume")),
        "{full:?}"
    );
    assert!(matches!(store.ping().await, Err(StoreError::Full(_))));
    assert!(store.load(&gid("g")).await.expect("load").is_some());
    assert_eq!(store.load(&gid("h")).await.expect("load"), None);
}

#[tokio::test]
async fn a_new_bucket_is_there_before_it_is_needed_and_old_ones_go() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    let store = open(folder.path(), &clock);
    let mut most = 0;
    for n in 0..20 {
        let name = format!("g{n}");
        create(
            &store,
            &name,
            Index {
                created: clock.now(),
                ..driven(clock.now())
            },
        )
        .await;
        let saved = store
            .save(gid(&name), save(1, ended(clock.now()), "{}"))
            .await
            .expect("save");
        assert_eq!(saved, Saved::Done);
        clock.advance(EXPIRE / 8);
        store
            .purge_finished(clock.now() - EXPIRE, 100)
            .await
            .expect("purge");
        let keyspaces = fs::read_dir(folder.path().join("fjall/keyspaces"))
            .expect("keyspaces")
            .count();
        most = most.max(keyspaces);
    }
    // Four that are not buckets: fjall's own, live, kv and meta.
    assert!(most <= 4 + 12, "{most} keyspaces at once");
    let kept = store
        .list(Default::default(), None, 100)
        .await
        .expect("list")
        .records
        .len();
    assert!(
        (8..=10).contains(&kept),
        "{kept} records of the last eight eighths"
    );
    drop(store);
    assert!(check(folder.path()).expect("check").is_clean());
}
