//! What can be wrong with a configuration. Every text is one line that names key, value, place and remedy.

use super::load::Origin;
use std::path::PathBuf;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not valid TOML or YAML.
    #[error("{}{}: not valid {format}: {message}", path.display(), line.map(|n| format!(", line {n}")).unwrap_or_default())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: Option<u64>,
        /// `TOML` or `YAML`.
        format: &'static str,
        /// What the parser says.
        message: String,
    },
    /// The TOML file has a key that does not exist.
    #[error("{}: unknown key `{key}`; did you mean `{nearest}`? `amends config` lists all keys", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key as it stands in the file.
        key: String,
        /// The known key that looks most like it.
        nearest: &'static str,
    },
    /// A value is not allowed.
    #[error("{key} = {value} ({origin}): must be {allowed}")]
    Value {
        /// The key, in the spelling of its origin.
        key: String,
        /// The value as it would stand in the file; hidden for secrets.
        value: String,
        /// What is allowed.
        allowed: String,
        /// Where the value came from.
        origin: Origin,
    },
    /// One of DTM's own checks failed (dtm-server.md 2), in DTM's words.
    #[error("{message}: {key} = {value} ({origin})")]
    DtmCheck {
        /// DTM's message.
        message: &'static str,
        /// DTM's key.
        key: &'static str,
        /// The value.
        value: String,
        /// Where the value came from.
        origin: Origin,
    },
    /// DTM has it, this build has not.
    #[error("{key} = {value} ({origin}) is not in this build yet: {remedy}")]
    NotInThisBuild {
        /// The key, in the spelling of its origin.
        key: &'static str,
        /// The value.
        value: String,
        /// Where the value came from.
        origin: Origin,
        /// What to do instead.
        remedy: &'static str,
    },
    /// An environment variable cannot be read as text.
    #[error("environment variable {0} is not valid UTF-8")]
    NotUtf8(String),
}
