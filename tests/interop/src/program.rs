//! A program of another language, run to its end.

use crate::daemon::end_of;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::NamedTempFile;

/// Where PATH finds a program; `None` if it is not installed.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A command with a deadline. It and all it starts are one process group, which is killed when the deadline has passed.
#[derive(Debug)]
pub struct Program {
    command: Command,
    deadline: Duration,
}

impl Program {
    /// A program in PATH, or by its path.
    pub fn new(name: impl AsRef<Path>) -> Program {
        let mut command = Command::new(name.as_ref());
        command.stdin(Stdio::null()).process_group(0);
        Program {
            command,
            deadline: Duration::from_secs(300),
        }
    }

    /// Adds arguments.
    pub fn args(mut self, args: &[&str]) -> Program {
        self.command.args(args);
        self
    }

    /// Adds names and values to the environment that this test runs in.
    pub fn env(mut self, env: impl IntoIterator<Item = (String, String)>) -> Program {
        self.command.envs(env);
        self
    }

    /// Runs it in this folder.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Program {
        self.command.current_dir(dir);
        self
    }

    /// Gives it this long, instead of five minutes.
    pub fn deadline(mut self, deadline: Duration) -> Program {
        self.deadline = deadline;
        self
    }

    /// Runs it and prints what it printed.
    ///
    /// # Panics
    ///
    /// When it cannot be started, fails, or is not done in time; what it printed is in the test's output.
    pub fn run(mut self) {
        let output = NamedTempFile::new().expect("a file for its output");
        let handle = || {
            Stdio::from(
                File::options()
                    .append(true)
                    .open(output.path())
                    .expect("its output"),
            )
        };
        let mut child = self
            .command
            .stdout(handle())
            .stderr(handle())
            .spawn()
            .unwrap_or_else(|e| panic!("{:?}: {e}", self.command.get_program()));
        let status = end_of(&mut child, self.deadline);
        if status.is_none() {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
        }
        let bytes = std::fs::read(output.path()).unwrap_or_default();
        println!("{}", String::from_utf8_lossy(&bytes).trim_end());
        let ended = status.map_or_else(
            || format!("killed after {:?}", self.deadline),
            |s| s.to_string(),
        );
        assert!(
            status.is_some_and(|s| s.success()),
            "{:?}: {ended}; its output is above",
            self.command
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_succeeds() {
        let env = [("GREETING".to_owned(), "hello".to_owned())];
        Program::new("sh")
            .args(&["-c", "test \"$GREETING\" = hello"])
            .env(env)
            .run();
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program"), None);
    }

    #[test]
    #[should_panic(expected = "exit status: 3")]
    fn a_program_that_fails() {
        Program::new("sh").args(&["-c", "exit 3"]).run();
    }

    #[test]
    #[should_panic(expected = "killed after 100ms")]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let deadline = Duration::from_millis(100);
        Program::new("sh")
            .args(&["-c", "sleep 60 & wait"])
            .deadline(deadline)
            .run();
    }
}
