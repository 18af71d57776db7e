//! Runs that are cut off from outside, bodies that panic, and tasks that outlive their body.

use crate::client::{step, workflows};
use amends::client::WorkflowRun;
use amends::{Error, ErrorKind};
use amends_scenarios::{DEADLINE, Gate, Reply, World};
use bytes::Bytes;
use serde_json::json;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

/// Has the coordinator know a workflow, as one whose first run died at once.
async fn begun(w: &World, gid: &str, name: &str) {
    let custom = json!({"name": name, "data": ""}).to_string();
    let body = w.workflow(gid, json!({"custom_data": custom}));
    w.dtm
        .post("prepareWorkflow", &body)
        .await
        .expect_status(200);
}

fn refused() -> Result<Bytes, Error> {
    Err(Error::new(ErrorKind::Failure, "no"))
}

/// A server drops the call of a coordinator that hangs up; a step that takes longer than its patience must end all the same.
#[tokio::test]
async fn a_run_goes_on_when_its_callback_is_cut_off() {
    let w = World::start().await;
    let (all, _listener) = workflows(&w).await;
    let (started, goes_on, ran) = (
        Arc::new(Notify::new()),
        Arc::new(Notify::new()),
        Arc::new(AtomicUsize::new(0)),
    );
    let (in_body, resumed, counted) = (started.clone(), goes_on.clone(), ran.clone());
    all.register("long", move |wf: WorkflowRun, _| {
        let (started, goes_on, ran) = (in_body.clone(), resumed.clone(), counted.clone());
        async move {
            wf.branch("long")?
                .run(async |_| {
                    ran.fetch_add(1, Ordering::SeqCst);
                    started.notify_one();
                    goes_on.notified().await;
                    Ok(Bytes::new())
                })
                .await
        }
    })
    .expect("a new name");
    begun(&w, "g", "long").await;
    let query = "gid=g&trans_type=workflow&branch_id=00&op=long";
    tokio::select! {
        answer = all.callback(query, b"") => panic!("{answer:?}"),
        () = started.notified() => {}
    }
    // It still runs here.
    let answer = timeout(DEADLINE, all.callback(query, b"")).await;
    assert_eq!(answer.expect("it is not begun again").status, 425);
    goes_on.notify_one();
    w.dtm.wait_status("g", "succeed").await;
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_body_that_panics_is_an_error_and_runs_again() {
    let w = World::start().await;
    let (all, _listener) = workflows(&w).await;
    let panics = Arc::new(AtomicBool::new(true));
    let (service, fails) = (w.url(""), panics.clone());
    all.register("panics", move |wf: WorkflowRun, _| {
        let (service, fails) = (service.clone(), fails.clone());
        async move {
            step(&wf, &service, "a").await?;
            assert!(!fails.swap(false, Ordering::SeqCst), "on purpose");
            Ok(Bytes::new())
        }
    })
    .expect("a new name");
    begun(&w, "g", "panics").await;
    let query = "gid=g&trans_type=workflow&branch_id=00&op=panics";
    let answer = all.callback(query, b"").await;
    assert_eq!(answer.status, 500);
    assert!(
        String::from_utf8_lossy(&answer.body).contains("on purpose"),
        "{answer:?}"
    );
    assert_eq!(all.callback(query, b"").await.status, 200);
    assert_eq!(
        (w.branches.count("/a"), w.branches.count("/a-undo")),
        (1, 0)
    );
}

/// A task that its body does not wait for learns that the body has ended; it does not wait for ever.
#[tokio::test]
async fn tasks_that_outlive_their_body_are_told() {
    let w = World::start().await;
    let (all, _listener) = workflows(&w).await;
    let gate = Gate::new();
    w.branches
        .script("/slow", [(); 2].map(|()| Reply::ok().behind(&gate)));
    type Tasks = Vec<JoinHandle<Result<Bytes, Error>>>;
    let tasks: Arc<Mutex<Tasks>> = Arc::default();
    let (branches, service, started) = (w.url("/slow"), w.url(""), tasks.clone());
    all.register("leaves", move |wf: WorkflowRun, input: Bytes| {
        let (slow, service, tasks) = (branches.clone(), service.clone(), started.clone());
        async move {
            let branch = wf
                .branch("slow")?
                .on_rollback_call(&format!("{slow}-undo"), "");
            tasks
                .lock()
                .expect("no panic")
                .push(tokio::spawn(branch.call(&slow, "")));
            if &input[..] == b"waits" {
                step(&wf, &service, "never").await?;
            }
            // Until the task has come to its step.
            yield_now().await;
            refused()
        }
    })
    .expect("a new name");
    let error = all
        .execute("leaves", "ended", b"")
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Failure);
    // And when nobody waits for the run itself.
    w.branches.script("/never", [Reply::ok().behind(&gate)]);
    tokio::select! {
        result = all.execute("leaves", "dropped", b"waits") => panic!("{result:?}"),
        _ = w.branches.wait("/never", 1) => {}
    }
    let tasks = std::mem::take(&mut *tasks.lock().expect("no panic"));
    assert_eq!(tasks.len(), 2);
    for task in tasks {
        let told = timeout(DEADLINE, task)
            .await
            .expect("it does not wait for ever");
        let error = told.expect("no panic").expect_err("not made");
        assert!(error.message().contains("ended"), "{error}");
    }
    gate.open();
}

#[tokio::test]
async fn a_step_is_not_begun_when_its_body_has_ended() {
    let w = World::start().await;
    let (all, _listener) = workflows(&w).await;
    let late = Arc::new(AtomicUsize::new(0));
    let tasks: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
    let (counted, started) = (late.clone(), tasks.clone());
    all.register("late", move |wf: WorkflowRun, _| {
        let (late, tasks) = (counted.clone(), started.clone());
        async move {
            let branch = wf.branch("late")?;
            let ended = Arc::new(AtomicBool::new(false));
            let task = {
                let ended = ended.clone();
                tokio::spawn(async move {
                    let work = async |_| {
                        late.fetch_add(usize::from(ended.load(Ordering::SeqCst)), Ordering::SeqCst);
                        Ok(Bytes::new())
                    };
                    let _ = branch.run(work).await;
                })
            };
            tasks.lock().expect("no panic").push(task);
            yield_now().await;
            yield_now().await;
            ended.store(true, Ordering::SeqCst);
            refused()
        }
    })
    .expect("a new name");
    // Which of them is first is chance.
    for n in 0..32 {
        let error = all
            .execute("late", &format!("late-{n}"), b"")
            .await
            .expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Failure);
    }
    let tasks = std::mem::take(&mut *tasks.lock().expect("no panic"));
    for task in tasks {
        timeout(DEADLINE, task)
            .await
            .expect("told")
            .expect("no panic");
    }
    assert_eq!(late.load(Ordering::SeqCst), 0);
}

/// Undos that were not needed are dropped with the run, though they hold the run itself.
#[tokio::test]
async fn nothing_of_a_run_is_left_behind() {
    let w = World::start().await;
    let (all, _listener) = workflows(&w).await;
    let held = Arc::new(());
    let (service, in_body) = (w.url("/a"), held.clone());
    all.register("holds", move |wf: WorkflowRun, _| {
        let (service, held, of) = (service.clone(), in_body.clone(), wf.clone());
        async move {
            wf.branch("a")?
                .on_rollback(move |_| async move {
                    let _held = (held, of);
                    Ok(())
                })
                .call(&service, "")
                .await
        }
    })
    .expect("a new name");
    for n in 0..3 {
        all.execute("holds", &format!("g{n}"), b"")
            .await
            .expect("fine");
    }
    // Here, and in the function.
    assert_eq!(Arc::strong_count(&held), 2);
}

/// Whoever asks first has the first number, whoever is answered first.
#[tokio::test]
async fn random_numbers_do_not_depend_on_who_is_woken_first() {
    let w = World::start().await;
    let (all, _listener) = workflows(&w).await;
    let seen: Arc<Mutex<Vec<[[u8; 16]; 2]>>> = Arc::default();
    let (service, seen_by) = (w.url(""), seen.clone());
    all.register("random", move |wf: WorkflowRun, _| {
        let (service, seen) = (service.clone(), seen_by.clone());
        async move {
            let (mut first, mut second) = (pin!(wf.random()), pin!(wf.random()));
            let asked = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx))).await;
            let second = second.as_mut().await?;
            let first = match asked {
                Poll::Ready(first) => first?,
                Poll::Pending => first.await?,
            };
            seen.lock().expect("no panic").push([first, second]);
            step(&wf, &service, "a").await
        }
    })
    .expect("a new name");
    w.branches.script("/a", [Reply::ongoing(), Reply::ok()]);
    let _ = all.execute("random", "g", b"").await.expect_err("ongoing");
    w.dtm.wait_status("g", "succeed").await;
    let seen = seen.lock().expect("no panic").clone();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
}
