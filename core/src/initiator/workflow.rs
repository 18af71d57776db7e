//! Workflows (dtm-clients.md 2.10, rules.md 10): the user's own code is the transaction. What its steps did is recorded at the coordinator,
//! so that a later run replays it instead of doing it again; whether to commit or to roll back is recorded, too, before anything of it is
//! begun, and from then on no run can decide otherwise.
//!
//! Between [`StepKind::RunUser`] of the body and the fact that ends it, the user's code adds branches with [`Workflow::branch`] and so on;
//! their steps come from the same [`crate::machine::Machine::poll`], so that several may be under way. Phase 2 runs the works that were registered for it.

mod callback;
mod journal;
mod phase2;
mod run;
mod save;
mod seed;

pub use callback::Callback;
pub use journal::{Decision, Frame, Journal};
pub use seed::{derived, time_of, uuid};

use super::answers::Progresses;
use super::ask::{Answered, Ask};
use super::call::{branch_call, check_url};
use super::server::{Server, body};
use crate::branch::{self, Op, ROOT_BRANCH, TransType};
use crate::error::{Error, ErrorKind};
use crate::gid::check_id;
use crate::limits::{CHILDREN_MAX, Limits};
use crate::machine::{Fact, Output, Request, StepKind, Steps};
use crate::options::Options;
use crate::participant::Identity;
use crate::time::Millis;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use phase2::Phase2;
use run::{ended, lost_race};
use save::{Save, Saved};
use serde_json::{Value, json};

/// Work of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// The host runs the user's code: [`StepKind::RunUser`] with the branch's identity.
    Run,
    /// A call of a service, which gets the branch's identity.
    Call {
        /// Where.
        url: String,
        /// The body.
        payload: Bytes,
    },
}

/// Names what [`Workflow::branch`], [`Workflow::now`] and [`Workflow::seed`] added.
pub type PartNumber = usize;

/// When the user's code is to be left, whatever it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Not now.
    No,
    /// When nothing of it is under way any more.
    WhenIdle,
    /// At once.
    Now,
}

/// One run of a workflow.
///
/// It ends with the body's result, or with `Failure` and the reason for which it was rolled back. Any other error decides nothing:
/// the coordinator calls back, and another run replays what is recorded. `LostRace`: another run is ahead of this one. `Nondeterministic`:
/// the body took other steps than those that are recorded.
#[derive(Clone, Debug)]
pub struct Workflow {
    server: Server,
    name: String,
    gid: String,
    input: Bytes,
    options: Options,
    run: String,
    prepare: Request,
    state: State,
    journal: Journal,
    decision: Option<Decision>,
    parts: Vec<Part>,
    branches: usize,
    nows: usize,
    /// Why this run must stop, whatever its body says.
    stopped: Option<Error>,
    steps: Steps<Who>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Main,
    Part(PartNumber),
}

#[derive(Clone, Debug)]
enum State {
    Prepare(Ask<Progresses>),
    /// The body is to be run.
    Open,
    /// It runs.
    Running,
    /// That an action is given up is being recorded, before a failure for this reason is decided.
    GiveUp(PartNumber, Box<Save>, String),
    Decide(Box<Save>),
    Phase2(Box<Phase2>),
    Submit(Ask, Result<Output, Error>),
    /// The submit was refused: how did it end?
    Read(Ask<Progresses>, Error),
    Done(Result<Output, Error>),
    Over,
}

/// A branch, or a recorded value.
#[derive(Clone, Debug)]
struct Part {
    id: String,
    op: String,
    /// Name of its step.
    step: String,
    on_rollback: Option<Work>,
    on_commit: Option<Work>,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Nothing was done yet.
    Named,
    Work(Work),
    Save(Box<Save>, Result<Bytes, Error>),
    /// It ended, and that is recorded.
    Recorded(Result<Bytes, Error>),
    /// It may have been done, and nothing is recorded.
    Unrecorded(Error),
    /// It is not to be done, for the decision came first.
    Unwound,
}

impl Workflow {
    /// A run of the workflow of this name. `callback` is where the coordinator asks for another run; `random` is new for each run.
    /// Error: `Invalid`.
    pub fn new(
        server: &Server,
        name: &str,
        gid: &str,
        input: &[u8],
        callback: &str,
        options: Options,
        random: [u8; 16],
    ) -> Result<Workflow, Error> {
        let limits = Limits::default();
        check_id("the workflow's name", name, limits.op)?;
        // As its callback will bring it.
        Identity::new(TransType::Workflow.as_str(), gid, ROOT_BRANCH, name)?;
        if callback.is_empty() {
            return Err(Error::invalid(
                "the callback is empty: a workflow needs a URL where the coordinator asks for another run",
            ));
        }
        let mut all = body(gid, "workflow", &options);
        let custom = json!({"name": name, "data": STANDARD.encode(input)}).to_string();
        if custom.len() > limits.custom_data {
            return Err(Error::invalid(format!(
                "the input has {} bytes: with the workflow's name, and in base64, at most {} bytes are taken",
                input.len(),
                limits.custom_data
            )));
        }
        all.insert("custom_data".to_owned(), json!(custom));
        all.insert("query_prepared".to_owned(), json!(callback));
        let prepare = server.post("prepareWorkflow", &Value::Object(all));
        Ok(Workflow {
            server: server.clone(),
            name: name.to_owned(),
            gid: gid.to_owned(),
            input: Bytes::copy_from_slice(input),
            options,
            run: format!("{:032x}", u128::from_be_bytes(random)),
            state: State::Prepare(Ask::reading(prepare.clone())),
            prepare,
            journal: Journal::default(),
            decision: None,
            parts: Vec::new(),
            branches: 0,
            nows: 0,
            stopped: None,
            steps: Steps::default(),
        })
    }

    /// Adds a branch: a step that may be undone. Its id is the next one, so branches are added in the same order in each run; name it, and
    /// a run that takes other steps than the recorded ones is told so. Error: `Invalid`.
    pub fn branch(&mut self, step: &str) -> Result<PartNumber, Error> {
        self.running()?;
        if self.branches >= CHILDREN_MAX {
            return Err(Error::invalid(format!(
                "a workflow has at most {CHILDREN_MAX} branches"
            )));
        }
        let id = branch::step_branch_id(self.branches);
        self.branches += 1;
        Ok(self.add(&id, Op::ACTION.as_str(), step, Stage::Named))
    }

    /// What undoes a branch if the workflow fails. Registered before the action, and in each run. Error: `Invalid`.
    pub fn on_rollback(&mut self, branch: PartNumber, work: Work) -> Result<(), Error> {
        self.callable("on_rollback", &work)?;
        self.named(branch)?.on_rollback = Some(work);
        Ok(())
    }

    /// What confirms a branch if the workflow succeeds. Registered before the action, and in each run. Error: `Invalid`.
    pub fn on_commit(&mut self, branch: PartNumber, work: Work) -> Result<(), Error> {
        self.callable("on_commit", &work)?;
        self.named(branch)?.on_commit = Some(work);
        Ok(())
    }

    /// Does what the branch is for, or replays what it did; [`Workflow::result`] has what came of it. Error: `Invalid`.
    pub fn action(&mut self, branch: PartNumber, work: Work) -> Result<(), Error> {
        self.callable("action", &work)?;
        let part = self.named(branch)?;
        let (id, step) = (part.id.clone(), part.step.clone());
        let stage = self
            .replayed(&id, Op::ACTION.as_str(), &step)
            .unwrap_or(Stage::Work(work));
        self.parts[branch].stage = stage;
        Ok(())
    }

    /// The time, which a replay sees as it was recorded; [`Workflow::result`] has it, as decimal text, ms. Error: `Invalid`.
    pub fn now(&mut self, now: Millis) -> Result<PartNumber, Error> {
        self.running()?;
        self.nows += 1;
        let op = format!("now-{:02}", self.nows);
        Ok(self.value(&op, Bytes::from(now.to_string())))
    }

    /// Random bytes, which a replay sees as they were recorded; one seed for a workflow, from which [`derived`] makes more. Error: `Invalid`.
    pub fn seed(&mut self, random: [u8; 16]) -> Result<PartNumber, Error> {
        self.running()?;
        match self.parts.iter().position(|part| part.op == "seed") {
            Some(at) => Ok(at),
            None => Ok(self.value("seed", Bytes::copy_from_slice(&random))),
        }
    }

    /// The id of a branch.
    pub fn id(&self, branch: PartNumber) -> Option<&str> {
        self.parts.get(branch).map(|part| part.id.as_str())
    }

    /// What a branch did, or a value; `None` while it is under way. `Failure` is a definite no. `Unwind`: it was not done, for the workflow
    /// is decided, and its body is to be left; any other error is not recorded, and must be returned from the body.
    pub fn result(&self, part: PartNumber) -> Option<Result<Bytes, Error>> {
        match &self.parts.get(part)?.stage {
            Stage::Named | Stage::Work(_) | Stage::Save(..) => None,
            Stage::Recorded(result) => Some(result.clone()),
            Stage::Unrecorded(error) => Some(Err(error.clone())),
            Stage::Unwound => Some(Err(Error::new(
                ErrorKind::Unwind,
                "the workflow is decided: nothing more is done in it",
            ))),
        }
    }

    /// Whether the body is to be left. Hosts whose users cannot catch by accident what says so need not ask.
    pub fn leave(&self) -> Leave {
        let unwound = || self.parts.iter().any(|p| matches!(p.stage, Stage::Unwound));
        match &self.decision {
            _ if self.stopped.is_some() => Leave::Now,
            Some(decision) if unwound() => match phase2::missing(decision, &self.parts) {
                None => Leave::Now,
                // A branch beside the one that is unwound may still register it.
                Some(_) if self.steps.count() <= 1 => Leave::WhenIdle,
                Some(_) => Leave::No,
            },
            _ => Leave::No,
        }
    }

    fn callable(&self, what: &str, work: &Work) -> Result<(), Error> {
        match work {
            Work::Run => Ok(()),
            Work::Call { url, .. } => check_url(&self.server, what, url, &self.gid, &self.options),
        }
    }

    fn running(&self) -> Result<(), Error> {
        if matches!(self.state, State::Running) {
            return Ok(());
        }
        Err(Error::invalid(
            "steps are added while the workflow's body runs",
        ))
    }

    fn named(&mut self, branch: PartNumber) -> Result<&mut Part, Error> {
        self.running()?;
        match self.parts.get_mut(branch) {
            Some(part) if matches!(part.stage, Stage::Named) => Ok(part),
            Some(part) => Err(Error::invalid(format!(
                "branch {} has its action: it has one, and what commits it or rolls it back is registered before",
                part.id
            ))),
            None => Err(Error::invalid("there is no such branch")),
        }
    }

    fn add(&mut self, id: &str, op: &str, step: &str, stage: Stage) -> PartNumber {
        self.parts.push(Part {
            id: id.to_owned(),
            op: op.to_owned(),
            step: step.to_owned(),
            on_rollback: None,
            on_commit: None,
            stage,
        });
        self.parts.len() - 1
    }

    fn value(&mut self, op: &str, value: Bytes) -> PartNumber {
        let stage = self
            .replayed(ROOT_BRANCH, op, "")
            .unwrap_or_else(|| self.record(ROOT_BRANCH, op, "", Ok(value)));
        self.add(ROOT_BRANCH, op, "", stage)
    }

    /// What is known of a step without doing it.
    fn replayed(&mut self, id: &str, op: &str, step: &str) -> Option<Stage> {
        if let Some(error) = &self.stopped {
            return Some(Stage::Unrecorded(error.clone()));
        }
        match self.journal.replay(id, op, step) {
            Ok(Some(result)) => Some(Stage::Recorded(result)),
            Ok(None) => self.decision.is_some().then_some(Stage::Unwound),
            Err(error) => {
                self.stopped = Some(error.clone());
                Some(Stage::Unrecorded(error))
            }
        }
    }

    /// Records how a step ended. Only a success or a definite no is; anything else may become either.
    fn record(&self, id: &str, op: &str, step: &str, result: Result<Bytes, Error>) -> Stage {
        let frame = Frame {
            step: step.to_owned(),
            ..Frame::default()
        };
        let (ok, frame) = match &result {
            Ok(data) => (
                true,
                Frame {
                    data: data.clone(),
                    ..frame
                },
            ),
            Err(error) if error.kind() == ErrorKind::Failure => (
                false,
                Frame {
                    message: error.message().to_owned(),
                    ..frame
                },
            ),
            Err(error) => return Stage::Unrecorded(error.clone()),
        };
        Stage::Save(Box::new(self.save(id, op, ok, frame)), result)
    }

    fn save(&self, id: &str, op: &str, ok: bool, frame: Frame) -> Save {
        let frame = Frame {
            run: self.run.clone(),
            ..frame
        };
        let row = json!({
            "gid": self.gid,
            "trans_type": "workflow",
            "branch_id": id,
            "op": op,
            "status": if ok { "succeed" } else { "failed" },
            // Without it DTM's coordinator may forget the data.
            "sync": "1",
            "run": self.run,
            "data": frame.encode(),
        });
        let store = self.server.post("registerBranch", &row);
        Save::new(id, op, &self.run, store, self.prepare.clone())
    }

    fn prepared(&mut self, now: &Progresses) -> State {
        if let Some((name, input)) = &now.began
            && (*name != self.name || *input != self.input)
        {
            return State::Done(Err(Error::invalid(format!(
                "the gid {} was used before, for a workflow {name:?} with another input",
                self.gid
            ))));
        }
        if let Some(end) = ended(now) {
            return State::Done(end);
        }
        self.journal = Journal::new(now);
        self.decision = self.journal.decision();
        State::Open
    }

    /// Global transaction id.
    pub fn gid(&self) -> &str {
        &self.gid
    }

    /// The step of a work of a branch.
    fn work(&self, work: &Work, id: &str, op: &str) -> Result<StepKind, Error> {
        Ok(match work {
            Work::Run => StepKind::RunUser(Identity::new("workflow", &self.gid, id, op)?),
            Work::Call { url, payload } => {
                let identity = branch::identity(&self.gid, TransType::Workflow, id, op);
                StepKind::Call(branch_call(
                    &self.server,
                    url,
                    &identity,
                    &self.options,
                    payload,
                ))
            }
        })
    }

    fn part_step(&mut self) -> Option<(PartNumber, StepKind)> {
        if !matches!(self.state, State::Running) {
            return None;
        }
        let n = self.parts.iter().enumerate().position(|(n, part)| {
            let todo = matches!(part.stage, Stage::Work(_) | Stage::Save(..));
            todo && self.steps.idle_of(Who::Part(n)).is_some()
        })?;
        let part = &self.parts[n];
        let kind = match &part.stage {
            Stage::Work(work) => self.work(work, &part.id, &part.op),
            Stage::Save(save, _) => Ok(save.step()),
            _ => return None,
        };
        match kind {
            Ok(kind) => Some((n, kind)),
            Err(error) => {
                self.parts[n].stage = Stage::Unrecorded(error);
                self.part_step()
            }
        }
    }

    /// The next stage of a part; `None` if the fact does not fit.
    fn part_next(&mut self, n: PartNumber, fact: Fact) -> Option<Stage> {
        let mut part = self.parts[n].clone();
        Some(match &mut part.stage {
            Stage::Work(work) => {
                let result = self.worked(work, fact)?;
                self.record(&part.id, &part.op, &part.step, result)
            }
            Stage::Save(save, result) => match save.next(fact)? {
                None => Stage::Save(save.clone(), result.clone()),
                Some(Saved::Stored) => Stage::Recorded(result.clone()),
                Some(Saved::Lost(_, why)) => {
                    let error = lost_race(&part.id, &why);
                    self.stopped = Some(error.clone());
                    Stage::Unrecorded(error)
                }
                Some(Saved::Unknown(error)) => Stage::Unrecorded(error),
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod races;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
