//! MariaDB, from Debian's package mariadb-server.

use crate::daemon::{Daemon, Install, program};
use crate::databases::Login;
use amends_scenarios::free_port;
use std::io::Read;

/// Begins the creation of a data folder.
pub(crate) fn install() -> Install {
    let mut install = Install::new("mariadb", "mysql");
    let mut create = install.command(&program("mariadb-install-db", None));
    create
        .arg("--no-defaults")
        .arg(format!("--datadir={}", install.path("data").display()))
        .args([
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        ]);
    install.begin(create);
    install
}

/// Starts the server and waits until it takes connections.
pub(crate) fn start(install: Install, login: &Login) -> Daemon {
    let port = free_port();
    let Login {
        user,
        password,
        database,
        ..
    } = login;
    // Run before the first connection is taken, at every start.
    let users = install.write(
        "users.sql",
        &format!(
            "create database if not exists {database};\n\
             create user if not exists '{user}'@'%' identified by '{password}';\n\
             grant all on *.* to '{user}'@'%' with grant option;\n"
        ),
    );
    let mut serve = install.command(&program("mariadbd", None));
    serve
        .arg("--no-defaults")
        .arg(format!("--datadir={}", install.path("data").display()))
        .arg(format!("--socket={}", install.path("socket").display()))
        .arg(format!("--pid-file={}", install.path("pid").display()))
        .arg(format!("--init-file={}", users.display()))
        .arg(format!("--port={port}"))
        .args(["--bind-address=127.0.0.1", "--skip-name-resolve"])
        .args([
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-flush-method=nosync",
        ])
        .args([
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=16M",
        ]);
    let mut daemon = install.serve(serve, port);
    wait(&mut daemon);
    daemon
}

/// Waits until it takes connections.
pub(crate) fn wait(daemon: &mut Daemon) {
    // The server speaks first: a length of three bytes, a number, and the version of the protocol, which is 10.
    daemon.wait_until(|stream| {
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting)?;
        Ok(greeting[4] == 10)
    });
}
