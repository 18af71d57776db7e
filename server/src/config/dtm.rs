//! DTM's `conf.yml` and DTM's environment variables (dtm-server.md 2), read into our settings.

use super::error::ConfigError;
use super::keys::Kind;
use super::load::{Draft, Environment, Origin, find, wrong_value};
use serde_json::Value;
use std::path::Path;

/// What becomes of a key of DTM.
enum Use {
    /// It is a setting of ours under this name.
    Ours(&'static str),
    /// It names the store.
    Store,
    /// It names a MicroService driver.
    Driver,
    /// Nothing has to be set here: it belongs to a store that is refused, or to a mechanism that Amends does not need.
    Moot,
    /// It is accepted, and a note says what does not happen.
    Missing(&'static str),
}

/// How a key of DTM is written in YAML.
#[derive(Clone, Copy)]
enum Shape {
    Number,
    Text,
}

use Shape::{Number, Text};
use Use::{Driver, Missing, Moot, Ours, Store};

const LOG_FILES: &str = "logs go to stderr; let the service manager write and rotate files";

const DTM_KEYS: &[(&str, Shape, Use)] = &[
    ("RetryInterval", Number, Ours("retry_interval")),
    ("TimeoutToFail", Number, Ours("timeout_to_fail")),
    ("RequestTimeout", Number, Ours("request_timeout")),
    ("HttpPort", Number, Ours("http_port")),
    ("GrpcPort", Number, Ours("grpc_port")),
    ("LogLevel", Text, Ours("log_level")),
    ("AlertRetryLimit", Number, Ours("alert_retry_limit")),
    ("AlertWebHook", Text, Ours("alert_web_hook")),
    ("Store.Driver", Text, Store),
    ("Store.DataExpire", Number, Ours("data_expire")),
    ("Store.Host", Text, Moot),
    ("Store.Port", Number, Moot),
    ("Store.User", Text, Moot),
    ("Store.Password", Text, Moot),
    ("Store.Db", Text, Moot),
    ("Store.Schema", Text, Moot),
    ("Store.MaxOpenConns", Number, Moot),
    ("Store.MaxIdleConns", Number, Moot),
    ("Store.ConnMaxLifeTime", Number, Moot),
    ("Store.FinishedDataExpire", Number, Moot),
    ("Store.RedisPrefix", Text, Moot),
    ("TransCronInterval", Number, Moot),
    ("JsonRpcPort", Number, Moot),
    ("UpdateBranchSync", Number, Moot),
    ("UpdateBranchAsyncGoroutineNum", Number, Moot),
    ("ConfigUpdateInterval", Number, Moot),
    ("MicroService.Driver", Text, Driver),
    ("MicroService.Target", Text, Moot),
    ("MicroService.EndPoint", Text, Moot),
    ("HttpMicroService.Driver", Text, Moot),
    ("HttpMicroService.RegistryType", Text, Moot),
    ("HttpMicroService.RegistryAddress", Text, Moot),
    ("HttpMicroService.RegistryOptions", Text, Moot),
    ("HttpMicroService.Target", Text, Moot),
    ("HttpMicroService.EndPoint", Text, Moot),
    ("Log.Outputs", Text, Missing(LOG_FILES)),
    ("Log.RotationEnable", Number, Missing(LOG_FILES)),
    ("Log.RotationConfigJSON", Text, Missing(LOG_FILES)),
    ("TimeZoneOffset", Text, Missing("times are UTC")),
    (
        "AdminBasePath",
        Text,
        Missing("this build has no admin page yet"),
    ),
    (
        "GrpcServiceConfig",
        Text,
        Missing("there is one connection for each target"),
    ),
];

/// Whether DTM can keep its transactions there and this build cannot.
pub(super) fn is_store_of_dtm(name: &str) -> bool {
    matches!(name, "mysql" | "postgres" | "redis" | "sqlserver")
}

/// Values that mean the same as leaving the key out.
fn is_default(key: &str, value: &Value) -> bool {
    match key {
        "Log.Outputs" => value == "stderr",
        "Log.RotationConfigJSON" => value == "{}",
        "Log.RotationEnable" => value == 0,
        _ => false,
    }
}

/// The environment variable of a key of DTM: an underscore before each new word, upper case.
fn env_name(key: &str) -> String {
    let letters: Vec<char> = key.chars().collect();
    let mut name = String::new();
    for (i, letter) in letters.iter().enumerate() {
        let upper_at = |j: usize| letters.get(j).is_some_and(char::is_ascii_uppercase);
        let lower_at = |j: usize| letters.get(j).is_some_and(char::is_ascii_lowercase);
        let starts_word = letter.is_ascii_uppercase()
            && i > 0
            && (lower_at(i - 1) || (upper_at(i - 1) && lower_at(i + 1)));
        if starts_word {
            name.push('_');
        }
        name.push(if *letter == '.' {
            '_'
        } else {
            letter.to_ascii_uppercase()
        });
    }
    name
}

/// What a `conf.yml` set, kept to compare it with the environment.
#[derive(Default)]
pub(super) struct File {
    set: Vec<(&'static str, &'static str)>,
    values: Vec<Value>,
}

/// Reads a `conf.yml` as it is.
pub(super) fn read(path: &Path, text: &str, draft: &mut Draft) -> Result<File, ConfigError> {
    let document: Option<Value> =
        serde_saphyr::from_str(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: error.location().map(|location| location.line()),
            format: "YAML",
            message: what_is_wrong(&error),
        })?;
    let origin = || Origin::File(path.to_owned());
    // DTM listens on all interfaces and has no setting for it; its file must keep meaning that (rules.md 6.3).
    if let Some(listen) = find("listen") {
        draft.offer(listen, "0.0.0.0".into(), "listen", origin());
    }
    let mut file = File::default();
    let mut unknown = Vec::new();
    let mut missing = Vec::new();
    for (name, value) in leaves(document.unwrap_or(Value::Null), path)? {
        let known = DTM_KEYS
            .iter()
            .find(|(key, ..)| key.eq_ignore_ascii_case(&name));
        let Some((key, shape, becomes)) = known else {
            unknown.push(name);
            continue;
        };
        let value = shaped(key, *shape, value, &origin())?;
        if let Ours(ours) = becomes {
            file.set.push((key, ours));
            file.values.push(value.clone());
        }
        missing.extend(take(key, becomes, value, origin(), draft));
    }
    if !unknown.is_empty() {
        let list = unknown.join(", ");
        draft.notes.push(format!(
            "{}: unknown keys are ignored: {list}",
            path.display()
        ));
    }
    if !missing.is_empty() {
        let list = missing.join("; ");
        draft
            .notes
            .push(format!("{}: without effect here: {list}", path.display()));
    }
    Ok(file)
}

/// Reads DTM's own environment variables, which a variable of ours overrules.
pub(super) fn read_environment(
    environment: &Environment,
    draft: &mut Draft,
) -> Result<(), ConfigError> {
    let mut missing = Vec::new();
    for (key, shape, becomes) in DTM_KEYS {
        let name = env_name(key);
        if matches!(becomes, Moot) {
            continue;
        }
        if let Some(text) = environment.get(&name)? {
            let value = match shape {
                Number => Kind::Int {
                    min: 0,
                    max: u64::MAX,
                }
                .read(text),
                Text => text.into(),
            };
            missing.extend(take(key, becomes, value, Origin::Env(name), draft));
        }
    }
    if !missing.is_empty() {
        let list = missing.join("; ");
        draft
            .notes
            .push(format!("environment: without effect here: {list}"));
    }
    Ok(())
}

impl File {
    /// One warning where the environment overrules the file: with DTM it is the other way round (rules.md 6.1).
    pub(super) fn warn_of_differences(&self, draft: &mut Draft) {
        let mut differences = Vec::new();
        for ((dtm, ours), in_file) in self.set.iter().zip(&self.values) {
            let (Some(key), Some(Origin::Env(name))) = (find(ours), draft.origins.get(ours)) else {
                continue;
            };
            let value = key.get(&draft.config);
            if key.kind.accept(in_file).as_ref() != Some(&value) {
                let (file, env) = (key.kind.show(in_file), key.kind.show(&value));
                differences.push(format!("{dtm} (file {file}, {name} {env})"));
            }
        }
        if !differences.is_empty() {
            let list = differences.join(", ");
            let warning = format!(
                "the file and the environment differ in {list}; the environment wins here, with DTM the file would"
            );
            draft.notes.push(warning);
        }
    }
}

/// Uses one value. Returns what to say where it has no effect.
fn take(
    key: &'static str,
    becomes: &Use,
    value: Value,
    origin: Origin,
    draft: &mut Draft,
) -> Option<String> {
    let text = value.as_str().unwrap_or_default();
    match becomes {
        Ours(ours) => draft.offer(find(ours)?, value, key, origin),
        Store => match text {
            "" => {}
            "boltdb" => draft.offer(find("store")?, "embedded".into(), key, origin),
            text if is_store_of_dtm(text) => {
                let remedy =
                    "use boltdb, which means the embedded store, or --store embedded or memory";
                let value = value.to_string();
                draft.refuse(
                    "store",
                    ConfigError::NotInThisBuild {
                        key,
                        value,
                        origin,
                        remedy,
                    },
                );
            }
            _ => {
                let kind = Kind::Word(&["boltdb (the embedded store)"]);
                draft.refuse("store", wrong_value(kind, &value, key, origin));
            }
        },
        Driver => {
            draft.forgive(key);
            if !matches!(text, "" | "default") {
                let remedy = "it has no MicroService drivers; remove the key and use plain URLs";
                let value = value.to_string();
                draft.refuse(
                    key,
                    ConfigError::NotInThisBuild {
                        key,
                        value,
                        origin,
                        remedy,
                    },
                );
            }
        }
        Moot => {}
        Missing(why) => {
            return (!is_default(key, &value) && value != "").then(|| format!("{key} ({why})"));
        }
    }
    None
}

/// The value in the shape in which DTM reads it: no quoted numbers, while a text may be written without quotes.
fn shaped(key: &str, shape: Shape, value: Value, origin: &Origin) -> Result<Value, ConfigError> {
    let wrong = |value: String, allowed: &str| ConfigError::Value {
        key: key.to_owned(),
        value,
        allowed: allowed.to_owned(),
        origin: origin.clone(),
    };
    match (shape, &value) {
        (Number, Value::Number(_)) | (Text, Value::String(_)) => Ok(value),
        (Text, Value::Number(_) | Value::Bool(_)) => Ok(value.to_string().into()),
        (Number, _) => Err(wrong(value.to_string(), "a whole number, without quotes")),
        // A list; its content may be secret.
        (Text, _) => Err(wrong("[…]".to_owned(), "a text")),
    }
}

/// The values of nested maps under their dotted names; `null` is the same as absent.
fn leaves(document: Value, path: &Path) -> Result<Vec<(String, Value)>, ConfigError> {
    let mut found = Vec::new();
    match document {
        Value::Null => {}
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::Null => {}
                    Value::Object(_) => {
                        let inner = leaves(value, path)?.into_iter();
                        found.extend(inner.map(|(key, value)| (format!("{name}.{key}"), value)));
                    }
                    value => found.push((name, value)),
                }
            }
        }
        _ => {
            return Err(ConfigError::Syntax {
                path: path.to_owned(),
                line: None,
                format: "YAML",
                message: "a configuration is a map of keys and values".to_owned(),
            });
        }
    }
    Ok(found)
}

fn what_is_wrong(error: &serde_saphyr::Error) -> String {
    match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => {
            format!(
                "the key {} is there twice",
                key.as_deref().unwrap_or_default()
            )
        }
        other => {
            let text = other.to_string();
            // The place is told apart, and only one line is wanted.
            let line = text.lines().next().unwrap_or_default();
            line.split(" at line ").next().unwrap_or(line).to_owned()
        }
    }
}

/// DTM's name of a setting, if its value came from a file or variable of DTM.
fn from_dtm(draft: &Draft, ours: &str) -> Option<(&'static str, Origin)> {
    let (dtm, ..) = DTM_KEYS
        .iter()
        .find(|(.., u)| matches!(u, Ours(name) if *name == ours))?;
    let origin = draft.origins.get(ours)?;
    let is_dtm = match origin {
        Origin::Env(name) => *name == env_name(dtm),
        Origin::File(path) => super::load::is_yaml(path),
        Origin::Default | Origin::Flag(_) => false,
    };
    is_dtm.then(|| (*dtm, origin.clone()))
}

/// DTM's checks, for values that came from its file or variables; our own settings may be shorter.
pub(super) fn check(draft: &Draft) -> Result<(), ConfigError> {
    retry_interval(draft)?;
    timeout_to_fail(draft)
}

fn retry_interval(draft: &Draft) -> Result<(), ConfigError> {
    match from_dtm(draft, "retry_interval") {
        Some((key, origin)) if draft.config.retry_interval < 10 => Err(ConfigError::DtmCheck {
            message: "RetryInterval should not be less than 10",
            key,
            value: draft.config.retry_interval.to_string(),
            origin,
        }),
        _ => Ok(()),
    }
}

fn timeout_to_fail(draft: &Draft) -> Result<(), ConfigError> {
    let named = from_dtm(draft, "timeout_to_fail").or_else(|| from_dtm(draft, "retry_interval"));
    match named {
        Some((key, origin)) if draft.config.timeout_to_fail < draft.config.retry_interval => {
            let number = match key {
                "RetryInterval" => draft.config.retry_interval,
                _ => draft.config.timeout_to_fail,
            };
            Err(ConfigError::DtmCheck {
                message: "TimeoutToFail should not be less than RetryInterval",
                key,
                value: number.to_string(),
                origin,
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_names_follow_dtm() {
        for (key, name) in [
            ("Store.Driver", "STORE_DRIVER"),
            ("Store.MaxOpenConns", "STORE_MAX_OPEN_CONNS"),
            ("Store.ConnMaxLifeTime", "STORE_CONN_MAX_LIFE_TIME"),
            ("TransCronInterval", "TRANS_CRON_INTERVAL"),
            ("JsonRpcPort", "JSON_RPC_PORT"),
            ("MicroService.EndPoint", "MICRO_SERVICE_END_POINT"),
            (
                "HttpMicroService.RegistryType",
                "HTTP_MICRO_SERVICE_REGISTRY_TYPE",
            ),
            ("Log.RotationConfigJSON", "LOG_ROTATION_CONFIG_JSON"),
            ("AlertWebHook", "ALERT_WEB_HOOK"),
        ] {
            assert_eq!(env_name(key), name);
        }
    }

    #[test]
    fn every_key_that_becomes_ours_exists() {
        for (key, _, becomes) in DTM_KEYS {
            if let Ours(ours) = becomes {
                assert!(find(ours).is_some(), "{key} -> {ours}");
            }
        }
    }
}
