//! All that a program of another language needs.

use crate::databases::Databases;
use amends_scenarios::Server;

/// One coordinator and the databases.
#[derive(Debug)]
pub struct World {
    /// The coordinator.
    pub server: Server,
    /// The databases.
    pub databases: Databases,
}

impl World {
    /// Starts everything.
    ///
    /// # Panics
    ///
    /// When something does not get ready, with what it wrote.
    pub async fn start() -> World {
        World {
            databases: Databases::start(),
            server: Server::start(&[]).await,
        }
    }

    /// What a program finds in its environment: `AMENDS_HTTP`, `AMENDS_GRPC`, and both databases (`MARIADB_…`, `POSTGRES_…`).
    pub fn env(&self) -> Vec<(String, String)> {
        let mut env = self.databases.env();
        env.push((
            "AMENDS_HTTP".to_owned(),
            format!("http://{}", self.server.addr()),
        ));
        env.push((
            "AMENDS_GRPC".to_owned(),
            self.server.grpc_addr().to_string(),
        ));
        env
    }
}
