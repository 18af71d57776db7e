//! One run of a workflow at a time in a process: a second one could only lose.

use super::locked;
use crate::error::{Error, ErrorKind};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// The gids of what runs here.
pub(crate) type Running = Mutex<BTreeSet<String>>;

/// Keeps a second run out.
pub(crate) struct Alone<'a>(&'a Running, &'a str);

impl<'a> Alone<'a> {
    /// Error: `Ongoing`.
    pub(crate) fn new(running: &'a Running, gid: &'a str) -> Result<Alone<'a>, Error> {
        if locked(running).insert(gid.to_owned()) {
            return Ok(Alone(running, gid));
        }
        Err(Error::new(
            ErrorKind::Ongoing,
            format!("the workflow {gid} runs in this process already"),
        ))
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        locked(self.0).remove(self.1);
    }
}
