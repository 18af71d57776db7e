//! What it does when it is to begin a transaction.

use crate::participant::carry_out;
use crate::{Address, Subject, Task, die};
use amends::client::{TccRun, WorkflowRun, XaRun};
use amends::initiator::{Message, Saga, Try};
use amends::participant::answer::Answer;
use amends::{Error, Options};
use amends_participants::Books;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A transaction to begin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    mode: String,
    gid: String,
    me: String,
    branches: Vec<Address>,
    #[serde(default, skip_serializing)]
    die: Option<Die>,
}

/// Where it dies.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Die {
    at: String,
    #[serde(default)]
    branch: usize,
}

impl Run {
    fn dies(&self, at: &str, branch: usize) {
        let here = |die: &Die| die.at == at && die.branch == branch;
        if self.die.as_ref().is_some_and(here) {
            die();
        }
    }
}

pub(crate) fn options(waits: bool) -> Options {
    Options {
        wait_result: waits,
        timeout_to_fail: 1,
        retry_interval: 1,
        request_timeout: 1,
        ..Options::default()
    }
}

pub(crate) async fn run<DB: Books>(
    State(subject): State<Arc<Subject<DB>>>,
    body: String,
) -> Json<Value> {
    let run: Run = match serde_json::from_str(&body) {
        Ok(run) => run,
        Err(error) => return Json(json!({"returns": "Invalid", "message": error.to_string()})),
    };
    let dies = run.die.as_ref().is_some_and(|die| die.at == "submit");
    subject.calls.dies.store(dies, Ordering::SeqCst);
    let result = match run.mode.as_str() {
        "saga" => saga(&subject, &run).await,
        "tcc" => tcc(&subject, &run).await,
        "xa" => xa(&subject, &run).await,
        "message" => message(&subject, &run).await,
        "workflow" => workflow(&subject, &run).await,
        other => Err(Error::invalid(format!("no mode {other}"))),
    };
    Json(match result {
        Ok(()) => json!({"returns": "ok"}),
        Err(error) => json!({"returns": format!("{:?}", error.kind()), "message": error.message()}),
    })
}

async fn saga<DB: Books>(subject: &Subject<DB>, run: &Run) -> Result<(), Error> {
    let mut saga = Saga::new(&run.gid, options(true));
    for branch in &run.branches {
        saga.step(&branch.url, &branch.url, &branch.payload);
    }
    subject.client.submit(&saga).await
}

async fn tcc<DB: Books>(subject: &Subject<DB>, run: &Run) -> Result<(), Error> {
    let server = subject.client.server();
    let mut tcc = TccRun::begin(server, subject.calls.clone(), &run.gid, options(true)).await?;
    for (n, branch) in run.branches.iter().enumerate() {
        let branch = Try {
            try_url: branch.url.clone(),
            confirm: branch.url.clone(),
            cancel: branch.url.clone(),
            payload: branch.payload.clone().into(),
        };
        if let Err(error) = tcc.branch(&branch).await {
            return Err(tcc.abort(error).await);
        }
        run.dies("after", n + 1);
    }
    tcc.submit().await
}

async fn xa<DB: Books>(subject: &Subject<DB>, run: &Run) -> Result<(), Error> {
    let server = subject.client.server();
    let mut xa = XaRun::begin(server, subject.calls.clone(), &run.gid, options(true)).await?;
    for (n, branch) in run.branches.iter().enumerate() {
        if let Err(error) = xa.call(&branch.url, &branch.payload).await {
            return Err(xa.abort(error).await);
        }
        run.dies("after", n + 1);
    }
    xa.submit().await
}

async fn message<DB: Books>(subject: &Subject<DB>, run: &Run) -> Result<(), Error> {
    let mut message = Message::new(&run.gid, &format!("{}/asked", run.me), options(false));
    let refused = run.branches.iter().any(|b| b.payload == "refuse");
    for branch in run.branches.iter().filter(|b| b.payload != "refuse") {
        message.send(&branch.url, &branch.payload);
    }
    let server = subject.client.server();
    let mut tx = message
        .begin(server, subject.calls.clone(), &subject.pool)
        .await?;
    DB::write(&mut tx, &run.gid, "local").await?;
    if refused {
        return Err(tx.refuse("told to refuse").await);
    }
    run.dies("inside", 1);
    tx.commit().await.map(|_committed| ())
}

async fn workflow<DB: Books>(subject: &Arc<Subject<DB>>, run: &Run) -> Result<(), Error> {
    let input = serde_json::to_vec(run).map_err(|e| Error::invalid(e.to_string()))?;
    let die = run.die.clone().unwrap_or_default();
    DYING
        .scope(die, async {
            let ended = subject
                .workflows
                .execute("catalogue", &run.gid, &input)
                .await?;
            if ended != "ok" {
                return Err(Error::invalid(format!("it returned {ended:?}")));
            }
            Ok(())
        })
        .await
}

tokio::task_local! {
    /// Not of the input, for a run that is called back must not die.
    static DYING: Die;
}

pub(crate) fn register<DB: Books>(subject: &Arc<Subject<DB>>) {
    let own = Arc::downgrade(subject);
    let body = move |wf: WorkflowRun, input: Bytes| {
        let subject = own.upgrade();
        async move {
            let gone = || Error::invalid("the subject is gone");
            let subject = subject.ok_or_else(gone)?;
            let run: Run =
                serde_json::from_slice(&input).map_err(|e| Error::invalid(e.to_string()))?;
            let run = Run {
                die: DYING.try_with(Die::clone).ok(),
                ..run
            };
            steps(wf, subject, run).await
        }
    };
    subject
        .workflows
        .register("catalogue", body)
        .expect("a new name");
}

async fn steps<DB: Books>(
    wf: WorkflowRun,
    subject: Arc<Subject<DB>>,
    run: Run,
) -> Result<Bytes, Error> {
    for (n, branch) in run.branches.iter().enumerate() {
        let task: Task =
            serde_json::from_str(&branch.payload).map_err(|e| Error::invalid(e.to_string()))?;
        let mut step = wf.branch(&task.name)?;
        if branch.local {
            let phase2 = || {
                let (own, task, run) = (subject.clone(), task.clone(), run.clone());
                move |who| async move {
                    let _done = carry_out(&own, who, &task).await?;
                    run.dies("phase2", n + 1);
                    Ok(())
                }
            };
            step = step.on_rollback(phase2());
            if branch.confirm {
                step = step.on_commit(phase2());
            }
            step.run(async |who| {
                let _done = carry_out(&subject, who, &task).await?;
                run.dies("inside", n + 1);
                Ok(Bytes::new())
            })
            .await?;
        } else {
            step = step.on_rollback_call(&branch.url, &branch.payload);
            if branch.confirm {
                step = step.on_commit_call(&branch.url, &branch.payload);
            }
            step.call(&branch.url, &branch.payload).await?;
        }
        run.dies("after", n + 1);
    }
    Ok(Bytes::from("ok"))
}

pub(crate) async fn again<DB: Books>(
    State(subject): State<Arc<Subject<DB>>>,
    RawQuery(query): RawQuery,
    input: Bytes,
) -> Answer {
    subject
        .workflows
        .callback(&query.unwrap_or_default(), &input)
        .await
}
