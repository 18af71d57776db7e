//! Starting and stopping a server.

use super::{BINARY, DEADLINE, amends, code, program, run, stderr};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

/// A server process; killed when dropped.
struct Server {
    process: Child,
    lines: Receiver<String>,
}

impl Server {
    fn start(folder: &std::path::Path, args: &[&str], env: &[(&str, &str)]) -> Server {
        Server::run(amends(folder, args).envs(env.iter().copied()))
    }

    fn run(command: &mut Command) -> Server {
        let mut process = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let stderr = BufReader::new(process.stderr.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Server { process, lines }
    }

    /// The first log line that holds this text, and those before it.
    fn wait_for(&self, text: &str) -> (serde_json::Value, Vec<String>) {
        let end = Instant::now() + DEADLINE;
        let mut before = Vec::new();
        loop {
            match self
                .lines
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) if line.contains(text) => {
                    return (
                        serde_json::from_str(&line).expect("log lines are JSON"),
                        before,
                    );
                }
                Ok(line) => before.push(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no line with {text:?}; there was {before:#?}")
                }
            }
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a pid"), signal).expect("it runs");
    }

    fn exit_code(&mut self) -> i32 {
        // Its stderr closes when it ends, so this waits for the end without polling.
        let end = Instant::now() + DEADLINE;
        while self
            .lines
            .recv_timeout(end.saturating_duration_since(Instant::now()))
            .is_ok()
        {}
        assert!(Instant::now() < end, "did not end");
        self.process
            .wait()
            .expect("waited")
            .code()
            .expect("ended by itself")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn serve_says_when_it_is_ready_and_a_signal_ends_it_with_0() {
    use rustix::process::Signal;
    for signal in [Signal::TERM, Signal::INT] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let args = ["serve", "--store", "memory", "--http-port", "0"];
        let mut server = Server::start(folder.path(), &args, &[]);
        let (ready, before) = server.wait_for("ready on http://127.0.0.1:");
        assert_eq!(before, Vec::<String>::new(), "nothing to warn of");
        let address = ready["address"].as_str().expect("an address");
        TcpStream::connect(address).expect("it listens");
        server.signal(signal);
        assert_eq!(server.exit_code(), 0);
    }
}

#[test]
fn any_number_of_threads_serves_and_ends_with_0() {
    for threads in ["1", "2", "5"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let args = ["serve", "--http-port", "0"];
        let mut server = Server::start(folder.path(), &args, &[("AMENDS_WORKER_THREADS", threads)]);
        let (ready, _) = server.wait_for("ready on http://127.0.0.1:");
        let address = ready["address"].as_str().expect("an address");
        let mut stream = TcpStream::connect(address).expect("it listens");
        let ask = "GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(ask.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{threads}: {answer}");
        server.signal(rustix::process::Signal::TERM);
        assert_eq!(server.exit_code(), 0, "{threads}");
    }
}

#[test]
fn it_takes_as_many_descriptors_as_the_system_allows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let limited = "ulimit -Sn 256 && exec \"$0\" serve --store memory --http-port 0";
    let args = ["-c", limited, BINARY];
    let server = Server::run(&mut program("/bin/sh", folder.path(), &args));
    server.wait_for("ready on http://127.0.0.1:");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.process.id()));
    let limits = limits.expect("it runs");
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let mut numbers = line.expect("a limit").split_whitespace();
    let (soft, hard) = (numbers.next(), numbers.next());
    assert_ne!(soft, Some("256"));
    assert_eq!(soft, hard);
}

/// As after `amends serve 2>&1 | head -1`: what cannot be told to anybody stops no work.
#[test]
fn logs_that_nobody_reads_any_more_disturb_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let args = ["serve", "--store", "memory", "--http-port", "0"];
    let mut server = Server::start(folder.path(), &args, &[("AMENDS_LOG_LEVEL", "debug")]);
    let (ready, _) = server.wait_for("ready on http://127.0.0.1:");
    let address = ready["address"].as_str().expect("an address").to_owned();
    // Its reader ends with the next line, and closes the pipe.
    let (_, nobody) = channel();
    server.lines = nobody;
    for n in 0..3 {
        let body = format!(
            r#"{{"gid":"g{n}","trans_type":"saga","steps":[{{"action":"http://127.0.0.1:9/x"}}],"payloads":["{{}}"],"wait_result":true,"retry_interval":100}}"#
        );
        let mut stream = TcpStream::connect(&address).expect("it listens");
        write!(
            stream,
            "POST /api/dtmsvr/submit HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        // Nobody is there to call, which is logged.
        assert!(answer.starts_with("HTTP/1.1 425 "), "{n}: {answer}");
    }
    server.signal(rustix::process::Signal::TERM);
    let end = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = server.process.try_wait().expect("waited") {
            break status;
        }
        assert!(Instant::now() < end, "it did not end");
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_server_open_to_the_network_without_a_token_warns_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let args = [
        "serve",
        "--store",
        "memory",
        "--http-port",
        "0",
        "--listen",
        "0.0.0.0",
    ];
    let (_, before) = Server::start(folder.path(), &args, &[]).wait_for("ready on");
    assert_eq!(before.len(), 1, "{before:?}");
    assert!(before[0].contains("operator_token"), "{before:?}");
    let with_token = [("AMENDS_OPERATOR_TOKEN", "t")];
    let (_, before) = Server::start(folder.path(), &args, &with_token).wait_for("ready on");
    assert_eq!(before, Vec::<String>::new());
}

#[test]
fn dtms_form_serves_and_listens_as_its_file_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(
        folder.path().join("conf.yml"),
        "HttpPort: 0\nLogLevel: info\n",
    )
    .expect("written");
    let env = [("AMENDS_STORE", "memory"), ("AMENDS_OPERATOR_TOKEN", "t")];
    let mut server = Server::start(folder.path(), &["-c", "conf.yml"], &env);
    server.wait_for("ready on http://0.0.0.0:");
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.exit_code(), 0);
}

#[test]
fn a_taken_port_is_one_clear_line_and_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let output = run(&["serve", "--store", "memory", "--http-port", &port]);
    assert_eq!(code(&output), 1);
    let text = stderr(&output);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.starts_with("amends: ") && text.contains(&port),
        "{text}"
    );
    assert!(text.contains("Is another server running there?"), "{text}");
    let args = [
        "serve",
        "--store",
        "memory",
        "--http-port",
        "0",
        "--grpc-port",
        &port,
    ];
    let output = run(&args);
    assert_eq!(code(&output), 1);
    assert_eq!(
        stderr(&output).trim_end(),
        format!(
            "amends: cannot listen on 127.0.0.1:{port} for gRPC: Address already in use (os error 98). Is another server running there? grpc_port chooses another port"
        )
    );
}

#[test]
fn an_address_of_another_machine_is_no_server_that_runs() {
    // TEST-NET-1, which no machine has.
    let args = ["--listen", "192.0.2.1", "--http-port", "0"];
    let output = run(&[&["serve", "--store", "memory"][..], &args].concat());
    assert_eq!(code(&output), 1);
    let text = stderr(&output);
    assert!(
        text.contains("listen must be an address of this machine") && !text.contains("another"),
        "{text}"
    );
}

#[test]
fn a_data_folder_that_cannot_be_is_one_clear_line_and_1() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("file"), "x").expect("written");
    for (data, expected) in [
        ("file", "amends: file is a file, not a folder: "),
        (
            "file/data",
            "amends: cannot create the data folder file/data: ",
        ),
    ] {
        let args = ["serve", "--http-port", "0", "--data", data];
        let output = amends(folder.path(), &args)
            .output()
            .expect("the binary runs");
        assert_eq!(code(&output), 1);
        let text = stderr(&output);
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}
