//! Two-phase messages (dtm-clients.md 2.7): prepare, the local transaction behind the barrier, submit. If the local transaction was committed the
//! message is delivered, whatever crashes in between; if not, it never is.

use super::ask::{Answered, Ask};
use super::saga::check;
use super::server::{Server, body};
use crate::error::{Error, ErrorKind};
use crate::machine::{Fact, Machine, Outcome, Step, StepId, StepKind};
use crate::options::Options;
use crate::participant::barrier::barrier_id;
use crate::participant::{BarrierRun, Identity, Mode, Place, Table};
use serde_json::{Map, Value, json};

/// A message in the making.
#[derive(Clone, Debug)]
pub struct Message {
    gid: String,
    options: Options,
    query_prepared: String,
    steps: Vec<(String, String)>,
    delay: u64,
    table: Option<Table>,
}

impl Message {
    /// A message to nobody yet. `query_prepared` is where the coordinator asks whether the local transaction was committed, if it does not
    /// hear of it.
    pub fn new(gid: &str, query_prepared: &str, options: Options) -> Message {
        Message {
            gid: gid.to_owned(),
            options,
            query_prepared: query_prepared.to_owned(),
            steps: Vec::new(),
            delay: 0,
            table: None,
        }
    }

    /// Adds a receiver, or a topic (`topic://name`), and the body it gets, as text.
    pub fn send(&mut self, url: &str, payload: &str) {
        self.steps.push((url.to_owned(), payload.to_owned()));
    }

    /// Delivers it so many seconds after its submit.
    pub fn delay(&mut self, seconds: u64) {
        self.delay = seconds;
    }

    /// Keeps the barrier's row in another table than the dialect's default.
    pub fn table(&mut self, table: Table) {
        self.table = Some(table);
    }

    /// The table that [`Message::table`] named.
    pub fn barrier_table(&self) -> Option<&Table> {
        self.table.as_ref()
    }

    fn body(&self) -> Map<String, Value> {
        let mut all = body(&self.gid, "msg", &self.options);
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|(url, _)| json!({"action": url}))
            .collect();
        let payloads: Vec<&String> = self.steps.iter().map(|(_, payload)| payload).collect();
        all.insert("steps".to_owned(), steps.into());
        all.insert("payloads".to_owned(), json!(payloads));
        all.insert("query_prepared".to_owned(), json!(self.query_prepared));
        if self.delay > 0 {
            // In prepare as well, so that it holds when the coordinator submits by itself.
            let custom = json!({"delay": self.delay}).to_string();
            all.insert("custom_data".to_owned(), custom.into());
        }
        all
    }

    /// A machine that commits a local transaction and the message together. Error: `Invalid`, for whatever the coordinator would refuse.
    pub fn commit_with(&self, server: &Server, place: Place, random: u64) -> Result<Commit, Error> {
        if self.query_prepared.is_empty() {
            return Err(Error::invalid(
                "query_prepared is empty: a message that is prepared needs a URL to ask whether to deliver it",
            ));
        }
        let body = Value::Object(self.body());
        check(&body)?;
        let who = Identity::new("msg", &self.gid, crate::branch::ROOT_BRANCH, "msg")?;
        let local = BarrierRun::new(
            place.clone(),
            who.clone(),
            &barrier_id(1),
            Mode::Managed,
            random,
        )?;
        let abort = json!({"gid": self.gid, "trans_type": "msg"});
        Ok(Commit {
            gid: self.gid.clone(),
            state: State::Prepare(Ask::new(server.post("prepare", &body))),
            local: Some(local),
            check_back: BarrierRun::check_back(place, who, random),
            submit: Ask::new(server.post("submit", &body)),
            abort: Ask::new(server.post("abort", &abort)),
            steps: 0,
            under_way: None,
        })
    }
}

/// Commits a local transaction and its message together.
///
/// It ends well when the local transaction was committed: the message is submitted, or will be when the coordinator asks. `Failure` is the
/// user's own, and the message is withdrawn. `Duplicated` is a gid that was used before; its text says whether that was committed.
/// `OutcomeUnknown`: neither could be found out, and the coordinator will ask.
#[derive(Clone, Debug)]
pub struct Commit {
    gid: String,
    state: State,
    local: Option<BarrierRun>,
    check_back: BarrierRun,
    submit: Ask,
    abort: Ask,
    steps: StepId,
    /// The step that was given out, and its number in the barrier's run if it is of one.
    under_way: Option<(StepId, StepId)>,
}

#[derive(Clone, Debug)]
enum State {
    Prepare(Ask),
    Local(BarrierRun),
    /// Something went wrong, and the barrier's row knows whether it was committed.
    Check(BarrierRun, Error),
    Submit(Ask, Result<Outcome, Error>),
    Abort(Ask, Error),
    Done(Result<Outcome, Error>),
    Over,
}

impl Commit {
    fn answered(&mut self, answered: Answered) -> State {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Prepare(_) => match (answered, self.local.take()) {
                (Answered::Ok, Some(local)) => State::Local(local),
                (Answered::Refused { error, .. }, _) => State::Done(Err(error)),
                // Nothing was done here: if it was prepared, the coordinator will ask, and learn that.
                (Answered::Unanswered(error), _) => {
                    State::Done(Err(Error::new(ErrorKind::Unavailable, error.message())))
                }
                (Answered::Ok, None) => State::Over,
            },
            // It is committed, whatever the answer: the coordinator asks when it does not hear of it.
            State::Submit(_, result) => State::Done(result),
            State::Abort(_, error) => State::Done(Err(error)),
            other => other,
        }
    }

    /// What follows from the local transaction.
    fn local_ended(&mut self, result: Result<Outcome, Error>) -> State {
        match result {
            Ok(outcome) => State::Submit(self.submit.clone(), Ok(outcome)),
            // A definite no, or it could not even begin.
            Err(error) if matches!(error.kind(), ErrorKind::Failure | ErrorKind::Invalid) => {
                State::Abort(self.abort.clone(), error)
            }
            Err(error) => State::Check(self.check_back.clone(), error),
        }
    }

    fn checked(&mut self, asked: Result<Outcome, Error>, error: Error) -> State {
        match asked {
            Ok(_) if error.kind() == ErrorKind::Duplicated => {
                let text = format!("the gid {} was used before, and committed", self.gid);
                State::Submit(
                    self.submit.clone(),
                    Err(Error::new(ErrorKind::Duplicated, text)),
                )
            }
            // Its commit came through although its answer did not.
            Ok(outcome) => State::Submit(self.submit.clone(), Ok(outcome)),
            Err(no) if no.kind() == ErrorKind::Failure => {
                let error = match error.kind() {
                    ErrorKind::Duplicated => {
                        let text = format!("the gid {} was used before, and rolled back", self.gid);
                        Error::new(ErrorKind::Duplicated, text)
                    }
                    // Now it is known.
                    ErrorKind::OutcomeUnknown => Error::new(
                        ErrorKind::Database,
                        format!("it was rolled back: {}", error.message()),
                    ),
                    _ => error,
                };
                State::Abort(self.abort.clone(), error)
            }
            Err(unknown) => State::Done(Err(Error::new(
                ErrorKind::OutcomeUnknown,
                format!(
                    "whether message {} was committed is unknown here, the coordinator will ask: {error}; {unknown}",
                    self.gid
                ),
            ))),
        }
    }
}

impl Machine for Commit {
    fn poll(&mut self) -> Option<Step> {
        if self.under_way.is_some() {
            return None;
        }
        loop {
            let (kind, inner) = match &mut self.state {
                State::Prepare(ask) | State::Submit(ask, _) | State::Abort(ask, _) => {
                    (ask.step(), 0)
                }
                State::Local(run) => {
                    let Step { id, kind } = run.poll()?;
                    if let StepKind::Done(result) = kind {
                        self.state = self.local_ended(result);
                        continue;
                    }
                    (kind, id)
                }
                State::Check(run, error) => {
                    let error = error.clone();
                    let Step { id, kind } = run.poll()?;
                    if let StepKind::Done(result) = kind {
                        self.state = self.checked(result, error);
                        continue;
                    }
                    (kind, id)
                }
                State::Done(result) => {
                    let kind = StepKind::Done(result.clone());
                    self.state = State::Over;
                    let id = self.steps;
                    return Some(Step { id, kind });
                }
                State::Over => return None,
            };
            let id = self.steps;
            self.steps += 1;
            self.under_way = Some((id, inner));
            return Some(Step { id, kind });
        }
    }

    fn resolve(&mut self, id: StepId, fact: Fact) -> Result<(), Error> {
        let Some((_, inner)) = self.under_way.filter(|(own, _)| *own == id) else {
            return Err(Error::invalid(format!("no step {id} is under way")));
        };
        match &mut self.state {
            State::Prepare(ask) | State::Submit(ask, _) | State::Abort(ask, _) => {
                let ended = ask.next(fact).ok_or_else(|| {
                    Error::invalid(format!("step {id} cannot end with this fact"))
                })?;
                if let Some(answered) = ended {
                    self.state = self.answered(answered);
                }
            }
            State::Local(run) | State::Check(run, _) => run.resolve(inner, fact)?,
            State::Done(_) | State::Over => {
                return Err(Error::invalid(format!("no step {id} is under way")));
            }
        }
        self.under_way = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
