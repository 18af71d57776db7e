//! What `amends tx` and `amends topic` ask a server, and what they make of its answers.

use super::{DEADLINE, code, run, run_with, stderr, stdout};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Output;
use std::sync::mpsc::{Receiver, channel};

/// A server that gives one answer to each request and hands back what it was asked.
struct Scripted {
    url: String,
    asked: Receiver<String>,
}

fn answering(status: &str, body: &str) -> Scripted {
    answering_each(&[(status, body)])
}

/// An answer to the first request, one to the second, and so on.
fn answering_each(answers: &[(&str, &str)]) -> Scripted {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let (sender, asked) = channel();
    let whole = |(status, body): &(&str, &str)| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
    };
    let answers: Vec<String> = answers.iter().map(whole).collect();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = Vec::new();
            let mut chunk = [0; 4_096];
            while !is_complete(&request) {
                match stream.read(&mut chunk) {
                    Ok(n @ 1..) => request.extend_from_slice(&chunk[..n]),
                    _ => return,
                }
            }
            stream.write_all(answer.as_bytes()).expect("answered");
            let _ = sender.send(String::from_utf8_lossy(&request).into_owned());
        }
    });
    Scripted { url, asked }
}

fn is_complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.and_then(|n| n.parse().ok()).unwrap_or(0)
}

impl Scripted {
    fn run(&self, args: &[&str]) -> Output {
        run_with(
            args,
            &[
                ("AMENDS_SERVER", &self.url),
                ("AMENDS_OPERATOR_TOKEN", "t0ken"),
            ],
        )
    }

    fn asked(&self) -> String {
        self.asked.recv_timeout(DEADLINE).expect("it was asked")
    }
}

const LIST: &str = r#"{"next_position":"g2","transactions":[
    {"id":0,"create_time":"2026-11-22T17:37:39.461648472Z","update_time":null,"gid":"g1","trans_type":"saga","status":"failed","rollback_reason":"no\nmoney","concurrent":false},
    {"id":0,"create_time":"2026-11-22T17:37:40Z","gid":"g2","trans_type":"msg","status":"submitted","next_cron_time":"2000-01-01T00:00:00Z"}]}"#;

#[test]
fn tx_list_is_a_table_or_json() {
    let server = answering("200 OK", LIST);
    let output = server.run(&[
        "tx", "list", "--status", "failed", "--type", "saga", "--limit", "7",
    ]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let asked = server.asked();
    assert!(
        asked.starts_with("GET /api/dtmsvr/all?limit=7&status=failed&transType=saga HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(asked.contains("authorization: Bearer t0ken"), "{asked}");
    let text = stdout(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("GID  TYPE  STATUS"), "{text}");
    assert!(
        lines[1].contains("2026-11-22 17:37:39") && lines[1].ends_with("no\\nmoney"),
        "{text}"
    );
    assert!(lines[2].contains(" d ago"), "{text}");
    assert!(stderr(&output).contains("--position g2"));

    let server = answering("200 OK", LIST);
    let output = server.run(&["tx", "list", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        json,
        serde_json::from_str::<serde_json::Value>(LIST).expect("JSON")
    );
}

#[test]
fn an_empty_list_is_no_error() {
    let output =
        answering("200 OK", r#"{"next_position":"","transactions":null}"#).run(&["tx", "list"]);
    assert_eq!(code(&output), 0);
    assert_eq!(stdout(&output).lines().count(), 1);
    assert_eq!(stderr(&output), "");
}

#[test]
fn tx_show_has_the_transaction_and_its_branches() {
    let answer = r#"{"branches":[
        {"id":0,"create_time":null,"update_time":null,"gid":"g 1","url":"http://a/in","branch_id":"01","op":"action","status":"succeed","bin_data":"e30="}],
        "transaction":{"id":0,"create_time":"2026-11-22T17:37:39Z","gid":"g 1","trans_type":"saga","status":"submitted","payloads":["{}"],"retry_count":2}}"#;
    let server = answering("200 OK", answer);
    let output = server.run(&["tx", "show", "g 1"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        server
            .asked()
            .starts_with("GET /api/dtmsvr/query?gid=g%201 HTTP/1.1\r\n")
    );
    let text = stdout(&output);
    assert!(text.contains("retry_count  2"), "{text}");
    assert!(text.contains("BRANCH_ID  OP      STATUS   URL"), "{text}");
    assert!(
        text.contains("01         action  succeed  http://a/in"),
        "{text}"
    );
    assert!(
        !text.contains("e30="),
        "payloads are not for tables: {text}"
    );
}

#[test]
fn what_is_not_there_is_3() {
    let unknown = answering("200 OK", r#"{"branches":[],"transaction":null}"#);
    let output = unknown.run(&["tx", "show", "g1", "--json"]);
    assert_eq!(code(&output), 3);
    assert_eq!(stderr(&output), "amends: no transaction with gid g1\n");
    let unknown = answering("200 OK", r#"{"branches":[],"transaction":null}"#);
    let output = unknown.run(&["tx", "retry", "g1"]);
    assert_eq!(code(&output), 3);
    assert_eq!(stderr(&output), "amends: no transaction with gid g1\n");
    let unknown = answering(
        "404 Not Found",
        r#"{"message":"no TransGlobal with gid: g1 found"}"#,
    );
    let output = unknown.run(&["tx", "stop", "g1", "--reason", "x"]);
    assert_eq!(code(&output), 3);
    assert_eq!(
        stderr(&output),
        "amends: no TransGlobal with gid: g1 found\n"
    );
}

#[test]
fn what_has_ended_is_not_retried() {
    for status in ["succeed", "failed"] {
        let body = format!(r#"{{"branches":[],"transaction":{{"gid":"g1","status":"{status}"}}}}"#);
        let output = answering("200 OK", &body).run(&["tx", "retry", "g1"]);
        assert_eq!(code(&output), 5);
        assert_eq!(
            stderr(&output),
            format!("amends: g1 has ended ({status}): there is nothing to retry\n")
        );
    }
}

#[test]
fn refusals_about_topics_name_topic_and_url() {
    let missing = "404 Not Found";
    for (status, message, args, expected) in [
        (
            missing,
            "storage: NotFound",
            &["delete", "t"][..],
            "there is no topic t",
        ),
        (
            missing,
            "no such a topic",
            &["unsubscribe", "t", "http://h"],
            "there is no topic t",
        ),
        (
            missing,
            "no such an url ",
            &["unsubscribe", "t", "http://h"],
            "http://h is not subscribed to t",
        ),
        (
            missing,
            "this topic is empty",
            &["unsubscribe", "t", "http://h"],
            "http://h is not subscribed to t",
        ),
        (
            "409 Conflict",
            "this url exists",
            &["subscribe", "t", "http://h"],
            "http://h is subscribed already to t",
        ),
    ] {
        let body = format!(r#"{{"message":"{message}"}}"#);
        let output = answering(status, &body).run(&[&["topic"], args].concat());
        assert_eq!(code(&output), if status == missing { 3 } else { 5 });
        assert_eq!(stderr(&output), format!("amends: {expected}\n"));
    }
}

#[test]
fn tx_retry_and_stop_send_what_the_server_wants() {
    let waiting = r#"{"branches":[],"transaction":{"gid":"g1","status":"submitted"}}"#;
    let server = answering_each(&[
        ("200 OK", waiting),
        ("200 OK", r#"{"dtm_result":"SUCCESS"}"#),
    ]);
    let output = server.run(&["tx", "retry", "g1"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stdout(&output), "g1 is looked at now\n");
    let asked = server.asked();
    assert!(
        asked.starts_with("GET /api/dtmsvr/query?gid=g1 HTTP/1.1\r\n"),
        "{asked}"
    );
    let asked = server.asked();
    assert!(
        asked.starts_with("POST /api/dtmsvr/resetNextCronTime HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(asked.ends_with(r#"{"gid":"g1"}"#), "{asked}");

    let server = answering("200 OK", r#"{"dtm_result":"SUCCESS"}"#);
    let args = [
        "tx", "stop", "g1", "--reason", "by hand", "--actor", "ann", "--json",
    ];
    let output = server.run(&args);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let asked = server.asked();
    assert!(
        asked.starts_with("POST /api/dtmsvr/forceStop HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(
        asked.ends_with(r#"{"actor":"ann","gid":"g1","reason":"by hand"}"#),
        "{asked}"
    );
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["dtm_result"], "SUCCESS");
}

#[test]
fn a_refusal_is_5_and_another_failure_1() {
    for (status, body, expected, text) in [
        (
            "409 Conflict",
            r#"{"message":"this url exists"}"#,
            5,
            "http://h/x is subscribed already to t",
        ),
        (
            "401 Unauthorized",
            r#"{"message":"token"}"#,
            5,
            "AMENDS_OPERATOR_TOKEN",
        ),
        ("403 Forbidden", "no", 5, "AMENDS_OPERATOR_TOKEN"),
        (
            "503 Service Unavailable",
            r#"{"message":"disk_full"}"#,
            1,
            "503: disk_full",
        ),
        ("200 OK", "<html>", 1, "is it an Amends server?"),
    ] {
        let output = answering(status, body).run(&["topic", "subscribe", "t", "http://h/x"]);
        assert_eq!(code(&output), expected, "{status}");
        assert!(
            stderr(&output).contains(text),
            "{status}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn topics_are_listed_subscribed_and_deleted() {
    let answer = r#"{"kv":[{"k":"orders","v":"[{\"url\":\"http://h/1\",\"remark\":\"stock\"},{\"url\":\"http://h/2\",\"remark\":\"\"}]","version":2},
        {"k":"old","v":"[]","version":3}],"next_position":""}"#;
    let server = answering("200 OK", answer);
    let output = server.run(&["topic", "list"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(
        server
            .asked()
            .starts_with("GET /api/dtmsvr/scanKV?cat=topics&position= HTTP/1.1\r\n")
    );
    assert_eq!(
        stdout(&output),
        "TOPIC   SUBSCRIBER  REMARK\norders  http://h/1  stock\norders  http://h/2\nold     (nobody)\n"
    );
    let output = answering("200 OK", answer).run(&["topic", "list", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json[0]["subscribers"][1]["url"], "http://h/2");

    for (args, request) in [
        (
            &[
                "topic",
                "subscribe",
                "a/b",
                "http://h/x?y=1",
                "--remark",
                "ä",
            ][..],
            "GET /api/dtmsvr/subscribe?topic=a%2Fb&url=http%3A%2F%2Fh%2Fx%3Fy%3D1&remark=%C3%A4 HTTP/1.1\r\n",
        ),
        (
            &["topic", "unsubscribe", "t", "http://h"],
            "GET /api/dtmsvr/unsubscribe?topic=t&url=http%3A%2F%2Fh HTTP/1.1\r\n",
        ),
        (
            &["topic", "delete", "a/b"],
            "DELETE /api/dtmsvr/topic/a%2Fb HTTP/1.1\r\n",
        ),
    ] {
        let server = answering("200 OK", r#"{"dtm_result":"SUCCESS"}"#);
        let output = server.run(args);
        assert_eq!(code(&output), 0, "{args:?}: {}", stderr(&output));
        let asked = server.asked();
        assert!(asked.starts_with(request), "{asked}");
    }
}

#[test]
fn a_server_that_is_not_there_is_4_and_says_what_to_do() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = format!("http://{}", free.local_addr().expect("bound"));
    drop(free);
    let output = run(&["tx", "list", "--server", &server]);
    assert_eq!(code(&output), 4);
    let text = stderr(&output);
    assert!(
        text.contains(&server) && text.contains("amends serve"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
}
