//! Requests and outcomes as the tests write them.

use amends::Outcome;
use amends::wire::request::GlobalRequest;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Topics with their subscribers.
pub(crate) type Topics = BTreeMap<String, Vec<String>>;

/// Decodes a request.
pub(crate) fn global(body: &Value) -> GlobalRequest {
    GlobalRequest::from_json(body.to_string().as_bytes()).expect("a request of the right types")
}

/// A saga's request: step k calls `http://a/k` and `http://c/k`.
pub(crate) fn saga(steps: usize) -> Value {
    let step = |k: usize| json!({"action": format!("http://a/{k}"), "compensate": format!("http://c/{k}")});
    let payloads: Vec<String> = (1..=steps).map(|k| format!("{{\"n\":{k}}}")).collect();
    json!({"gid": "g", "trans_type": "saga", "steps": (1..=steps).map(step).collect::<Vec<_>>(), "payloads": payloads})
}

/// A message's request: step k calls `http://a/k`.
pub(crate) fn msg(steps: usize) -> Value {
    let step = |k: usize| json!({"action": format!("http://a/{k}")});
    let payloads = vec!["{}"; steps];
    json!({"gid": "g", "trans_type": "msg", "query_prepared": "http://q/ask",
        "steps": (1..=steps).map(step).collect::<Vec<_>>(), "payloads": payloads})
}

/// A tcc's or xa's request.
pub(crate) fn empty(trans_type: &str) -> Value {
    json!({"gid": "g", "trans_type": trans_type})
}

/// A workflow's request, called back at `http://w/back` as `book` with the body `input`.
pub(crate) fn workflow() -> Value {
    json!({"gid": "g", "trans_type": "workflow", "query_prepared": "http://w/back",
        "custom_data": "{\"name\":\"book\",\"data\":\"aW5wdXQ=\"}"})
}

/// The request with more or other members.
pub(crate) fn with(mut body: Value, more: Value) -> Value {
    for (key, value) in more.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

/// A concurrent saga whose steps wait for others as `orders` says.
pub(crate) fn concurrent(steps: usize, orders: Value) -> Value {
    let custom = json!({"concurrent": true, "orders": orders}).to_string();
    with(saga(steps), json!({"custom_data": custom}))
}

pub(crate) fn failure(text: &str) -> Outcome {
    Outcome::Failure(text.to_owned())
}

pub(crate) fn error(text: &str) -> Outcome {
    Outcome::Error(text.to_owned())
}
