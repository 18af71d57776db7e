//! https branch calls against `openssl s_server`. The certificates a process trusts come from its environment, so the calls are made in
//! a child process: this test program, asked for its ignored test.

mod dispatch_participant;

use amends::Outcome;
use dispatch_participant::{call, transport};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const CONFIG: &str = "[req]\nprompt=no\ndistinguished_name=name\nx509_extensions=ext\n[name]\nCN=test\n\
                      [ext]\nsubjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n";

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

fn certificate(dir: &Path) {
    std::fs::write(dir.join("openssl.cnf"), CONFIG).expect("config");
    let made = Command::new("openssl")
        .current_dir(dir)
        .args("req -x509 -config openssl.cnf -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2".split(' '))
        .output()
        .expect("this test needs the command openssl");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
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

fn outcome(url: &str, certificates: Option<&Path>) -> String {
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child
        .args(["--exact", "one_call", "--ignored", "--nocapture"])
        .env("AMENDS_TEST_URL", url);
    if let Some(file) = certificates {
        child.env("SSL_CERT_FILE", file);
    }
    let output = child.output().expect("child");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find_map(|l| l.split_once("outcome: "))
        .map(|(_, o)| o.to_owned())
        .unwrap_or(text)
}

#[tokio::test]
#[ignore = "the child of the other test"]
async fn one_call() {
    let url = std::env::var("AMENDS_TEST_URL").expect("called by the other test");
    match transport().call(call(&url, "")).await.outcome {
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
