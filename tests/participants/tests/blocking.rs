//! The blocking client: on a thread without a runtime, beside others, after a fork. Build the binary first (`cargo build -p amends-server`).

use amends::client::blocking::{Client, WorkflowRun, Workflows};
use amends::initiator::{Saga, Try};
use amends::machine::{Fact, Request};
use amends::participant::Identity;
use amends::{Error, ErrorKind, Options, Status};
use amends_interop::Program;
use amends_participants::waiting;
use amends_scenarios::{Reply, World, free_port};
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

#[tokio::test]
async fn sagas_and_tccs_without_await() {
    let w = World::start().await;
    let client = Client::new(&format!("http://{}", w.server.addr())).expect("a client");
    w.branches.script("/no", [Reply::failure("no room")]);
    let at = w.url("");
    blocking(move || {
        let mut threads = Vec::new();
        for n in 0..4 {
            let (client, at) = (client.clone(), at.clone());
            threads.push(std::thread::spawn(move || {
                for m in 0..5 {
                    let mut saga = Saga::new(&format!("saga-{n}-{m}"), waiting());
                    saga.step(&format!("{at}/out"), &format!("{at}/out-undo"), "{}");
                    client.submit(&saga).expect("succeeded");
                }
            }));
        }
        for thread in threads {
            thread.join().expect("no panic");
        }
        let mut saga = Saga::new("no", waiting());
        saga.step(&format!("{at}/no"), "", "{}");
        let error = client.submit(&saga).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Failure);

        let branch = |name: &str| Try {
            try_url: format!("{at}/{name}"),
            confirm: format!("{at}/{name}-confirm"),
            cancel: format!("{at}/{name}-cancel"),
            payload: "{}".into(),
        };
        let mut tcc = client.tcc("tcc", waiting()).expect("prepared");
        tcc.branch(&branch("a")).expect("tried");
        for tried in tcc.branches(&[branch("b"), branch("c")]).expect("legal") {
            tried.expect("tried");
        }
        tcc.submit().expect("confirmed");
        let mut tcc = client.tcc("cancelled", waiting()).expect("prepared");
        tcc.branch(&branch("d")).expect("tried");
        let error = tcc.branch(&branch("no")).expect_err("refused");
        assert_eq!(tcc.abort(error).kind(), ErrorKind::Failure);

        let nobody = Client::new(&format!("http://localhost:{}", free_port())).expect("a client");
        let error = nobody.submit(&saga).expect_err("nobody");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(
            Client::new("localhost:36789")
                .expect_err("no scheme")
                .kind(),
            ErrorKind::Invalid
        );
    })
    .await;
    assert_eq!(w.branches.count("/out"), 20);
    for (path, count) in [
        ("/a-confirm", 1),
        ("/b-confirm", 1),
        ("/c-confirm", 1),
        ("/d-cancel", 1),
    ] {
        w.branches.wait(path, count).await;
    }
}

#[tokio::test]
async fn workflows_and_xas_without_await() {
    let w = World::start().await;
    let client = Client::new(&format!("http://{}", w.server.addr())).expect("a client");
    w.branches
        .script("/b", [Reply::error(), Reply::failure("no"), Reply::ok()]);
    w.branches.script("/no", [Reply::failure("no")]);
    let at = w.url("");
    let ran = blocking(move || {
        let ran = std::cell::RefCell::new(Vec::new());
        let body = |wf: &mut WorkflowRun<'_>| {
            wf.branch("a")?
                .on_rollback_call(&format!("{at}/a-undo"), "{}")?
                .on_commit_call(&format!("{at}/a-done"), "{}")?
                .call(&format!("{at}/a"), "{}")?;
            wf.branch("local")?.run(|who| {
                ran.borrow_mut().push(who.gid.to_string());
                Ok(Bytes::from("own"))
            })?;
            wf.branch("b")?.call(&format!("{at}/b"), "{}")
        };
        let run = |gid: &str| {
            client.workflow(
                "wf",
                gid,
                b"in",
                "http://127.0.0.1:9/nobody",
                Options::default(),
                body,
            )
        };
        // Not known at first; what is recorded is not made again, and then it is refused.
        let error = run("no").expect_err("open");
        assert!(error.is_retryable(), "{error}");
        assert_eq!(run("no").expect_err("refused").kind(), ErrorKind::Failure);
        assert_eq!(
            run("no").expect_err("stays refused").kind(),
            ErrorKind::Failure
        );
        run("yes").expect("succeeded");
        run("yes").expect("stays so");
        // What the body registered runs here, too.
        let undone = std::cell::Cell::new(0);
        let undo = |who: Identity| {
            assert_eq!(who.op.as_str(), "rollback");
            undone.set(undone.get() + 1);
            match undone.get() {
                1 => Err(Error::new(ErrorKind::Ongoing, "not yet")),
                _ => Ok(()),
            }
        };
        let refused = |wf: &mut WorkflowRun<'_>| {
            wf.branch("x")?
                .on_commit(|_| Err(Error::new(ErrorKind::Internal, "it failed")))?
                .call(&format!("{at}/x"), "{}")?;
            Err(Error::new(ErrorKind::Failure, "changed my mind"))
        };
        let client_ref = &client;
        let undoing = |gid: &str| {
            client_ref.workflow(
                "undo",
                gid,
                b"",
                "http://127.0.0.1:9/nobody",
                Options::default(),
                |wf| {
                    wf.branch("x")?
                        .on_rollback(undo)?
                        .call(&format!("{at}/x"), "{}")?;
                    Err(Error::new(ErrorKind::Failure, "changed my mind"))
                },
            )
        };
        assert_eq!(
            undoing("undo").expect_err("open").kind(),
            ErrorKind::Ongoing
        );
        assert_eq!(
            undoing("undo").expect_err("undone").kind(),
            ErrorKind::Failure
        );
        assert_eq!(undone.get(), 2);
        let error = client.workflow(
            "c",
            "c",
            b"",
            "http://127.0.0.1:9/nobody",
            Options::default(),
            refused,
        );
        assert_eq!(error.expect_err("refused").kind(), ErrorKind::Failure);

        let mut xa = client.xa("xa", waiting()).expect("prepared");
        xa.call(&format!("{at}/xa"), "{}").expect("called");
        xa.submit().expect("committed");
        let mut xa = client.xa("xa-no", waiting()).expect("prepared");
        let error = xa.call(&format!("{at}/no"), "{}").expect_err("refused");
        assert_eq!(xa.abort(error).kind(), ErrorKind::Failure);
        ran.into_inner()
    })
    .await;
    assert_eq!(ran, ["no", "yes"]);
    let count = |path: &str| w.branches.count(path);
    assert_eq!((count("/a"), count("/a-undo"), count("/a-done")), (2, 1, 1));
    assert_eq!(w.dtm.query("no").await.status(), "failed");
    assert_eq!(w.dtm.query("xa").await.status(), "succeed");
}

/// Nobody drives a connection between two calls, so that it may be closed unseen: the next request must not be lost in it.
#[tokio::test]
async fn workflows_by_name_are_called_back() {
    let w = World::start().await;
    let client = Client::new(&format!("http://{}", w.server.addr())).expect("a client");
    w.branches.script("/a", [Reply::ongoing(), Reply::ok()]);
    let at = w.url("");
    let (seen, runs) = mpsc::channel();
    blocking(move || {
        let soon = Options {
            retry_interval: 100,
            ..Options::default()
        };
        let mut all = Workflows::new(&client, "http://127.0.0.1:9/nobody", soon);
        let again = client.clone();
        let named = all.register("named", move |wf, input| {
            let recorded = (wf.now()?, wf.random()?, wf.uuid()?, wf.uuid()?);
            let gid = wf.gid().to_owned();
            // A second run of it in this process could only lose.
            let beside = again.workflow("named", &gid, input, "", Options::default(), |_| {
                panic!("twice at a time")
            });
            let beside = beside.expect_err("runs already");
            assert_eq!(beside.kind(), ErrorKind::Ongoing);
            seen.send(recorded).expect("the test listens");
            wf.branch("a")?
                .on_rollback(|_| {
                    assert!(input.is_empty(), "it is never undone");
                    Ok(())
                })?
                .call(&format!("{at}/a"), "{}")
        });
        named.expect("a new name");
        let taken = all.register("named", |_, _| Ok(Bytes::new()));
        assert_eq!(taken.expect_err("taken").kind(), ErrorKind::Invalid);
        let unheard = all.execute("unheard", "g", b"").expect_err("nobody");
        assert_eq!(unheard.kind(), ErrorKind::Invalid);

        let query = "gid=g&trans_type=workflow&branch_id=00&op=named";
        assert_eq!(all.callback(query, b"in").status, 500, "it was never begun");
        let error = all.execute("named", "g", b"in").expect_err("not yet");
        assert_eq!(error.kind(), ErrorKind::Ongoing);
        assert_eq!(
            all.callback(query, b"out").status,
            500,
            "not with this input"
        );
        assert_eq!(all.callback(query, b"in").status, 200);
        assert_eq!(all.callback(query, b"in").status, 200, "it has ended");
        assert_eq!(client.status("g"), Ok(Status::Succeed));
    })
    .await;
    let runs: Vec<_> = runs.try_iter().collect();
    assert!(runs.len() == 2 && runs[0] == runs[1], "{runs:?}");
    let (_, _, first, second) = &runs[0];
    assert!(first.len() == 36 && first != second, "{first} {second}");
}

#[test]
fn a_connection_that_was_closed_meanwhile() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!(
        "http://localhost:{}/",
        listener.local_addr().expect("an address").port()
    );
    // It is closed between two calls, when nobody looks at it.
    let (heard, is_heard) = mpsc::channel();
    let (closed, is_closed) = mpsc::channel();
    let server = std::thread::spawn(move || {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().expect("a connection");
            // The whole of it, for what is left unread would reset the connection.
            let mut request = Vec::new();
            while !request.ends_with(b"{}") {
                let mut some = [0; 4_096];
                let n = stream.read(&mut some).expect("a request");
                assert!(n > 0);
                request.extend_from_slice(&some[..n]);
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .expect("sent");
            is_heard
                .recv_timeout(Duration::from_secs(5))
                .expect("heard");
            drop(stream);
            closed.send(()).expect("somebody waits");
        }
    });
    let client = Client::new("http://127.0.0.1:1").expect("a client");
    for n in 0..3 {
        let fact = client.call(Request {
            method: "POST",
            url: url.clone(),
            headers: Vec::new(),
            body: Bytes::from("{}"),
            timeout: 5_000,
        });
        assert!(
            matches!(&fact, Fact::Answer { status: 200, body, .. } if body == "ok"),
            "call {n}: {fact:?}"
        );
        heard.send(()).expect("the server listens");
        is_closed
            .recv_timeout(Duration::from_secs(5))
            .expect("closed");
    }
    server.join().expect("no panic");
}

#[tokio::test]
async fn a_parent_and_its_child_at_the_same_time() {
    let w = World::start().await;
    let env = [
        (
            "AMENDS_SERVER".to_owned(),
            format!("http://{}", w.server.addr()),
        ),
        ("AMENDS_BRANCH".to_owned(), w.url("/branch")),
    ];
    blocking(move || {
        Program::new(env!("CARGO_BIN_EXE_forks"))
            .env(env)
            .deadline(Duration::from_secs(60))
            .run();
    })
    .await;
    assert_eq!(w.branches.count("/branch"), 42);
    w.dtm.wait_status("open", "succeed").await;
}
