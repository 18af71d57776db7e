//! Redis, from Debian's package redis-server.

use crate::daemon::{Daemon, Install, program};
use amends_scenarios::free_port;
use std::io::{Read, Write};

/// A Redis that keeps nothing, on a free port of 127.0.0.1. It ends when this is dropped, or with the thread that started it.
#[derive(Debug)]
pub struct Redis {
    daemon: Daemon,
}

impl Redis {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// When it is not installed, or does not get ready, with its log.
    pub fn start() -> Redis {
        Redis::with(&[])
    }

    /// Starts it as a node of a cluster, which has no slots yet.
    ///
    /// # Panics
    ///
    /// As [`Redis::start`].
    pub fn start_cluster() -> Redis {
        let bus = free_port().to_string();
        Redis::with(&["--cluster-enabled", "yes", "--cluster-port", &bus])
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.daemon.port()
    }

    fn with(options: &[&str]) -> Redis {
        let install = Install::new("redis", "redis");
        let port = free_port();
        let mut serve = install.command(&program("redis-server", None));
        serve
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(install.path(""))
            .args(options);
        let mut daemon = install.serve(serve, port);
        daemon.wait_until(|stream| {
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            Ok(&answer == b"+PONG")
        });
        Redis { daemon }
    }
}
