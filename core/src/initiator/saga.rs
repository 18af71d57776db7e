//! Sagas: built step by step, checked here as the coordinator would, and submitted in one request (dtm-clients.md 2.6).

use super::ask::{Answered, Ask};
use super::server::{Server, body};
use crate::branch::Status;
use crate::coordinator::admit;
use crate::error::{Error, ErrorKind};
use crate::gid::Gid;
use crate::limits::Limits;
use crate::machine::{Fact, Machine, Outcome, Request, Step, StepId, StepKind};
use crate::options::Options;
use crate::wire::request::GlobalRequest;
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// A saga in the making.
#[derive(Clone, Debug)]
pub struct Saga {
    gid: String,
    options: Options,
    steps: Vec<(String, String, String)>,
    orders: Vec<(usize, Vec<usize>)>,
}

impl Saga {
    /// A saga of no steps yet.
    pub fn new(gid: &str, options: Options) -> Saga {
        Saga {
            gid: gid.to_owned(),
            options,
            steps: Vec::new(),
            orders: Vec::new(),
        }
    }

    /// Adds a step: what is called, what undoes it (empty for nothing), and the body of both, as text. Returns its number, from 0.
    pub fn step(&mut self, action: &str, undo: &str, payload: &str) -> usize {
        self.steps
            .push((action.to_owned(), undo.to_owned(), payload.to_owned()));
        self.steps.len() - 1
    }

    /// Lets a step wait for others, and for no more than these: steps run at the same time from now on.
    pub fn after(&mut self, step: usize, earlier: &[usize]) {
        self.options.concurrent = true;
        self.orders.push((step, earlier.to_vec()));
    }

    /// Runs all steps at the same time, but for those that [`Saga::after`] holds back.
    pub fn concurrent(&mut self) {
        self.options.concurrent = true;
    }

    fn body(&self) -> Map<String, Value> {
        let mut all = body(&self.gid, "saga", &self.options);
        if self.options.concurrent {
            let orders: Map<String, Value> = self
                .orders
                .iter()
                .map(|(step, earlier)| (step.to_string(), json!(earlier)))
                .collect();
            let custom = json!({"concurrent": true, "orders": orders}).to_string();
            all.insert("custom_data".to_owned(), custom.into());
        }
        let pair = |(action, undo, _): &(String, String, String)| {
            let mut step = Map::new();
            step.insert("action".to_owned(), json!(action));
            if !undo.is_empty() {
                step.insert("compensate".to_owned(), json!(undo));
            }
            Value::Object(step)
        };
        let steps: Vec<Value> = self.steps.iter().map(pair).collect();
        let payloads: Vec<&String> = self.steps.iter().map(|(_, _, payload)| payload).collect();
        all.insert("steps".to_owned(), steps.into());
        all.insert("payloads".to_owned(), json!(payloads));
        all
    }

    /// The request that submits it. Error: `Invalid`, for whatever the coordinator would refuse.
    pub fn request(&self, server: &Server) -> Result<Request, Error> {
        let body = Value::Object(self.body());
        check(&body)?;
        Ok(if self.options.wait_result {
            let call = crate::time::seconds(self.options.request_timeout);
            server.post_and_wait("submit", &body, call)
        } else {
            server.post("submit", &body)
        })
    }

    /// A machine that submits it. It ends well when the coordinator has taken the saga, or, with `wait_result`, when the saga has
    /// succeeded; `Failure` is a saga that was rolled back, `Ongoing` one that goes on.
    pub fn submit(&self, server: &Server) -> Result<Submit, Error> {
        Ok(Submit {
            ask: Some(Ask::new(self.request(server)?)),
            end: None,
            steps: 0,
            under_way: None,
        })
    }
}

/// Refuses what the coordinator would refuse, with its words.
pub(super) fn check(body: &Value) -> Result<(), Error> {
    let mut request = GlobalRequest::from_json(body.to_string().as_bytes())?;
    let topics: Vec<String> = admit::topics(&request).map(str::to_owned).collect();
    // Who subscribes is known to the coordinator only.
    let anybody = || vec!["http://subscriber".to_owned()];
    let subscribers = topics.into_iter().map(|topic| (topic, anybody())).collect();
    Gid::new(&request.gid, &Limits::default())?;
    admit::define(&mut request, &subscribers, &Limits::default()).map(|_| ())
}

/// Submits a saga.
#[derive(Clone, Debug)]
pub struct Submit {
    ask: Option<Ask>,
    end: Option<Result<Outcome, Error>>,
    steps: StepId,
    under_way: Option<StepId>,
}

/// What a submit's answer means. One that was sent again may meet the end of the first.
pub(super) fn submitted(answered: Answered) -> Result<Outcome, Error> {
    let done = Outcome {
        barrier: None,
        value: Bytes::new(),
    };
    match answered {
        Answered::Ok => Ok(done),
        Answered::Refused { error, maybe_done } => match (error.kind(), error.status()) {
            (ErrorKind::WrongState, Some(Status::Succeed)) if maybe_done => Ok(done),
            (ErrorKind::WrongState, Some(Status::Aborting | Status::Failed)) if maybe_done => {
                Err(Error::new(ErrorKind::Failure, error.message()))
            }
            _ => Err(error),
        },
        Answered::Unanswered(error) => Err(error),
    }
}

impl Machine for Submit {
    fn poll(&mut self) -> Option<Step> {
        if self.under_way.is_some() {
            return None;
        }
        let kind = match (&self.ask, self.end.take()) {
            (_, Some(result)) => {
                self.ask = None;
                StepKind::Done(result)
            }
            (Some(ask), None) => ask.step(),
            (None, None) => return None,
        };
        let id = self.steps;
        self.steps += 1;
        if !matches!(kind, StepKind::Done(_)) {
            self.under_way = Some(id);
        }
        Some(Step { id, kind })
    }

    fn resolve(&mut self, id: StepId, fact: Fact) -> Result<(), Error> {
        if self.under_way != Some(id) {
            return Err(Error::invalid(format!("no step {id} is under way")));
        }
        let ended = self.ask.as_mut().and_then(|ask| ask.next(fact));
        let ended =
            ended.ok_or_else(|| Error::invalid(format!("step {id} cannot end with this fact")))?;
        self.end = ended.map(submitted);
        self.under_way = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
