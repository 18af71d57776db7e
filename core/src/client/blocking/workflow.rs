//! Workflows for hosts that block: a function that is called is the transaction.
//!
//! ```no_run
//! # use amends::{Error, Options, client::blocking::{Client, WorkflowRun}};
//! # use bytes::Bytes;
//! fn transfer(wf: &mut WorkflowRun<'_>) -> Result<Bytes, Error> {
//!     wf.branch("withdraw")?
//!         .on_rollback_call("http://bank-a/deposit", "{}")?
//!         .call("http://bank-a/withdraw", "{}")?;
//!     wf.branch("note")?.run(|who| { /* a barrier, and a change in an own database */ Ok(Bytes::new()) })
//! }
//! # fn example(client: Client) -> Result<(), Error> {
//! client.workflow("transfer", "transfer-1", b"30", "http://me:8080/workflow", Options::default(), transfer)?;
//! # Ok(()) }
//! ```
//!
//! The callback runs it again with the same name, gid and input; [`super::super::Workflows`] has the rules. When the workflow is decided,
//! a step that is not to be made is the error `Unwind`, and so is every step after it: return it.

use super::super::workflow::alone::Alone;
use super::super::workflow::{call, taken, unknown};
use super::Client;
use crate::branch::{Op, ROOT_BRANCH};
use crate::error::{Error, ErrorKind};
use crate::initiator::answers::stored;
use crate::initiator::workflow::{Callback, PartNumber, derived, time_of, uuid};
use crate::initiator::{Work, Workflow};
use crate::machine::{Fact, Machine, Step, StepId, StepKind};
use crate::options::Options;
use crate::participant::Identity;
use crate::participant::answer::{Answer, answer};
use crate::time::Millis;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

type Undo<'a> = Box<dyn FnOnce(Identity) -> Result<(), Error> + 'a>;

/// A workflow that runs, as its body sees it.
pub struct WorkflowRun<'a> {
    client: &'a Client,
    machine: Workflow,
    undo: BTreeMap<(String, Op), Undo<'a>>,
    /// How many random values there were.
    derived: u64,
}

impl fmt::Debug for WorkflowRun<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("blocking::WorkflowRun")
            .finish_non_exhaustive()
    }
}

/// A branch of a workflow: say what undoes or confirms it, then what it does.
#[must_use = "a branch does nothing before `call` or `run`"]
pub struct WorkflowBranch<'r, 'a> {
    run: &'r mut WorkflowRun<'a>,
    part: PartNumber,
}

impl fmt::Debug for WorkflowBranch<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("blocking::WorkflowBranch")
            .field(&self.part)
            .finish()
    }
}

/// Where a run has come to.
enum Reached {
    /// The body is to run.
    Body(StepId),
    /// An action is to run.
    Action(StepId, Identity),
    /// There is nothing to do but what the body does.
    Idle,
    End(Result<Bytes, Error>),
}

fn stuck() -> Error {
    Error::new(ErrorKind::Internal, "a workflow that does not go on")
}

impl Client {
    /// Runs a workflow to its end, or goes on with one that was begun; its result. Errors as of [`super::super::Workflows::execute`].
    pub fn workflow<'a>(
        &'a self,
        name: &str,
        gid: &str,
        input: &[u8],
        callback: &str,
        options: Options,
        body: impl FnOnce(&mut WorkflowRun<'a>) -> Result<Bytes, Error>,
    ) -> Result<Bytes, Error> {
        let _alone = Alone::new(&self.first.own().running, gid)?;
        let _span = tracing::info_span!("workflow", name, gid).entered();
        let random = super::super::random()?;
        let machine = Workflow::new(self.server(), name, gid, input, callback, options, random)?;
        let mut run = WorkflowRun {
            client: self,
            machine,
            undo: BTreeMap::new(),
            derived: 0,
        };
        let step = match run.advance()? {
            Reached::Body(step) => step,
            Reached::End(result) => return result,
            Reached::Action(..) | Reached::Idle => return Err(stuck()),
        };
        let result = body(&mut run);
        run.machine.resolve(step, result.into())?;
        match run.advance()? {
            Reached::End(result) => result,
            Reached::Body(_) | Reached::Action(..) | Reached::Idle => Err(stuck()),
        }
    }
}

/// A workflow's function: its run, and its input.
type Body = dyn for<'a> Fn(&mut WorkflowRun<'a>, &'a [u8]) -> Result<Bytes, Error> + Send + Sync;

/// Workflows by name. There is no lock in it, for a process may fork at any moment: register them all before it is shared.
#[derive(Clone)]
pub struct Workflows {
    client: Client,
    callback: String,
    options: Options,
    bodies: BTreeMap<String, Arc<Body>>,
}

impl fmt::Debug for Workflows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("blocking::Workflows")
            .field("callback", &self.callback)
            .finish_non_exhaustive()
    }
}

impl Workflows {
    /// Workflows at the coordinator of this client, with options for all of them. `callback` is the URL under which
    /// [`Workflows::callback`] is reached.
    pub fn new(client: &Client, callback: &str, options: Options) -> Workflows {
        Workflows {
            client: client.without_deadline(),
            callback: callback.to_owned(),
            options,
            bodies: BTreeMap::new(),
        }
    }

    /// Names a workflow, before any of that name is executed or called back. Error: `Invalid` if the name is taken.
    pub fn register<F>(&mut self, name: &str, body: F) -> Result<(), Error>
    where
        F: for<'a> Fn(&mut WorkflowRun<'a>, &'a [u8]) -> Result<Bytes, Error>
            + Send
            + Sync
            + 'static,
    {
        if self.bodies.contains_key(name) {
            return Err(taken(name));
        }
        self.bodies.insert(name.to_owned(), Arc::new(body));
        Ok(())
    }

    /// As [`super::super::Workflows::execute`].
    pub fn execute(&self, name: &str, gid: &str, input: &[u8]) -> Result<Bytes, Error> {
        let body = self.bodies.get(name);
        let body = body.ok_or_else(|| unknown(name, self.bodies.keys()))?;
        let (callback, options) = (&self.callback, self.options.clone());
        self.client
            .workflow(name, gid, input, callback, options, |run| body(run, input))
    }

    /// As [`super::super::Workflows::callback`], on the calling thread.
    pub fn callback(&self, query: &str, body: &[u8]) -> Answer {
        let callback = match Callback::read(query, body) {
            Ok(callback) => callback,
            Err(error) => return answer(&Err(error)),
        };
        let request = self.client.server().query(&callback.gid);
        let fact = self.client.call(request.clone());
        let goes_on = stored(&request, fact).and_then(|stored| callback.goes_on(stored));
        Callback::answer(goes_on.and_then(|goes_on| match goes_on {
            true => self.execute(&callback.name, &callback.gid, &callback.input),
            false => Ok(Bytes::new()),
        }))
    }
}

impl<'a> WorkflowRun<'a> {
    /// Adds a branch, and names its step. Error: `Invalid` for more than 99.
    pub fn branch(&mut self, step: &str) -> Result<WorkflowBranch<'_, 'a>, Error> {
        let part = self.machine.branch(step)?;
        Ok(WorkflowBranch { run: self, part })
    }

    /// Global transaction id.
    pub fn gid(&self) -> &str {
        self.machine.gid()
    }

    /// The time in ms since 1970, the same in each run.
    pub fn now(&mut self) -> Result<Millis, Error> {
        let part = self.machine.now(super::super::now())?;
        time_of(&self.idle(part)?)
    }

    /// Random bytes, the same in each run. For ids and the like, not for secrets.
    pub fn random(&mut self) -> Result<[u8; 16], Error> {
        let part = self.machine.seed(super::super::random()?)?;
        let seed = self.idle(part)?;
        self.derived += 1;
        Ok(derived(&seed, self.derived))
    }

    /// A UUID of version 4, the same in each run.
    pub fn uuid(&mut self) -> Result<String, Error> {
        Ok(uuid(self.random()?))
    }

    /// Makes what there is to make; what became of a part.
    fn idle(&mut self, part: PartNumber) -> Result<Bytes, Error> {
        match self.advance()? {
            Reached::Idle => self.machine.result(part).unwrap_or_else(|| Err(stuck())),
            _ => Err(stuck()),
        }
    }

    /// Makes what there is to make, one step after the other.
    fn advance(&mut self) -> Result<Reached, Error> {
        while let Some(Step { id, kind }) = self.machine.poll() {
            let fact = match kind {
                StepKind::Call(request) => self.client.call(request),
                StepKind::Sleep(ms) => self.client.pause(ms),
                StepKind::RunUser(who) if who.branch_id == ROOT_BRANCH => {
                    return Ok(Reached::Body(id));
                }
                StepKind::RunUser(who) if who.op == Op::ACTION => {
                    return Ok(Reached::Action(id, who));
                }
                StepKind::RunUser(who) => {
                    let key = (who.branch_id.clone(), who.op.clone());
                    let undo = self.undo.remove(&key).ok_or_else(stuck)?;
                    Fact::from(undo(who).map(|()| Bytes::new()))
                }
                StepKind::Done(result) => {
                    return Ok(Reached::End(result.map(|output| output.value)));
                }
                other => {
                    return Err(Error::new(
                        ErrorKind::Internal,
                        format!("a workflow does not ask for {other:?}"),
                    ));
                }
            };
            self.machine.resolve(id, fact)?;
        }
        Ok(Reached::Idle)
    }
}

impl<'a> WorkflowBranch<'_, 'a> {
    /// What is called to undo it if the workflow fails: with its identity and op `rollback`. Error: `Invalid`.
    pub fn on_rollback_call(self, url: &str, payload: impl AsRef<[u8]>) -> Result<Self, Error> {
        self.run
            .machine
            .on_rollback(self.part, call(url, payload))?;
        Ok(self)
    }

    /// What is called to confirm it if the workflow succeeds: with its identity and op `commit`. Error: `Invalid`.
    pub fn on_commit_call(self, url: &str, payload: impl AsRef<[u8]>) -> Result<Self, Error> {
        self.run.machine.on_commit(self.part, call(url, payload))?;
        Ok(self)
    }

    /// What is run to undo it if the workflow fails. Error: `Invalid`.
    pub fn on_rollback(
        self,
        undo: impl FnOnce(Identity) -> Result<(), Error> + 'a,
    ) -> Result<Self, Error> {
        self.run.machine.on_rollback(self.part, Work::Run)?;
        self.keep(Op::ROLLBACK, Box::new(undo))
    }

    /// What is run to confirm it if the workflow succeeds. Error: `Invalid`.
    pub fn on_commit(
        self,
        confirm: impl FnOnce(Identity) -> Result<(), Error> + 'a,
    ) -> Result<Self, Error> {
        self.run.machine.on_commit(self.part, Work::Run)?;
        self.keep(Op::COMMIT, Box::new(confirm))
    }

    fn keep(self, op: Op, undo: Undo<'a>) -> Result<Self, Error> {
        let id = self.run.machine.id(self.part).ok_or_else(stuck)?.to_owned();
        self.run.undo.insert((id, op), undo);
        Ok(self)
    }

    /// Does it by a call with its identity, or replays what was answered. Errors as of [`super::super::WorkflowBranch::call`], and `Unwind`.
    pub fn call(self, url: &str, payload: impl AsRef<[u8]>) -> Result<Bytes, Error> {
        self.run.machine.action(self.part, call(url, payload))?;
        self.run.idle(self.part)
    }

    /// Does it by code of your own, or replays what that returned. Errors as of [`super::super::WorkflowBranch::run`], and `Unwind`.
    pub fn run(self, work: impl FnOnce(Identity) -> Result<Bytes, Error>) -> Result<Bytes, Error> {
        self.run.machine.action(self.part, Work::Run)?;
        let (step, who) = match self.run.advance()? {
            Reached::Action(step, who) => (step, who),
            Reached::Idle => return self.run.idle(self.part),
            Reached::Body(_) | Reached::End(_) => return Err(stuck()),
        };
        self.run.machine.resolve(step, work(who).into())?;
        self.run.idle(self.part)
    }
}
