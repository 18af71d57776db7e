//! Help, wrong usage, configuration, completions.

use super::{code, run, run_with, stderr, stdout};

#[test]
fn no_arguments_is_help_and_wrong_usage() {
    let output = run(&[]);
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("Usage: amends"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn help_teaches() {
    for args in [&["-h"][..], &["--help"], &["help"]] {
        let output = run(args);
        assert_eq!(code(&output), 0);
        let text = stdout(&output);
        for expected in [
            "serve",
            "amends -c conf.yml",
            "Exit codes:",
            "4  the server cannot be reached",
        ] {
            assert!(text.contains(expected), "{args:?}: {text}");
        }
    }
    for (args, expected) in [
        (&["serve", "--help"][..], "amends serve -c amends.toml"),
        (
            &["config", "--help"],
            "defaults < file < environment < flags",
        ),
        (&["tx", "--help"], "amends tx stop"),
        (&["tx", "stop", "--help"], "nothing is compensated"),
        (&["topic", "--help"], "topic://"),
        (&["barrier", "ddl", "--help"], "--dialect postgres | psql"),
        (
            &["completions", "--help"],
            "source <(amends completions bash)",
        ),
    ] {
        let output = run(args);
        assert_eq!(code(&output), 0, "{args:?}");
        assert!(
            stdout(&output).contains(expected),
            "{args:?}: {}",
            stdout(&output)
        );
        assert!(
            stdout(&output).contains("Examples:") || args.contains(&"stop"),
            "{args:?}"
        );
    }
}

#[test]
fn dtms_flags_work() {
    for args in [["-v"], ["--version"], ["--v"]] {
        let output = run(&args);
        assert_eq!(code(&output), 0);
        assert_eq!(
            stdout(&output),
            format!("amends version: {}\n", env!("CARGO_PKG_VERSION"))
        );
    }
    let output = run(&["-r"]);
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).starts_with("amends: -r is refused: "),
        "{}",
        stderr(&output)
    );
    for args in [
        &["-c", "nope.yml"][..],
        &["-c=nope.yml"],
        &["--c", "nope.yml"],
        &["-d", "-c", "nope.yml"],
    ] {
        let output = run(args);
        assert_eq!(code(&output), 2, "{args:?}");
        assert!(
            stderr(&output).contains("cannot read the configuration file nope.yml"),
            "{args:?}"
        );
    }
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &["frobnicate"][..],
        &["serve", "--nope"],
        &["serve", "--http-port", "x"],
        &["tx"],
        &["tx", "list", "--status", "odd"],
        &["tx", "stop", "g1"],
        &["tx", "stop", "g1", "--reason", ""],
        &["tx", "list", "--server", "localhost"],
        &["completions", "cobol"],
    ] {
        let output = run(args);
        assert_eq!(code(&output), 2, "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty());
    }
}

#[test]
fn config_shows_values_and_origins_and_hides_secrets() {
    let env = [("AMENDS_OPERATOR_TOKEN", "hush"), ("HTTP_PORT", "81")];
    let output = run_with(&["config", "--listen", "::1"], &env);
    assert_eq!(code(&output), 0);
    let text = stdout(&output);
    let line = |key: &str| {
        let found = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(key));
        found
            .unwrap_or_else(|| panic!("no {key} in {text}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(line("http_port"), "http_port 81 env HTTP_PORT");
    assert_eq!(line("listen"), "listen \"::1\" flag --listen");
    assert_eq!(
        line("operator_token"),
        "operator_token *** env AMENDS_OPERATOR_TOKEN"
    );
    assert_eq!(line("limits.gid"), "limits.gid 128 default");

    let output = run_with(&["config", "--json"], &env);
    assert!(!stdout(&output).contains("hush"));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        json["http_port"],
        serde_json::json!({"value": 81, "from": "env HTTP_PORT"})
    );
    assert_eq!(json["operator_token"]["value"], "***");
    assert_eq!(json["compat.body_text"]["value"], false);
    assert_eq!(json["data"]["value"], "./amends-data");
}

#[test]
fn the_table_of_the_readme_is_true_and_has_every_key() {
    let output = run(&["config", "--docs"]);
    assert_eq!(code(&output), 0);
    let keys = amends_server::config::KEYS;
    assert_eq!(stdout(&output).lines().count(), keys.len() + 2);
    for key in keys {
        assert!(stdout(&output).contains(&format!("| `{}` | `{}` |", key.name, key.env())));
    }
    let readme = include_str!("../../../README.md");
    let table = readme
        .split_once("<!-- amends config --docs -->\n")
        .and_then(|(_, rest)| rest.split_once("<!-- end -->"))
        .map(|(table, _)| table)
        .expect("the README has the markers");
    assert_eq!(
        table,
        stdout(&output),
        "replace it by `amends config --docs`"
    );
}

#[test]
fn completions_are_there_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(code(&output), 0);
        assert!(stdout(&output).contains("topic"), "{shell}");
    }
}

#[test]
fn every_flag_sets_its_key() {
    let flags = [
        ("data", "--data", "/d"),
        ("store", "--store", "memory"),
        ("listen", "--listen", "::1"),
        ("http_port", "--http-port", "5"),
        ("operator_token", "--operator-token", "t"),
    ];
    let mut args = vec!["config", "--json", "-d"];
    args.extend(flags.iter().flat_map(|(_, flag, value)| [*flag, *value]));
    let output = run(&args);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for (key, flag, _) in flags {
        assert_eq!(json[key]["from"], format!("flag {flag}"), "{key}");
    }
    assert_eq!(
        json["log_level"],
        serde_json::json!({"value": "debug", "from": "flag -d"})
    );
    assert_eq!(json["http_port"]["value"], 5);
}

#[test]
fn a_log_filter_that_cannot_be_read_is_2() {
    let output = run_with(&["serve", "--store", "memory"], &[("AMENDS_LOG", "a=b=c")]);
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).starts_with("amends: AMENDS_LOG = \"a=b=c\" is not a log filter"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_barriers_table_is_printed() {
    let output = run(&["barrier", "ddl", "--dialect", "mysql"]);
    assert_eq!(code(&output), 0);
    let text = stdout(&output);
    assert!(
        text.starts_with("create database if not exists dtm_barrier;\ncreate table if not exists dtm_barrier.barrier("),
        "{text}"
    );
    assert!(text.contains("collate=utf8mb4_bin;"), "{text}");
    let args = [
        "barrier",
        "ddl",
        "--dialect",
        "postgresql",
        "--table",
        "t",
        "--json",
    ];
    let output = run(&args);
    let list: Vec<String> = serde_json::from_str(&stdout(&output)).expect("a list");
    assert!(list.len() == 2 && list[0].starts_with("create table if not exists t("));
    for wrong in [
        &["barrier", "ddl"][..],
        &["barrier", "ddl", "--dialect", "access"],
        &["barrier", "ddl", "--dialect", "sqlite", "--table", "a b"],
    ] {
        assert_eq!(code(&run(wrong)), 2, "{wrong:?}");
    }
}
