//! The databases start, greet, and leave nothing behind.

use amends_interop::Databases;
use std::net::TcpStream;

#[test]
fn both_listen_while_they_live_and_are_gone_afterwards() {
    let databases = Databases::start();
    let ports = [databases.mariadb().port, databases.postgres().port];
    for port in ports {
        assert!(
            port < 32_768,
            "{port} is in the range of outgoing connections"
        );
        TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    }
    drop(databases);
    for port in ports {
        assert!(
            TcpStream::connect(("127.0.0.1", port)).is_err(),
            "{port} still listens"
        );
    }
}
