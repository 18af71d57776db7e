//! Stand-in for the coordinator: the interface that the command line uses.

use crate::config::Config;
use std::net::SocketAddr;

/// A running coordinator.
#[derive(Debug)]
pub struct Coordinator {
    addr: SocketAddr,
    _listener: tokio::net::TcpListener,
}

/// Makes a [`Coordinator`].
#[derive(Debug, Default)]
pub struct Builder {
    config: Config,
}

/// Why a coordinator did not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

impl Coordinator {
    /// A builder with the default configuration.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where the HTTP API listens.
    pub fn http_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Resolves when the coordinator failed for good.
    pub async fn fatal(&self) -> String {
        std::future::pending().await
    }

    /// Stops accepting, hands over.
    pub async fn shutdown(&self) {}
}

impl Builder {
    /// Sets the configuration.
    pub fn config(mut self, config: Config) -> Builder {
        self.config = config;
        self
    }

    /// Starts.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(self) -> Result<Coordinator, StartError> {
        let wanted = (self.config.listen, self.config.http_port);
        let listener = tokio::net::TcpListener::bind(wanted)
            .await
            .map_err(|error| {
                StartError(format!(
                    "cannot listen on {}:{}: {error}",
                    wanted.0, wanted.1
                ))
            })?;
        let addr = listener
            .local_addr()
            .map_err(|error| StartError(error.to_string()))?;
        Ok(Coordinator {
            addr,
            _listener: listener,
        })
    }
}
