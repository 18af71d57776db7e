//! The real coordinator as a child process on a folder of its own.

use crate::error::BenchError;
use crate::http::Target;
use crate::process::Child;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a start, a stop or an answer of the coordinator may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where `amends` is: what was asked for, or what was built beside this program.
pub(crate) fn find_binary(asked: Option<&Path>) -> Result<PathBuf, BenchError> {
    if let Some(path) = asked {
        return if path.is_file() {
            Ok(path.to_owned())
        } else {
            Err(BenchError::Setup(format!(
                "--amends {}: no such file",
                path.display()
            )))
        };
    }
    let own = std::env::current_exe().map_err(BenchError::io("finding the bench's own program"))?;
    let folder = own.parent().unwrap_or(Path::new("."));
    // One profile for both sides is the fair comparison; a debug build is the last resort.
    let candidates = [".", "../release", "../demo", "../debug"];
    let found = candidates
        .iter()
        .map(|near| folder.join(near).join("amends"))
        .find_map(|path| path.canonicalize().ok());
    found.ok_or_else(|| {
        BenchError::Setup(format!(
            "no `amends` beside {}: run `cargo build --release -p amends-server` or pass --amends PATH",
            own.display()
        ))
    })
}

/// A running `amends serve` on the embedded store.
pub(crate) struct Coordinator {
    child: Child,
    target: Target,
    ready_after: Duration,
}

impl Coordinator {
    /// Starts it on `data` and waits until `/readyz` is 200.
    pub(crate) async fn start(binary: &Path, data: &Path) -> Result<Coordinator, BenchError> {
        let (http, grpc) = (free_port()?, free_port()?);
        let log = data.with_extension("log");
        let args: Vec<OsString> = vec![
            "serve".into(),
            "--data".into(),
            data.into(),
            "--http-port".into(),
            http.to_string().into(),
        ];
        let envs = [("AMENDS_GRPC_PORT", grpc.to_string())];
        let started = Instant::now();
        let mut child = Child::logged("amends", binary, &args, &envs, &log)?;
        let target = Target::parse(&format!("http://127.0.0.1:{http}"))?
            .with_grpc(format!("127.0.0.1:{grpc}"));
        loop {
            if let Some(status) = child.ended()? {
                return Err(BenchError::Setup(format!(
                    "amends ended ({status}) before it was ready:\n{}",
                    tail(&log)
                )));
            }
            let ready = target.get("/readyz", Duration::from_secs(5)).await;
            if ready.is_ok_and(|(status, _)| status.is_success()) {
                let ready_after = started.elapsed();
                return Ok(Coordinator {
                    child,
                    target,
                    ready_after,
                });
            }
            if started.elapsed() > PATIENCE {
                return Err(BenchError::Late(format!(
                    "amends was not ready within {PATIENCE:?}:\n{}",
                    tail(&log)
                )));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Its address.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Time from the start of the process until it was ready.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Stops it as an operator does.
    pub(crate) async fn stop(self) -> Result<(), BenchError> {
        self.child.terminate(PATIENCE).await
    }
}

/// A folder for data that is removed at the end: in `asked`, else beside this program, which is a real disk where
/// the system's folder for temporary files may be memory.
pub(crate) fn data_folder(asked: Option<&Path>) -> Result<TempDir, BenchError> {
    let own = std::env::current_exe().map_err(BenchError::io("finding the bench's own program"))?;
    let parent = asked.or(own.parent()).unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix("amends-bench-")
        .tempdir_in(parent)
        .map_err(BenchError::io(format!(
            "making a folder in {}",
            parent.display()
        )))
}

/// A port of loopback that nobody listens on at this moment.
pub(crate) fn free_port() -> Result<u16, BenchError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(BenchError::io("finding a free port"))
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
