//! The flags that set something of the configuration, shared by the commands that load one.

use super::{Exit, Failure};
use crate::config::{Environment, Flag, Loaded, Sources, load};
use clap::Args;
use std::path::PathBuf;

/// Where the configuration comes from.
#[derive(Args, Default)]
pub(super) struct Settings {
    /// Configuration file: TOML, or a DTM conf.yml (.yml, .yaml)
    #[arg(short = 'c', long = "config", alias = "c", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Data folder of the embedded store
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Where transactions are kept: embedded, or memory (for tests)
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// What due times go by: system, or manual (for tests, with --store memory)
    #[arg(long, value_name = "CLOCK")]
    clock: Option<String>,
    /// Address to listen on; 0.0.0.0 means all interfaces
    #[arg(long, value_name = "IP")]
    listen: Option<String>,
    /// Port of the HTTP API; 0 takes a free one
    #[arg(long, value_name = "N")]
    http_port: Option<String>,
    /// Port of the gRPC API; 0 takes a free one
    #[arg(long, value_name = "N")]
    grpc_port: Option<String>,
    /// Token that operators must send; others on this machine can see it here: prefer AMENDS_OPERATOR_TOKEN or the file
    #[arg(long, value_name = "TOKEN")]
    operator_token: Option<String>,
    /// Log at level debug
    #[arg(short = 'd', long = "debug", alias = "d")]
    debug: bool,
}

impl Settings {
    /// Only a file, and perhaps the level debug.
    pub(super) fn of_file(file: Option<PathBuf>, debug: bool) -> Settings {
        Settings {
            file,
            debug,
            ..Settings::default()
        }
    }

    /// Only what names the data folder.
    pub(super) fn of_folder(file: Option<PathBuf>, data: Option<String>) -> Settings {
        Settings {
            file,
            data,
            ..Settings::default()
        }
    }

    /// Loads the configuration that these flags, the environment of the process and the file make.
    pub(super) fn load(self, environment: Environment) -> Result<Loaded, Failure> {
        let debug = self.debug.then(|| "debug".to_owned());
        let given = [
            ("data", "--data", self.data),
            ("store", "--store", self.store),
            ("clock", "--clock", self.clock),
            ("listen", "--listen", self.listen),
            ("http_port", "--http-port", self.http_port),
            ("grpc_port", "--grpc-port", self.grpc_port),
            ("operator_token", "--operator-token", self.operator_token),
            ("log_level", "-d", debug),
        ];
        let flags = given
            .into_iter()
            .filter_map(|(key, flag, value)| {
                Some(Flag {
                    key,
                    flag,
                    value: value?,
                })
            })
            .collect();
        load(&Sources {
            file: self.file,
            environment,
            flags,
        })
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()))
    }
}
