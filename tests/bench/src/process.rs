//! Child processes that never outlive the bench, and what the system says about them.

use crate::error::BenchError;
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A child process; killed and reaped when dropped.
pub(crate) struct Child {
    name: &'static str,
    process: std::process::Child,
}

impl Child {
    /// Starts `program`. It goes through [`become_child`], so that it dies with the bench even if the bench is killed.
    fn start(
        name: &'static str,
        program: &Path,
        args: &[OsString],
        envs: &[(&str, String)],
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<Child, BenchError> {
        let process = Command::new(own_program()?)
            .arg("child")
            .arg(std::process::id().to_string())
            .arg(program)
            .args(args)
            .envs(envs.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            // A ctrl-c of the terminal is for the bench alone, which then ends its children itself.
            .process_group(0)
            .spawn()
            .map_err(BenchError::io(format!("starting {}", program.display())))?;
        Ok(Child { name, process })
    }

    /// Starts another program whose output goes to `log`.
    pub(crate) fn logged(
        name: &'static str,
        program: &Path,
        args: &[OsString],
        envs: &[(&str, String)],
        log: &Path,
    ) -> Result<Child, BenchError> {
        let what = || format!("writing {}", log.display());
        let file = File::create(log).map_err(BenchError::io(what()))?;
        let stdout = file.try_clone().map_err(BenchError::io(what()))?;
        Child::start(name, program, args, envs, stdout.into(), file.into())
    }

    /// Starts a server that this program contains, and returns its `host:port`.
    pub(crate) fn own(name: &'static str, args: &[&str]) -> Result<(Child, String), BenchError> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let program = own_program()?;
        let mut child = Child::start(name, &program, &args, &[], Stdio::piped(), Stdio::inherit())?;
        let mut line = String::new();
        if let Some(stdout) = child.process.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .map_err(BenchError::io(format!("reading the address of {name}")))?;
        }
        match line.trim().rsplit_once("http://") {
            Some((_, address)) => Ok((child, address.to_owned())),
            None => Err(BenchError::Setup(format!(
                "{name} ended before it listened"
            ))),
        }
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Result<Option<String>, BenchError> {
        let status = self
            .process
            .try_wait()
            .map_err(BenchError::io(format!("waiting for {}", self.name)))?;
        Ok(status.map(|status| status.to_string()))
    }

    /// Asks it to end (SIGTERM) and waits until it has, at most `limit`.
    pub(crate) async fn terminate(mut self, limit: Duration) -> Result<(), BenchError> {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM)
            .map_err(|errno| BenchError::io(format!("stopping {}", self.name))(errno.into()))?;
        let deadline = Instant::now() + limit;
        while self.ended()?.is_none() {
            if Instant::now() > deadline {
                return Err(BenchError::Late(format!(
                    "{} did not stop within {limit:?} of SIGTERM",
                    self.name
                )));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn own_program() -> Result<std::path::PathBuf, BenchError> {
    std::env::current_exe().map_err(BenchError::io("finding the bench's own program"))
}

/// Ties this process to the life of `parent`, then becomes `program`.
pub(crate) fn become_child(parent: i32, program: &OsStr, args: &[OsString]) -> BenchError {
    if let Err(errno) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return BenchError::io("asking to die with the bench")(errno.into());
    }
    // A parent that was gone before this was asked for sends no signal.
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(parent) {
        return BenchError::Setup("the bench is gone".to_owned());
    }
    let error = Command::new(program).args(args).exec();
    BenchError::io(format!("starting {}", Path::new(program).display()))(error)
}

/// User and system time that a process has used so far; its resolution is one clock tick (10 ms).
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, BenchError> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(BenchError::io(format!("reading {path}")))?;
    let ticks = cpu_ticks(&text)
        .ok_or_else(|| BenchError::Setup(format!("{path} is not as proc(5) says")))?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    // The command's name may hold spaces and brackets, so fields are counted from the last bracket.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Memory of a process that is in RAM now, in MiB.
pub(crate) fn resident_mib(pid: u32) -> Result<f64, BenchError> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(BenchError::io(format!("reading {path}")))?;
    text.lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.trim().parse::<f64>().ok())
        .map(|kib| kib / 1024.0)
        .ok_or_else(|| BenchError::Setup(format!("{path} has no VmRSS")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_are_fields_14_and_15_whatever_the_name() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194304 9 0 0 0 120 34 0 0 20 0 3 0 100 0 0";
        assert_eq!(cpu_ticks(stat), Some(154));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn the_system_tells_about_this_process() {
        let before = cpu_time(std::process::id()).unwrap();
        let started = Instant::now();
        let mut sum = 0_u64;
        while cpu_time(std::process::id()).unwrap() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "no CPU time counted"
            );
        }
        assert!(resident_mib(std::process::id()).unwrap() > 0.5);
    }
}
