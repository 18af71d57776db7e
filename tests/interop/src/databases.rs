//! The databases of one test.

use crate::daemon::Daemon;
use crate::xa::prepared_at;
use crate::{mariadb, postgres};
use sqlx::{MySql, Postgres};

/// How a program reaches a database.
#[derive(Clone, Debug)]
pub struct Login {
    /// Address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// A user who may do everything.
    pub user: String,
    /// Its password.
    pub password: String,
    /// An empty database.
    pub database: String,
}

impl Login {
    fn new() -> Login {
        Login {
            host: "127.0.0.1".to_owned(),
            port: 0,
            user: "amends".to_owned(),
            password: "amends-secret".to_owned(),
            database: "amends".to_owned(),
        }
    }

    /// Its URL, `mysql://…` or `postgres://…`.
    pub fn url(&self, scheme: &str) -> String {
        let Login {
            host,
            port,
            user,
            password,
            database,
        } = self;
        format!("{scheme}://{user}:{password}@{host}:{port}/{database}")
    }

    /// Names and values for a program's environment: `<prefix>_HOST`, `_PORT`, `_USER`, `_PASSWORD`, `_DATABASE`.
    pub fn env(&self, prefix: &str) -> Vec<(String, String)> {
        let values = [
            ("HOST", self.host.clone()),
            ("PORT", self.port.to_string()),
            ("USER", self.user.clone()),
            ("PASSWORD", self.password.clone()),
            ("DATABASE", self.database.clone()),
        ];
        values
            .map(|(name, value)| (format!("{prefix}_{name}"), value))
            .into()
    }
}

/// A MariaDB and a PostgreSQL with throw-away data, on free ports of 127.0.0.1. They end when this is dropped, or with the thread
/// that started them.
#[derive(Debug)]
pub struct Databases {
    mariadb: Login,
    postgres: Login,
    daemons: [Daemon; 2],
}

impl Databases {
    /// Creates their data and starts them.
    ///
    /// # Panics
    ///
    /// When one is not installed, or does not get ready, with its log.
    pub fn start() -> Databases {
        let login = Login::new();
        // The slow part, so both at a time.
        let mut maria = mariadb::install();
        let mut pg = postgres::install(&login);
        pg.finish();
        postgres::create_database(&mut pg, &login);
        pg.finish();
        maria.finish();
        let daemons = [mariadb::start(maria, &login), postgres::start(pg, &login)];
        let at = |daemon: &Daemon| Login {
            port: daemon.port(),
            ..login.clone()
        };
        Databases {
            mariadb: at(&daemons[0]),
            postgres: at(&daemons[1]),
            daemons,
        }
    }

    /// Stops MariaDB, and starts it on the same data and port. Connections to it are gone.
    ///
    /// # Panics
    ///
    /// When it does not get ready, with its log.
    pub fn restart_mariadb(&mut self) {
        let [daemon, _] = &mut self.daemons;
        daemon.restart();
        mariadb::wait(daemon);
    }

    /// Names of the branches of XA that are prepared, in both.
    ///
    /// # Panics
    ///
    /// When one cannot be asked.
    pub fn prepared(&self) -> Vec<String> {
        let [maria, pg] = [self.mariadb.url("mysql"), self.postgres.url("postgres")];
        let ask = async {
            let mut names = prepared_at::<MySql>(&maria).await;
            names.extend(prepared_at::<Postgres>(&pg).await);
            names
        };
        // On a thread of its own, for the caller's may belong to a runtime.
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime.expect("a runtime").block_on(ask)
            });
            asking.join().expect("names")
        })
    }

    /// How to reach MariaDB.
    pub fn mariadb(&self) -> &Login {
        &self.mariadb
    }

    /// How to reach PostgreSQL.
    pub fn postgres(&self) -> &Login {
        &self.postgres
    }

    /// Both for a program's environment: `MARIADB_…` and `POSTGRES_…`.
    pub fn env(&self) -> Vec<(String, String)> {
        let mut env = self.mariadb.env("MARIADB");
        env.extend(self.postgres.env("POSTGRES"));
        env
    }
}

impl Drop for Databases {
    /// Whatever a test does, it leaves nothing prepared (invariant 7 of faults.md).
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let names = self.prepared();
            assert!(names.is_empty(), "still prepared: {names:?}");
        }
    }
}
