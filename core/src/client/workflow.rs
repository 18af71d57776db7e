//! Workflows for Rust users: an async function is the transaction.
//!
//! ```no_run
//! # use amends::{Error, client::{Client, WorkflowRun, Workflows}, participant::answer::Answer};
//! # use bytes::Bytes;
//! async fn transfer(wf: WorkflowRun, input: Bytes) -> Result<Bytes, Error> {
//!     wf.branch("withdraw")?
//!         .on_rollback_call("http://bank-a/deposit", r#"{"amount":30}"#)
//!         .call("http://bank-a/withdraw", r#"{"amount":30}"#)
//!         .await?;
//!     wf.branch("note")?.run(async |who| { /* a barrier, and a change in an own database */ Ok(Bytes::new()) }).await?;
//!     Ok(Bytes::from("done"))
//! }
//!
//! # async fn example(client: Client, query: &str, body: Bytes) -> Result<Answer, Error> {
//! let workflows = Workflows::new(&client, "http://me:8080/workflow");
//! workflows.register("transfer", transfer)?;
//! workflows.execute("transfer", "transfer-1", b"30").await?;
//! // in the handler of POST /workflow
//! let answer = workflows.callback(query, &body).await;
//! # Ok(answer) }
//! ```
//!
//! The function runs again after a crash, and must take the same steps each time: whatever it does, reads or waits for outside of a step has to
//! come out the same.

pub(super) mod alone;
mod drive;

use super::Client;
use crate::branch::Op;
use crate::error::{Error, ErrorKind};
use crate::initiator::answers::stored;
use crate::initiator::workflow::{Callback, Leave, PartNumber, derived, time_of, uuid};
use crate::initiator::{Server, Work, Workflow};
use crate::machine::{Calls, Machine, StepId};
use crate::options::Options;
use crate::participant::Identity;
use crate::participant::answer::{Answer, answer};
use crate::time::Millis;
use alone::{Alone, Running};
use bytes::Bytes;
use drive::drive;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tracing::Instrument;

type Job = Pin<Box<dyn Future<Output = Result<Bytes, Error>> + Send>>;
type Body = Arc<dyn Fn(WorkflowRun, Bytes) -> Job + Send + Sync>;
type Undo = Box<dyn FnOnce(Identity) -> Job + Send>;

/// The workflows of this process. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Workflows(Arc<Inner>);

struct Inner {
    server: Server,
    calls: Arc<dyn Calls>,
    callback: String,
    options: Options,
    bodies: Mutex<BTreeMap<String, Body>>,
    /// What runs here, for a second run of it could only lose.
    running: Running,
}

impl std::fmt::Debug for Workflows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = locked(&self.0.bodies).keys().cloned().collect();
        f.debug_struct("Workflows")
            .field("server", &self.0.server)
            .field("callback", &self.0.callback)
            .field("names", &names)
            .finish_non_exhaustive()
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workflows {
    /// Workflows at the coordinator of this client. `callback` is the URL under which [`Workflows::callback`] is reached.
    pub fn new(client: &Client, callback: &str) -> Workflows {
        // They outlive any deadline: the coordinator calls back whenever it is.
        let calls = Arc::new(client.without_deadline());
        Workflows::with(client.server(), calls, callback, Options::default())
    }

    /// The same with a transport of your own, and options for all of them.
    pub fn with(
        server: &Server,
        calls: Arc<dyn Calls>,
        callback: &str,
        options: Options,
    ) -> Workflows {
        Workflows(Arc::new(Inner {
            server: server.clone(),
            calls,
            callback: callback.to_owned(),
            options,
            bodies: Mutex::default(),
            running: Mutex::default(),
        }))
    }

    /// Names a workflow, before any of that name is executed or called back. Error: `Invalid` if the name is taken.
    pub fn register<F, Fut>(&self, name: &str, body: F) -> Result<(), Error>
    where
        F: Fn(WorkflowRun, Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Bytes, Error>> + Send + 'static,
    {
        let mut bodies = locked(&self.0.bodies);
        if bodies.contains_key(name) {
            return Err(taken(name));
        }
        let body: Body = Arc::new(move |run, input| Box::pin(body(run, input)));
        bodies.insert(name.to_owned(), body);
        Ok(())
    }

    /// Runs a workflow to its end, or goes on with one that was begun; its result. Errors: `Failure`, and it was rolled back; `Invalid`,
    /// `Unavailable`, and it has not begun; `Ongoing` if it runs in this process already; any other, and the coordinator calls back until it
    /// has ended.
    pub async fn execute(&self, name: &str, gid: &str, input: &[u8]) -> Result<Bytes, Error> {
        let body = {
            let bodies = locked(&self.0.bodies);
            let body = bodies.get(name).cloned();
            body.ok_or_else(|| unknown(name, bodies.keys()))?
        };
        let machine = Workflow::new(
            &self.0.server,
            name,
            gid,
            input,
            &self.0.callback,
            self.0.options.clone(),
            super::random()?,
        )?;
        let _alone = Alone::new(&self.0.running, gid)?;
        let run = WorkflowRun(Arc::new(Shared {
            gid: gid.to_owned(),
            machine: Mutex::new(machine),
            work: Notify::new(),
            changed: Notify::new(),
            given: Mutex::default(),
            undo: Mutex::default(),
            derived: Mutex::new(0),
            left: AtomicBool::new(false),
        }));
        let _ends = Ends(&run.0);
        let span = tracing::info_span!("workflow", name, gid);
        drive(&run, &body, input, &self.0.calls)
            .instrument(span)
            .await
    }

    /// Answers the coordinator's callback: `query` as it stands in the URL, and the body. It runs what is left of the workflow first, in a
    /// task of its own, which goes on when this is dropped. The coordinator is asked whether the workflow is one of its own and was begun so:
    /// anybody may reach this URL. (DTM's cannot be asked over gRPC; with it, let nobody else reach the URL.)
    pub async fn callback(&self, query: &str, body: &[u8]) -> Answer {
        let callback = match Callback::read(query, body) {
            Ok(callback) => callback,
            Err(error) => return answer(&Err(error)),
        };
        let all = self.clone();
        // A server drops the call of a coordinator that hangs up. The run goes on, or a step that takes longer would never be recorded.
        let run = tokio::spawn(async move {
            let request = all.0.server.query(&callback.gid);
            let fact = all.0.calls.call(request.clone()).await;
            if !callback.goes_on(stored(&request, fact)?)? {
                return Ok(Bytes::new());
            }
            let Callback { name, gid, input } = &callback;
            all.execute(name, gid, input).await
        });
        let ended = run.await;
        Callback::answer(
            ended.unwrap_or_else(|e| Err(Error::new(ErrorKind::Internal, e.to_string()))),
        )
    }
}

pub(super) fn taken(name: &str) -> Error {
    Error::invalid(format!("a workflow named {name:?} is registered already"))
}

pub(super) fn unknown<'n>(name: &str, known: impl Iterator<Item = &'n String>) -> Error {
    let known: Vec<&String> = known.collect();
    Error::invalid(format!(
        "no workflow named {name:?} is registered here, only {known:?}"
    ))
}

/// A workflow that runs, as its body sees it. Cheap to clone, for bodies that do several things at a time: add the branches first, in
/// the same order each time.
#[derive(Clone, Debug)]
pub struct WorkflowRun(Arc<Shared>);

struct Shared {
    gid: String,
    machine: Mutex<Workflow>,
    /// To the driver: there may be steps.
    work: Notify,
    /// To those who wait for a result.
    changed: Notify,
    /// Steps that run the user's code, by branch.
    given: Mutex<BTreeMap<String, (StepId, Identity)>>,
    /// What undoes or confirms, by branch and op.
    undo: Mutex<BTreeMap<(String, Op), Undo>>,
    derived: Mutex<u64>,
    /// Whether the body has ended, or was left.
    left: AtomicBool,
}

impl Shared {
    /// The body is gone; its tasks may not be.
    fn leave(&self) {
        self.left.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }
}

/// Ends a run, however that comes about.
struct Ends<'a>(&'a Shared);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.leave();
        // They may hold the run itself, which would then hold them for ever.
        let unused = std::mem::take(&mut *locked(&self.0.undo));
        drop(unused);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("gid", &self.gid)
            .finish_non_exhaustive()
    }
}

impl WorkflowRun {
    /// Global transaction id.
    pub fn gid(&self) -> &str {
        &self.0.gid
    }

    /// Adds a branch, and names its step. Error: `Invalid` for more than 99.
    pub fn branch(&self, step: &str) -> Result<WorkflowBranch, Error> {
        let mut machine = locked(&self.0.machine);
        let part = machine.branch(step)?;
        let id = machine.id(part).unwrap_or_default().to_owned();
        drop(machine);
        Ok(WorkflowBranch {
            run: self.clone(),
            part,
            id,
        })
    }

    /// The time in ms since 1970, the same in each run.
    pub async fn now(&self) -> Result<Millis, Error> {
        let part = locked(&self.0.machine).now(super::now())?;
        time_of(&self.wait(part).await?)
    }

    /// Random bytes, the same in each run. For ids and the like, not for secrets.
    pub async fn random(&self) -> Result<[u8; 16], Error> {
        let random = super::random()?;
        let (part, n) = {
            let mut machine = locked(&self.0.machine);
            let mut n = locked(&self.0.derived);
            *n += 1;
            (machine.seed(random)?, *n)
        };
        let seed = self.wait(part).await?;
        Ok(derived(&seed, n))
    }

    /// A UUID of version 4, the same in each run.
    pub async fn uuid(&self) -> Result<String, Error> {
        Ok(uuid(self.random().await?))
    }

    /// What became of a part. It does not return when the body is to be left: nobody can go on by mistake. Tasks that outlive the body get an
    /// error.
    async fn wait(&self, part: PartNumber) -> Result<Bytes, Error> {
        self.0.work.notify_one();
        self.until(|machine| machine.result(part)).await
    }

    async fn until<T>(
        &self,
        ready: impl Fn(&Workflow) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        loop {
            let changed = self.0.changed.notified();
            if self.0.left.load(Ordering::SeqCst) {
                return Err(Error::invalid(
                    "the workflow's body has ended without this step: it has to wait for the tasks that it starts",
                ));
            }
            let now = {
                let machine = locked(&self.0.machine);
                match machine.leave() {
                    Leave::Now => None,
                    Leave::No | Leave::WhenIdle => ready(&machine),
                }
            };
            match now {
                Some(result) if !unwinds(&result) => return result,
                _ => changed.await,
            }
        }
    }
}

/// A branch of a workflow: say what undoes or confirms it, then what it does.
#[derive(Debug)]
#[must_use = "a branch does nothing before `call` or `run`"]
pub struct WorkflowBranch {
    run: WorkflowRun,
    part: PartNumber,
    id: String,
}

impl WorkflowBranch {
    /// What is called to undo it if the workflow fails: with its identity and op `rollback`. It must succeed in the end.
    pub fn on_rollback_call(self, url: &str, payload: impl AsRef<[u8]>) -> WorkflowBranch {
        self.second(Op::ROLLBACK, call(url, payload))
    }

    /// What is called to confirm it if the workflow succeeds: with its identity and op `commit`. It must succeed in the end.
    pub fn on_commit_call(self, url: &str, payload: impl AsRef<[u8]>) -> WorkflowBranch {
        self.second(Op::COMMIT, call(url, payload))
    }

    /// What is run to undo it if the workflow fails.
    pub fn on_rollback<F, Fut>(self, undo: F) -> WorkflowBranch
    where
        F: FnOnce(Identity) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.undo(Op::ROLLBACK, undo)
    }

    /// What is run to confirm it if the workflow succeeds.
    pub fn on_commit<F, Fut>(self, confirm: F) -> WorkflowBranch
    where
        F: FnOnce(Identity) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.undo(Op::COMMIT, confirm)
    }

    fn undo<F, Fut>(self, op: Op, work: F) -> WorkflowBranch
    where
        F: FnOnce(Identity) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let work: Undo = Box::new(|who| {
            let work = work(who);
            Box::pin(async move { work.await.map(|()| Bytes::new()) })
        });
        locked(&self.run.0.undo).insert((self.id.clone(), op.clone()), work);
        self.second(op, Work::Run)
    }

    fn second(self, op: Op, work: Work) -> WorkflowBranch {
        let mut machine = locked(&self.run.0.machine);
        // It fails only when the body has ended; then the action is refused, too.
        let _ = if op == Op::COMMIT {
            machine.on_commit(self.part, work)
        } else {
            machine.on_rollback(self.part, work)
        };
        drop(machine);
        self
    }

    /// Does it by a call with its identity, or replays what was answered. Errors: `Failure` for a definite no; `Ongoing` and others are
    /// not recorded, and have to be returned from the body.
    pub fn call<P: AsRef<[u8]>>(
        self,
        url: &str,
        payload: P,
    ) -> impl Future<Output = Result<Bytes, Error>> + Send + use<P> {
        let work = call(url, payload);
        async move {
            locked(&self.run.0.machine).action(self.part, work)?;
            self.run.wait(self.part).await
        }
    }

    /// Does it by code of your own, or replays what that returned. A change in a database belongs behind a barrier of this identity, for the
    /// code runs again if what it did could not be recorded. Errors as of [`WorkflowBranch::call`].
    pub async fn run<F>(self, work: F) -> Result<Bytes, Error>
    where
        F: AsyncFnOnce(Identity) -> Result<Bytes, Error>,
    {
        let shared = &self.run.0;
        locked(&shared.machine).action(self.part, Work::Run)?;
        shared.work.notify_one();
        let given = self.run.until(|machine| {
            if let Some(result) = machine.result(self.part) {
                return Some(result.map(Given::Replayed));
            }
            let given = locked(&shared.given).remove(&self.id);
            given.map(|(step, who)| Ok(Given::ToRun(step, who)))
        });
        let (step, who) = match given.await? {
            Given::Replayed(value) => return Ok(value),
            Given::ToRun(step, who) => (step, who),
        };
        let result = work(who).await;
        locked(&shared.machine).resolve(step, result.into())?;
        self.run.wait(self.part).await
    }
}

enum Given {
    Replayed(Bytes),
    ToRun(StepId, Identity),
}

pub(super) fn call(url: &str, payload: impl AsRef<[u8]>) -> Work {
    Work::Call {
        url: url.to_owned(),
        payload: Bytes::copy_from_slice(payload.as_ref()),
    }
}

fn unwinds<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::Unwind)
}
