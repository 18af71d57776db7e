//! TCC (dtm-clients.md 2.8): prepare, the user's code with its branches, then submit or abort. A branch is registered before its try is called,
//! so that a try whose answer is lost is cancelled, too.
//!
//! A gid is for one run. Prepare is answered alike by a coordinator that has the transaction already, and a branch that is registered again
//! as it was is a success (rules.md 2.5): a run that took up the gid of one that died would confirm branches that it never tried. So what is
//! stored is looked at after prepare, and a gid with branches is refused; the coordinator cancels them by their timeout.

use super::ask::{Answered, Ask};
use super::asking::{abort_request, submitted};
use super::call::{branch_call, called, check_url, ran};
use super::server::{Server, body};
use super::xa::Action;
use crate::branch::{self, Op, ROOT_BRANCH, Status, TransType};
use crate::error::{Error, ErrorKind};
use crate::gid::Gid;
use crate::limits::{CHILDREN_MAX, Limits};
use crate::machine::{Fact, Machine, Output, Request, Step, StepId, StepKind, Steps, wrong};
use crate::options::Options;
use crate::participant::Identity;
use bytes::Bytes;
use serde_json::Value;

/// Longest id of a parent, bytes.
const PARENT_MAX: usize = 20;

/// A branch to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Try {
    /// Phase 1.
    pub try_url: String,
    /// Phase 2, forward.
    pub confirm: String,
    /// Phase 2, backward.
    pub cancel: String,
    /// The body of all three. One that is no text needs a coordinator that is spoken to over gRPC; an empty one is sent as `null` over HTTP.
    pub payload: Bytes,
}

/// Names a branch within its TCC, in the order of [`Tcc::branch`].
pub type BranchNumber = usize;

/// A TCC as a machine. Between its [`StepKind::RunUser`] and the fact that ends it, the user's code adds branches with [`Tcc::branch`]; their
/// steps come from the same [`Machine::poll`], so that several may be under way.
///
/// It ends well when the submit was taken. A user who reports success although a try did not succeed is not believed: then it is aborted.
/// A submit whose answer is lost is `OutcomeUnknown`, and never aborted.
#[derive(Clone, Debug)]
pub struct Tcc {
    mode: Mode,
    server: Server,
    gid: String,
    options: Options,
    /// The branch whose children these are; empty for those of the transaction itself.
    parent: String,
    nested: bool,
    state: State,
    branches: Vec<Branch>,
    steps: Steps<Who>,
}

/// What the modes differ in whose branches are called while the user's code runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    trans_type: TransType,
    /// Phase 1.
    op: &'static str,
}

pub(super) const XA: Mode = Mode {
    trans_type: TransType::Xa,
    op: "action",
};

const TCC: Mode = Mode {
    trans_type: TransType::Tcc,
    op: "try",
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Main,
    Branch(BranchNumber),
}

#[derive(Clone, Debug)]
enum State {
    Prepare(Ask),
    /// Prepared, by this run or by another one.
    Look(Ask<usize>),
    /// The user's code is to be run.
    Open,
    /// It runs.
    Running,
    Submit(Ask),
    Abort(Ask, Error),
    Done(Result<Output, Error>),
}

#[derive(Clone, Debug)]
struct Branch {
    id: String,
    stage: Stage,
    /// The user's code stopped waiting for its try.
    given_up: bool,
}

#[derive(Clone, Debug)]
enum Stage {
    Register(Ask, Request),
    Try(Request),
    Ended(Result<Bytes, Error>),
}

impl Tcc {
    /// A TCC of this gid. Error: `Invalid`.
    pub fn new(server: &Server, gid: &str, options: Options) -> Result<Tcc, Error> {
        Tcc::open(TCC, server, gid, options)
    }

    /// A transaction of this mode and gid. Error: `Invalid`.
    pub(super) fn open(
        mode: Mode,
        server: &Server,
        gid: &str,
        options: Options,
    ) -> Result<Tcc, Error> {
        Gid::new(gid, &Limits::default())?;
        let prepare = Value::Object(body(gid, mode.trans_type.as_str(), &options));
        let state = State::Prepare(Ask::new(server.post("prepare", &prepare)));
        Ok(Tcc::of(mode, server, gid, options, String::new(), state))
    }

    /// Branches of a branch: what a try that came in adds to the transaction it belongs to. It is neither prepared nor submitted here.
    /// `server` is the participant's own coordinator: the call's parameter `dtm` may be anybody's. Error: `Invalid` if the call is no try.
    pub fn nested(server: &Server, who: &Identity, options: Options) -> Result<Tcc, Error> {
        if who.trans_type != TransType::Tcc || who.op != Op::TRY {
            return Err(Error::invalid(format!(
                "a {} of a {} has no branches of its own, only a try of a tcc has",
                who.op, who.trans_type
            )));
        }
        let parent = who.branch_id.clone();
        let mut tcc = Tcc::of(TCC, server, who.gid.as_str(), options, parent, State::Open);
        tcc.nested = true;
        Ok(tcc)
    }

    fn of(
        mode: Mode,
        server: &Server,
        gid: &str,
        options: Options,
        parent: String,
        state: State,
    ) -> Tcc {
        Tcc {
            mode,
            server: server.clone(),
            gid: gid.to_owned(),
            options,
            parent,
            nested: false,
            state,
            branches: Vec::new(),
            steps: Steps::default(),
        }
    }

    /// Adds several branches while the user's code runs. Error: `Invalid`, and none is added.
    pub fn branches(&mut self, all: &[Try]) -> Result<Vec<BranchNumber>, Error> {
        self.all_or_none(all, Tcc::branch)
    }

    /// Adds several branches of an xa while the user's code runs. Error: `Invalid`, and none is added.
    pub(crate) fn actions(&mut self, all: &[Action]) -> Result<Vec<BranchNumber>, Error> {
        self.all_or_none(all, Tcc::action)
    }

    fn all_or_none<T>(
        &mut self,
        all: &[T],
        add: fn(&mut Tcc, &T) -> Result<BranchNumber, Error>,
    ) -> Result<Vec<BranchNumber>, Error> {
        let before = self.branches.len();
        let added: Result<Vec<_>, _> = all.iter().map(|branch| add(self, branch)).collect();
        if added.is_err() {
            self.branches.truncate(before);
        }
        added
    }

    /// Adds a branch while the user's code runs; [`Tcc::result`] has what came of its try. Error: `Invalid`, and nothing is added.
    pub fn branch(&mut self, branch: &Try) -> Result<BranchNumber, Error> {
        let id = self.next_id(&[
            ("try", &branch.try_url),
            ("confirm", &branch.confirm),
            ("cancel", &branch.cancel),
        ])?;
        let fields = [
            ("gid", &self.gid),
            ("trans_type", &self.mode.trans_type.to_string()),
            ("branch_id", &id),
            ("confirm", &branch.confirm),
            ("cancel", &branch.cancel),
        ];
        let payload = self.server.to_send(&branch.confirm, &branch.payload);
        let register = self.server.register(&fields, &payload)?;
        let register = Ask::registering(register);
        let call = self.call(&branch.try_url, &id, None, &payload);
        Ok(self.add(id, Stage::Register(register, call)))
    }

    /// Adds a branch that registers itself when it is called, and is called at the same URL in phase 2.
    fn action(&mut self, action: &Action) -> Result<BranchNumber, Error> {
        let Action { url, payload } = action;
        let id = self.next_id(&[("action", url)])?;
        let call = self.call(url, &id, Some(url), payload);
        Ok(self.add(id, Stage::Try(call)))
    }

    /// The id of the next branch, whose URLs are these. Error: `Invalid`.
    fn next_id(&self, urls: &[(&str, &str)]) -> Result<String, Error> {
        if !matches!(self.state, State::Running) {
            return Err(Error::invalid(
                "branches are added while the user's code runs",
            ));
        }
        let number = self.branches.len();
        if number >= CHILDREN_MAX || self.parent.len() >= PARENT_MAX {
            return Err(Error::invalid(format!(
                "there are at most {CHILDREN_MAX} branches of one parent, whose id is shorter than {PARENT_MAX} bytes"
            )));
        }
        for (what, url) in urls {
            check_url(&self.server, what, url, &self.gid, &self.options)?;
        }
        Ok(format!("{}{}", self.parent, branch::step_branch_id(number)))
    }

    fn add(&mut self, id: String, stage: Stage) -> BranchNumber {
        self.branches.push(Branch {
            id,
            stage,
            given_up: false,
        });
        self.branches.len() - 1
    }

    /// The user's code no longer waits for this branch's try: it will not know what came of it, so that the transaction can only be aborted.
    pub fn give_up(&mut self, branch: BranchNumber) {
        if let Some(branch) = self.branches.get_mut(branch) {
            branch.given_up = true;
        }
    }

    /// The id of a branch.
    pub fn branch_id(&self, branch: BranchNumber) -> Option<&str> {
        self.branches.get(branch).map(|b| b.id.as_str())
    }

    /// What a branch's try answered; `None` while it is under way. `Failure` is a definite no, `Ongoing` and others are not known.
    pub fn result(&self, branch: BranchNumber) -> Option<Result<Bytes, Error>> {
        match &self.branches.get(branch)?.stage {
            Stage::Ended(result) => Some(result.clone()),
            Stage::Register(..) | Stage::Try(_) => None,
        }
    }

    /// The call of phase 1, with the identity that a coordinator's calls have, and the coordinator itself for branches of its own.
    fn call(&self, url: &str, id: &str, phase2_url: Option<&str>, payload: &[u8]) -> Request {
        let Mode { trans_type, op } = self.mode;
        let mut identity = vec![("dtm", self.server.for_branches())];
        identity.extend(branch::identity(&self.gid, trans_type, id, op));
        identity.extend(phase2_url.map(|url| ("phase2_url", url)));
        branch_call(&self.server, url, &identity, &self.options, payload)
    }

    /// What the user's code ended with.
    fn decide(&self, user: Result<(), Error>) -> State {
        let Mode { trans_type, op } = self.mode;
        let tried = self.branches.iter().find_map(|b| match &b.stage {
            Stage::Ended(Ok(_)) if !b.given_up => None,
            Stage::Ended(Err(error)) => Some(Error::new(
                error.kind(),
                format!("the {op} of branch {}: {}", b.id, error.message()),
            )),
            Stage::Ended(Ok(_)) | Stage::Register(..) | Stage::Try(_) => Some(Error::new(
                ErrorKind::OutcomeUnknown,
                format!("the {op} of branch {} was not waited for", b.id),
            )),
        });
        let error = match (user, tried) {
            (Err(error), _) | (Ok(()), Some(error)) => error,
            (Ok(()), None) if self.nested => return State::Done(Ok(Output::from(Bytes::new()))),
            (Ok(()), None) => {
                let all = Value::Object(body(&self.gid, trans_type.as_str(), &self.options));
                let submit = self.server.post_and_wait("submit", &all, &self.options);
                return State::Submit(Ask::new(submit));
            }
        };
        if self.nested {
            // Who began the transaction learns of it by the answer of this try, and aborts.
            return State::Done(Err(error));
        }
        let (gid, reason) = (&self.gid, error.message());
        let abort = abort_request(&self.server, trans_type, gid, reason, &self.options);
        State::Abort(Ask::new(abort), error)
    }

    fn main_answered(&mut self, answered: Answered) -> State {
        match (&self.state, answered) {
            (State::Prepare(_), Answered::Ok(())) => {
                State::Look(Ask::counting(self.server.query(&self.gid)))
            }
            (State::Prepare(_), Answered::Refused { error, .. }) => State::Done(Err(error)),
            // Nothing was tried yet: what may have been prepared is cancelled by its timeout.
            (State::Prepare(_), Answered::Unanswered(error)) => {
                State::Done(Err(Error::new(ErrorKind::Unavailable, error.message())))
            }
            (State::Submit(_), answered) => State::Done(submitted(answered)),
            // It is being cancelled, whatever became of the branch that was not heard of.
            (State::Abort(_, error), Answered::Ok(()))
                if matches!(error.kind(), ErrorKind::Ongoing | ErrorKind::OutcomeUnknown) =>
            {
                State::Done(Err(Error::new(ErrorKind::Failure, error.message())))
            }
            // Cancelled now, or by its timeout.
            (State::Abort(_, error), _) => State::Done(Err(error.clone())),
            (other, _) => other.clone(),
        }
    }

    fn looked(&self, answered: Answered<usize>) -> State {
        State::Done(Err(match answered {
            Answered::Ok(0) => return State::Open,
            // Not aborted here: its run may be alive.
            Answered::Ok(rows) => Error::refused(
                Some(Status::Prepared),
                format!(
                    "the gid {} was used before: {rows} calls of its branches are registered, which the coordinator cancels when it times out",
                    self.gid
                ),
            ),
            Answered::Refused { error, .. } => error,
            Answered::Unanswered(error) => Error::new(ErrorKind::Unavailable, error.message()),
        }))
    }

    fn branch_step(&self) -> Option<(BranchNumber, StepKind)> {
        if !matches!(self.state, State::Running) {
            return None;
        }
        let mut ready = self.branches.iter().enumerate();
        ready.find_map(|(n, branch)| {
            self.steps.idle_of(Who::Branch(n))?;
            match &branch.stage {
                Stage::Register(ask, _) => Some((n, ask.step())),
                Stage::Try(call) => Some((n, StepKind::Call(call.clone()))),
                Stage::Ended(_) => None,
            }
        })
    }

    fn main_step(&mut self) -> Option<StepKind> {
        self.steps.idle_of(Who::Main)?;
        Some(match &self.state {
            State::Prepare(ask) | State::Submit(ask) | State::Abort(ask, _) => ask.step(),
            State::Look(ask) => ask.step(),
            State::Open => {
                let branch_id = if self.parent.is_empty() {
                    ROOT_BRANCH
                } else {
                    &self.parent
                };
                match Identity::new(
                    self.mode.trans_type.as_str(),
                    &self.gid,
                    branch_id,
                    self.mode.op,
                ) {
                    Ok(who) => {
                        self.state = State::Running;
                        StepKind::RunUser(who)
                    }
                    Err(error) => StepKind::Done(Err(error)),
                }
            }
            State::Done(result) => StepKind::Done(result.clone()),
            State::Running => return None,
        })
    }
}

/// The next stage of a branch; `None` if the fact does not fit.
fn branch_next(stage: &mut Stage, fact: Fact) -> Option<Stage> {
    match stage {
        Stage::Register(ask, call) => Some(match ask.next(fact)?.map(Answered::registered) {
            None => Stage::Register(ask.clone(), call.clone()),
            Some(Ok(())) => Stage::Try(call.clone()),
            Some(Err(error)) => Stage::Ended(Err(error)),
        }),
        Stage::Try(call) => Some(Stage::Ended(called(call.method == "GRPC", fact)?)),
        Stage::Ended(_) => None,
    }
}

impl Machine for Tcc {
    fn poll(&mut self) -> Option<Step> {
        let (who, kind) = match self.branch_step() {
            Some((n, kind)) => (Who::Branch(n), kind),
            None => (Who::Main, self.main_step()?),
        };
        Some(self.steps.give(who, kind))
    }

    fn resolve(&mut self, id: StepId, fact: Fact) -> Result<(), Error> {
        let wrong = || wrong(id);
        match self.steps.who(id)? {
            Who::Branch(n) => {
                let branch = &mut self.branches[n];
                branch.stage = branch_next(&mut branch.stage, fact).ok_or_else(wrong)?;
            }
            Who::Main => match &mut self.state {
                State::Prepare(ask) | State::Submit(ask) | State::Abort(ask, _) => {
                    if let Some(answered) = ask.next(fact).ok_or_else(wrong)? {
                        self.state = self.main_answered(answered);
                    }
                }
                State::Look(ask) => {
                    if let Some(answered) = ask.next(fact).ok_or_else(wrong)? {
                        self.state = self.looked(answered);
                    }
                }
                State::Running => {
                    let user = ran(fact).ok_or_else(wrong)?;
                    self.state = self.decide(user.map(drop));
                    // Nobody waits for tries any more; what they did is cancelled.
                    self.steps.forget_others(Who::Main);
                }
                // Neither of them has a step.
                State::Open | State::Done(_) => return Err(wrong()),
            },
        }
        self.steps.end(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
