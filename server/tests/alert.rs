//! The alert webhook over a real socket.

use amends::{Compat, Gid, Status};
use amends_server::alert::{Alert, Alerts};
use amends_server::dispatch::BranchClient;
use amends_server::metrics::Metrics;
use amends_server::store::Stats;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);

/// A webhook that answers its n-th request (from 0) with `status(n)`, one connection at a time, and passes on what it got.
fn webhook(status: impl Fn(usize) -> u16 + Send + 'static) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/alert", listener.local_addr().expect("address"));
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let mut stream = stream.expect("connection");
            let mut request = Vec::new();
            let mut buffer = [0; 4_096];
            let whole = |r: &[u8]| {
                let text = String::from_utf8_lossy(r).into_owned();
                let (head, body) = text.split_once("\r\n\r\n")?;
                let length: usize = head
                    .to_ascii_lowercase()
                    .lines()
                    .find_map(|l| l.strip_prefix("content-length: ")?.parse().ok())?;
                (body.len() == length).then_some(text.clone())
            };
            let text = loop {
                if let Some(text) = whole(&request) {
                    break text;
                }
                let read = stream.read(&mut buffer).expect("request");
                assert!(read > 0, "closed within a request");
                request.extend_from_slice(&buffer[..read]);
            };
            let answer = format!(
                "HTTP/1.1 {} X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                status(n)
            );
            stream.write_all(answer.as_bytes()).expect("answered");
            sender.send(text).unwrap_or_default();
        }
    });
    (url, requests)
}

fn alerts(url: String) -> (Alerts, Arc<Metrics>) {
    let metrics = Metrics::new();
    let transport = Arc::new(BranchClient::new(Compat::default(), 1_024, false));
    (
        Alerts::new(
            url,
            3_000,
            Duration::from_millis(1),
            transport,
            metrics.clone(),
        ),
        metrics,
    )
}

fn alert(retry_count: u32) -> Alert {
    Alert {
        branch: "http://bank/in".to_owned(),
        error: "answered 500: \"no\"".to_owned(),
        gid: Gid::stored("g1"),
        retry_count,
        status: Status::Submitted,
    }
}

async fn counted(metrics: &Metrics, line: &str) {
    let start = Instant::now();
    while !metrics
        .render(&Stats::default(), 0)
        .lines()
        .any(|l| l == line)
    {
        assert!(
            start.elapsed() < WAIT,
            "{line} did not come in {}",
            metrics.render(&Stats::default(), 0)
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_is_posted_as_dtm_posts_it_and_once() {
    let (url, requests) = webhook(|_| 200);
    let (alerts, metrics) = alerts(url);
    for retry_count in [3, 3, 6, 3] {
        alerts.send(alert(retry_count));
    }
    let request = requests.recv_timeout(WAIT).expect("alert");
    let (head, body) = request.split_once("\r\n\r\n").expect("request");
    assert!(head.starts_with("POST /alert HTTP/1.1\r\n"), "{head}");
    assert!(
        head.to_ascii_lowercase()
            .contains("\r\ncontent-type: application/json"),
        "{head}"
    );
    assert_eq!(
        body,
        r#"{"branch":"http://bank/in","error":"answered 500: \"no\"","gid":"g1","retry_count":3,"status":"submitted"}"#
    );
    assert!(
        requests
            .recv_timeout(WAIT)
            .expect("alert")
            .contains("\"retry_count\":6,")
    );
    counted(&metrics, "amends_alerts_total{result=\"delivered\"} 2").await;
    assert!(requests.try_recv().is_err(), "no alert comes twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_is_tried_again_and_given_up_in_the_end() {
    let (url, requests) = webhook(|n| if n == 2 { 204 } else { 500 });
    let (alerts, metrics) = alerts(url);
    alerts.send(alert(3));
    counted(&metrics, "amends_alerts_total{result=\"delivered\"} 1").await;
    assert_eq!(requests.try_iter().count(), 3);
    alerts.send(alert(6));
    alerts.send(alert(12));
    counted(&metrics, "amends_alerts_total{result=\"failed\"} 2").await;
    assert_eq!(requests.try_iter().count(), 8, "four tries each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_hangs_blocks_nobody_and_the_end_does_not_wait_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (alerts, metrics) = alerts(format!(
        "http://{}/",
        listener.local_addr().expect("address")
    ));
    alerts.send(alert(0));
    let (mut stream, _) = listener.accept().expect("the first try");
    let start = Instant::now();
    for n in 1..=1_030 {
        alerts.send(alert(n));
    }
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "sending does not wait"
    );
    counted(&metrics, "amends_alerts_total{result=\"dropped\"} 6").await;
    drop(alerts);
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("timeout");
    let end = tokio::task::spawn_blocking(move || stream.read_to_end(&mut Vec::new()));
    end.await
        .expect("no panic")
        .expect("the task ends and its connection with it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_webhook_nothing_is_sent_or_counted() {
    let (alerts, metrics) = alerts(String::new());
    // One more than would wait.
    for n in 0..=1_024 {
        alerts.send(alert(n));
    }
    alerts.shutdown();
    let text = metrics.render(&Stats::default(), 0);
    let counted: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("amends_alerts_total") && !l.ends_with(" 0"))
        .collect();
    assert!(counted.is_empty(), "{counted:?}");
}
