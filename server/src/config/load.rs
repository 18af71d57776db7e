//! Puts the layers on top of each other and remembers where each value came from.

use super::error::ConfigError;
use super::keys::{Config, KEYS, Key, Kind};
use super::{dtm, nearest::nearest};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A file, ours or DTM's.
    File(PathBuf),
    /// An environment variable, by name.
    Env(String),
    /// A flag of the command line, with its dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Env(name) => write!(f, "env {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// The environment as a value, so that tests need not change the process's own. It holds secrets, so it has no `Debug`.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Environment {
        Environment(std::env::vars_os().collect())
    }

    /// An environment of these variables.
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Environment {
        Environment(
            variables
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
        )
    }

    /// A variable's value; an empty one counts as unset.
    ///
    /// # Errors
    /// [`ConfigError::NotUtf8`].
    pub fn get(&self, name: &str) -> Result<Option<&str>, ConfigError> {
        match self.0.get(std::ffi::OsStr::new(name)) {
            None => Ok(None),
            Some(value) => match value.to_str() {
                None => Err(ConfigError::NotUtf8(name.to_owned())),
                Some(text) => Ok(Some(text).filter(|text| !text.is_empty())),
            },
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter_map(|name| name.to_str())
    }
}

/// A setting given on the command line; perhaps a secret.
#[derive(Clone)]
pub struct Flag {
    /// Name of the key in [`KEYS`].
    pub key: &'static str,
    /// The flag with its dashes.
    pub flag: &'static str,
    /// The text given.
    pub value: String,
}

/// Everything a configuration is made from.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file: DTM's if it ends in `.yml` or `.yaml`, else TOML.
    pub file: Option<PathBuf>,
    /// Environment variables.
    pub environment: Environment,
    /// Flags.
    pub flags: Vec<Flag>,
}

/// A configuration with the origin of each value, and what people should be told about it.
#[derive(Debug)]
pub struct Loaded {
    /// The effective configuration.
    pub config: Config,
    /// Warnings, a line each, without secrets.
    pub notes: Vec<String>,
    origins: BTreeMap<&'static str, Origin>,
}

impl Loaded {
    /// Where the value of a key came from.
    pub fn origin(&self, key: &Key) -> &Origin {
        self.origins.get(key.name).unwrap_or(&Origin::Default)
    }
}

/// Loads a configuration: defaults < file < environment < flags.
///
/// # Errors
/// [`ConfigError`]: the first thing that is wrong with a value that would be used.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut draft = Draft::default();
    let mut from_dtm = dtm::File::default();
    if let Some(path) = &sources.file {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.clone(),
            source,
        })?;
        if is_yaml(path) {
            from_dtm = dtm::read(path, &text, &mut draft)?;
        } else {
            read_toml(path, &text, &mut draft)?;
        }
    }
    dtm::read_environment(&sources.environment, &mut draft)?;
    for key in KEYS {
        let name = key.env();
        if let Some(text) = sources.environment.get(&name)? {
            draft.offer(key, key.kind.read(text), key.name, Origin::Env(name));
        }
    }
    from_dtm.warn_of_differences(&mut draft);
    for Flag { key, flag, value } in &sources.flags {
        if let Some(key) = find(key) {
            draft.offer(key, key.kind.read(value), key.name, Origin::Flag(flag));
        }
    }
    draft.finish(&sources.environment)
}

pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

pub(super) fn is_yaml(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| matches!(extension.to_lowercase().as_str(), "yml" | "yaml"))
}

fn read_toml(path: &Path, text: &str, draft: &mut Draft) -> Result<(), ConfigError> {
    let table: toml::Table = toml::from_str(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: error.span().map(|span| line_of(text, span.start)),
        format: "TOML",
        message: error.message().replace('\n', " "),
    })?;
    for (name, value) in leaves(table) {
        let Some(key) = find(&name) else {
            let known = nearest(&name, KEYS.iter().map(|key| key.name));
            return Err(ConfigError::UnknownKey {
                path: path.to_owned(),
                key: name,
                nearest: known.map_or("", |(name, _)| name),
            });
        };
        let value = serde_json::to_value(&value).unwrap_or(Value::Null);
        draft.offer(key, value, key.name, Origin::File(path.to_owned()));
    }
    Ok(())
}

fn line_of(text: &str, at: usize) -> u64 {
    let before = text.as_bytes().iter().take(at);
    1 + before.filter(|byte| **byte == b'\n').count() as u64
}

/// The values of a document of tables, each under its dotted name.
fn leaves(table: toml::Table) -> Vec<(String, toml::Value)> {
    let mut found = Vec::new();
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) => {
                let inner = leaves(inner).into_iter();
                found.extend(inner.map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            value => found.push((name, value)),
        }
    }
    found
}

/// A configuration in the making. A wrong value counts only if no higher layer sets its key.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) config: Config,
    pub(super) notes: Vec<String>,
    pub(super) origins: BTreeMap<&'static str, Origin>,
    wrong: BTreeMap<&'static str, ConfigError>,
}

impl Draft {
    /// Sets a key to a value of a layer higher than all before. `spelling` is the key's name in that layer.
    pub(super) fn offer(
        &mut self,
        key: &'static Key,
        value: Value,
        spelling: &str,
        origin: Origin,
    ) {
        self.wrong.remove(key.name);
        if key.set(&mut self.config, &value) {
            self.origins.insert(key.name, origin);
        } else {
            let word = value.as_str().unwrap_or_default().to_lowercase();
            let error = if key.name == "store" && dtm::is_store_of_dtm(&word) {
                ConfigError::NotInThisBuild {
                    key: key.name,
                    value: value.to_string(),
                    origin,
                    remedy: "use embedded or memory",
                }
            } else {
                wrong_value(key.kind, &value, spelling, origin)
            };
            self.refuse(key.name, error);
        }
    }

    /// Remembers what is wrong under a name, for as long as no higher layer changes it.
    pub(super) fn refuse(&mut self, name: &'static str, error: ConfigError) {
        self.wrong.insert(name, error);
    }

    /// Takes back what was wrong under a name.
    pub(super) fn forgive(&mut self, name: &'static str) {
        self.wrong.remove(name);
    }

    fn finish(mut self, environment: &Environment) -> Result<Loaded, ConfigError> {
        if let Some((_, error)) = self.wrong.pop_first() {
            return Err(error);
        }
        dtm::check(&self)?;
        self.notes.extend(misspelt(environment));
        Ok(Loaded {
            config: self.config,
            notes: self.notes,
            origins: self.origins,
        })
    }
}

pub(super) fn wrong_value(
    kind: Kind,
    value: &Value,
    spelling: &str,
    origin: Origin,
) -> ConfigError {
    let mut allowed = kind.allowed();
    let quoted = value
        .as_str()
        .is_some_and(|text| !kind.read(text).is_string());
    if quoted && !matches!(origin, Origin::Env(_) | Origin::Flag(_)) {
        allowed.push_str(", without quotes");
    }
    ConfigError::Value {
        key: spelling.to_owned(),
        value: kind.show(value),
        allowed,
        origin,
    }
}

/// Variables of the `AMENDS_` family that are no setting but look like a misspelt one.
fn misspelt(environment: &Environment) -> Option<String> {
    let known: Vec<String> = KEYS.iter().map(Key::env).collect();
    let others = ["AMENDS_LOG", "AMENDS_SERVER"];
    let candidates = || known.iter().map(String::as_str).chain(others);
    let found: Vec<String> = environment
        .names()
        .filter(|name| name.starts_with("AMENDS_") && !candidates().any(|known| known == *name))
        .filter_map(|name| {
            let (meant, distance) = nearest(name, candidates())?;
            (distance <= 2).then(|| format!("{name} (did you mean {meant}?)"))
        })
        .collect();
    let list = found.join(", ");
    (!found.is_empty()).then(|| format!("environment variables that are no settings: {list}"))
}
