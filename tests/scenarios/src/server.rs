//! The real binary as a child process.

use crate::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a start may take: debug binary, busy machine, recovery of a folder.
const START: Duration = Duration::from_secs(30);

/// Environment of a coordinator: `AMENDS_…` names and values.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

/// The setting of tests that restart the coordinator: only this store outlives the process.
pub const DURABLE: (&str, &str) = ("AMENDS_STORE", "embedded");

/// A coordinator with its own data folder. It is killed when this is dropped; what it wrote to stderr is printed if the test failed.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    dir: TempDir,
    port: u16,
    grpc_port: u16,
    settings: BTreeMap<String, String>,
}

/// The binary under test: `AMENDS_BIN`, else the one in the target folder of this test.
fn binary() -> PathBuf {
    let found = match std::env::var_os("AMENDS_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let test = std::env::current_exe().expect("the path of this test");
            let target = test
                .ancestors()
                .nth(2)
                .expect("target/<profile>/deps/<test>");
            target.join(format!("amends{}", std::env::consts::EXE_SUFFIX))
        }
    };
    assert!(
        found.is_file(),
        "{} is missing: run `cargo build -p amends-server` first, or set AMENDS_BIN",
        found.display()
    );
    found
}

/// A command that starts the binary with a clean environment.
fn command(settings: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new(binary());
    command.env_clear();
    for kept in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command.envs(settings);
    command
}

/// A port that was free a moment ago, below the range from which outgoing connections take theirs, so that a restart finds it free again.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 16_000;
    for _ in 0..COUNT {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let start = std::process::id().wrapping_mul(211);
        let port = u16::try_from(FIRST + start.wrapping_add(offset) % COUNT).unwrap_or(u16::MAX);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

impl Server {
    /// Starts a coordinator and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it does not become ready, with what it wrote.
    pub async fn start(settings: Settings<'_>) -> Server {
        Server::start_until(settings, "/readyz").await
    }

    /// Starts a coordinator and waits until it is alive, ready or not.
    ///
    /// # Panics
    ///
    /// When it does not answer, with what it wrote.
    pub async fn start_alive(settings: Settings<'_>) -> Server {
        Server::start_until(settings, "/livez").await
    }

    async fn start_until(settings: Settings<'_>, probe: &str) -> Server {
        // Short times, so that tests are; `AMENDS_TEST_STORE` runs the whole suite on another store.
        let store = std::env::var("AMENDS_TEST_STORE").unwrap_or_else(|_| "embedded".to_owned());
        let defaults = [
            ("AMENDS_STORE", store.as_str()),
            ("AMENDS_RETRY_INTERVAL", "1"),
        ];
        let all = defaults.iter().chain(settings);
        let mut server = Server {
            child: None,
            dir: TempDir::new().expect("a temporary folder"),
            port: free_port(),
            grpc_port: free_port(),
            settings: all
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        };
        server.spawn_until(probe).await;
        server
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Where it listens for gRPC.
    pub fn grpc_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.grpc_port))
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::new(self.addr())
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What it wrote to stderr, over all its starts.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.stderr_path()).unwrap_or_default()
    }

    fn stderr_path(&self) -> PathBuf {
        self.dir.path().join("stderr.log")
    }

    /// Changes a setting from the next start on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.insert(key.to_owned(), value.to_owned());
    }

    /// Starts it on the same folder and ports, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it does not become ready, with what it wrote.
    pub async fn restart(&mut self) {
        self.spawn_until("/readyz").await;
    }

    async fn spawn_until(&mut self, probe: &str) {
        assert!(self.child.is_none(), "it is running");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.stderr_path());
        let mut command = command(&self.settings);
        command.arg("serve").arg("--data").arg(self.data());
        command.args(["--http-port", &self.port.to_string()]);
        command.args(["--grpc-port", &self.grpc_port.to_string()]);
        command
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.stderr(log.expect("a file for stderr"));
        self.child = Some(command.spawn().expect("the binary starts"));
        let end = Instant::now() + START;
        loop {
            let ready = self.client().send(http::Method::GET, probe, "").await;
            if ready.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            let exited = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().ok().flatten());
            if let Some(status) = exited {
                panic!(
                    "amends ended with {status} instead of getting ready:\n{}",
                    self.stderr()
                );
            }
            assert!(
                Instant::now() < end,
                "amends is not ready within {START:?}:\n{}",
                self.stderr()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// kill -9, and waits for its end.
    ///
    /// # Panics
    ///
    /// When it is not running.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it is running");
        child.kill().expect("kill -9");
        child.wait().expect("its end");
    }

    /// Asks it to stop (SIGTERM) without waiting.
    ///
    /// # Panics
    ///
    /// When it is not running.
    pub fn terminate(&self) {
        let child = self.child.as_ref().expect("it is running");
        kill_process(Pid::from_child(child), Signal::TERM).expect("SIGTERM");
    }

    /// Waits for its own end.
    ///
    /// # Panics
    ///
    /// When it is still there at the deadline.
    pub async fn ended(&mut self, deadline: Duration) -> ExitStatus {
        let child = self.child.as_mut().expect("it is running");
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = child.try_wait().expect("its state") {
                self.child = None;
                return status;
            }
            assert!(Instant::now() < end, "amends still runs after {deadline:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let text = self.stderr();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- last lines of amends' stderr ---");
            for line in &lines[lines.len().saturating_sub(40)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// What a command that ended by itself left behind.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` when it was stopped because it did not end within 20 s.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs the binary with these arguments in this folder until it ends.
///
/// # Panics
///
/// When it cannot be started.
pub fn run(dir: &Path, args: &[&str], settings: Settings<'_>) -> Finished {
    let settings = settings
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let out = TempDir::new().expect("a temporary folder");
    let paths = [out.path().join("stdout"), out.path().join("stderr")];
    let file = |path: &Path| File::create(path).expect("a file for output");
    let mut child = command(&settings)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(file(&paths[0]))
        .stderr(file(&paths[1]))
        .spawn()
        .expect("the binary starts");
    let end = Instant::now() + Duration::from_secs(20);
    let code = loop {
        match child.try_wait().expect("its state") {
            Some(status) => break status.code(),
            None if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            None => {
                child.kill().expect("kill -9");
                child.wait().expect("its end");
                break None;
            }
        }
    };
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    Finished {
        code,
        stdout: text(&paths[0]),
        stderr: text(&paths[1]),
    }
}
