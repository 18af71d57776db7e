//! TCC (dtm-clients.md 2.8): prepare, the user's code with its branches, then submit or abort. A branch is registered before its try is called,
//! so that a try whose answer is lost is cancelled, too.

use super::ask::{Answered, Ask};
use super::saga::submitted;
use super::server::{Server, body};
use crate::branch::{Op, TransType};
use crate::error::{Error, ErrorKind};
use crate::gid::Gid;
use crate::limits::{Limits, cut};
use crate::machine::{Fact, Machine, Outcome, Request, Step, StepId, StepKind};
use crate::options::{Compat, Options, Policy};
use crate::outcome::{Outcome as Meaning, Purpose, classify_http};
use crate::participant::Identity;
use crate::wire::call::escape;
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::VecDeque;

/// Branches of one parent.
const CHILDREN_MAX: u32 = 99;
/// Longest id of a parent, bytes.
const PARENT_MAX: usize = 20;
/// Longest reason that is sent with an abort, bytes: DTM's column is 1,024 characters.
const REASON_MAX: usize = 1_023;

/// A branch to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Try {
    /// Phase 1.
    pub try_url: String,
    /// Phase 2, forward.
    pub confirm: String,
    /// Phase 2, backward.
    pub cancel: String,
    /// The body of all three, as text.
    pub payload: String,
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
    server: Server,
    gid: String,
    options: Options,
    /// The branch whose children these are; empty for those of the transaction itself.
    parent: String,
    nested: bool,
    state: State,
    branches: Vec<Branch>,
    steps: StepId,
    under_way: VecDeque<(StepId, Who)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Main,
    Branch(BranchNumber),
}

#[derive(Clone, Debug)]
enum State {
    Prepare(Ask),
    /// The user's code is to be run.
    Open,
    /// It runs.
    Running,
    Submit(Ask),
    Abort(Ask, Error),
    Done(Result<Outcome, Error>),
    Over,
}

#[derive(Clone, Debug)]
struct Branch {
    id: String,
    stage: Stage,
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
        Gid::new(gid, &Limits::default())?;
        let prepare = Value::Object(body(gid, "tcc", &options));
        let state = State::Prepare(Ask::new(server.post("prepare", &prepare)));
        Ok(Tcc::of(server, gid, options, String::new(), state))
    }

    /// Branches of a branch: what a try that came in adds to the transaction it belongs to. It is neither prepared nor submitted here.
    /// `server` is the one that the call named in its parameter `dtm`. Error: `Invalid` if the call is no try.
    pub fn nested(server: &Server, who: &Identity, options: Options) -> Result<Tcc, Error> {
        if who.trans_type != TransType::Tcc || who.op != Op::TRY {
            return Err(Error::invalid(format!(
                "a {} of a {} has no branches of its own, only a try of a tcc has",
                who.op, who.trans_type
            )));
        }
        let parent = who.branch_id.clone();
        let mut tcc = Tcc::of(server, who.gid.as_str(), options, parent, State::Open);
        tcc.nested = true;
        Ok(tcc)
    }

    fn of(server: &Server, gid: &str, options: Options, parent: String, state: State) -> Tcc {
        Tcc {
            server: server.clone(),
            gid: gid.to_owned(),
            options,
            parent,
            nested: false,
            state,
            branches: Vec::new(),
            steps: 0,
            under_way: VecDeque::new(),
        }
    }

    /// Adds several branches while the user's code runs. Error: `Invalid`, and none is added.
    pub fn branches(&mut self, all: &[Try]) -> Result<Vec<BranchNumber>, Error> {
        let before = self.branches.len();
        let added: Result<Vec<_>, _> = all.iter().map(|branch| self.branch(branch)).collect();
        if added.is_err() {
            self.branches.truncate(before);
        }
        added
    }

    /// Adds a branch while the user's code runs; [`Tcc::result`] has what came of its try. Error: `Invalid`, and nothing is added.
    pub fn branch(&mut self, branch: &Try) -> Result<BranchNumber, Error> {
        if !matches!(self.state, State::Running) {
            return Err(Error::invalid(
                "branches are added while the user's code runs",
            ));
        }
        let number = self.branches.len();
        if number >= CHILDREN_MAX as usize || self.parent.len() >= PARENT_MAX {
            return Err(Error::invalid(format!(
                "there are at most {CHILDREN_MAX} branches of one parent, whose id is shorter than {PARENT_MAX} bytes"
            )));
        }
        for (what, url) in [
            ("try", &branch.try_url),
            ("confirm", &branch.confirm),
            ("cancel", &branch.cancel),
        ] {
            let http = url.starts_with("http://") || url.starts_with("https://");
            if !http {
                return Err(Error::invalid(format!("{what}: {url:?} is no HTTP URL")));
            }
        }
        let id = format!("{}{:02}", self.parent, number + 1);
        let register = json!({
            "gid": self.gid,
            "trans_type": "tcc",
            "branch_id": id,
            "confirm": branch.confirm,
            "cancel": branch.cancel,
            "data": branch.payload,
        });
        let register = Ask::new(self.server.post("registerBranch", &register));
        let call = self.try_call(branch, &id);
        self.branches.push(Branch {
            id,
            stage: Stage::Register(register, call),
        });
        Ok(number)
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

    /// The call of a try, with the identity that a coordinator's calls have, and the coordinator itself for branches of its own.
    fn try_call(&self, branch: &Try, id: &str) -> Request {
        let mut url = branch.try_url.clone();
        let mut separator = if url.contains('?') { '&' } else { '?' };
        for (key, value) in [
            ("dtm", self.server.base()),
            ("gid", &self.gid),
            ("trans_type", "tcc"),
            ("branch_id", id),
            ("op", "try"),
        ] {
            url.push(separator);
            url.push_str(key);
            url.push('=');
            escape(value, &mut url);
            separator = '&';
        }
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        let of_tx = self.options.branch_headers.iter();
        headers.extend(of_tx.map(|(k, v)| (k.to_ascii_lowercase(), v.clone())));
        Request {
            method: "POST",
            url,
            headers,
            body: Bytes::from(branch.payload.clone()),
            timeout: Policy::default().call_timeout(&self.options),
        }
    }

    /// What the user's code ended with.
    fn decide(&self, user: Result<(), Error>) -> State {
        let tried = self.branches.iter().find_map(|b| match &b.stage {
            Stage::Ended(Err(error)) => Some(Error::new(
                error.kind(),
                format!("the try of branch {}: {}", b.id, error.message()),
            )),
            Stage::Ended(Ok(_)) => None,
            Stage::Register(..) | Stage::Try(_) => Some(Error::new(
                ErrorKind::OutcomeUnknown,
                format!("the try of branch {} was not waited for", b.id),
            )),
        });
        let error = match (user, tried) {
            (Err(error), _) | (Ok(()), Some(error)) => error,
            (Ok(()), None) if self.nested => return State::Done(Ok(done())),
            (Ok(()), None) => {
                let all = Value::Object(body(&self.gid, "tcc", &self.options));
                let call = Policy::default().call_timeout(&self.options);
                let submit = if self.options.wait_result {
                    self.server.post_and_wait("submit", &all, call)
                } else {
                    self.server.post("submit", &all)
                };
                return State::Submit(Ask::new(submit));
            }
        };
        if self.nested {
            // Who began the transaction learns of it by the answer of this try, and aborts.
            return State::Done(Err(error));
        }
        let mut all = body(&self.gid, "tcc", &self.options);
        let reason = cut(error.message(), REASON_MAX);
        all.insert("rollback_reason".to_owned(), json!(reason));
        let abort = self.server.post("abort", &Value::Object(all));
        State::Abort(Ask::new(abort), error)
    }

    fn main_answered(&mut self, answered: Answered) -> State {
        match (&self.state, answered) {
            (State::Prepare(_), Answered::Ok) => State::Open,
            (State::Prepare(_), Answered::Refused { error, .. }) => State::Done(Err(error)),
            // Nothing was tried yet: what may have been prepared is cancelled by its timeout.
            (State::Prepare(_), Answered::Unanswered(error)) => {
                State::Done(Err(Error::new(ErrorKind::Unavailable, error.message())))
            }
            (State::Submit(_), answered) => State::Done(submitted(answered)),
            // Cancelled now, or by its timeout.
            (State::Abort(_, error), _) => State::Done(Err(error.clone())),
            (other, _) => other.clone(),
        }
    }

    fn branch_step(&self) -> Option<(BranchNumber, StepKind)> {
        let busy = |n: BranchNumber| self.under_way.iter().any(|(_, who)| *who == Who::Branch(n));
        let mut ready = self.branches.iter().enumerate();
        ready.find_map(|(n, branch)| match &branch.stage {
            _ if busy(n) => None,
            Stage::Register(ask, _) => Some((n, ask.step())),
            Stage::Try(call) => Some((n, StepKind::Call(call.clone()))),
            Stage::Ended(_) => None,
        })
    }

    fn main_step(&mut self) -> Option<StepKind> {
        if self.under_way.iter().any(|(_, who)| *who == Who::Main) {
            return None;
        }
        Some(match &self.state {
            State::Prepare(ask) | State::Submit(ask) | State::Abort(ask, _) => ask.step(),
            State::Open => {
                self.state = State::Running;
                let branch_id = if self.parent.is_empty() {
                    crate::branch::ROOT_BRANCH
                } else {
                    &self.parent
                };
                match Identity::new("tcc", &self.gid, branch_id, Op::TRY.as_str()) {
                    Ok(who) => StepKind::RunUser(who),
                    Err(error) => {
                        self.state = State::Over;
                        StepKind::Done(Err(error))
                    }
                }
            }
            State::Done(result) => {
                let result = result.clone();
                self.state = State::Over;
                StepKind::Done(result)
            }
            State::Running | State::Over => return None,
        })
    }
}

fn done() -> Outcome {
    Outcome {
        barrier: None,
        value: Bytes::new(),
    }
}

/// The next stage of a branch; `None` if the fact does not fit.
fn branch_next(stage: &mut Stage, fact: Fact) -> Option<Stage> {
    match stage {
        Stage::Register(ask, call) => Some(match ask.next(fact)? {
            None => Stage::Register(ask.clone(), call.clone()),
            Some(Answered::Ok) => Stage::Try(call.clone()),
            // DTM says so of a row that an attempt without an answer has stored.
            Some(Answered::Refused { error, maybe_done })
                if maybe_done && is_duplicate(error.message()) =>
            {
                Stage::Try(call.clone())
            }
            Some(Answered::Refused { error, .. } | Answered::Unanswered(error)) => {
                Stage::Ended(Err(error))
            }
        }),
        Stage::Try(_) => {
            let result = match fact {
                Fact::Answer { status, body, .. } => {
                    match classify_http(Purpose::Branch, status, &body, &Compat::default()) {
                        Meaning::Success => Ok(body),
                        Meaning::Failure(text) => Err(Error::new(ErrorKind::Failure, text)),
                        Meaning::Ongoing => Err(Error::new(ErrorKind::Ongoing, "not done yet")),
                        Meaning::Error(text) => Err(Error::new(ErrorKind::OutcomeUnknown, text)),
                    }
                }
                Fact::NoAnswer { message, .. } => {
                    Err(Error::new(ErrorKind::OutcomeUnknown, message))
                }
                Fact::Cancelled => Err(Error::new(ErrorKind::OutcomeUnknown, "cancelled")),
                _ => return None,
            };
            Some(Stage::Ended(result))
        }
        Stage::Ended(_) => None,
    }
}

fn is_duplicate(text: &str) -> bool {
    ["UniqueKeyConflict", "Duplicate entry", "duplicate key"]
        .iter()
        .any(|word| text.contains(word))
}

impl Machine for Tcc {
    fn poll(&mut self) -> Option<Step> {
        let (who, kind) = match self.branch_step() {
            Some((n, kind)) => (Who::Branch(n), kind),
            None => (Who::Main, self.main_step()?),
        };
        let id = self.steps;
        self.steps += 1;
        if !matches!(kind, StepKind::Done(_)) {
            self.under_way.push_back((id, who));
        }
        Some(Step { id, kind })
    }

    fn resolve(&mut self, id: StepId, fact: Fact) -> Result<(), Error> {
        let none = || Error::invalid(format!("no step {id} is under way"));
        let wrong = || Error::invalid(format!("step {id} cannot end with this fact"));
        let at = self.under_way.iter().position(|(step, _)| *step == id);
        let at = at.ok_or_else(none)?;
        match self.under_way[at].1 {
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
                State::Running => {
                    let user = match fact {
                        Fact::UserOk(_) => Ok(()),
                        Fact::UserFailed { kind, message } => Err(Error::new(kind, message)),
                        Fact::Cancelled => Err(Error::new(ErrorKind::OutcomeUnknown, "cancelled")),
                        _ => return Err(wrong()),
                    };
                    self.state = self.decide(user);
                    // Nobody waits for tries any more; what they did is cancelled.
                    self.under_way.retain(|(_, who)| *who == Who::Main);
                    self.branches.retain(|b| matches!(b.stage, Stage::Ended(_)));
                }
                State::Open | State::Done(_) | State::Over => return Err(none()),
            },
        }
        self.under_way.retain(|(step, _)| *step != id);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
