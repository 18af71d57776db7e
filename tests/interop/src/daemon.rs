//! A database server as a child process in a folder that goes with it.

use crate::program::find;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, read_dir, read_to_string};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long creating a data folder may take, and how long a start: slow disk, busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long a server may take to end when asked to, before it is killed.
const GOODBYE: Duration = Duration::from_secs(5);

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Whom a server runs as. Database servers refuse to run as root, so root hands them to the user of their Debian package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
}

impl Identity {
    /// The user `name` if this process is root (it owns the folder `dir`, which was just made), else nobody else.
    fn of(name: &str, dir: &Path) -> Option<Identity> {
        let owner = dir.metadata().expect("a folder just made").uid();
        if owner != 0 {
            return None;
        }
        let users = read_to_string("/etc/passwd").expect("the list of users");
        let found = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (user, _, uid, gid) = (
                fields.next()?,
                fields.next()?,
                fields.next()?,
                fields.next()?,
            );
            (user == name).then_some(Identity {
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
            })
        });
        assert!(
            found.is_some(),
            "root cannot run this server, and there is no user {name}: run tests/install.sh"
        );
        found
    }
}

/// A folder for one server, and the creation of its data, which may still be running.
#[derive(Debug)]
pub(crate) struct Install {
    name: &'static str,
    dir: TempDir,
    identity: Option<Identity>,
    running: Option<Child>,
}

impl Install {
    /// Makes the folder; `user` is the one the Debian package of this server runs it as.
    ///
    /// # Panics
    ///
    /// When the folder cannot be made, or this is root and there is no such user.
    pub(crate) fn new(name: &'static str, user: &str) -> Install {
        let dir = TempDir::new().expect("a temporary folder");
        let identity = Identity::of(user, dir.path());
        if let Some(Identity { uid, gid }) = identity {
            chown(dir.path(), Some(uid), Some(gid)).expect("handing the folder over");
        }
        Install {
            name,
            dir,
            identity,
            running: None,
        }
    }

    /// A file or folder in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file that only the server can read.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file for the server");
        if let Some(Identity { uid, gid }) = self.identity {
            chown(&path, Some(uid), Some(gid)).expect("handing the file over");
        }
        path
    }

    /// The command that runs `program` as the server's user, its output in the log. It is killed when the thread that starts it
    /// ends, so that no server outlives a test that was killed.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(Identity { uid, gid }) = self.identity {
            command
                .arg(format!("--reuid={uid}"))
                .arg(format!("--regid={gid}"));
            command.arg("--clear-groups");
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("log"));
        let log = log.expect("a file for the log");
        command
            .arg(program)
            .current_dir(self.dir.path())
            .env("HOME", self.dir.path())
            // Of its own: a MariaDB that starts removes the temporary tables of all others that share the folder.
            .env("TMPDIR", self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("one more handle"))
            .stderr(log);
        command
    }

    /// Begins a command of the creation without waiting for its end.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub(crate) fn begin(&mut self, mut command: Command) {
        self.running = Some(
            command
                .spawn()
                .unwrap_or_else(|e| panic!("{}: {e}", self.name)),
        );
    }

    /// Waits for the end of what was begun.
    ///
    /// # Panics
    ///
    /// When it failed or takes too long, with the log.
    pub(crate) fn finish(&mut self) {
        let Some(mut child) = self.running.take() else {
            return;
        };
        let status = end_of(&mut child, PATIENCE);
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let ended = status.map_or_else(
            || format!("not done within {PATIENCE:?}"),
            |s| s.to_string(),
        );
        assert!(
            status.is_some_and(|s| s.success()),
            "creating the data of {}: {ended}\n{}",
            self.name,
            self.log()
        );
    }

    /// Starts the server itself.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub(crate) fn serve(self, mut command: Command, port: u16) -> Daemon {
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.name));
        Daemon {
            install: self,
            command,
            child,
            port,
        }
    }

    fn log(&self) -> String {
        read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Install {
    fn drop(&mut self) {
        if let Some(child) = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A running server. It is ended by pid when this is dropped; the end of its log is printed if the test failed.
#[derive(Debug)]
pub(crate) struct Daemon {
    install: Install,
    command: Command,
    child: Child,
    port: u16,
}

impl Daemon {
    /// The port on 127.0.0.1 it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends it as [`Daemon`] does when it is dropped, and starts it on the same data.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub(crate) fn restart(&mut self) {
        self.end();
        let name = self.install.name;
        let child = self.command.spawn();
        self.child = child.unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    /// An immediate end in PostgreSQL, which gives its shared memory back, and an orderly one in MariaDB.
    fn end(&mut self) {
        let asked = kill_process(Pid::from_child(&self.child), Signal::QUIT);
        if asked.is_err() || end_of(&mut self.child, GOODBYE).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// Waits until `greets` is content with a connection.
    ///
    /// # Panics
    ///
    /// When the server ends or is not ready in time, with its log.
    pub(crate) fn wait_until(&mut self, greets: impl Fn(&mut TcpStream) -> std::io::Result<bool>) {
        let end = Instant::now() + PATIENCE;
        loop {
            let greeted = TcpStream::connect(("127.0.0.1", self.port)).and_then(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(1)))?;
                greets(&mut stream)
            });
            if matches!(greeted, Ok(true)) {
                return;
            }
            let exited = self.child.try_wait().expect("its state");
            let name = self.install.name;
            if let Some(status) = exited {
                panic!(
                    "{name} ended with {status} instead of getting ready:\n{}",
                    self.install.log()
                );
            }
            assert!(
                Instant::now() < end,
                "{name} is not ready within {PATIENCE:?}:\n{}",
                self.install.log()
            );
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            let text = self.install.log();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- last lines of the log of {} ---", self.install.name);
            for line in &lines[lines.len().saturating_sub(30)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// Waits for the end of a process.
pub(crate) fn end_of(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().expect("its state") {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// A program of a server: in PATH, in the folders of system programs, or in the newest of the versioned folders under `versions`.
///
/// # Panics
///
/// When it is nowhere.
pub(crate) fn program(name: &str, versions: Option<&str>) -> PathBuf {
    let newest = || {
        let mut found: Vec<(u32, PathBuf)> = read_dir(versions?)
            .ok()?
            .flatten()
            .filter_map(|entry| {
                let version = entry.file_name().to_str()?.parse().ok()?;
                let path = entry.path().join("bin").join(name);
                path.is_file().then_some((version, path))
            })
            .collect();
        found.sort();
        found.pop().map(|(_, path)| path)
    };
    let system = || Some(Path::new("/usr/sbin").join(name)).filter(|path| path.is_file());
    newest()
        .or_else(|| find(name))
        .or_else(system)
        .unwrap_or_else(|| panic!("{name} is not installed: run tests/install.sh"))
}
