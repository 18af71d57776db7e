//! What the tests of encrypted calls share. The certificates a process trusts come from its environment, so the calls are made in a child
//! process: the same test program, asked for its ignored test `one_call`, which prints `outcome: ` and what came of it.

#![allow(unreachable_pub, missing_docs)]

use std::path::Path;
use std::process::Command;

/// What came of a call of `url` in a process that trusts these certificates, or the system's.
pub fn outcome(url: &str, certificates: Option<&Path>) -> String {
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

/// The URL that the other process named.
pub fn url() -> String {
    std::env::var("AMENDS_TEST_URL").expect("called by the other test")
}
