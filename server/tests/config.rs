//! Configuration: precedence, DTM's files and variables, and every message that a wrong value gets (rules.md 6).

use amends_server::config::{Environment, Flag, KEYS, Loaded, LogLevel, Sources, StoreKind, load};
use std::path::PathBuf;

struct Case {
    folder: tempfile::TempDir,
    sources: Sources,
}

fn case() -> Case {
    let folder = tempfile::tempdir().expect("a temporary folder");
    Case {
        folder,
        sources: Sources::default(),
    }
}

fn toml(text: &str) -> Case {
    case().file("amends.toml", text)
}

fn yaml(text: &str) -> Case {
    case().file("conf.yml", text)
}

impl Case {
    fn file(mut self, name: &str, text: &str) -> Case {
        let path = self.path(name);
        std::fs::write(&path, text).expect("written");
        self.sources.file = Some(path);
        self
    }

    fn env<const N: usize>(mut self, variables: [(&str, &str); N]) -> Case {
        self.sources.environment = Environment::of(variables);
        self
    }

    fn flag(mut self, key: &'static str, flag: &'static str, value: &str) -> Case {
        self.sources.flags.push(Flag {
            key,
            flag,
            value: value.to_owned(),
        });
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn loaded(&self) -> Loaded {
        load(&self.sources).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The error's text, with the folder's name left out.
    fn refused(&self) -> String {
        match load(&self.sources) {
            Ok(_) => panic!("was accepted"),
            Err(error) => self.without_folder(&error.to_string()),
        }
    }

    fn notes(&self) -> Vec<String> {
        self.loaded()
            .notes
            .iter()
            .map(|note| self.without_folder(note))
            .collect()
    }

    fn without_folder(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn origin(loaded: &Loaded, name: &str) -> String {
    let key = KEYS
        .iter()
        .find(|key| key.name == name)
        .expect("a known key");
    loaded.origin(key).to_string()
}

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
fn dtms_variables_work() {
    let loaded = case()
        .env([
            ("HTTP_PORT", "1"),
            ("GRPC_PORT", "2"),
            ("JSON_RPC_PORT", "3"),
            ("STORE_DRIVER", "boltdb"),
            ("STORE_DATA_EXPIRE", "100"),
            ("TRANS_CRON_INTERVAL", "5"),
            ("RETRY_INTERVAL", "20"),
            ("REQUEST_TIMEOUT", "6"),
            ("TIMEOUT_TO_FAIL", "70"),
            ("ALERT_RETRY_LIMIT", "4"),
            ("ALERT_WEB_HOOK", "http://h/x"),
            ("LOG_LEVEL", "debug"),
        ])
        .loaded();
    let config = &loaded.config;
    assert_eq!((config.http_port, config.grpc_port), (1, 2));
    assert_eq!(
        (config.store, config.data_expire),
        (StoreKind::Embedded, 100)
    );
    assert_eq!((config.retry_interval, config.request_timeout), (20, 6));
    assert_eq!((config.timeout_to_fail, config.alert_retry_limit), (70, 4));
    assert_eq!(config.alert_web_hook.expose(), "http://h/x");
    assert_eq!(config.log_level, LogLevel::Debug);
    assert!(
        config.listen.is_loopback(),
        "variables alone do not open the server"
    );
    assert_eq!(
        loaded.notes,
        ["grpc_port is set, but this build does not serve gRPC yet: only HTTP and JSON-RPC"]
    );
}

const DTM_SAMPLE: &str = r#"
# a conf.yml as DTM takes it
Store:
  Driver: boltdb
  Host: localhost
  Port: 3306
  User: root
  Password: 123456
  MaxOpenConns: 500
  DataExpire: 86400
  RedisPrefix: '{a}'
MicroService:
  Driver: 'default'
  Target: ''
HttpMicroService:
  Driver: default
TransCronInterval: 3
TimeoutToFail: 40
RetryInterval: 15
RequestTimeout: 4
HttpPort: 8089
JsonRpcPort: 36791
LogLevel: 'warn'
Log:
  Outputs: 'stderr'
  RotationEnable: 0
  RotationConfigJSON: '{}'
UpdateBranchSync: 1
ConfigUpdateInterval: 10
AlertRetryLimit: 2
AlertWebHook: 'https://hooks.example/T0/K9'
"#;

#[test]
fn dtms_file_is_taken_as_it_is() {
    let sample = yaml(DTM_SAMPLE);
    let loaded = sample.loaded();
    let config = &loaded.config;
    assert_eq!((config.timeout_to_fail, config.retry_interval), (40, 15));
    assert_eq!((config.request_timeout, config.http_port), (4, 8089));
    assert_eq!((config.data_expire, config.alert_retry_limit), (86_400, 2));
    assert_eq!(config.log_level, LogLevel::Warn);
    assert_eq!(config.store, StoreKind::Embedded);
    assert_eq!(
        config.alert_web_hook.expose(),
        "https://hooks.example/T0/K9"
    );
    assert_eq!(
        config.listen.to_string(),
        "0.0.0.0",
        "DTM listens on all interfaces"
    );
    assert!(config.open_to_the_network());
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
}

#[test]
fn dtms_file_may_be_empty_or_have_its_keys_in_another_case() {
    for text in ["", "# only comments\n", "---\n"] {
        assert_eq!(yaml(text).loaded().config.http_port, 36789, "{text:?}");
    }
    let loaded = case()
        .file("conf.YAML", "httpport: 5\nstore:\n  DRIVER: boltdb\n")
        .loaded();
    assert_eq!(loaded.config.http_port, 5);
    assert!(loaded.notes.is_empty());
}

#[test]
fn unknown_keys_of_dtms_file_are_named_in_one_warning() {
    let notes = yaml("RetryIntervall: 1\nStore:\n  Drvier: redis\nHttpPort: 5\n").notes();
    assert_eq!(
        notes,
        ["conf.yml: unknown keys are ignored: RetryIntervall, Store.Drvier"]
    );
}

#[test]
fn what_has_no_effect_is_named_in_one_warning() {
    let notes = yaml("Log:\n  Outputs: stderr,/var/log/dtm\nTimeZoneOffset: +8\n").notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].starts_with("conf.yml: without effect here: Log.Outputs ("),
        "{notes:?}"
    );
    assert!(
        notes[0].contains("TimeZoneOffset (times are UTC)"),
        "{notes:?}"
    );
}

#[test]
fn one_warning_where_dtms_file_and_the_environment_differ() {
    let case = yaml("RetryInterval: 15\nRequestTimeout: 4\nHttpPort: 8089\n").env([
        ("RETRY_INTERVAL", "20"),
        ("AMENDS_REQUEST_TIMEOUT", "5"),
        ("HTTP_PORT", "8089"),
    ]);
    assert_eq!(case.loaded().config.retry_interval, 20);
    assert_eq!(
        case.notes(),
        [
            "the file and the environment differ in RequestTimeout (file 4, AMENDS_REQUEST_TIMEOUT 5), \
          RetryInterval (file 15, RETRY_INTERVAL 20); the environment wins here, with DTM the file would"
        ]
    );
}

#[test]
fn a_warning_never_holds_a_secret() {
    let case = yaml("AlertWebHook: https://h.example/secret1\n")
        .env([("AMENDS_ALERT_WEB_HOOK", "https://h.example/secret2")]);
    let notes = case.notes();
    assert_eq!(notes.len(), 1);
    assert!(!notes[0].contains("secret"), "{notes:?}");
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
            toml("store = \"redis\""),
            "store = \"redis\" (file amends.toml): must be one of embedded, memory",
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
fn dtms_checks_hold_for_dtms_files_and_variables_in_dtms_words() {
    let cases = [
        (
            yaml("RetryInterval: 9"),
            "RetryInterval should not be less than 10: RetryInterval = 9 (file conf.yml)",
        ),
        (
            yaml("TimeoutToFail: 9"),
            "TimeoutToFail should not be less than RetryInterval: TimeoutToFail = 9 (file conf.yml)",
        ),
        (
            yaml("RetryInterval: 50"),
            "TimeoutToFail should not be less than RetryInterval: RetryInterval = 50 (file conf.yml)",
        ),
        (
            case().env([("RETRY_INTERVAL", "5")]),
            "RetryInterval should not be less than 10: RetryInterval = 5 (env RETRY_INTERVAL)",
        ),
        (
            yaml("Store:\n  Port: '5432'"),
            "Store.Port = \"5432\" (file conf.yml): must be a whole number, without quotes",
        ),
        (
            yaml("HttpPort: 99999"),
            "HttpPort = 99999 (file conf.yml): must be a whole number from 0 to 65535",
        ),
        (
            yaml("Store:\n  Password: [hush]"),
            "Store.Password = […] (file conf.yml): must be a text",
        ),
        (
            yaml("Store:\n  Driver: mysql"),
            "Store.Driver = \"mysql\" (file conf.yml) is not in this build: use boltdb, which means the embedded store, or --store embedded or memory",
        ),
        (
            yaml("Store:\n  Driver: mongo"),
            "Store.Driver = \"mongo\" (file conf.yml): must be one of boltdb (the embedded store)",
        ),
        (
            yaml("MicroService:\n  Driver: dtm-driver-gozero"),
            "MicroService.Driver = \"dtm-driver-gozero\" (file conf.yml) is not in this build: it has no MicroService drivers; remove the key and use plain URLs",
        ),
        (
            yaml("- a\n- b\n"),
            "conf.yml: not valid YAML: a configuration is a map of keys and values",
        ),
        (
            yaml("HttpPort: 1\nHttpPort: 2"),
            "conf.yml, line 2: not valid YAML: the key HttpPort is there twice",
        ),
    ];
    for (case, expected) in cases {
        assert_eq!(case.refused(), expected);
    }
    // Our own settings may be as short as tests want them.
    assert_eq!(
        toml("retry_interval = 1\ntimeout_to_fail = 1")
            .loaded()
            .config
            .retry_interval,
        1
    );
    let ours = yaml("RetryInterval: 9").env([("AMENDS_RETRY_INTERVAL", "1")]);
    assert_eq!(ours.loaded().config.retry_interval, 1);
}

#[test]
fn all_drivers_that_this_build_has_not_are_refused_by_name() {
    for driver in ["mysql", "postgres", "redis", "sqlserver"] {
        let text = case().env([("STORE_DRIVER", driver)]).refused();
        assert!(
            text.contains(driver) && text.contains("not in this build"),
            "{text}"
        );
    }
    for driver in [
        "dtm-driver-gozero",
        "dtm-driver-dapr",
        "dtm-driver-springcloud",
    ] {
        let text = case().env([("MICRO_SERVICE_DRIVER", driver)]).refused();
        assert!(
            text.contains(driver) && text.contains("not in this build"),
            "{text}"
        );
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
