//! The settings: one list from which the struct, its defaults and the table of keys are made, so that they cannot differ.

use super::types::{ClockKind, LogFormat, LogLevel, Secret, StoreKind};
use amends::options::MAX_SECONDS;
use amends::{Compat, Limits};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// What a setting may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number, bounds included.
    Int {
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// true or false.
    Switch,
    /// One of these words, in any case.
    Word(&'static [&'static str]),
    /// An IP address.
    Address,
    /// A path.
    Path,
    /// An http or https URL, or nothing. May hold a key, so it is shown without its path.
    Url,
    /// A text that goes into an HTTP header, or nothing. Never shown.
    Token,
}

impl Kind {
    /// The value of this kind that stands in an environment variable or a flag; still to be checked.
    pub(super) fn read(self, text: &str) -> Value {
        match (self, text) {
            (Kind::Int { .. }, _) => match text.trim().parse::<u64>() {
                Ok(n) => n.into(),
                Err(_) => text.into(),
            },
            (Kind::Switch, "true" | "1") => true.into(),
            (Kind::Switch, "false" | "0") => false.into(),
            _ => text.into(),
        }
    }

    /// The value as it is stored, or nothing if it is not allowed.
    pub(super) fn accept(self, value: &Value) -> Option<Value> {
        let text = value.as_str();
        let fits = match self {
            Kind::Int { min, max } => value.as_u64().is_some_and(|n| n >= min && n <= max),
            Kind::Switch => value.is_boolean(),
            Kind::Word(words) => {
                let word = text?.to_lowercase();
                return words.contains(&word.as_str()).then(|| word.into());
            }
            Kind::Address => text?.parse::<IpAddr>().is_ok(),
            Kind::Path => !text?.is_empty(),
            Kind::Url => text?.is_empty() || is_http_url(text?),
            Kind::Token => text?.bytes().all(|b| b.is_ascii_graphic()),
        };
        fits.then(|| value.clone())
    }

    /// What is allowed, to follow "must be".
    pub fn allowed(self) -> String {
        match self {
            Kind::Int { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Switch => "true or false".to_owned(),
            Kind::Word(words) => format!("one of {}", words.join(", ")),
            Kind::Address => "an IP address such as 127.0.0.1, 0.0.0.0 or ::1".to_owned(),
            Kind::Path => "a path".to_owned(),
            Kind::Url => "a URL that starts with http:// or https://".to_owned(),
            Kind::Token => "printable ASCII without spaces".to_owned(),
        }
    }

    /// The value as people may see it: secrets are hidden.
    pub fn show(self, value: &Value) -> String {
        match (self, value.as_str()) {
            (_, Some("")) => "\"\"".to_owned(),
            (Kind::Token, _) => "***".to_owned(),
            (Kind::Url, Some(url)) => match url.parse::<http::Uri>() {
                Ok(uri) => match (uri.scheme_str(), uri.host()) {
                    (Some(scheme), Some(host)) => format!("\"{scheme}://{host}/***\""),
                    _ => "***".to_owned(),
                },
                Err(_) => "***".to_owned(),
            },
            _ => value.to_string(),
        }
    }
}

fn is_http_url(text: &str) -> bool {
    text.parse::<http::Uri>()
        .is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
}

/// One setting.
pub struct Key {
    /// Its name in the TOML file; a dot separates table and key.
    pub name: &'static str,
    /// What it does, with its unit.
    pub doc: &'static str,
    /// What it may hold.
    pub kind: Kind,
    get: fn(&Config) -> serde_json::Result<Value>,
    set: fn(&mut Config, Value) -> serde_json::Result<()>,
}

impl Key {
    /// Its environment variable.
    pub fn env(&self) -> String {
        format!("AMENDS_{}", self.name.replace('.', "_").to_uppercase())
    }

    /// Its value in a configuration, secrets included: use [`Kind::show`] before people see it.
    pub fn get(&self, config: &Config) -> Value {
        // The only values that do not serialize are paths that are no text, and those are never configured.
        (self.get)(config).unwrap_or(Value::Null)
    }

    /// Puts a value in. False: the value is not allowed, and nothing was changed.
    pub(super) fn set(&self, config: &mut Config, value: &Value) -> bool {
        match self.kind.accept(value) {
            Some(value) => (self.set)(config, value).is_ok(),
            None => false,
        }
    }
}

macro_rules! key {
    ($name:expr, [$($doc:literal)+], $kind:expr, $($field:ident).+) => {
        Key {
            name: $name,
            doc: concat!($($doc),+).trim_ascii(),
            kind: $kind,
            get: |config| serde_json::to_value(&config.$($field).+),
            set: |config, value| {
                config.$($field).+ = serde_json::from_value(value)?;
                Ok(())
            },
        }
    };
}

macro_rules! settings {
    (
        $( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr, $kind:expr; )+
        compat { $( $(#[doc = $switch_doc:literal])+ $switch:ident; )+ }
        limits { $( $(#[doc = $limit_doc:literal])+ $limit:ident: $limit_kind:expr; )+ }
    ) => {
        /// The effective configuration. `Debug` hides secrets.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Config {
            $( $(#[doc = $doc])+ pub $field: $type, )+
            /// DTM's behaviour where ours differs.
            pub compat: Compat,
            /// Upper bounds on what requests may hold.
            pub limits: Limits,
        }

        impl Default for Config {
            fn default() -> Self {
                Config {
                    $( $field: $default, )+
                    compat: Compat::default(),
                    limits: Limits::default(),
                }
            }
        }

        /// All settings, in the order in which they are shown.
        pub const KEYS: &[Key] = &[
            $( key!(stringify!($field), [$($doc)+], $kind, $field), )+
            $( key!(concat!("compat.", stringify!($switch)), [$($switch_doc)+], Kind::Switch, compat.$switch), )+
            $( key!(concat!("limits.", stringify!($limit)), [$($limit_doc)+], $limit_kind, limits.$limit), )+
        ];
    };
}

const PORT: Kind = Kind::Int {
    min: 0,
    max: u16::MAX as u64,
};
const SECONDS: Kind = Kind::Int {
    min: 1,
    max: MAX_SECONDS,
};
const COUNT: Kind = Kind::Int {
    min: 1,
    max: 1_000_000,
};
const NAME: Kind = Kind::Int { min: 1, max: 1_024 };
const BYTES: Kind = Kind::Int {
    min: 1,
    max: 1 << 30,
};

settings! {
    /// Address to listen on. `0.0.0.0` means all interfaces; set `operator_token` then.
    listen: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST), Kind::Address;
    /// Port of the HTTP API, JSON-RPC and metrics. 0 takes a free one.
    http_port: u16 = 36789, PORT;
    /// Port of the gRPC API. 0 takes a free one.
    grpc_port: u16 = 36790, PORT;
    /// Folder of the embedded store.
    data: PathBuf = PathBuf::from("./amends-data"), Kind::Path;
    /// Where transactions are kept: on disk, or in memory for tests.
    store: StoreKind = StoreKind::Embedded, Kind::Word(&["embedded", "memory"]);
    /// What due times go by: the system's clock, or, for tests with the store in memory, one that moves only when `POST /api/amends/clock/advance` says so.
    clock: ClockKind = ClockKind::System, Kind::Word(&["system", "manual"]);
    /// Token that forceStop, the resets and the topic routes want as `Authorization: Bearer`. Empty: none is wanted.
    operator_token: Secret = Secret::default(), Kind::Token;
    /// The least important level that is logged.
    log_level: LogLevel = LogLevel::Info, Kind::Word(&["trace", "debug", "info", "warn", "error"]);
    /// How log lines look on stderr.
    log_format: LogFormat = LogFormat::Json, Kind::Word(&["json", "text"]);
    /// Seconds after which a branch that is not done yet is asked again. A failed call is repeated after twice as long, then after 4, 8 … times.
    retry_interval: u64 = 10, SECONDS;
    /// Seconds a branch call may take.
    request_timeout: u64 = 3, SECONDS;
    /// Seconds after which a message, tcc or xa that was only prepared is looked into or given up.
    timeout_to_fail: u64 = 35, SECONDS;
    /// Seconds that the doubled retry interval never exceeds.
    retry_cap: u64 = 600, SECONDS;
    /// Errors of a branch in a row at which the alert is sent. 0 and 1 both mean the first.
    alert_retry_limit: u32 = 3, Kind::Int { min: 0, max: 1_000_000 };
    /// URL that alerts are posted to. Empty: none are sent.
    alert_web_hook: Secret = Secret::default(), Kind::Url;
    /// Seconds that a finished transaction is kept at least, counted from its end.
    data_expire: u64 = 604_800, SECONDS;
    /// Free space in MiB below which the embedded store takes no writes until there is room again.
    disk_reserve_mib: u64 = 256, Kind::Int { min: 0, max: 1 << 30 };
    /// Branch calls on their way at the same time, in all.
    calls_max: usize = 4_096, COUNT;
    /// Branch calls on their way at the same time to one host.
    calls_per_host_max: usize = 256, COUNT;
    /// Transactions driven at the same time; more are stored and wait for their turn.
    in_flight_max: usize = 4_096, COUNT;
    /// Seconds that requests and calls on their way get to end at shutdown.
    shutdown_timeout: u64 = 10, Kind::Int { min: 0, max: MAX_SECONDS };
    /// Threads that serve HTTP connections and drive what comes by them; one less, and at least one, for all else (gRPC, what is due). 0: one per core.
    worker_threads: usize = 0, Kind::Int { min: 0, max: 1_024 };
    compat {
        /// Search branch answers for the words FAILURE and ONGOING, whatever the status: for participants that answer with these words and without the member `dtm_result`.
        body_text;
        /// Only 200 is success: for participants that mean an error by another 2xx.
        only_200;
        /// A `wait_result` that did not end answers 409 instead of 425: for clients that take only 409 for "not done".
        wait_result_409;
        /// A workflow's callback without data is a GET: for initiators that route it by method.
        callback_get;
    }
    limits {
        /// Bytes of a gid.
        gid: NAME;
        /// Bytes of a branch id.
        branch_id: NAME;
        /// Bytes of an operation's name.
        op: NAME;
        /// Bytes of a URL.
        url: Kind::Int { min: 1, max: 65_536 };
        /// Bytes of one payload.
        payload: BYTES;
        /// Bytes of everything of one transaction together.
        transaction: BYTES;
        /// Distinct branch ids of one transaction, after topics were expanded.
        branches: COUNT;
        /// Bytes of an HTTP body or a gRPC message.
        body: BYTES;
        /// Bytes of `custom_data`.
        custom_data: BYTES;
        /// Bytes of a workflow's result.
        result: BYTES;
        /// Number of branch headers.
        headers: COUNT;
        /// Bytes of all branch headers together.
        header_bytes: BYTES;
        /// Bytes of a topic's name.
        topic: NAME;
        /// Subscribers of one topic.
        subscribers: COUNT;
        /// Bytes kept of a rollback reason or of a branch's last error.
        reason: Kind::Int { min: 16, max: 1 << 20 };
        /// Bytes read of a branch's answer.
        answer: BYTES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_allowed_and_survives_get_and_set() {
        let mut config = Config::default();
        for key in KEYS {
            let value = key.get(&config);
            assert!(key.set(&mut config, &value), "{} = {value}", key.name);
        }
        assert_eq!(config, Config::default());
    }

    #[test]
    fn every_word_of_a_choice_can_be_set_in_any_case() {
        for key in KEYS {
            if let Kind::Word(words) = key.kind {
                for word in words {
                    let value = Value::from(word.to_uppercase());
                    let mut config = Config::default();
                    assert!(key.set(&mut config, &value), "{} = {word}", key.name);
                    assert_eq!(key.get(&config), *word);
                }
            }
        }
    }

    #[test]
    fn a_number_is_taken_at_its_bounds_and_refused_beyond() {
        for key in KEYS {
            if let Kind::Int { min, max } = key.kind {
                let mut config = Config::default();
                for inside in [min, max] {
                    assert!(
                        key.set(&mut config, &inside.into()),
                        "{} = {inside}",
                        key.name
                    );
                }
                let before = config.clone();
                for outside in [i128::from(min) - 1, i128::from(max) + 1] {
                    let outside = serde_json::from_str::<Value>(&outside.to_string());
                    let outside = outside.expect("a number is JSON");
                    assert!(!key.set(&mut config, &outside), "{} = {outside}", key.name);
                }
                assert_eq!(config, before);
            }
        }
    }

    #[test]
    fn names_are_unique_and_documented() {
        let names: std::collections::BTreeSet<_> = KEYS.iter().map(|k| k.env()).collect();
        assert_eq!(names.len(), KEYS.len());
        assert!(names.contains("AMENDS_COMPAT_BODY_TEXT") && names.contains("AMENDS_LIMITS_GID"));
        assert!(KEYS.iter().all(|k| k.doc.len() > 10));
    }

    #[test]
    fn every_limit_of_core_is_a_setting() {
        let fields = format!("{:?}", Limits::default()).matches(": ").count();
        let keys = KEYS.iter().filter(|k| k.name.starts_with("limits."));
        assert_eq!(keys.count(), fields);
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(Kind::Token.show(&"abc".into()), "***");
        assert_eq!(Kind::Token.show(&"".into()), "\"\"");
        let url = Value::from("https://user:pw@hooks.example/T0/K9?key=1");
        assert_eq!(Kind::Url.show(&url), "\"https://hooks.example/***\"");
    }
}
