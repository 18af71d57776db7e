//! Configuration: defaults < file < environment < flags, the same for our TOML file and for DTM's `conf.yml` (rules.md 6).
//!
//! [`KEYS`] is the one list of settings: file keys, environment names, `amends config` and the table of the README all come from it.

mod dtm;
mod error;
mod keys;
mod load;
mod nearest;
mod types;

pub use error::ConfigError;
pub use keys::{Config, KEYS, Key, Kind};
pub use load::{Environment, Flag, Loaded, Origin, Sources, load};
pub use types::{ClockKind, LogFormat, LogLevel, Secret, StoreKind};

use amends::Policy;
use amends::time::seconds;

impl Config {
    /// The part of the configuration that the core decides by.
    pub fn policy(&self) -> Policy {
        Policy {
            retry_interval: seconds(self.retry_interval),
            request_timeout: seconds(self.request_timeout),
            timeout_to_fail: seconds(self.timeout_to_fail),
            retry_cap: seconds(self.retry_cap),
            alert_retry_limit: self.alert_retry_limit.max(1),
            compat: self.compat,
            limits: self.limits.clone(),
            ..Policy::default()
        }
    }

    /// Whether anybody outside of this machine can reach the server without knowing a token.
    pub fn open_to_the_network(&self) -> bool {
        !self.listen.is_loopback() && self.operator_token.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_policy_of_core() {
        assert_eq!(Config::default().policy(), Policy::default());
    }

    #[test]
    fn seconds_of_the_configuration_become_milliseconds_of_the_policy() {
        let config = Config {
            retry_interval: 1,
            request_timeout: 2,
            timeout_to_fail: 3,
            retry_cap: 4,
            ..Config::default()
        };
        let policy = config.policy();
        assert_eq!(
            (policy.retry_interval, policy.request_timeout),
            (1_000, 2_000)
        );
        assert_eq!((policy.timeout_to_fail, policy.retry_cap), (3_000, 4_000));
    }

    #[test]
    fn debug_output_hides_secrets() {
        let config = Config {
            operator_token: Secret::from("s3cret".to_owned()),
            alert_web_hook: Secret::from("https://hooks.example/T0/K9".to_owned()),
            ..Config::default()
        };
        let text = format!("{config:?}");
        assert!(!text.contains("s3cret") && !text.contains("K9"), "{text}");
        assert!(text.contains("http_port: 36789"), "{text}");
    }
}
