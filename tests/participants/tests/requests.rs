//! What the client asks of the real coordinator besides whole transactions: messages without a local transaction here, aborts, deadlines,
//! certificates of one's own. Build the binary first (`cargo build -p amends-server`).

use amends::client::{Client, blocking};
use amends::initiator::{Message, Saga, Try};
use amends::{ErrorKind, Options, Status, TransType};
use amends_participants::{client, waiting};
use amends_scenarios::{World, certificate, free_port, listen, within_tls};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

fn message(w: &World, gid: &str, options: Options) -> Message {
    let mut message = Message::new(gid, &w.url("/check"), options);
    message.send(&w.url("/in"), "{}");
    message
}

#[tokio::test]
async fn messages_whose_local_transaction_is_elsewhere() {
    let w = World::start().await;
    let client = client(&w);
    // There is none.
    let alone = message(&w, "alone", waiting());
    client.submit(&alone).await.expect("delivered");
    assert_eq!(w.branches.count("/in"), 1);

    let committed = message(&w, "committed", waiting());
    client.prepare(&committed).await.expect("prepared");
    assert_eq!(client.status("committed").await, Ok(Status::Prepared));
    assert_eq!(w.branches.count("/in"), 1);
    client.submit(&committed).await.expect("delivered");
    assert_eq!(w.branches.count("/in"), 2);

    let rolled_back = message(&w, "rolled-back", Options::default());
    client.prepare(&rolled_back).await.expect("prepared");
    for _again in 0..2 {
        let withdrawn = client.abort(TransType::Msg, "rolled-back", "no stock");
        withdrawn.await.expect("withdrawn");
    }
    let view = w.dtm.query("rolled-back").await;
    assert_eq!(
        (view.status(), view.field("rollback_reason")),
        ("failed", "no stock")
    );
    let error = client.submit(&rolled_back).await.expect_err("too late");
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Refused, Some(Status::Failed))
    );
    let error = client
        .abort(TransType::Msg, "alone", "")
        .await
        .expect_err("delivered");
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Refused, Some(Status::Succeed))
    );
    let error = client
        .abort(TransType::Msg, "never", "")
        .await
        .expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::UnknownGid);
    assert_eq!(w.branches.count("/in"), 2);
}

#[tokio::test]
async fn a_topic_that_nobody_has_subscribed() {
    let w = World::start().await;
    let mut message = Message::new("lost", "", Options::default());
    message.send("topic://nobody", "{}");
    let error = client(&w)
        .submit(&message)
        .await
        .expect_err("no such topic");
    assert_eq!(error.kind(), ErrorKind::TopicNotFound);
}

#[tokio::test]
async fn a_tcc_is_aborted_by_its_gid() {
    let w = World::start().await;
    let client = client(&w);
    let mut tcc = client
        .tcc("tcc", Options::default())
        .await
        .expect("prepared");
    let branch = Try {
        try_url: w.url("/try"),
        confirm: w.url("/confirm"),
        cancel: w.url("/cancel"),
        payload: "{}".into(),
    };
    tcc.branch(&branch).await.expect("tried");
    drop(tcc);
    let aborted = client.abort(TransType::Tcc, "tcc", "its owner is gone");
    aborted.await.expect("taken");
    w.branches.wait("/cancel", 1).await;
    let view = w.dtm.wait_status("tcc", "failed").await;
    assert_eq!(view.field("rollback_reason"), "its owner is gone");
    assert_eq!(w.branches.count("/confirm"), 0);
}

/// A coordinator that takes what it gets and says nothing: without a deadline a submit waits four times ten seconds for it.
#[tokio::test]
async fn nothing_is_waited_for_beyond_a_deadline() {
    let silent = listen(|_| std::future::pending()).await;
    let mut saga = Saga::new("g", Options::default());
    saga.step("http://127.0.0.1:9/a", "", "{}");
    let within = Duration::from_millis(200);
    let soon = || Instant::now() + within;

    let (silent, nobody) = (
        format!("http://{}", silent.addr),
        format!("http://127.0.0.1:{}", free_port()),
    );
    for (url, kind) in [
        (&silent, ErrorKind::OutcomeUnknown),
        (&nobody, ErrorKind::Unavailable),
    ] {
        let client = Client::new(url).expect("a client");
        let began = Instant::now();
        let error = client
            .until(soon())
            .submit(&saga)
            .await
            .expect_err("no answer");
        assert_eq!(error.kind(), kind, "{error}");
        let error = client
            .until(soon())
            .tcc("t", Options::default())
            .await
            .expect_err("no answer");
        assert_eq!(
            error.kind(),
            ErrorKind::Unavailable,
            "nothing was tried: {error}"
        );
        let over = client.until(began);
        let error = over.submit(&saga).await.expect_err("too late");
        assert_eq!(
            error.kind(),
            ErrorKind::Unavailable,
            "nothing is sent: {error}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
    }
    let blocked = tokio::task::spawn_blocking(move || {
        let client = blocking::Client::new(&nobody).expect("a client");
        let began = Instant::now();
        let error = client
            .until(began + within)
            .submit(&saga)
            .expect_err("nobody");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
    });
    blocked.await.expect("no panic");
}

#[tokio::test]
async fn certificates_of_ones_own() {
    let w = World::start().await;
    let dir = tempfile::tempdir().expect("a folder");
    certificate(dir.path());
    // Lets calls through to the coordinator.
    let to = w.server.addr();
    let through = move |mut from| async move {
        if let Ok(mut to) = TcpStream::connect(to).await {
            let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
        }
    };
    let url = format!("https://{}", within_tls(dir.path(), &[], through).await);
    let pem = std::fs::read(dir.path().join("cert.pem")).expect("a certificate");

    let message = message(&w, "tls", waiting());
    let stranger = Client::new(&url).expect("a client");
    let error = stranger.submit(&message).await.expect_err("not trusted");
    assert_eq!(
        error.kind(),
        ErrorKind::Unavailable,
        "nothing was sent: {error}"
    );
    assert!(error.message().contains("certificate"), "{error}");

    let builder = || Client::builder(&url).root_certificates(&pem).expect("PEM");
    let client = builder().only_these_roots().build().expect("a client");
    client.submit(&message).await.expect("delivered");
    let blocking = builder().build_blocking().expect("a client");
    let status = tokio::task::spawn_blocking(move || blocking.status("tls"));
    assert_eq!(status.await.expect("no panic"), Ok(Status::Succeed));

    for broken in [
        "",
        "no PEM",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let error = Client::builder(&url).root_certificates(broken.as_bytes());
        assert_eq!(error.expect_err("broken").kind(), ErrorKind::Invalid);
    }
}

/// What a gRPC branch gets is what was given, whatever bytes these are.
#[tokio::test]
async fn bytes_that_are_no_text() {
    let w = World::with_grpc_branches(&[]).await;
    let client = Client::new(&format!("grpc://{}", w.server.grpc_addr())).expect("a client");
    let mut saga = Saga::new("bytes", waiting());
    saga.step(&w.branches.grpc_url("/a.B/C"), "", b"\xff\x00\x80");
    client.submit(&saga).await.expect("called");
    let call = w.branches.wait("/a.B/C", 1).await.remove(0);
    assert_eq!(call.body.as_ref(), b"\xff\x00\x80");
    assert_eq!(client.status("bytes").await, Ok(Status::Succeed));
}
