//! https branch calls against `openssl s_server`.

mod dispatch_participant;
mod tls_child;

use amends::Outcome;
use amends_scenarios::certificate;
use dispatch_participant::{call, transport};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tls_child::outcome;

struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn server(dir: &Path) -> Server {
    let mut child = Command::new("openssl")
        .current_dir(dir)
        .args("s_server -accept 127.0.0.1:0 -cert cert.pem -key key.pem -www".split(' '))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let address = lines
        .find_map(|l| l.expect("line").strip_prefix("ACCEPT ").map(str::to_owned))
        .expect("an address");
    Server {
        child,
        url: format!("https://{address}/"),
    }
}

#[tokio::test]
#[ignore = "the child of the other test"]
async fn one_call() {
    match transport().call(call(&tls_child::url(), "")).await.outcome {
        Outcome::Error(text) => println!("outcome: error {text}"),
        other => println!("outcome: {other:?}"),
    }
}

#[test]
fn a_trusted_certificate_is_taken_and_no_other() {
    let dir = tempfile::tempdir().expect("folder");
    certificate(dir.path());
    let server = server(dir.path());
    assert_eq!(
        outcome(&server.url, Some(&dir.path().join("cert.pem"))),
        "Success"
    );
    let refused = outcome(&server.url, None);
    let host = server.url.trim_end_matches('/');
    assert!(
        refused.starts_with(&format!(
            "error no TLS with {host}: invalid peer certificate"
        )),
        "{refused}"
    );
}
