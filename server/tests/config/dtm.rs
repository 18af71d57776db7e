//! DTM's `conf.yml` and DTM's variables.

use super::{case, toml, yaml};
use amends_server::config::{LogLevel, StoreKind};

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
    assert!(loaded.notes.is_empty(), "{:?}", loaded.notes);
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
            "Store.Driver = \"mysql\" (file conf.yml) is not in this build yet: use boltdb, which means the embedded store, or --store embedded or memory",
        ),
        (
            yaml("Store:\n  Driver: mongo"),
            "Store.Driver = \"mongo\" (file conf.yml): must be one of boltdb (the embedded store)",
        ),
        (
            yaml("MicroService:\n  Driver: dtm-driver-gozero"),
            "MicroService.Driver = \"dtm-driver-gozero\" (file conf.yml) is not in this build yet: it has no MicroService drivers; remove the key and use plain URLs",
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
