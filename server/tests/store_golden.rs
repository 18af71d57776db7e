//! A data folder of format 1, committed: every later build must read it as it is. `golden/format1` was written by the ignored test.

mod store_support;

use amends::coordinator::record::Index;
use amends::{Status, TransType};
use amends_server::store::embedded::{EmbeddedStore, check};
use amends_server::store::{Append, Appended, Saved, Store};
use fjall::Database;
use std::fs;
use std::path::{Path, PathBuf};
use store_support::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format1")
}

/// Copies a folder. Git keeps no empty folders, so those that every keyspace has are made again.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create");
    for entry in fs::read_dir(from).expect("read") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("copy")),
        }
    }
    if from
        .parent()
        .is_some_and(|parent| parent.ends_with("keyspaces"))
    {
        fs::create_dir_all(to.join("tables")).expect("create");
    }
}

/// The saga that has a payload, at its end.
fn succeeded() -> Index {
    Index {
        bytes: 7,
        ..ended(BEGIN + 1)
    }
}

/// A workflow as it is created; a registration moves it to 9 s.
fn workflow() -> Index {
    Index {
        trans_type: TransType::Workflow,
        quiet: Some(9_000),
        ..prepared(BEGIN + 7_000)
    }
}

/// A registration of one of its branches.
fn step() -> Append {
    Append {
        required: (TransType::Workflow, Status::Prepared),
        part: part(&[row("01", "action")], "result"),
        ..register(&gid("workflow"), "", "")
    }
}

#[tokio::test]
async fn a_folder_of_format_1_is_read_as_it_was_written() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    copy(&golden(), folder.path());
    let report = check(folder.path()).expect("check");
    assert!(report.is_clean(), "{:?}", report.problems);
    let counts = [
        ((TransType::Msg, Status::Submitted), 1),
        ((TransType::Saga, Status::Succeed), 1),
        ((TransType::Saga, Status::Failed), 1),
        ((TransType::Tcc, Status::Prepared), 1),
        ((TransType::Xa, Status::Aborting), 1),
        ((TransType::Workflow, Status::Prepared), 1),
    ];
    assert_eq!(report.records, counts);
    assert_eq!((report.parts, report.rows, report.values), (7, 7, 1));

    let store = open(folder.path(), &clock);
    let counted = Index {
        branches: 3,
        bytes: 6,
        ..prepared(BEGIN + 5_000)
    };
    let tcc = store.load(&gid("tcc")).await.expect("load").expect("there");
    assert_eq!(
        (tcc.version, tcc.index.clone(), &tcc.state[..]),
        (4, counted, &b"{}"[..])
    );
    assert_eq!(
        tcc.parts,
        ["01", "02", "03"].map(|branch| register(&gid("tcc"), branch, branch).part)
    );
    let same = store
        .append(register(&gid("tcc"), "02", "02"))
        .await
        .expect("append");
    assert_eq!(same, Appended::Same);

    let saga = store
        .load(&gid("saga"))
        .await
        .expect("load")
        .expect("there");
    assert_eq!(
        (saga.version, saga.index, &saga.state[..]),
        (2, succeeded(), &br#"{"done":true}"#[..])
    );
    assert_eq!(saga.parts, [part(&[], "payload")]);

    let xa = store.load(&gid("xa")).await.expect("load").expect("there");
    assert_eq!(
        (
            xa.index.failing_hosts.join(" ").as_str(),
            xa.index.attempts,
            xa.index.driven
        ),
        ("bank:1", 3, true)
    );
    let flow = store
        .load(&gid("workflow"))
        .await
        .expect("load")
        .expect("there");
    let moved = Index {
        due: Some(BEGIN + 9_000),
        branches: 1,
        bytes: 14,
        ..workflow()
    };
    assert_eq!((flow.version, flow.index), (2, moved));
    assert_eq!(store.append(step()).await.expect("append"), Appended::Same);
    assert_eq!(
        store
            .kv_get("topics", "t")
            .await
            .expect("get")
            .map(|kv| kv.value),
        Some("[]".to_owned())
    );

    let due = store
        .claim_due(clock.now(), 9, usize::MAX)
        .await
        .expect("claim");
    assert_eq!(
        due.records
            .iter()
            .map(|record| record.gid.as_str())
            .collect::<Vec<_>>(),
        ["xa"]
    );
    assert_eq!(
        store
            .save(gid("xa"), save(1, driven(BEGIN), "{}"))
            .await
            .expect("save"),
        Saved::Done
    );
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .expect("read")
        .map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn whatever_is_damaged_the_answer_is_a_sentence() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    copy(&golden(), folder.path());
    drop(open(folder.path(), &clock));
    let (mut refused, mut opened) = (0, 0);
    for path in files(&folder.path().join("fjall")) {
        let name = path.strip_prefix(folder.path()).expect("below").to_owned();
        let length = fs::metadata(&path).expect("metadata").len() as usize;
        for at in [0, length / 2, length].map(|at| at.min(length.saturating_sub(1))) {
            let (clock, damaged) = (clock.clone(), tempfile::tempdir().expect("a folder"));
            copy(folder.path(), damaged.path());
            let mut bytes = fs::read(&path).expect("read");
            let Some(byte) = bytes.get_mut(at) else {
                continue;
            };
            *byte ^= 0x04;
            fs::write(damaged.path().join(&name), bytes).expect("write");
            let checked = check(damaged.path());
            match EmbeddedStore::open(options(damaged.path(), &clock)) {
                Ok(_) => opened += 1,
                Err(error) => {
                    refused += 1;
                    let sentence = error.to_string();
                    assert!(
                        !sentence.contains('\n') && sentence.contains("damaged"),
                        "{name:?} at {at}: {sentence}"
                    );
                    let seen = checked.map_or(true, |report| !report.is_clean());
                    assert!(
                        seen,
                        "{name:?} at {at}: check finds nothing, but it does not open: {sentence}"
                    );
                }
            }
        }
    }
    assert!(refused > 10, "{refused} refused, {opened} opened");
}

#[tokio::test]
#[ignore = "writes the golden folder anew; only for a new format"]
async fn write_the_golden_folder() {
    let (clock, folder) = (ManualClock::new(), tempfile::tempdir().expect("a folder"));
    let store = open(folder.path(), &clock);
    let first = with_parts(save(0, driven(BEGIN), "{}"), vec![part(&[], "payload")]);
    store.create(gid("saga"), first).await.expect("create");
    store
        .save(gid("saga"), save(1, succeeded(), r#"{"done":true}"#))
        .await
        .expect("save");
    create(&store, "tcc", prepared(BEGIN + 5_000)).await;
    for branch in ["01", "02"] {
        store
            .append(register(&gid("tcc"), branch, branch))
            .await
            .expect("append");
    }
    create(
        &store,
        "msg",
        Index {
            trans_type: TransType::Msg,
            ..waiting(BEGIN + 8_000)
        },
    )
    .await;
    assert!(
        store
            .kv_put("topics", "t", "[]".to_owned(), 0)
            .await
            .expect("put")
    );
    drop(store);

    // What was written so far goes to tables, the rest stays in the log, so that both are read.
    let db = Database::builder(folder.path().join("fjall"))
        .open()
        .expect("open");
    for name in db.list_keyspace_names() {
        let keyspace = db.keyspace(&name, Default::default).expect("keyspace");
        keyspace.rotate_memtable_and_wait().expect("flush");
    }
    drop(db);

    let store = open(folder.path(), &clock);
    store
        .append(register(&gid("tcc"), "03", "03"))
        .await
        .expect("append");
    let xa = Index {
        status: Status::Aborting,
        trans_type: TransType::Xa,
        attempts: 3,
        failing_hosts: vec!["bank:1".to_owned()],
        attention: false,
        ..driven(BEGIN + 6_000)
    };
    store
        .create(gid("xa"), save(0, xa, "{}"))
        .await
        .expect("create");
    create(
        &store,
        "failed",
        Index {
            status: Status::Failed,
            ..ended(BEGIN + 2)
        },
    )
    .await;
    let input = vec![part(&[], "input"), part(&[], "\u{0}\u{ff}")];
    let flow = with_parts(save(0, workflow(), "{}"), input);
    store.create(gid("workflow"), flow).await.expect("create");
    store.append(step()).await.expect("append");
    drop(store);

    fs::remove_file(folder.path().join("amends.lock")).expect("remove");
    for entry in fs::read_dir(folder.path().join("fjall")).expect("read") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let bytes = fs::read(&path).expect("read");
            let end = bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            fs::write(&path, &bytes[..end]).expect("write");
        }
    }
    let _ = fs::remove_dir_all(golden());
    copy(folder.path(), &golden());
}
