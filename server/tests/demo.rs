//! `amends demo` as a newcomer runs it.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);

/// A demo with a folder of its own for temporary files; killed when dropped.
struct Demo {
    process: Child,
    folder: tempfile::TempDir,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Demo {
    fn start(args: &[&str]) -> Demo {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut process = Command::new(env!("CARGO_BIN_EXE_amends"))
            .arg("demo")
            .args(args)
            .env_clear()
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let stdout = BufReader::new(process.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Demo {
            process,
            folder,
            lines,
            seen: Vec::new(),
        }
    }

    /// Reads on to the first line that holds all of these, or to the end of the output if there is none.
    fn read_to(&mut self, parts: &[&str]) -> bool {
        let end = Instant::now() + DEADLINE;
        while let Ok(line) = self.lines.recv_timeout(end - Instant::now()) {
            let found = parts.iter().all(|part| line.contains(part));
            self.seen.push(line);
            if found {
                return true;
            }
        }
        assert!(Instant::now() < end, "still up: {:#?}", self.seen);
        false
    }

    fn expect(&mut self, parts: &[&str]) {
        let found = self.read_to(parts);
        assert!(found, "no line with {parts:?}: {:#?}", self.seen);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), signal).expect("it runs");
    }

    /// Its exit code, what it complained of, and what it left behind.
    fn end(mut self) -> (Option<i32>, String, usize) {
        self.read_to(&["\0"]);
        let code = self.process.wait().expect("waited").code();
        let mut complaint = String::new();
        let stderr = self.process.stderr.as_mut().expect("piped");
        stderr.read_to_string(&mut complaint).expect("text");
        (code, complaint, files(self.folder.path()))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).expect("a folder").count()
}

#[test]
fn eight_transfers_and_the_books_add_up() {
    let mut demo = Demo::start(&[]);
    let order: [&[&str]; 39] = [
        &["1  A transfer that succeeds"],
        &["app", "coordinator", "POST /submit"],
        &[
            "coordinator",
            "Alice's bank",
            "POST /withdraw",
            "01 action",
            "200",
        ],
        &[
            "coordinator",
            "Bob's bank",
            "POST /deposit",
            "02 action",
            "200",
        ],
        &["app", "coordinator", "POST /submit", "200 SUCCESS"],
        &["alice", "200", "170"],
        &["2  A transfer that the receiving bank refuses"],
        &["Bob's bank", "02 action", "409"],
        &["Bob's bank", "02 compensate", "200 nothing to undo"],
        &["Alice's bank", "01 compensate", "200 30 given back"],
        &["app", "coordinator", "POST /submit", "409 FAILURE"],
        &["reason: ", "no account bobby here"],
        &["3  A transfer that takes its time"],
        &["Bob's bank", "02 action", "425"],
        &["Bob's bank", "02 action", "200 60 received"],
        &["4  A transfer to a bank that is down"],
        &["coordinator", "Bob's bank", "02 action", "nobody answers"],
        &["Bob's bank", "02 action", "200 20 received"],
        &["5  TCC"],
        &["app", "Alice's bank", "01 try", "200 40 frozen"],
        &["app", "coordinator", "POST /registerBranch", "200 SUCCESS"],
        &["coordinator", "Bob's bank", "02 confirm", "200 40 received"],
        &["coordinator", "Alice's bank", "01 confirm", "200"],
        &["6  A two-phase message"],
        &["coordinator", "Alice's bank", "GET /sent", "00 msg", "200"],
        &["coordinator", "Bob's bank", "01 action", "200 10 received"],
        &["7  A transfer to a bank that speaks gRPC"],
        &["app", "coordinator", "Dtm/Submit"],
        &["coordinator", "Alice's bank", "POST /withdraw", "01 action"],
        &[
            "coordinator",
            "Carol's bank",
            "Bank/Deposit",
            "02 action",
            "OK 15 received",
        ],
        &["app", "coordinator", "Dtm/Submit", "OK"],
        &["carol", "50", "65"],
        &["8  And one that this bank refuses"],
        &[
            "Carol's bank",
            "02 action",
            "ABORTED no account caroline here",
        ],
        &["Carol's bank", "02 compensate", "OK nothing to undo"],
        &["Alice's bank", "01 compensate", "200 15 given back"],
        &["app", "coordinator", "Dtm/Submit", "ABORTED"],
        &["all money together: 300 at first, 300 now"],
        &["The books add up."],
    ];
    for parts in order {
        demo.expect(parts);
    }
    let seen = demo.seen.join("\n");
    assert!(!seen.contains('\u{1b}'), "no colours in a pipe: {seen}");
    assert!(!seen.contains("WRONG"), "{seen}");
    assert_eq!(demo.end(), (Some(0), String::new(), 0));
}

/// What the shell makes of a line: the arguments of `curl`.
fn arguments(line: &str) -> Vec<String> {
    let script = format!("curl() {{ printf '%s\\n' \"$@\"; }}\n{line}");
    let output = Command::new("sh").arg("-c").arg(script).output();
    let output = String::from_utf8(output.expect("sh runs").stdout).expect("text");
    let arguments = output.lines().map(str::to_owned);
    arguments.filter(|argument| !argument.is_empty()).collect()
}

/// Does what `curl` does with these arguments, and returns status and body of each URL.
fn curl(line: &str) -> Vec<(u16, String)> {
    let arguments = arguments(line);
    let mut urls = Vec::new();
    let mut body = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "-s" => {}
            "-d" => body = rest.next().cloned(),
            url => urls.push(url.strip_prefix("http://").expect("a URL").to_owned()),
        }
    }
    let answers = urls.iter().map(|url| fetch(url, body.as_deref()));
    answers.collect()
}

fn fetch(url: &str, body: Option<&str>) -> (u16, String) {
    let (host, path) = url.split_at(url.find('/').expect("a path"));
    let method = if body.is_some() { "POST" } else { "GET" };
    let body = body.unwrap_or_default();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let mut stream = TcpStream::connect(host).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), body.to_owned())
}

#[test]
fn the_lines_that_keep_prints_work_when_pasted() {
    let mut demo = Demo::start(&["--keep"]);
    demo.expect(&["The books add up."]);
    demo.expect(&["ms", "from", "to", "call"]);
    let lines: Vec<String> = demo.seen.clone();
    let lines = lines.iter().filter(|line| line.starts_with("curl "));
    let answers: Vec<_> = lines.flat_map(|line| curl(line)).collect();
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(
        statuses,
        [200, 409, 200, 200, 200, 200, 200],
        "{answers:#?}"
    );
    let json = |n: usize| {
        let (_, body) = &answers[n];
        serde_json::from_str::<serde_json::Value>(body).expect("JSON")
    };
    assert_eq!(json(0)["dtm_result"], "SUCCESS");
    assert_eq!(json(1)["dtm_result"], "FAILURE");
    assert_eq!(json(2)["transaction"]["status"], "succeed");
    let transactions = json(3)["transactions"].as_array().map(Vec::len);
    assert_eq!(transactions, Some(10), "eight of the demo and two pasted");
    let (_, metrics) = &answers[4];
    assert!(metrics.contains("amends_transactions"), "{metrics}");
    assert_eq!(json(5)["alice"]["balance"], 20);
    assert_eq!(json(6)["bob"]["balance"], 215);
    demo.expect(&["coordinator", "Alice's bank", "01 action", "200 5 taken"]);
    demo.expect(&[
        "coordinator",
        "Alice's bank",
        "01 compensate",
        "200 5 given back",
    ]);
    demo.signal(Signal::INT);
    assert_eq!(demo.end(), (Some(0), String::new(), 0));
}

#[test]
fn stopped_in_the_middle_it_says_so_and_leaves_nothing_behind() {
    let mut demo = Demo::start(&[]);
    demo.expect(&["POST /submit", "200 SUCCESS"]);
    assert_eq!(files(demo.folder.path()), 1);
    demo.signal(Signal::TERM);
    let complaint = "amends: stopped by SIGTERM\n".to_owned();
    assert_eq!(demo.end(), (Some(1), complaint, 0));
}

#[test]
fn without_a_temporary_folder_there_is_one_clear_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_amends"))
        .arg("demo")
        .env_clear()
        .env("TMPDIR", "/nothing/here")
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(
        complaint.starts_with("amends: no temporary folder: "),
        "{complaint}"
    );
}
