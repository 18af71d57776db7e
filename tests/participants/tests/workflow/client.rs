//! What users of the Rust client see of a workflow.

use amends::client::{Client, WorkflowRun, Workflows};
use amends::{Error, ErrorKind, Options};
use amends_scenarios::{Gate, Listener, Reply, Response, World, listen};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::Mutex;
use tokio::task::JoinSet;

/// Workflows whose callbacks come here, soon.
pub(crate) async fn workflows(w: &World) -> (Workflows, Listener) {
    let client = Client::new(&format!("http://{}", w.server.addr())).expect("a client");
    let own: Arc<Mutex<Option<Workflows>>> = Arc::default();
    let listener = {
        let own = own.clone();
        listen(move |call| {
            let own = own.lock().expect("no panic").clone().expect("set before");
            async move {
                let answer = own.callback(&call.query, &call.body).await;
                Some(Response {
                    status: answer.status,
                    headers: Vec::new(),
                    body: String::from_utf8(answer.body).expect("UTF-8"),
                })
            }
        })
        .await
    };
    let soon = Options {
        retry_interval: 1,
        request_timeout: 1,
        ..Options::default()
    };
    let url = format!("http://{}/workflow", listener.addr);
    let all = Workflows::with(client.server(), Arc::new(client.clone()), &url, soon);
    *own.lock().expect("no panic") = Some(all.clone());
    (all, listener)
}

/// A step at the scripted service, which is undone there.
pub(crate) async fn step(wf: &WorkflowRun, w: &str, name: &str) -> Result<Bytes, Error> {
    wf.branch(name)?
        .on_rollback_call(&format!("{w}/{name}-undo"), "{}")
        .call(&format!("{w}/{name}"), "{}")
        .await
}

#[tokio::test]
async fn the_coordinator_calls_back_until_it_has_ended() {
    let w = World::start().await;
    let (all, _listener) = workflows(&w).await;
    let service = w.url("");
    let body = move |wf: WorkflowRun, input: Bytes| {
        let service = service.clone();
        async move {
            step(&wf, &service, "a").await?;
            let b = step(&wf, &service, "b").await?;
            Ok(Bytes::from([&input[..], b" ", &b[..]].concat()))
        }
    };
    all.register("two", body.clone()).expect("a new name");
    assert_eq!(
        all.register("two", body).expect_err("taken").kind(),
        ErrorKind::Invalid
    );

    w.branches.script(
        "/b",
        [Reply::ongoing(), Reply::error(), Reply::new(200, "b!")],
    );
    let error = all
        .execute("two", "later", &[0xff, 0])
        .await
        .expect_err("not yet");
    assert_eq!(error.kind(), ErrorKind::Ongoing);
    let view = w.dtm.wait_status("later", "succeed").await;
    // Its own bytes, in base64, and what was answered.
    assert_eq!(view.field("result"), "/wAgYiE=");
    assert_eq!((w.branches.count("/a"), w.branches.count("/b")), (1, 3));
    assert_eq!(
        all.execute("two", "later", &[0xff, 0]).await,
        Ok(Bytes::from(vec![0xff, 0, b' ', b'b', b'!']))
    );
    assert_eq!((w.branches.count("/a"), w.branches.count("/b")), (1, 3));

    w.branches
        .script("/b", [Reply::failure("no room"), Reply::ok()]);
    w.branches.script("/a-undo", [Reply::error(), Reply::ok()]);
    let error = all
        .execute("two", "undone", &[])
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    let view = w.dtm.wait_status("undone", "failed").await;
    assert!(
        view.field("rollback_reason").contains("no room"),
        "{view:?}"
    );
    assert_eq!(
        (w.branches.count("/a-undo"), w.branches.count("/b-undo")),
        (2, 1)
    );
    let error = all.execute("two", "undone", &[]).await.expect_err("failed");
    assert_eq!(error.kind(), ErrorKind::Failure);
    assert!(error.message().contains("no room"), "{error}");

    let call = &w.branches.calls("/b-undo")[0];
    let identity = ["gid", "trans_type", "branch_id", "op"].map(|name| call.param(name));
    assert_eq!(identity, ["undone", "workflow", "02", "rollback"]);
    assert_eq!(call.param("dtm"), "");
}

#[tokio::test]
async fn what_cannot_be_run_is_told() {
    let w = World::start().await;
    let (all, _listener) = workflows(&w).await;
    let gate = Gate::new();
    w.branches.script("/slow", [Reply::ok().behind(&gate)]);
    let service = w.url("");
    all.register("slow", move |wf: WorkflowRun, _| {
        let service = service.clone();
        async move { step(&wf, &service, "slow").await }
    })
    .expect("a new name");

    let error = all.execute("unheard", "g", b"").await.expect_err("nobody");
    assert!(
        error.kind() == ErrorKind::Invalid && error.message().contains("\"slow\""),
        "{error}"
    );
    let answer = all
        .callback("gid=g&trans_type=saga&branch_id=00&op=slow", b"")
        .await;
    assert_eq!(answer.status, 500);
    let answer = all
        .callback("gid=g&trans_type=workflow&branch_id=00&op=unheard", b"")
        .await;
    assert_eq!(answer.status, 500);

    // Whoever reaches this URL starts nothing that nobody has begun.
    let answer = all
        .callback("gid=never&trans_type=workflow&branch_id=00&op=slow", b"")
        .await;
    assert_eq!((answer.status, w.branches.count("/slow")), (500, 0));

    // One run of a gid at a time.
    let first = tokio::spawn({
        let all = all.clone();
        async move { all.execute("slow", "once", b"").await }
    });
    w.branches.wait("/slow", 1).await;
    let error = all
        .execute("slow", "once", b"")
        .await
        .expect_err("runs already");
    assert_eq!(error.kind(), ErrorKind::Ongoing);
    let answer = all
        .callback("gid=once&trans_type=workflow&branch_id=00&op=slow", b"")
        .await;
    assert_eq!(answer.status, 425);
    let answer = all
        .callback(
            "gid=once&trans_type=workflow&branch_id=00&op=slow",
            b"other input",
        )
        .await;
    assert_eq!(answer.status, 500);
    gate.open();
    assert!(first.await.expect("no panic").is_ok());
    assert_eq!(w.branches.count("/slow"), 1);

    let used = w
        .dtm
        .post(
            "submit",
            &serde_json::json!({"gid": "saga", "trans_type": "saga", "steps": [], "payloads": []}),
        )
        .await;
    used.expect_success();
    let error = all
        .execute("slow", "saga", b"")
        .await
        .expect_err("of another mode");
    assert_eq!(error.kind(), ErrorKind::Refused);
}

/// What a body reads by itself is the same in each run.
#[tokio::test]
async fn times_and_random_numbers_are_replayed() {
    let w = World::start().await;
    let (all, _listener) = workflows(&w).await;
    type Values = (i64, String, [u8; 16]);
    let seen: Arc<Mutex<Vec<Values>>> = Arc::default();
    let (service, seen_by) = (w.url(""), seen.clone());
    all.register("values", move |wf: WorkflowRun, _| {
        let (service, seen) = (service.clone(), seen_by.clone());
        async move {
            let values = (wf.now().await?, wf.uuid().await?, wf.random().await?);
            seen.lock().expect("no panic").push(values);
            step(&wf, &service, "a").await
        }
    })
    .expect("a new name");
    w.branches
        .script("/a", [Reply::ongoing(), Reply::ongoing(), Reply::ok()]);
    let _ = all.execute("values", "g", b"").await;
    w.dtm.wait_status("g", "succeed").await;
    let seen = seen.lock().expect("no panic").clone();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|values| *values == seen[0]), "{seen:?}");
    let (now, uuid, random) = &seen[0];
    assert!(*now > 1_700_000_000_000 && uuid.len() == 36 && &uuid[14..15] == "4");
    assert_ne!(
        uuid.replace('-', ""),
        format!("{:032x}", u128::from_be_bytes(*random))
    );
}

/// Branches side by side, in one task and in several: the order of their ids is that in which they were added.
#[tokio::test(flavor = "multi_thread")]
async fn branches_at_the_same_time() {
    let w = World::start().await;
    let (all, _listener) = workflows(&w).await;
    let service = w.url("");
    all.register("joined", move |wf: WorkflowRun, _| {
        let service = service.clone();
        async move {
            let of = |name: &str| wf.branch(name);
            let (a, b) = (of("a")?, of("b")?);
            let at = |path: &str| format!("{service}/{path}");
            let (a, b) = tokio::join!(
                a.on_rollback_call(&at("a-undo"), "").call(&at("a"), ""),
                b.on_rollback_call(&at("b-undo"), "").call(&at("b"), ""),
            );
            a.and(b)?;
            let mut tasks = JoinSet::new();
            for name in ["c", "d", "e"] {
                let (branch, at, undo) = (of(name)?, at(name), at(&format!("{name}-undo")));
                tasks.spawn(async move { branch.on_rollback_call(&undo, "").call(&at, "").await });
            }
            let mut all = tasks.join_all().await;
            // A definite no comes first.
            all.sort_by_key(|result| {
                result
                    .as_ref()
                    .err()
                    .map(|e| e.kind() != ErrorKind::Failure)
            });
            all.into_iter()
                .find(Result::is_err)
                .unwrap_or_else(|| Ok(Bytes::new()))
        }
    })
    .expect("a new name");

    let gate = Gate::new();
    w.branches.script("/a", [Reply::ok().behind(&gate)]);
    let run = tokio::spawn({
        let all = all.clone();
        async move { all.execute("joined", "fine", b"").await }
    });
    // The second is called although the first is not answered.
    w.branches.wait("/b", 1).await;
    gate.open();
    assert!(run.await.expect("no panic").is_ok());

    // Decided while others were under way, and stopped before it was carried out: the next run comes to all that is to be undone.
    w.branches.script("/d", [Reply::failure("no"), Reply::ok()]);
    w.branches.script("/e", [Reply::error(), Reply::ok()]);
    w.branches.script("/c", [Reply::error(), Reply::ok()]);
    w.branches.script("/b-undo", [Reply::error(), Reply::ok()]);
    let error = all
        .execute("joined", "undone", b"")
        .await
        .expect_err("open");
    assert!(error.is_retryable(), "{error}");
    w.dtm.wait_status("undone", "failed").await;
    for (name, undone) in [("a", 1), ("b", 2), ("c", 1), ("d", 1), ("e", 1)] {
        assert_eq!(w.branches.count(&format!("/{name}-undo")), undone, "{name}");
        // Once for each of the two workflows.
        assert_eq!(w.branches.count(&format!("/{name}")), 2, "{name}");
    }
}

/// wishes.md A5: cut off in the middle of a rollback, and replayed when everything would go well.
#[tokio::test]
async fn a_rollback_that_was_cut_off_is_never_a_commit() {
    let w = World::start().await;
    let (all, _listener) = workflows(&w).await;
    let service = w.url("");
    all.register("a5", move |wf: WorkflowRun, _| {
        let at = |path: &str| format!("{service}/{path}");
        let (a, a_cancel, a_confirm) = (at("a"), at("a-cancel"), at("a-confirm"));
        let (b, b_cancel, b_confirm) = (at("b"), at("b-cancel"), at("b-confirm"));
        async move {
            wf.branch("a")?
                .on_commit_call(&a_confirm, "")
                .on_rollback_call(&a_cancel, "")
                .call(&a, "")
                .await?;
            let second = wf
                .branch("b")?
                .on_commit_call(&b_confirm, "")
                .on_rollback_call(&b_cancel, "")
                .call(&b, "")
                .await;
            second.map_err(|e| Error::new(ErrorKind::Failure, format!("given up: {e}")))
        }
    })
    .expect("a new name");
    // The second step is not known to have failed, so it is not recorded; its undo is done, and the first one's is cut off.
    w.branches.script("/b", [Reply::cut(), Reply::ok()]);
    w.branches.script("/a-cancel", [Reply::cut(), Reply::ok()]);
    let error = all.execute("a5", "g", b"").await.expect_err("cut off");
    assert!(error.is_retryable(), "{error}");
    w.dtm.wait_status("g", "failed").await;
    let count = |path: &str| w.branches.count(path);
    assert_eq!((count("/b-cancel"), count("/a-cancel")), (1, 2));
    assert_eq!(
        (count("/a-confirm"), count("/b-confirm"), count("/b")),
        (0, 0, 1)
    );
}

/// A body that was changed while workflows of it were open.
#[tokio::test]
async fn other_steps_than_the_recorded_ones_need_attention() {
    let w = World::start().await;
    let (all, _listener) = workflows(&w).await;
    let names = Arc::new(Mutex::new(["a", "b"]));
    let (service, now) = (w.url(""), names.clone());
    all.register("changed", move |wf: WorkflowRun, _| {
        let (service, names) = (service.clone(), *now.lock().expect("no panic"));
        async move {
            step(&wf, &service, names[0]).await?;
            step(&wf, &service, names[1]).await
        }
    })
    .expect("a new name");
    w.branches.script("/b", [Reply::ongoing(), Reply::ok()]);
    let _ = all.execute("changed", "g", b"").await.expect_err("open");
    let error = loop {
        match all
            .execute("changed", "g", b"other")
            .await
            .expect_err("other input")
        {
            error if error.kind() == ErrorKind::Ongoing => tokio::task::yield_now().await,
            error => break error,
        }
    };
    assert!(error.message().contains("another input"), "{error}");
    *names.lock().expect("no panic") = ["b", "a"];
    let error = loop {
        match all
            .execute("changed", "g", b"")
            .await
            .expect_err("other steps")
        {
            // The coordinator's own callback runs just now.
            error if error.kind() == ErrorKind::Ongoing => tokio::task::yield_now().await,
            error => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Nondeterministic);
    assert!(
        error.message().contains("\"a\"") && error.message().contains("\"b\""),
        "{error}"
    );
    assert_eq!(w.branches.count("/b"), 1);
    *names.lock().expect("no panic") = ["a", "b"];
    w.dtm.wait_status("g", "succeed").await;
}

/// The requests of DTM's Go client as they were recorded; its process is gone before the third step, and a Rust one is called back.
#[tokio::test]
async fn a_workflow_that_was_begun_by_dtms_go_client() {
    let w = World::start().await;
    let (all, listener) = workflows(&w).await;
    let service = w.url("");
    let replayed: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let seen = replayed.clone();
    all.register("wf1", move |wf: WorkflowRun, input: Bytes| {
        let (service, seen) = (service.clone(), seen.clone());
        async move {
            let act = step(&wf, &service, "act").await?;
            let local = wf
                .branch("local")?
                .run(async |_| Err(Error::new(ErrorKind::Internal, "not again")))
                .await?;
            let act2 = step(&wf, &service, "act2").await?;
            *seen.lock().expect("no panic") = vec![input, act, local, act2];
            Ok(Bytes::from("res"))
        }
    })
    .expect("a new name");
    let recorded = r#"{"gid":"g11","trans_type":"workflow","custom_data":"{\"data\":\"eyJhIjoxfQ==\",\"name\":\"wf1\"}","concurrent":false,"query_prepared":"http://H/busi/wfcb","protocol":"http"}"#;
    let prepare = recorded.replace(
        "http://H/busi/wfcb",
        &format!("http://{}/workflow", listener.addr),
    );
    w.dtm
        .post_text("prepareWorkflow", &prepare)
        .await
        .expect_status(200);
    for row in [
        r#"{"branch_id":"01","data":"{\"dtm_result\":\"SUCCESS\"}","gid":"g11","op":"action","status":"succeed","trans_type":"workflow"}"#,
        r#"{"branch_id":"02","data":"\ufffd\u0001","gid":"g11","op":"action","status":"succeed","trans_type":"workflow"}"#,
    ] {
        w.dtm
            .post_text("registerBranch", row)
            .await
            .expect_success();
    }
    // Its callback is due when it was not heard of for a while.
    w.dtm.kick("g11").await;
    let view = w.dtm.wait_status("g11", "succeed").await;
    assert_eq!(view.field("result"), "cmVz");
    let seen = replayed.lock().expect("no panic").clone();
    let want = [
        r#"{"a":1}"#,
        r#"{"dtm_result":"SUCCESS"}"#,
        "\u{fffd}\u{1}",
        r#"{"dtm_result":"SUCCESS"}"#,
    ];
    assert_eq!(seen, want.map(Bytes::from));
    assert_eq!(
        (w.branches.count("/act"), w.branches.count("/act2")),
        (0, 1)
    );
}
