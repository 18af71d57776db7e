//! `amends check` on folders in each state.

use super::{amends, code, stderr, stdout};
use amends_server::store::embedded::{EmbeddedOptions, EmbeddedStore};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

fn check(folder: &Path, args: &[&str]) -> Output {
    let args: Vec<&str> = ["check"].iter().chain(args).copied().collect();
    amends(folder, &args).output().expect("the binary runs")
}

fn open(path: &Path) -> EmbeddedStore {
    let opened = EmbeddedStore::open(EmbeddedOptions {
        path: path.to_owned(),
        data_expire_ms: 604_800_000,
        reserve_bytes: 0,
        clock: Arc::new(|| 1_800_000_000_000),
    });
    opened.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_folder_that_a_server_left_is_clean() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    drop(open(&folder.path().join("amends-data")));
    let output = check(folder.path(), &[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).ends_with("clean\n"), "{}", stdout(&output));
    let output = check(folder.path(), &["--json", "--data", "./amends-data"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["clean"], true);
    assert_eq!(json["problems"], serde_json::json!([]));
}

#[test]
fn a_folder_in_use_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let _held = open(&folder.path().join("amends-data"));
    let output = check(folder.path(), &[]);
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("is in use by process"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_folder_that_is_not_there_is_3_and_a_foreign_one_1() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = check(folder.path(), &[]);
    assert_eq!(code(&output), 3);
    assert_eq!(
        stderr(&output),
        "amends: there is no folder ./amends-data\n"
    );
    std::fs::write(folder.path().join("photo.jpg"), "x").expect("written");
    let output = check(folder.path(), &["--data", "."]);
    assert_eq!(code(&output), 1);
    assert!(
        stderr(&output).contains("holds no Amends data"),
        "{}",
        stderr(&output)
    );
    assert_eq!(stderr(&output).lines().count(), 1);
}
