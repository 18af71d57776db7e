//! Sagas: built step by step, checked here as the coordinator would, and submitted in one request (dtm-clients.md 2.6).

use super::asking::Asking;
use super::server::{Server, body};
use crate::coordinator::admit;
use crate::error::Error;
use crate::gid::Gid;
use crate::limits::Limits;
use crate::machine::Request;
use crate::options::Options;
use crate::wire::request::GlobalRequest;
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// A saga in the making.
#[derive(Clone, Debug)]
pub struct Saga {
    gid: String,
    options: Options,
    steps: Vec<(String, String)>,
    payloads: Vec<Bytes>,
    orders: Vec<(usize, Vec<usize>)>,
}

impl Saga {
    /// A saga of no steps yet.
    pub fn new(gid: &str, options: Options) -> Saga {
        Saga {
            gid: gid.to_owned(),
            options,
            steps: Vec::new(),
            payloads: Vec::new(),
            orders: Vec::new(),
        }
    }

    /// Global transaction id.
    pub fn gid(&self) -> &str {
        &self.gid
    }

    /// Adds a step: what is called, what undoes it (empty for nothing), and the body of both. Returns its number, from 0. A body that is
    /// no text needs a coordinator that is spoken to over gRPC; an empty one is sent as `null` over HTTP.
    pub fn step(&mut self, action: &str, undo: &str, payload: impl AsRef<[u8]>) -> usize {
        self.steps.push((action.to_owned(), undo.to_owned()));
        self.payloads.push(Bytes::copy_from_slice(payload.as_ref()));
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
        let pair = |(action, undo): &(String, String)| {
            let mut step = Map::new();
            step.insert("action".to_owned(), json!(action));
            if !undo.is_empty() {
                step.insert("compensate".to_owned(), json!(undo));
            }
            Value::Object(step)
        };
        let steps: Vec<Value> = self.steps.iter().map(pair).collect();
        all.insert("steps".to_owned(), steps.into());
        all
    }

    /// The request that submits it. Error: `Invalid`, for whatever the coordinator would refuse.
    pub fn request(&self, server: &Server) -> Result<Request, Error> {
        server.post_steps("submit", self.body(), &self.payloads, &self.options)
    }

    /// A machine that submits it. It ends well when the coordinator has taken the saga, or, with `wait_result`, when the saga has
    /// succeeded; `Failure` is a saga that was rolled back, `Ongoing` one that goes on.
    pub fn submit(&self, server: &Server) -> Result<Asking, Error> {
        Ok(Asking::submit(self.request(server)?))
    }
}

/// Refuses what the coordinator would refuse, with its words.
pub(super) fn check(mut request: GlobalRequest) -> Result<(), Error> {
    let topics: Vec<String> = admit::topics(&request).map(str::to_owned).collect();
    // Who subscribes is known to the coordinator only.
    let anybody = || vec!["http://subscriber".to_owned()];
    let subscribers = topics.into_iter().map(|topic| (topic, anybody())).collect();
    Gid::new(&request.gid, &Limits::default())?;
    admit::define(&mut request, &subscribers, &Limits::default()).map(|_| ())
}

#[cfg(test)]
mod tests;
