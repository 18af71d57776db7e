//! A workflow's run, from its body's end to its own.

use super::journal::Decision;
use super::phase2::{self, Phase2};
use super::save::Saved;
use super::{
    Answered, Ask, Frame, Part, PartNumber, Progresses, Stage, State, Who, Work, Workflow,
};
use crate::branch::{Op, ROOT_BRANCH, Status};
use crate::error::{Error, ErrorKind};
use crate::initiator::call::{called, is_grpc, ran};
use crate::limits::{Limits, REASON_MAX, cut};
use crate::machine::{Fact, Machine, Output, Step, StepId, StepKind, wrong};
use crate::participant::Identity;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

/// What a decision holds beside the result, bytes at most: magic, the run, and an item for each branch.
const HEAD: usize = 2_048;

impl Workflow {
    /// What follows from what the body returned.
    fn body_ended(&mut self, body: Result<Bytes, Error>) -> State {
        if let Some(error) = self.stopped.take() {
            return State::Done(Err(error));
        }
        if let Some(decision) = self.decision.take() {
            return self.decided(decision, body);
        }
        let end = match body {
            Ok(value) => match self.journal.given_up() {
                Some(reason) => Err(reason.to_owned()),
                None => Ok(value),
            },
            Err(error) if error.kind() == ErrorKind::Failure => {
                Err(cut(error.message(), REASON_MAX))
            }
            Err(error) => return State::Done(Err(error)),
        };
        if end.is_err()
            && let Err(error) = self.catch_up()
        {
            return State::Done(Err(error));
        }
        if let Some((branch, step)) = self.journal.unseen() {
            return State::Done(Err(Error::new(
                ErrorKind::Nondeterministic,
                format!(
                    "branch {branch} was recorded as step {step:?}, and this run ended without it: a workflow must take the same steps each time"
                ),
            )));
        }
        if let (Ok(_), Some(error)) = (&end, unrecorded(&self.parts)) {
            return State::Done(Err(error));
        }
        if let Ok(value) = &end {
            // With the head of the row that holds it.
            let (size, max) = (value.len() + HEAD, Limits::default().result);
            if size.div_ceil(3) * 4 > max {
                return State::Done(Err(Error::invalid(format!(
                    "the workflow's result has {} bytes: with its head, and in base64, at most {max} bytes are taken",
                    value.len()
                ))));
            }
        }
        self.settle(end)
    }

    /// Branches that the body added and did not come to, for it failed before: an earlier run may have begun them. Error: `Nondeterministic`.
    fn catch_up(&mut self) -> Result<(), Error> {
        let again = !self.journal.is_empty();
        for part in &mut self.parts {
            if !matches!(part.stage, Stage::Named) {
                continue;
            }
            match self.journal.replay(&part.id, &part.op, &part.step)? {
                Some(result) => part.stage = Stage::Recorded(result),
                None if again && part.on_rollback.is_some() => {
                    part.stage = Stage::Unrecorded(Error::new(
                        ErrorKind::OutcomeUnknown,
                        "an earlier run may have begun it",
                    ));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Before a failure is decided, every action that may have been done is recorded as given up. Another run that has recorded it is
    /// ahead, and may have begun what this one does not know of; one that has not is stopped by the row.
    fn settle(&mut self, end: Result<Bytes, String>) -> State {
        let open = |part: &Part| {
            let begun = matches!(
                part.stage,
                Stage::Unrecorded(_) | Stage::Work(_) | Stage::Save(..)
            );
            begun && part.op == Op::ACTION.as_str()
        };
        match (end, self.parts.iter().position(open)) {
            (Err(reason), Some(n)) => {
                let part = &self.parts[n];
                let frame = Frame {
                    step: part.step.clone(),
                    message: reason.clone(),
                    given_up: true,
                    ..Frame::default()
                };
                let save = self.save(&part.id, &part.op, false, frame);
                State::GiveUp(n, Box::new(save), reason)
            }
            (end, _) => self.decide(end),
        }
    }

    /// What became of the row that gives up an action.
    fn given_up(&mut self, n: PartNumber, saved: Saved, reason: String) -> State {
        match saved {
            Saved::Stored => {
                let error = Error::new(ErrorKind::Failure, &reason);
                self.parts[n].stage = Stage::Recorded(Err(error));
                self.settle(Err(reason))
            }
            Saved::Lost(now, why) => overtaken(&now, &self.parts[n].id, &why),
            Saved::Unknown(error) => State::Done(Err(error)),
        }
    }

    fn decide(&mut self, end: Result<Bytes, String>) -> State {
        let two_phases = |p: &Part| p.on_commit.is_some() || p.on_rollback.is_some();
        if !self.parts.iter().any(two_phases) {
            return self.submit(&end);
        }
        let decision = Decision {
            items: Some(phase2::items(end.is_ok(), &self.parts)),
            end,
        };
        let frame = Frame {
            items: decision.items.clone(),
            message: decision.end.clone().err().unwrap_or_default(),
            data: decision.end.clone().unwrap_or_default(),
            ..Frame::default()
        };
        let op = Op::DECISION;
        let save = self.save(ROOT_BRANCH, op.as_str(), decision.end.is_ok(), frame);
        self.decision = Some(decision);
        State::Decide(Box::new(save))
    }

    /// The decision is there. What the body says does not count any more, only what it has registered.
    fn decided(&mut self, mut decision: Decision, body: Result<Bytes, Error>) -> State {
        if let Some(item) = phase2::missing(&decision, &self.parts) {
            return State::Done(Err(match body {
                Err(error) if !matches!(error.kind(), ErrorKind::Failure | ErrorKind::Unwind) => {
                    error
                }
                _ => Error::new(
                    ErrorKind::Nondeterministic,
                    format!(
                        "the workflow is decided, and this run has not registered {item}, which has to be done: a workflow must take the same steps each time"
                    ),
                ),
            }));
        }
        // DTM's client stores no result before the end.
        if let (None, Ok(end), Ok(value)) = (&decision.items, &mut decision.end, body) {
            *end = value;
        }
        let phase2 = Phase2::new(&decision, &self.parts, &self.journal);
        self.go_on(phase2)
    }

    fn go_on(&self, phase2: Phase2) -> State {
        if phase2.items.is_empty() {
            return self.submit(&phase2.end);
        }
        State::Phase2(Box::new(phase2))
    }

    fn submit(&self, end: &Result<Bytes, String>) -> State {
        let extra = match end {
            Ok(value) => json!({"status": Status::Succeed, "result": STANDARD.encode(value)}),
            Err(reason) => json!({"status": Status::Failed, "rollback_reason": reason}),
        };
        let all: Value = json!({"gid": self.gid, "trans_type": "workflow", "req_extra": extra});
        let result = match end {
            Ok(value) => Ok(Output::from(value.clone())),
            Err(reason) => Err(Error::new(ErrorKind::Failure, reason)),
        };
        State::Submit(Ask::new(self.server.post("submit", &all)), result)
    }

    /// What became of the row that decides.
    fn decision_saved(&mut self, saved: Saved) -> State {
        match (saved, self.decision.take()) {
            (Saved::Stored, Some(decision)) => {
                let phase2 = Phase2::new(&decision, &self.parts, &self.journal);
                self.go_on(phase2)
            }
            (Saved::Lost(now, why), _) => overtaken(&now, ROOT_BRANCH, &why),
            // Nothing of it was begun: the next run decides, or obeys.
            (Saved::Unknown(error), _) => State::Done(Err(error)),
            (Saved::Stored, None) => State::Over,
        }
    }

    /// What came of an item of phase 2; `None` if the fact does not fit.
    fn item_next(&mut self, mut phase2: Phase2, fact: Fact) -> Option<State> {
        let item = phase2.items.front()?.clone();
        let Some(mut save) = phase2.saving.take() else {
            let result = self.worked(&item.work, fact)?;
            return Some(match result {
                Ok(_) => {
                    let (branch, op) = (&item.branch, item.op.as_str());
                    phase2.saving = Some(self.save(branch, op, true, Frame::default()));
                    State::Phase2(Box::new(phase2))
                }
                Err(error) if error.kind() == ErrorKind::Failure => State::Done(Err(Error::new(
                    ErrorKind::Internal,
                    format!(
                        "the {} of branch {} was refused, and it must succeed; it will be tried again: {error}",
                        item.op, item.branch
                    ),
                ))),
                Err(error) => State::Done(Err(error)),
            });
        };
        Some(match save.next(fact)? {
            None => {
                phase2.saving = Some(save);
                State::Phase2(Box::new(phase2))
            }
            // Whoever stored it did the same.
            Some(saved @ (Saved::Stored | Saved::Lost(..))) => {
                if let Saved::Lost(now, _) = saved
                    && let Some(end) = ended(&now)
                {
                    return Some(State::Done(end));
                }
                phase2.items.pop_front();
                self.go_on(phase2)
            }
            Some(Saved::Unknown(error)) => State::Done(Err(error)),
        })
    }

    /// What a work ended with; `None` if the fact does not fit.
    pub(super) fn worked(&self, work: &Work, fact: Fact) -> Option<Result<Bytes, Error>> {
        match work {
            Work::Run => ran(fact),
            Work::Call { url, .. } => called(is_grpc(&self.server, url), fact),
        }
    }

    fn main_step(&mut self) -> Option<StepKind> {
        self.steps.idle_of(Who::Main)?;
        let kind = match &self.state {
            State::Prepare(ask) | State::Read(ask, _) => Ok(ask.step()),
            State::Submit(ask, _) => Ok(ask.step()),
            State::GiveUp(_, save, _) | State::Decide(save) => Ok(save.step()),
            State::Phase2(phase2) => match (&phase2.saving, phase2.items.front()) {
                (Some(save), _) => Ok(save.step()),
                (None, Some(item)) => self.work(&item.work, &item.branch, item.op.as_str()),
                (None, None) => return None,
            },
            State::Open => {
                let who = Identity::new("workflow", &self.gid, ROOT_BRANCH, &self.name);
                who.map(|who| {
                    self.state = State::Running;
                    StepKind::RunUser(who)
                })
            }
            State::Done(result) => Ok(StepKind::Done(result.clone())),
            State::Running | State::Over => return None,
        };
        Some(kind.unwrap_or_else(|error| StepKind::Done(Err(error))))
    }

    /// The state after a fact; `None` if the fact does not fit.
    fn main_next(&mut self, fact: Fact) -> Option<State> {
        Some(match self.state.clone() {
            State::Prepare(mut ask) => match ask.next(fact)? {
                None => State::Prepare(ask),
                Some(Answered::Ok(now)) => self.prepared(&now),
                Some(Answered::Refused { error, .. } | Answered::Unanswered(error)) => {
                    State::Done(Err(not_of_a_branch(error)))
                }
            },
            State::Running => {
                let body = ran(fact)?;
                // Nobody waits for what is still under way.
                self.steps.forget_others(Who::Main);
                self.body_ended(body)
            }
            State::GiveUp(n, mut save, reason) => match save.next(fact)? {
                None => State::GiveUp(n, save, reason),
                Some(saved) => self.given_up(n, saved, reason),
            },
            State::Decide(mut save) => match save.next(fact)? {
                None => State::Decide(save),
                Some(saved) => self.decision_saved(saved),
            },
            State::Phase2(phase2) => self.item_next(*phase2, fact)?,
            State::Submit(mut ask, result) => match ask.next(fact)? {
                None => State::Submit(ask, result),
                Some(Answered::Ok(())) => State::Done(result),
                Some(Answered::Refused { error, .. }) => {
                    let read = Ask::reading(self.prepare.clone());
                    State::Read(read, not_of_a_branch(error))
                }
                Some(Answered::Unanswered(error)) => State::Done(Err(error)),
            },
            // Another run was first, or this one before its answer was lost.
            State::Read(mut ask, why) => match ask.next(fact)? {
                None => State::Read(ask, why),
                Some(Answered::Ok(now)) => State::Done(ended(&now).unwrap_or(Err(why))),
                Some(Answered::Refused { error, .. } | Answered::Unanswered(error)) => {
                    State::Done(Err(not_of_a_branch(error)))
                }
            },
            State::Open | State::Done(_) | State::Over => return None,
        })
    }
}

/// An answer of the coordinator, or of a proxy before it, is about the request: it never means that the workflow failed.
pub(super) fn not_of_a_branch(error: Error) -> Error {
    if error.kind() != ErrorKind::Failure {
        return error;
    }
    Error::new(
        ErrorKind::Internal,
        format!("the coordinator's 409 is not understood: {error}"),
    )
}

pub(super) fn lost_race(branch: &str, why: &Error) -> Error {
    Error::new(
        ErrorKind::LostRace,
        format!("another run of this workflow is ahead, at branch {branch}: {why}"),
    )
}

/// Another run was first: how it ended, if it has.
fn overtaken(now: &Progresses, branch: &str, why: &Error) -> State {
    State::Done(ended(now).unwrap_or_else(|| Err(lost_race(branch, why))))
}

/// How a workflow ended that has ended.
pub(super) fn ended(now: &Progresses) -> Option<Result<Output, Error>> {
    match now.status {
        Status::Succeed => Some(Ok(Output::from(now.result.clone()))),
        Status::Failed => Some(Err(Error::new(ErrorKind::Failure, &now.reason))),
        _ => None,
    }
}

/// A step that may have been done and is not recorded: a body that ends well all the same is not believed.
fn unrecorded(parts: &[Part]) -> Option<Error> {
    parts.iter().find_map(|part| match &part.stage {
        Stage::Unrecorded(error) => Some(error.clone()),
        Stage::Work(_) | Stage::Save(..) => Some(Error::new(
            ErrorKind::OutcomeUnknown,
            format!("the action of branch {} was not waited for", part.id),
        )),
        Stage::Named | Stage::Recorded(_) | Stage::Unwound => None,
    })
}

impl Machine for Workflow {
    fn poll(&mut self) -> Option<Step> {
        let (who, kind) = match self.part_step() {
            Some((n, kind)) => (Who::Part(n), kind),
            None => (Who::Main, self.main_step()?),
        };
        Some(self.steps.give(who, kind))
    }

    fn resolve(&mut self, id: StepId, fact: Fact) -> Result<(), Error> {
        let wrong = || wrong(id);
        match self.steps.who(id)? {
            Who::Part(n) => self.parts[n].stage = self.part_next(n, fact).ok_or_else(wrong)?,
            Who::Main => self.state = self.main_next(fact).ok_or_else(wrong)?,
        }
        self.steps.end(id);
        Ok(())
    }
}
