//! The Rust client against the real coordinator: sagas, and messages whose local transactions are in real databases, with crashes where it
//! hurts. Build the binary first (`cargo build -p amends-server`).

use amends::adapters::sqlx::{Backend, MessageRun};
use amends::client::{Client, new_gid};
use amends::initiator::{Message, Saga, Try};
use amends::machine::{Calls, Fact, Request, Statement};
use amends::participant::Identity;
use amends::{ErrorKind, Options, Status};
use amends_interop::Databases;
use amends_participants::{Bank, answered, client, mariadb, postgres, sqlite, waiting};
use amends_scenarios::{Gate, Listener, Reply, Response, World, free_port, listen};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

fn transfer(w: &World, gid: &str, options: Options) -> Saga {
    let mut saga = Saga::new(gid, options);
    for step in ["out", "in"] {
        saga.step(
            &w.url(&format!("/{step}")),
            &w.url(&format!("/{step}-undo")),
            "{}",
        );
    }
    saga
}

#[tokio::test]
async fn sagas_end_well_or_not_or_go_on() {
    let w = World::start().await;
    let client = client(&w);
    client
        .submit(&transfer(&w, "ok", waiting()))
        .await
        .expect("succeeded");
    assert_eq!(w.branches.trace(), ["/out", "/in"]);

    w.branches
        .script("/in", [Reply::failure("no such account")]);
    let error = client
        .submit(&transfer(&w, "no", waiting()))
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Failure);
    assert!(error.message().contains("no such account"), "{error}");
    w.dtm.wait_status("no", "failed").await;

    w.branches.script("/in", [Reply::ongoing(), Reply::ok()]);
    let slow = Options {
        retry_interval: 100,
        ..waiting()
    };
    let error = client
        .submit(&transfer(&w, "later", slow))
        .await
        .expect_err("open");
    assert_eq!(error.kind(), ErrorKind::Ongoing);
    assert_eq!(client.status("ok").await, Ok(Status::Succeed));
    assert_eq!(
        client.wait("no", Duration::from_secs(1)).await,
        Ok(Status::Failed)
    );
    let error = client
        .wait("later", Duration::ZERO)
        .await
        .expect_err("open");
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Ongoing, Some(Status::Submitted))
    );
    w.dtm.kick("later").await;
    assert_eq!(
        client.wait("later", Duration::from_secs(20)).await,
        Ok(Status::Succeed)
    );
    let error = client.status("never").await.expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::UnknownGid);
    let gid = new_gid().expect("random");
    assert!(gid.len() == 22 && gid != new_gid().expect("random"));
    let silent = listen(|_| std::future::pending()).await;
    let hurried = Client::builder(&format!("http://{}", silent.addr))
        .answers_within(Duration::from_millis(50))
        .build()
        .expect("a client");
    let error = hurried.status("ok").await.expect_err("too late");
    assert_eq!(error.kind(), ErrorKind::Unavailable);

    let error = client
        .submit(&transfer(&w, "ok", waiting()))
        .await
        .expect_err("used");
    assert_eq!(error.kind(), ErrorKind::Refused);
    let nobody = Client::new(&format!("http://127.0.0.1:{}", free_port())).expect("a client");
    let error = nobody
        .submit(&transfer(&w, "x", waiting()))
        .await
        .expect_err("nobody");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(
        Client::new("127.0.0.1:36789")
            .expect_err("no scheme")
            .kind(),
        ErrorKind::Invalid
    );
}

/// Where the coordinator asks: the bank's own answer, as a participant gives it.
async fn asked<DB: Backend>(bank: &Bank<DB>) -> Listener {
    let bank = bank.clone();
    listen(move |call| {
        let bank = bank.clone();
        async move {
            let who = Identity::from_query(&call.query).expect("a branch call");
            let answer = bank.branch(who).check_back(&bank.pool).await;
            answered(answer)
        }
    })
    .await
}

fn message<DB: Backend>(w: &World, bank: &Bank<DB>, asked: &Listener, gid: &str) -> Message {
    let options = Options {
        timeout_to_fail: 1,
        retry_interval: 1,
        ..Options::default()
    };
    let mut message = Message::new(gid, &format!("http://{}/asked", asked.addr), options);
    message.send(&w.url(&format!("/{gid}")), "{}");
    message.table(bank.table().clone());
    message
}

async fn take<DB: Backend>(run: &mut MessageRun<DB>) {
    let take = Statement::plain("update account set balance = balance - 30 where id = 1");
    DB::exec(run, take).await.expect("taken");
}

/// A client that dies before it submits.
#[derive(Debug)]
struct DiesAtSubmit(Client);

impl Calls for DiesAtSubmit {
    fn call(&self, request: Request) -> Pin<Box<dyn Future<Output = Fact> + Send + '_>> {
        if request.url.ends_with("/submit") {
            return Box::pin(async {
                Fact::NoAnswer {
                    sent: false,
                    message: "dead".to_owned(),
                }
            });
        }
        self.0.call(request)
    }
}

async fn messages<DB: Backend>(w: &World, bank: &Bank<DB>) {
    let asked = asked(bank).await;
    let client = client(w);
    let calls: Arc<dyn Calls> = Arc::new(client.clone());
    let begin = async |gid: &str, calls: &Arc<dyn Calls>| {
        let message = message(w, bank, &asked, gid);
        message
            .begin(client.server(), calls.clone(), &bank.pool)
            .await
    };

    let mut run = begin("committed", &calls).await.expect("prepared");
    take(&mut run).await;
    let _committed = run.commit().await.expect("committed");
    w.dtm.wait_status("committed", "succeed").await;
    assert_eq!(
        (w.branches.count("/committed"), bank.balance().await),
        (1, -30)
    );

    let mut run = begin("refused", &calls).await.expect("prepared");
    take(&mut run).await;
    let error = run.refuse("no money").await;
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Failure, "no money")
    );
    assert_eq!(w.dtm.query("refused").await.status(), "failed");

    // Dropped, as by a crash: the coordinator asks, and learns that it was not committed.
    let mut run = begin("dropped", &calls).await.expect("prepared");
    take(&mut run).await;
    drop(run);
    w.dtm.wait_status("dropped", "failed").await;

    // Committed, and dead before it submits: the coordinator asks, and delivers.
    let dies: Arc<dyn Calls> = Arc::new(DiesAtSubmit(client.clone()));
    let mut run = begin("orphaned", &dies).await.expect("prepared");
    take(&mut run).await;
    let _committed = run.commit().await.expect("committed");
    w.dtm.wait_status("orphaned", "succeed").await;
    assert_eq!(
        (w.branches.count("/orphaned"), bank.balance().await),
        (1, -60)
    );

    for gid in ["refused", "dropped"] {
        assert_eq!(w.branches.count(&format!("/{gid}")), 0);
    }
    let error = begin("committed", &calls).await.expect_err("used before");
    assert_eq!(
        (error.kind(), error.committed()),
        (ErrorKind::Duplicated, Some(true))
    );
    assert_eq!(bank.balance().await, -60);
    bank.pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_on_mariadb_and_postgresql() {
    let databases = Databases::start();
    let bank = mariadb(databases.mariadb(), "repeatable read", "dtm_barrier").await;
    messages(&World::start().await, &bank).await;
    let bank = postgres(databases.postgres(), "dtm_barrier").await;
    messages(&World::start().await, &bank).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_on_sqlite() {
    let dir = tempfile::tempdir().expect("a folder");
    let bank = sqlite(dir.path()).await;
    messages(&World::start().await, &bank).await;
}

fn bank(w: &World, name: &str) -> Try {
    Try {
        try_url: w.url(&format!("/{name}-try")),
        confirm: w.url(&format!("/{name}-confirm")),
        cancel: w.url(&format!("/{name}-cancel")),
        payload: r#"{"amount":30}"#.into(),
    }
}

#[tokio::test]
async fn tccs_are_confirmed_or_cancelled() {
    let w = World::start().await;
    let client = client(&w);
    let mut tcc = client.tcc("ok", waiting()).await.expect("prepared");
    w.branches
        .script("/a-try", [Reply::new(200, r#"{"seat":7}"#)]);
    let answer = tcc.branch(&bank(&w, "a")).await.expect("tried");
    assert_eq!(&answer[..], br#"{"seat":7}"#);
    let both = [bank(&w, "b"), bank(&w, "c")];
    for result in tcc.branches(&both).await.expect("legal") {
        result.expect("tried");
    }
    tcc.submit().await.expect("confirmed");
    assert_eq!(w.dtm.query("ok").await.status(), "succeed");
    let call = &w.branches.calls("/a-try")[0];
    assert_eq!(
        (call.param("gid"), call.param("branch_id"), call.param("op")),
        ("ok".into(), "01".into(), "try".into())
    );
    assert_eq!(
        call.param("dtm"),
        format!("http://{}/api/dtmsvr", w.server.addr())
    );
    for name in ["a", "b", "c"] {
        assert_eq!(w.branches.count(&format!("/{name}-confirm")), 1);
        assert_eq!(w.branches.count(&format!("/{name}-cancel")), 0);
    }

    // A try that is refused: whoever submits all the same is not believed.
    w.branches.script("/d-try", [Reply::failure("no seat")]);
    let mut tcc = client.tcc("no", waiting()).await.expect("prepared");
    tcc.branch(&bank(&w, "e")).await.expect("tried");
    let refused = tcc.branch(&bank(&w, "d")).await.expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::Failure);
    let error = tcc.submit().await.expect_err("aborted");
    assert_eq!(error.kind(), ErrorKind::Failure);
    let view = w.dtm.wait_status("no", "failed").await;
    assert!(view.field("rollback_reason").contains("no seat"));
    for name in ["d", "e"] {
        assert_eq!(w.branches.count(&format!("/{name}-cancel")), 1, "{name}");
        assert_eq!(w.branches.count(&format!("/{name}-confirm")), 0, "{name}");
    }

    // Dropped, as by a crash: cancelled by its timeout.
    let short = Options {
        timeout_to_fail: 1,
        ..Options::default()
    };
    let mut tcc = client.tcc("dropped", short).await.expect("prepared");
    tcc.branch(&bank(&w, "f")).await.expect("tried");
    drop(tcc);
    w.dtm.wait_status("dropped", "failed").await;
    assert_eq!(w.branches.count("/f-cancel"), 1);

    let error = client.tcc("ok", waiting()).await.expect_err("used before");
    assert_eq!(error.kind(), ErrorKind::Refused);
}

/// A run that died has registered two branches. Another one under its gid would confirm both, although it tries one: it is refused.
#[tokio::test]
async fn a_gid_whose_run_died_is_not_taken_up() {
    let w = World::start().await;
    let client = client(&w);
    let short = Options {
        timeout_to_fail: 2,
        ..Options::default()
    };
    let mut died = client.tcc("again", short.clone()).await.expect("prepared");
    for name in ["a", "b"] {
        died.branch(&bank(&w, name)).await.expect("tried");
    }
    drop(died);
    let error = client.tcc("again", short).await.expect_err("used before");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.message().contains("used before"), "{error}");
    w.dtm.wait_status("again", "failed").await;
    for name in ["a", "b"] {
        assert_eq!(w.branches.count(&format!("/{name}-cancel")), 1, "{name}");
        assert_eq!(w.branches.count(&format!("/{name}-confirm")), 0, "{name}");
    }
    // A prepare whose run died before it had a branch leaves nothing to be confirmed.
    drop(client.tcc("bare", waiting()).await.expect("prepared"));
    let mut tcc = client.tcc("bare", waiting()).await.expect("as new");
    tcc.branch(&bank(&w, "c")).await.expect("tried");
    tcc.submit().await.expect("confirmed");
}

/// A try whose waiter was dropped is made all the same; nobody saw what came of it, so that it is cancelled.
#[tokio::test]
async fn a_try_that_nobody_waited_for_is_cancelled() {
    let w = World::start().await;
    let client = client(&w);
    let gate = Gate::new();
    w.branches.script("/a-try", [Reply::ok().behind(&gate)]);
    let mut tcc = client.tcc("given-up", waiting()).await.expect("prepared");
    let a = bank(&w, "a");
    tokio::select! {
        ended = tcc.branch(&a) => panic!("the gate is closed: {ended:?}"),
        _ = w.branches.wait("/a-try", 1) => {}
    }
    gate.open();
    // While another one is tried, the first one ends well.
    tcc.branch(&bank(&w, "b")).await.expect("tried");
    let error = tcc.submit().await.expect_err("aborted");
    assert_eq!(error.kind(), ErrorKind::Failure, "{error}");
    let view = w.dtm.wait_status("given-up", "failed").await;
    let reason = view.field("rollback_reason");
    assert!(reason.contains("branch 01 was not waited for"), "{reason}");
    for name in ["a", "b"] {
        assert_eq!(w.branches.count(&format!("/{name}-cancel")), 1, "{name}");
        assert_eq!(w.branches.count(&format!("/{name}-confirm")), 0, "{name}");
    }
}

/// A participant that adds branches of its own to the transaction it is part of.
#[tokio::test]
async fn a_try_has_branches_of_its_own() {
    let w = World::start().await;
    let (client, below) = (client(&w), bank(&w, "below"));
    let participant = {
        let client = client.clone();
        listen(move |call| {
            let (client, below) = (client.clone(), below.clone());
            async move {
                let who = Identity::from_query(&call.query).expect("a branch call");
                let mut status = 200;
                if who.op.as_str() == "try" {
                    let nested = client.nested_tcc(&who, Options::default());
                    let mut nested = nested.await.expect("open");
                    let tried = nested.branch(&below).await;
                    let ended = nested.submit().await;
                    status = ended.and(tried.map(|_| ())).map_or(409, |()| 200);
                }
                Some(Response {
                    status,
                    headers: Vec::new(),
                    body: String::new(),
                })
            }
        })
        .await
    };
    let above = Try {
        try_url: format!("http://{}/try", participant.addr),
        confirm: format!("http://{}/confirm", participant.addr),
        cancel: format!("http://{}/cancel", participant.addr),
        payload: "{}".into(),
    };
    let mut tcc = client.tcc("nested", waiting()).await.expect("prepared");
    tcc.branch(&above).await.expect("tried");
    tcc.submit().await.expect("confirmed");
    let view = w.dtm.query("nested").await;
    assert_eq!(view.status(), "succeed");
    assert_eq!(
        view.row_names(),
        ["01/cancel", "01/confirm", "0101/cancel", "0101/confirm"]
    );
    assert_eq!(w.branches.count("/below-confirm"), 1);

    w.branches.script("/below-try", [Reply::failure("no")]);
    let mut tcc = client.tcc("refused", waiting()).await.expect("prepared");
    let error = tcc.branch(&above).await.expect_err("refused below");
    let error = tcc.abort(error).await;
    assert_eq!(error.kind(), ErrorKind::Failure);
    w.dtm.wait_status("refused", "failed").await;
    assert_eq!(w.branches.count("/below-cancel"), 1);
}

/// A log that a test can read.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Each transaction is a span with its gid, and each call an event in it, without what a query holds.
#[tokio::test]
async fn transactions_are_spans() {
    let w = World::start().await;
    let (client, log) = (client(&w), Log::default());
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // While there is one only, an event that another test comes to first is taken to interest nobody, in this thread too.
    let _other = tracing::Dispatch::new(tracing_subscriber::registry());
    let _here = tracing::subscriber::set_default(subscriber);
    client
        .submit(&transfer(&w, "spanned", waiting()))
        .await
        .expect("succeeded");
    let mut tcc = client.tcc("tried", waiting()).await.expect("prepared");
    tcc.branch(&bank(&w, "a?secret=x")).await.expect("tried");
    tcc.submit().await.expect("confirmed");
    let nobody = Client::new(&format!("http://127.0.0.1:{}", free_port())).expect("a client");
    let _ = nobody.submit(&transfer(&w, "alone", waiting())).await;

    let text = String::from_utf8(log.0.lock().expect("no panic").clone()).expect("UTF-8");
    let has = |words: &[&str]| {
        text.lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    };
    assert!(
        has(&[
            "DEBUG",
            "saga{gid=\"spanned\"}",
            "answered",
            "/submit",
            "status=200"
        ]),
        "{text}"
    );
    assert!(
        has(&[
            "DEBUG",
            "tcc{gid=\"tried\"}",
            "answered",
            "/a",
            "status=200"
        ]),
        "{text}"
    );
    assert!(
        has(&["WARN", "saga{gid=\"alone\"}", "not answered"]),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
}
