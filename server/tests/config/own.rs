//! Precedence, origins, our TOML and our variables.

use super::{case, origin, toml, yaml};
use amends_server::config::{KEYS, StoreKind};
use std::path::PathBuf;

#[test]
fn defaults_then_file_then_environment_then_flags() {
    let from_file = toml("http_port = 1001\ndata = \"/file\"\n[compat]\nbody_text = true\n");
    let loaded = from_file.loaded();
    assert_eq!(loaded.config.http_port, 1001);
    assert!(loaded.config.compat.body_text);
    assert_eq!(loaded.config.request_timeout, 3);
    assert_eq!(origin(&loaded, "request_timeout"), "default");
    assert!(origin(&loaded, "compat.body_text").ends_with("amends.toml"));

    let from_env = from_file.env([("AMENDS_HTTP_PORT", "1002"), ("AMENDS_LIMITS_GID", "64")]);
    let loaded = from_env.loaded();
    assert_eq!(loaded.config.http_port, 1002);
    assert_eq!(loaded.config.limits.gid, 64);
    assert_eq!(origin(&loaded, "http_port"), "env AMENDS_HTTP_PORT");
    assert_eq!(loaded.config.data, PathBuf::from("/file"));

    let from_flag = from_env.flag("http_port", "--http-port", "1003");
    let loaded = from_flag.loaded();
    assert_eq!(loaded.config.http_port, 1003);
    assert_eq!(origin(&loaded, "http_port"), "flag --http-port");
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
}

#[test]
fn each_key_can_be_set_by_its_variable() {
    for key in KEYS {
        let value = key.get(&Default::default());
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        if text.is_empty() {
            continue;
        }
        let name = key.env();
        let loaded = case().env([(name.as_str(), text.as_str())]).loaded();
        assert_eq!(loaded.origin(key).to_string(), format!("env {name}"));
    }
}

#[test]
fn our_variable_wins_over_dtms_and_an_empty_one_is_unset() {
    let both = case().env([("HTTP_PORT", "7"), ("AMENDS_HTTP_PORT", "8")]);
    assert_eq!(both.loaded().config.http_port, 8);
    let empty = case().env([("HTTP_PORT", "7"), ("AMENDS_HTTP_PORT", "")]);
    assert_eq!(empty.loaded().config.http_port, 7);
    assert_eq!(origin(&empty.loaded(), "http_port"), "env HTTP_PORT");
}

#[test]
fn stores_that_this_build_has_not_are_refused_by_name() {
    let remedy = "is not in this build yet: use embedded or memory";
    for (case, value) in [
        (
            case().flag("store", "--store", "redis"),
            "\"redis\" (flag --store)",
        ),
        (
            case().env([("AMENDS_STORE", "MySQL")]),
            "\"MySQL\" (env AMENDS_STORE)",
        ),
        (
            toml("store = \"postgres\""),
            "\"postgres\" (file amends.toml)",
        ),
    ] {
        assert_eq!(case.refused(), format!("store = {value} {remedy}"));
    }
    let text = case().flag("store", "--store", "mongo").refused();
    assert_eq!(
        text,
        "store = \"mongo\" (flag --store): must be one of embedded, memory"
    );
}

#[test]
fn misspelt_variables_are_named() {
    let notes = case()
        .env([("AMENDS_HTPP_PORT", "1"), ("AMENDS_SERVER", "x")])
        .notes();
    assert_eq!(
        notes,
        [
            "environment variables that are no settings: AMENDS_HTPP_PORT (did you mean AMENDS_HTTP_PORT?)"
        ]
    );
}

#[test]
fn wrong_values_are_refused_with_key_value_place_and_remedy() {
    let cases = [
        (
            toml("http_port = 70000"),
            "http_port = 70000 (file amends.toml): must be a whole number from 0 to 65535",
        ),
        (
            toml("http_port = \"80\""),
            "http_port = \"80\" (file amends.toml): must be a whole number from 0 to 65535, without quotes",
        ),
        (
            toml("retry_interval = 0"),
            "retry_interval = 0 (file amends.toml): must be a whole number from 1 to 2147483647",
        ),
        (
            toml("request_timeout = -1"),
            "request_timeout = -1 (file amends.toml): must be a whole number from 1 to 2147483647",
        ),
        (
            toml("timeout_to_fail = 1.5"),
            "timeout_to_fail = 1.5 (file amends.toml): must be a whole number from 1 to 2147483647",
        ),
        (
            toml("store = \"paper\""),
            "store = \"paper\" (file amends.toml): must be one of embedded, memory",
        ),
        (
            toml("listen = \"localhost\""),
            "listen = \"localhost\" (file amends.toml): must be an IP address such as 127.0.0.1, 0.0.0.0 or ::1",
        ),
        (
            toml("data = \"\""),
            "data = \"\" (file amends.toml): must be a path",
        ),
        (
            toml("alert_web_hook = \"ftp://h\""),
            "alert_web_hook = \"ftp://h/***\" (file amends.toml): must be a URL that starts with http:// or https://",
        ),
        (
            toml("operator_token = \"a b\""),
            "operator_token = *** (file amends.toml): must be printable ASCII without spaces",
        ),
        (
            toml("operator_token = 123"),
            "operator_token = *** (file amends.toml): must be printable ASCII without spaces",
        ),
        (
            toml("[compat]\nonly_200 = 1"),
            "compat.only_200 = 1 (file amends.toml): must be true or false",
        ),
        (
            case().env([("AMENDS_COMPAT_ONLY_200", "yes")]),
            "compat.only_200 = \"yes\" (env AMENDS_COMPAT_ONLY_200): must be true or false",
        ),
        (
            case().env([("AMENDS_HTTP_PORT", "-1")]),
            "http_port = \"-1\" (env AMENDS_HTTP_PORT): must be a whole number from 0 to 65535",
        ),
        (
            case().flag("log_level", "-d", "loud"),
            "log_level = \"loud\" (flag -d): must be one of trace, debug, info, warn, error",
        ),
        (
            case().env([("HTTP_PORT", "x")]),
            "HttpPort = \"x\" (env HTTP_PORT): must be a whole number from 0 to 65535",
        ),
        (
            toml("retry_intervall = 1"),
            "amends.toml: unknown key `retry_intervall`; did you mean `retry_interval`? `amends config` lists all keys",
        ),
        (
            toml("[limit]\ngid = 1"),
            "amends.toml: unknown key `limit.gid`; did you mean `limits.gid`? `amends config` lists all keys",
        ),
        (
            toml("RetryInterval = 20"),
            "amends.toml: unknown key `RetryInterval`; did you mean `retry_interval`? `amends config` lists all keys",
        ),
        (
            toml("a = 1\nb = = 2"),
            "amends.toml, line 2: not valid TOML: extra `=`, expected nothing",
        ),
    ];
    for (case, expected) in cases {
        assert_eq!(case.refused(), expected);
    }
}

#[test]
fn a_wrong_value_does_not_matter_where_a_higher_layer_sets_its_key() {
    let store = yaml("Store:\n  Driver: mysql").flag("store", "--store", "memory");
    assert_eq!(store.loaded().config.store, StoreKind::Memory);
    // What Kubernetes puts into the environment of a pod beside a service named http.
    let port = case().env([
        ("HTTP_PORT", "tcp://10.0.0.1:80"),
        ("AMENDS_HTTP_PORT", "81"),
    ]);
    assert_eq!(port.loaded().config.http_port, 81);
    let driver = yaml("MicroService:\n  Driver: x").env([("MICRO_SERVICE_DRIVER", "default")]);
    assert_eq!(driver.loaded().config.http_port, 36789);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let mut case = case();
    case.sources.file = Some(case.path("nope.toml"));
    let text = case.refused();
    assert!(
        text.starts_with("cannot read the configuration file nope.toml: "),
        "{text}"
    );
}
