//! Two-phase messages (dtm-clients.md 2.7): prepare, the local transaction behind the barrier, submit. If the local transaction was committed the
//! message is delivered, whatever crashes in between; if not, it never is.

use super::ask::{Answered, Ask};
use super::asking::{Asking, abort_request};
use super::server::{Server, body};
use crate::branch::{Status, TransType};
use crate::error::{Error, ErrorKind};
use crate::machine::{Fact, Machine, Output, Request, Step, StepId, StepKind, Steps, wrong};
use crate::options::Options;
use crate::participant::barrier::barrier_id;
use crate::participant::{BarrierRun, Identity, Mode, Place, Table};
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// A message in the making.
#[derive(Clone, Debug)]
pub struct Message {
    gid: String,
    options: Options,
    query_prepared: String,
    receivers: Vec<String>,
    payloads: Vec<Bytes>,
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
            receivers: Vec::new(),
            payloads: Vec::new(),
            delay: 0,
            table: None,
        }
    }

    /// Global transaction id.
    pub fn gid(&self) -> &str {
        &self.gid
    }

    /// Adds a receiver, or a topic (`topic://name`), and the body it gets. A body that is no text needs a coordinator that is spoken to
    /// over gRPC; an empty one is sent as `null` over HTTP.
    pub fn send(&mut self, url: &str, payload: impl AsRef<[u8]>) {
        self.receivers.push(url.to_owned());
        self.payloads.push(Bytes::copy_from_slice(payload.as_ref()));
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
        let steps = self.receivers.iter();
        let steps: Vec<Value> = steps.map(|url| json!({"action": url})).collect();
        all.insert("steps".to_owned(), steps.into());
        all.insert("query_prepared".to_owned(), json!(self.query_prepared));
        if self.delay > 0 {
            // In prepare as well, so that it holds when the coordinator submits by itself.
            let custom = json!({"delay": self.delay}).to_string();
            all.insert("custom_data".to_owned(), custom.into());
        }
        all
    }

    fn prepare_request(&self, server: &Server) -> Result<Request, Error> {
        if self.query_prepared.is_empty() {
            return Err(Error::invalid(
                "query_prepared is empty: a message that is prepared needs a URL to ask whether to deliver it",
            ));
        }
        server.post_steps("prepare", self.body(), &self.payloads, &self.options)
    }

    /// A machine that submits it: with no local transaction, or after one that this crate knows nothing of, whose message was prepared before.
    pub fn submit(&self, server: &Server) -> Result<Asking, Error> {
        let request = server.post_steps("submit", self.body(), &self.payloads, &self.options)?;
        Ok(Asking::submit(request))
    }

    /// A machine that prepares it, before a local transaction that this crate knows nothing of: in a database without an adapter here, say.
    /// That transaction has to leave a mark by which `query_prepared` tells whether it was committed. Errors: `Invalid`; `Refused` for a gid
    /// that was used before.
    pub fn prepare(&self, server: &Server) -> Result<Asking, Error> {
        Ok(Asking::prepare(self.prepare_request(server)?))
    }

    /// A machine that commits a local transaction and the message together. Error: `Invalid`, for whatever the coordinator would refuse.
    pub fn commit_with(&self, server: &Server, place: Place, random: u64) -> Result<Commit, Error> {
        let prepare = self.prepare_request(server)?;
        let submit = server.post_steps("submit", self.body(), &self.payloads, &self.options)?;
        let who = Identity::new("msg", &self.gid, crate::branch::ROOT_BRANCH, "msg")?;
        let local = BarrierRun::new(
            place.clone(),
            who.clone(),
            &barrier_id(1),
            Mode::Managed,
            random,
        )?;
        Ok(Commit {
            gid: self.gid.clone(),
            state: State::Prepare(Ask::new(prepare)),
            local: Some(local),
            check_back: BarrierRun::check_back(place, who, random),
            submit: Ask::new(submit),
            server: server.clone(),
            steps: Steps::default(),
        })
    }
}

/// Commits a local transaction and its message together.
///
/// It ends well when the local transaction was committed: the message is submitted, or will be when the coordinator asks. `Failure` is the
/// user's own, and the message is withdrawn. `Duplicated` is a gid that was used before, and [`Error::committed`] says what became of it: that
/// message is submitted, or withdrawn. `HalfDone`: the user's code ended the transaction itself; the message goes with the barrier's row.
/// `OutcomeUnknown`: neither could be found out, and the coordinator will ask.
#[derive(Clone, Debug)]
pub struct Commit {
    gid: String,
    state: State,
    local: Option<BarrierRun>,
    check_back: BarrierRun,
    submit: Ask,
    server: Server,
    /// With the number of a step in the barrier's run, if it is of one.
    steps: Steps<StepId>,
}

#[derive(Clone, Debug)]
enum State {
    Prepare(Ask),
    Local(BarrierRun),
    /// Something went wrong, and the barrier's row knows whether it was committed.
    Check(BarrierRun, Error),
    Submit(Ask, Result<Output, Error>),
    Abort(Ask, Error),
    Done(Result<Output, Error>),
    Over,
}

impl Commit {
    fn answered(&mut self, answered: Answered) -> State {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Prepare(_) => match (answered, self.local.take()) {
                (Answered::Ok(()), Some(local)) => State::Local(local),
                (Answered::Refused { error, .. }, _) => State::Done(Err(self.used(error))),
                // Nothing was done here: if it was prepared, the coordinator will ask, and learn that.
                (Answered::Unanswered(error), _) => {
                    State::Done(Err(Error::new(ErrorKind::Unavailable, error.message())))
                }
                (Answered::Ok(()), None) => State::Over,
            },
            State::Submit(_, Ok(_)) if withdrawn(&answered) => State::Done(Err(Error::new(
                ErrorKind::Internal,
                format!(
                    "the local transaction of {} is committed, and its message was withdrawn by another run of this gid: it will not be delivered",
                    self.gid
                ),
            ))),
            // It is committed, whatever the answer: the coordinator asks when it does not hear of it.
            State::Submit(_, result) => State::Done(result),
            State::Abort(_, error) => State::Done(Err(error)),
            other => other,
        }
    }

    /// What a refused prepare means: a gid whose message was submitted was committed, one whose message was withdrawn never will be.
    fn used(&self, error: Error) -> Error {
        match error.status() {
            Some(status @ (Status::Submitted | Status::Succeed | Status::Failed))
                if error.message().starts_with("current status '") =>
            {
                Error::duplicated(&self.gid, status != Status::Failed).with_status(status)
            }
            _ => error,
        }
    }

    /// What follows from the local transaction.
    fn local_ended(&mut self, result: Result<Output, Error>) -> State {
        match result {
            Ok(outcome) => State::Submit(self.submit.clone(), Ok(outcome)),
            Err(error) if error.committed() == Some(true) => {
                State::Submit(self.submit.clone(), Err(error))
            }
            // It could not even begin, or what it was is known.
            Err(error)
                if error.kind() == ErrorKind::Invalid || error.committed() == Some(false) =>
            {
                self.abort(error)
            }
            // After a definite no, too: the mark that the check leaves keeps another run of this gid from committing what is withdrawn here.
            Err(error) => State::Check(self.check_back.clone(), error),
        }
    }

    /// Withdraws the message, with the error as its reason.
    fn abort(&self, error: Error) -> State {
        let (gid, reason) = (&self.gid, error.message());
        let none = Options::default();
        let abort = abort_request(&self.server, TransType::Msg, gid, reason, &none);
        State::Abort(Ask::new(abort), error)
    }

    fn checked(&mut self, asked: Result<Output, Error>, error: Error) -> State {
        match asked {
            Ok(outcome) => {
                let result = match error.kind() {
                    // Its commit came through although its answer did not.
                    ErrorKind::OutcomeUnknown => Ok(outcome),
                    ErrorKind::HalfDone => Err(error),
                    // This run surely did not, so another one of the same gid did.
                    _ => Err(Error::duplicated(&self.gid, true)),
                };
                State::Submit(self.submit.clone(), result)
            }
            Err(no) if no.kind() == ErrorKind::Failure => {
                let error = match error.kind() {
                    // Now it is known.
                    ErrorKind::OutcomeUnknown => Error::new(
                        ErrorKind::Database,
                        format!("it was rolled back: {}", error.message()),
                    ),
                    _ => error,
                };
                self.abort(error)
            }
            // The user's no stands; the coordinator will ask, and find out that nothing was committed.
            Err(_) if error.kind() == ErrorKind::Failure => State::Done(Err(error)),
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

/// Whether a submit was refused because the message was withdrawn.
fn withdrawn(answered: &Answered) -> bool {
    matches!(answered, Answered::Refused { error, .. } if error.status() == Some(Status::Failed))
}

impl Machine for Commit {
    fn poll(&mut self) -> Option<Step> {
        self.steps.idle()?;
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
                State::Done(result) => (StepKind::Done(result.clone()), 0),
                State::Over => return None,
            };
            return Some(self.steps.give(inner, kind));
        }
    }

    fn resolve(&mut self, id: StepId, fact: Fact) -> Result<(), Error> {
        let inner = self.steps.who(id)?;
        match &mut self.state {
            State::Prepare(ask) | State::Submit(ask, _) | State::Abort(ask, _) => {
                if let Some(answered) = ask.next(fact).ok_or_else(|| wrong(id))? {
                    self.state = self.answered(answered);
                }
            }
            State::Local(run) | State::Check(run, _) => run.resolve(inner, fact)?,
            // Neither of them has a step.
            State::Done(_) | State::Over => return Err(wrong(id)),
        }
        self.steps.end(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
