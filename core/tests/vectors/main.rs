//! Runs the cases of `tests/vectors/*.json`, which every binding runs too. A file that is not known here, a member that is not known, or a
//! file without cases fails.

mod initiator;
mod participant;

use amends::{Error, ErrorKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What runs the cases of a file.
type Runner = fn(Value) -> Value;

const RUNNERS: [(&str, Runner); 16] = [
    ("answers.json", |input| participant::answers(read(input))),
    ("barrier_plans.json", |input| {
        participant::barrier_plan(read(input))
    }),
    ("barrier_verdicts.json", |input| {
        participant::verdict(read(input))
    }),
    ("branch_answers.json", |input| {
        participant::branch_answer(read(input))
    }),
    ("branch_ids.json", |input| initiator::branch_id(read(input))),
    ("coordinator_answers.json", |input| {
        initiator::coordinator_answer(read(input))
    }),
    ("db_errors.json", |input| participant::db_error(read(input))),
    ("errors.json", |input| participant::error_row(read(input))),
    ("identities.json", |input| {
        participant::identity(read(input))
    }),
    ("journals.json", |input| initiator::journal(read(input))),
    ("mongo_errors.json", |input| {
        participant::mongo_error(read(input))
    }),
    ("mongo_plans.json", |input| {
        participant::mongo_plan(read(input))
    }),
    ("progresses.json", |input| initiator::progress(read(input))),
    ("redis_scripts.json", |input| {
        participant::redis_script(read(input))
    }),
    ("requests.json", |input| initiator::requests(read(input))),
    ("xids.json", |input| participant::xid(read(input))),
];

/// What else is in the folder: DTM's traffic as it was recorded, and how to read all this.
const OTHERS: [&str; 3] = [
    "README.md",
    "branch-calls-grpc.txt",
    "dtm-go-client-requests.txt",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    about: String,
    source: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    input: Value,
    want: Value,
}

#[test]
fn every_vector() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors");
    let (mut ran, mut wrong) = (BTreeMap::new(), Vec::new());
    for entry in std::fs::read_dir(folder).expect("the folder of vectors") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        if OTHERS.contains(&&*name) {
            continue;
        }
        let runner = RUNNERS.iter().find(|(file, _)| *file == name);
        let (file, run) = runner.unwrap_or_else(|| panic!("nothing here runs {name}"));
        let text = std::fs::read_to_string(&path).expect("a text");
        let all: File = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!all.about.is_empty() && !all.source.is_empty(), "{name}");
        assert!(!all.cases.is_empty(), "{name} has no cases");
        let mut names = BTreeSet::new();
        for case in &all.cases {
            assert!(names.insert(&case.name), "{name}: two of {:?}", case.name);
            let got = run(case.input.clone());
            if got != case.want {
                wrong.push(format!(
                    "{name}, {}: {got} and not {}",
                    case.name, case.want
                ));
            }
        }
        ran.insert(*file, all.cases.len());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(ran.len(), RUNNERS.len(), "files that are gone: {ran:?}");
    assert_eq!(ran["errors.json"], ErrorKind::ALL.len());
    println!("{ran:?}");
}

fn read<T: DeserializeOwned>(input: Value) -> T {
    serde_json::from_value(input.clone()).unwrap_or_else(|e| panic!("{input}: {e}"))
}

fn or_error<T>(result: Result<T, Error>, show: impl FnOnce(T) -> Value) -> Value {
    match result {
        Ok(value) => show(value),
        Err(error) => json!({"error": format!("{:?}", error.kind())}),
    }
}

fn kind_of(name: &str) -> ErrorKind {
    let kind = ErrorKind::ALL.iter().find(|k| format!("{k:?}") == name);
    *kind.unwrap_or_else(|| panic!("{name} is no kind of error"))
}
