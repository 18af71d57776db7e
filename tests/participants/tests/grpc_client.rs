//! The Rust client over gRPC against the real coordinator, and what it takes of an answer over HTTP. Build the binary first
//! (`cargo build -p amends-server`).

use amends::client::{Client, WorkflowRun, Workflows};
use amends::initiator::{Message, Saga, Try};
use amends::machine::{Calls, Fact, Request};
use amends::participant::Identity;
use amends::{ErrorKind, Options};
use amends_participants::sqlite;
use amends_scenarios::{Reply, Response, World, free_port, listen};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

fn client(w: &World) -> Client {
    Client::new(&format!("grpc://{}", w.server.grpc_addr())).expect("a client")
}

fn options() -> Options {
    Options {
        wait_result: true,
        branch_headers: BTreeMap::from([("traceparent".to_owned(), "00-1".to_owned())]),
        ..Options::default()
    }
}

fn transfer(w: &World, gid: &str, options: Options) -> Saga {
    let mut saga = Saga::new(gid, options);
    for step in ["out", "in"] {
        let (action, undo) = (format!("/{step}"), format!("/{step}-undo"));
        saga.step(&w.url(&action), &w.url(&undo), "\u{8}\u{1e}");
    }
    saga
}

#[tokio::test]
async fn sagas_end_well_or_not_or_go_on() {
    let w = World::with_grpc_branches(&[]).await;
    let client = client(&w);
    let submit = async |gid, options| client.submit(&transfer(&w, gid, options)).await;
    submit("ok", options()).await.expect("succeeded");
    assert_eq!(w.branches.trace(), ["/out", "/in"]);
    let call = &w.branches.calls("/out")[0];
    assert_eq!(&call.body[..], b"\x08\x1e");
    assert_eq!(call.headers["dtm-gid"], "ok");
    assert_eq!(call.headers["traceparent"], "00-1");

    w.branches
        .script("/in", [Reply::failure("no such account")]);
    let error = submit("no", options()).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Failure);
    assert!(error.message().contains("no such account"), "{error}");
    w.dtm.wait_status("no", "failed").await;

    w.branches.script("/in", [Reply::ongoing(), Reply::ok()]);
    let slow = Options {
        retry_interval: 100,
        ..options()
    };
    let error = submit("later", slow).await.expect_err("open");
    assert_eq!(error.kind(), ErrorKind::Ongoing);

    let error = submit("ok", options()).await.expect_err("used");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(error.status().map(|s| s.as_str()), Some("succeed"));
    assert_eq!(client.status("no").await, Ok(amends::Status::Failed));
    let error = client.status("never").await.expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::UnknownGid);
}

fn branch(w: &World, name: &str) -> Try {
    Try {
        try_url: w.url(&format!("/{name}-try")),
        confirm: w.url(&format!("/{name}-confirm")),
        cancel: w.url(&format!("/{name}-cancel")),
        payload: "p".into(),
    }
}

#[tokio::test]
async fn tccs_whose_tries_are_grpc_calls() {
    let w = World::with_grpc_branches(&[]).await;
    let client = client(&w);
    let mut tcc = client.tcc("ok", options()).await.expect("prepared");
    for tried in tcc
        .branches(&[branch(&w, "a"), branch(&w, "b")])
        .await
        .expect("legal")
    {
        tried.expect("tried");
    }
    tcc.submit().await.expect("confirmed");
    let call = &w.branches.calls("/a-try")[0];
    let identity =
        ["gid", "trans_type", "branch_id", "op"].map(|key| call.header(&format!("dtm-{key}")));
    assert_eq!(identity, ["ok", "tcc", "01", "try"]);
    // As DTM's clients take it, and as branches of a branch find the coordinator.
    assert_eq!(call.headers["dtm-dtm"], w.server.grpc_addr().to_string());
    assert_eq!(call.headers["traceparent"], "00-1");
    assert_eq!(
        (
            w.branches.count("/a-confirm"),
            w.branches.count("/b-confirm")
        ),
        (1, 1)
    );

    w.branches.script("/b-try", [Reply::failure("no seat")]);
    let mut tcc = client.tcc("no", options()).await.expect("prepared");
    tcc.branch(&branch(&w, "a")).await.expect("tried");
    let error = tcc.branch(&branch(&w, "b")).await.expect_err("refused");
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Failure, "no seat")
    );
    let error = tcc.abort(error).await;
    assert_eq!(error.kind(), ErrorKind::Failure);
    w.dtm.wait_status("no", "failed").await;
    assert_eq!(
        (w.branches.count("/a-cancel"), w.branches.count("/b-cancel")),
        (1, 1)
    );

    // A gid with branches of an earlier run.
    let mut open = client.tcc("open", options()).await.expect("prepared");
    open.branch(&branch(&w, "a")).await.expect("tried");
    let error = client.tcc("open", options()).await.expect_err("used");
    assert_eq!(error.kind(), ErrorKind::Refused);
    let error = client.tcc("\u{fc}", options()).await;
    let error = error.expect_err("no metadata");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    // Nested, below a try of the first.
    let who = Identity::new("tcc", "open", "01", "try").expect("an identity");
    let mut nested = client.nested_tcc(&who, options()).await.expect("open");
    nested.branch(&branch(&w, "c")).await.expect("tried");
    nested.submit().await.expect("nothing to do");
    open.submit().await.expect("confirmed");
    assert_eq!(w.branches.count("/c-confirm"), 1);
}

#[tokio::test]
async fn workflows_over_grpc() {
    let w = World::with_grpc_branches(&[]).await;
    let client = client(&w);
    let all = Workflows::new(&client, "http://127.0.0.1:9/nobody");
    let at = w.url("");
    all.register("wf", move |wf: WorkflowRun, input: Bytes| {
        let at = at.clone();
        async move {
            wf.branch("a")?
                .on_rollback_call(&format!("{at}/a-undo"), "u")
                .call(&format!("{at}/a"), "p")
                .await?;
            wf.branch("b")?.call(&format!("{at}/b"), "p").await?;
            Ok(input)
        }
    })
    .expect("a new name");
    let bytes = [0xff, 0, 1];
    assert_eq!(
        all.execute("wf", "ok", &bytes).await,
        Ok(Bytes::copy_from_slice(&bytes))
    );
    // Of one that has ended, the result is what is stored.
    assert_eq!(
        all.execute("wf", "ok", &bytes).await,
        Ok(Bytes::copy_from_slice(&bytes))
    );
    // With another input it is another one, which has no claim to that.
    let error = all
        .execute("wf", "ok", b"other")
        .await
        .expect_err("used before");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let call = &w.branches.calls("/a")[0];
    assert_eq!(
        (call.header("dtm-trans_type"), call.header("dtm-op")),
        ("workflow", "action")
    );

    w.branches
        .script("/b", [Reply::error(), Reply::failure("no")]);
    let error = all.execute("wf", "no", b"").await.expect_err("not known");
    assert!(error.is_retryable(), "{error}");
    let error = all.execute("wf", "no", b"").await.expect_err("refused");
    assert_eq!((error.kind(), error.message()), (ErrorKind::Failure, "no"));
    assert_eq!(
        (w.branches.count("/a"), w.branches.count("/a-undo")),
        (2, 1)
    );
    let view = w.dtm.query("no").await;
    assert_eq!(
        (view.status(), view.field("rollback_reason")),
        ("failed", "no")
    );
}

#[tokio::test]
async fn messages_over_grpc() {
    let w = World::with_grpc_branches(&[]).await;
    let client = client(&w);
    let dir = tempfile::tempdir().expect("a folder");
    let bank = sqlite(dir.path()).await;
    let message = |gid: &str| {
        let mut message = Message::new(gid, &w.url("/asked"), Options::default());
        message.send(&w.url("/deliver"), "p");
        message
    };
    let calls: Arc<dyn Calls> = Arc::new(client.clone());
    let run = message("yes")
        .begin(client.server(), calls.clone(), &bank.pool)
        .await;
    let _committed = run.expect("prepared").commit().await.expect("committed");
    w.dtm.wait_status("yes", "succeed").await;
    assert_eq!(w.branches.count("/deliver"), 1);
    let run = message("no")
        .begin(client.server(), calls, &bank.pool)
        .await;
    let error = run.expect("prepared").refuse("no money").await;
    assert_eq!(error.kind(), ErrorKind::Failure);
    w.dtm.wait_status("no", "failed").await;
}

#[tokio::test]
async fn nobody_there_and_somebody_else_there() {
    let w = World::start().await;
    let saga = || transfer(&w, "x", Options::default());
    let at = |url: String| Client::new(&url).expect("a client");
    let nobody = at(format!("grpc://127.0.0.1:{}", free_port()));
    let error = nobody.submit(&saga()).await.expect_err("nobody");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // It speaks HTTP/1 only, so that whatever it did with the request is not known.
    let http1 = listen(|_| async { None }).await;
    let error = at(format!("grpc://{}", http1.addr)).submit(&saga()).await;
    let error = error.expect_err("no gRPC");
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    for url in ["127.0.0.1:1", "grpc://", "grpc://h:x", "ftp://h"] {
        let error = Client::new(url).expect_err(url);
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

fn post(url: String) -> Request {
    Request {
        method: "POST",
        url,
        headers: Vec::new(),
        body: Bytes::from_static(b"b"),
        timeout: 10_000,
    }
}

fn response(status: u16, location: String, body: String) -> Response {
    Response {
        status,
        headers: vec![("location".to_owned(), location)],
        body,
    }
}

#[tokio::test]
async fn a_branch_may_send_a_call_on_with_its_body_and_a_coordinator_may_not() {
    let there = listen(|call| async move {
        let body = String::from_utf8_lossy(&call.body).into_owned();
        Some(response(
            200,
            String::new(),
            format!("{} {body}", call.method),
        ))
    })
    .await;
    let to = format!("http://{}/there", there.addr);
    let here = listen(move |call| {
        let status = call
            .path
            .rsplit('/')
            .next()
            .and_then(|last| last.parse().ok());
        let to = if call.path.starts_with("/round") {
            "/round/307".to_owned()
        } else {
            to.clone()
        };
        async move { Some(response(status.unwrap_or(500), to, String::new())) }
    })
    .await;
    let client = Client::new("http://127.0.0.1:1").expect("a client");
    for (path, want) in [
        ("/307", (200, "POST b")),
        ("/308", (200, "POST b")),
        ("/301", (301, "")),
        ("/302", (302, "")),
        ("/303", (303, "")),
        // Not for ever.
        ("/round/307", (307, "")),
        ("/api/dtmsvr/307", (307, "")),
    ] {
        let fact = client
            .call(post(format!("http://{}{path}", here.addr)))
            .await;
        let Fact::Answer { status, body, .. } = fact else {
            panic!("{path}: {fact:?}");
        };
        assert_eq!((status, &body[..]), (want.0, want.1.as_bytes()), "{path}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_none() {
    let here = listen(|call| async move {
        let size = call
            .path
            .rsplit('/')
            .next()
            .and_then(|last| last.parse().ok());
        Some(response(200, String::new(), "x".repeat(size.unwrap_or(0))))
    })
    .await;
    let client = Client::new("http://127.0.0.1:1").expect("a client");
    const BRANCH: usize = 64 << 10;
    const COORDINATOR: usize = 64 << 20;
    for (path, size, read) in [
        ("", BRANCH, Some(BRANCH)),
        ("", BRANCH + 1, None),
        ("/api/dtmsvr", BRANCH + 1, Some(BRANCH + 1)),
        ("/api/dtmsvr", COORDINATOR, Some(COORDINATOR)),
        ("/api/dtmsvr", COORDINATOR + 1, None),
    ] {
        let url = format!("http://{}{path}/{size}", here.addr);
        match (client.call(post(url)).await, read) {
            (Fact::Answer { body, .. }, Some(read)) => assert_eq!(body.len(), read, "{path}"),
            (Fact::NoAnswer { sent: true, .. }, None) => {}
            (other, _) => panic!("{path} {size}: {}", matches!(other, Fact::Answer { .. })),
        }
    }
}
