//! PostgreSQL, from Debian's package postgresql.

use crate::daemon::{Daemon, Install, program};
use crate::databases::Login;
use amends_scenarios::free_port;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Stdio;

/// Where Debian puts the versions that are installed.
const VERSIONS: &str = "/usr/lib/postgresql";

fn tool(name: &str) -> PathBuf {
    program(name, Some(VERSIONS))
}

/// Begins the creation of a data folder.
pub(crate) fn install(login: &Login) -> Install {
    let mut install = Install::new("postgresql", "postgres");
    let password = install.write("password", &login.password);
    let mut create = install.command(&tool("initdb"));
    create
        .arg("--pgdata")
        .arg(install.path("data"))
        .arg("--pwfile")
        .arg(password)
        .arg(format!("--username={}", login.user))
        .args([
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]);
    install.begin(create);
    install
}

/// Begins the creation of the database, which needs no running server.
pub(crate) fn create_database(install: &mut Install, login: &Login) {
    let sql = install.write(
        "database.sql",
        &format!("create database {}\n", login.database),
    );
    let mut single = install.command(&tool("postgres"));
    single
        .args(["--single", "-D"])
        .arg(install.path("data"))
        .args(["-c", "fsync=off", "template1"])
        .stdin(Stdio::from(
            std::fs::File::open(sql).expect("the file just written"),
        ));
    install.begin(single);
}

/// Starts the server and waits until it takes connections.
pub(crate) fn start(install: Install, login: &Login) -> Daemon {
    let port = free_port();
    let mut serve = install.command(&tool("postgres"));
    serve
        .arg("-D")
        .arg(install.path("data"))
        .arg("-k")
        .arg(install.path(""))
        .args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    for setting in [
        "fsync=off",
        "full_page_writes=off",
        "synchronous_commit=off",
        "shared_buffers=16MB",
    ] {
        serve.args(["-c", setting]);
    }
    // Off by default; XA needs it.
    serve.args(["-c", "max_prepared_transactions=64"]);
    let mut daemon = install.serve(serve, port);
    // A start-up message of protocol 3.0; R asks for a password, E says that the server is still starting.
    let mut hello = Vec::new();
    let names = format!("user\0{}\0database\0{}\0\0", login.user, login.database);
    let length = u32::try_from(8 + names.len()).expect("a short message");
    hello.extend(length.to_be_bytes());
    hello.extend(196_608u32.to_be_bytes());
    hello.extend(names.as_bytes());
    daemon.wait_until(|stream| {
        stream.write_all(&hello)?;
        let mut kind = [0];
        stream.read_exact(&mut kind)?;
        Ok(kind[0] == b'R')
    });
    daemon
}
