//! What an initiator asks for, and what it reads in answers.

use super::or_error;
use amends::branch::step_branch_id;
use amends::initiator::answers::{Progress, classify, progresses};
use amends::initiator::workflow::Frame;
use amends::initiator::{Message, Saga, Server, Tcc, Try, Work, Workflow};
use amends::machine::{Fact, Machine, Request, StepKind};
use amends::participant::{Dialect, Identity, ParamStyle, Place};
use amends::{Error, ErrorKind, Options};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum BranchId {
    Step(usize),
    Child { parent: String, number: usize },
}

pub(crate) fn branch_id(input: BranchId) -> Value {
    match input {
        BranchId::Step(index) => json!(step_branch_id(index)),
        BranchId::Child { parent, number } => or_error(child(&parent, number), Value::from),
    }
}

/// The id of the branch with this number, from 1, of a TCC or of a try in it.
fn child(parent: &str, number: usize) -> Result<String, Error> {
    let server = Server::new("http://h:1", 3_000);
    let mut tcc = if parent.is_empty() {
        Tcc::new(&server, "g", Options::default())?
    } else {
        let who = Identity::new("tcc", "g", parent, "try")?;
        Tcc::nested(&server, &who, Options::default())?
    };
    while let Some(step) = tcc.poll() {
        if let StepKind::Call(_) = step.kind {
            tcc.resolve(step.id, success())?;
        }
    }
    let branch = Try {
        try_url: "http://h/try".to_owned(),
        confirm: "http://h/confirm".to_owned(),
        cancel: "http://h/cancel".to_owned(),
        payload: Default::default(),
    };
    let mut last = 0;
    for _ in 0..number {
        last = tcc.branch(&branch)?;
    }
    Ok(tcc.branch_id(last).expect("a branch").to_owned())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CoordinatorAnswer {
    status: u16,
    body: String,
}

pub(crate) fn coordinator_answer(input: CoordinatorAnswer) -> Value {
    match classify(input.status, input.body.as_bytes()) {
        Ok(()) => json!("done"),
        Err(error) => json!({
            "error": format!("{:?}", error.kind()),
            "message": error.message(),
            "status": error.status().map(|status| status.as_str()),
        }),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CoordinatorReply {
    status: u16,
    body: Value,
}

/// Bytes as text, where they are some.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn progress(input: CoordinatorReply) -> Value {
    let read = progresses(input.status, input.body.to_string().as_bytes());
    or_error(read, |now| {
        let row =
            |row: &Progress| json!([row.branch_id, row.op, row.status.as_str(), text(&row.data)]);
        json!({
            "status": now.status.as_str(),
            "reason": now.reason,
            "result": text(&now.result),
            "began": now.began.map(|(name, input)| json!([name, text(&input)])),
            "rows": now.rows.iter().map(row).collect::<Vec<_>>(),
        })
    })
}

/// What a row of a workflow holds: as it is stored, and what is in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum Journal {
    Encode {
        run: String,
        step: String,
        message: String,
        items: Option<Vec<String>>,
        #[serde(default)]
        given_up: bool,
        /// Base64.
        data: String,
    },
    Decode(String),
}

pub(crate) fn journal(input: Journal) -> Value {
    match input {
        Journal::Encode {
            run,
            step,
            message,
            items,
            given_up,
            data,
        } => {
            let data = STANDARD.decode(data).expect("base64").into();
            let frame = Frame {
                run,
                step,
                message,
                items,
                given_up,
                data,
            };
            assert_eq!(
                Frame::decode(frame.encode().as_bytes()).as_ref(),
                Some(&frame)
            );
            json!(frame.encode())
        }
        Journal::Decode(stored) => json!(Frame::decode(stored.as_bytes()).map(|frame| json!({
            "run": frame.run,
            "step": frame.step,
            "message": frame.message,
            "items": frame.items,
            "given_up": frame.given_up,
            "data": STANDARD.encode(&frame.data),
        }))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Initiator {
    server: String,
    /// How long the coordinator may take to answer, ms.
    timeout: i64,
    gid: String,
    #[serde(default)]
    options: Options,
    mode: Mode,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum Mode {
    Saga {
        /// Action, compensation, payload.
        steps: Vec<[String; 3]>,
        /// Each: a step, and those it waits for.
        #[serde(default)]
        after: Vec<(usize, Vec<usize>)>,
    },
    Msg {
        query_prepared: String,
        /// Receiver, payload.
        steps: Vec<[String; 2]>,
        #[serde(default)]
        delay: u64,
        /// Why the user's code refuses, if it does.
        refused: Option<String>,
    },
    Tcc {
        /// Of the try that these belong to, if they do.
        parent: Option<String>,
        /// Try, confirm, cancel, payload.
        branches: Vec<[String; 4]>,
        refused: Option<String>,
    },
    Workflow {
        name: String,
        input: String,
        callback: String,
        /// Step, URL of the action and its undo, payload.
        steps: Vec<[String; 4]>,
        refused: Option<String>,
    },
}

pub(crate) fn requests(input: Initiator) -> Value {
    or_error(calls(input), Value::from)
}

/// The calls that are made if each of them is answered with success.
fn calls(input: Initiator) -> Result<Vec<Value>, Error> {
    let server = Server::new(&input.server, input.timeout);
    let (gid, options) = (&input.gid, input.options);
    match input.mode {
        Mode::Saga { steps, after } => {
            let mut saga = Saga::new(gid, options);
            for [action, undo, payload] in &steps {
                saga.step(action, undo, payload);
            }
            for (step, earlier) in &after {
                saga.after(*step, earlier);
            }
            calls_of(saga.submit(&server)?, |_| Ok(user(None)))
        }
        Mode::Msg {
            query_prepared,
            steps,
            delay,
            refused,
        } => {
            let mut message = Message::new(gid, &query_prepared, options);
            for [url, payload] in &steps {
                message.send(url, payload);
            }
            message.delay(delay);
            let place = Place {
                dialect: Dialect::Postgres,
                table: Dialect::Postgres.default_table(),
                style: ParamStyle::Dollar,
            };
            let machine = message.commit_with(&server, place, 0)?;
            calls_of(machine, |_| Ok(user(refused.as_deref())))
        }
        Mode::Tcc {
            parent,
            branches,
            refused,
        } => {
            let machine = match parent {
                None => Tcc::new(&server, gid, options)?,
                Some(parent) => {
                    let who = Identity::new("tcc", gid, &parent, "try")?;
                    Tcc::nested(&server, &who, options)?
                }
            };
            let mut left = branches.into_iter();
            calls_of(machine, |tcc: &mut Tcc| {
                let Some([try_url, confirm, cancel, payload]) = left.next() else {
                    return Ok(user(refused.as_deref()));
                };
                tcc.branch(&Try {
                    try_url,
                    confirm,
                    cancel,
                    payload: payload.into(),
                })?;
                Ok(None)
            })
        }
        Mode::Workflow {
            name,
            input,
            callback,
            steps,
            refused,
        } => {
            let input = input.as_bytes();
            let machine = Workflow::new(&server, &name, gid, input, &callback, options, [7; 16])?;
            let mut left = steps.into_iter();
            calls_of(machine, |wf: &mut Workflow| {
                let Some([step, action, undo, payload]) = left.next() else {
                    return Ok(user(refused.as_deref()));
                };
                let call = |url| Work::Call {
                    url,
                    payload: payload.clone().into(),
                };
                let branch = wf.branch(&step)?;
                wf.on_rollback(branch, call(undo))?;
                wf.action(branch, call(action))?;
                Ok(None)
            })
        }
    }
}

fn user(refused: Option<&str>) -> Option<Fact> {
    Some(match refused {
        None => Fact::UserOk(Default::default()),
        Some(why) => Fact::UserFailed {
            kind: ErrorKind::Failure,
            message: why.to_owned(),
        },
    })
}

fn success() -> Fact {
    Fact::Answer {
        status: 200,
        body: r#"{"dtm_result":"SUCCESS"}"#.into(),
        message: String::new(),
    }
}

/// A workflow that has recorded nothing yet.
fn begun() -> Fact {
    Fact::Answer {
        status: 200,
        body: r#"{"progresses":[],"transaction":{"status":"prepared"}}"#.into(),
        message: String::new(),
    }
}

/// Whenever there is nothing else to do, `user` does something, or ends with a fact.
fn calls_of<M: Machine>(
    mut machine: M,
    mut user: impl FnMut(&mut M) -> Result<Option<Fact>, Error>,
) -> Result<Vec<Value>, Error> {
    let (mut calls, mut running) = (Vec::new(), None);
    // What the barrier's row says: of a transaction that was rolled back, the check leaves a mark.
    let mut row = "msg";
    loop {
        let Some(step) = machine.poll() else {
            if let Some(fact) = user(&mut machine)? {
                if let Fact::UserFailed { .. } = fact {
                    row = "rollback";
                }
                machine.resolve(running.take().expect("the user's code"), fact)?;
            }
            continue;
        };
        let fact = match step.kind {
            StepKind::Done(_) => return Ok(calls),
            StepKind::RunUser(_) => {
                running = Some(step.id);
                continue;
            }
            StepKind::Call(request) => {
                calls.push(shown(&request));
                if request.url.ends_with("/prepareWorkflow") {
                    begun()
                } else {
                    success()
                }
            }
            StepKind::Exec(_) => Fact::Affected(1),
            StepKind::Query(_) => Fact::Text(Some(row.to_owned())),
            _ => Fact::Done,
        };
        machine.resolve(step.id, fact)?;
    }
}

fn shown(request: &Request) -> Value {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    json!({
        "method": request.method,
        "url": request.url,
        "headers": request.headers.iter().cloned().collect::<BTreeMap<_, _>>(),
        "timeout": request.timeout,
        "body": body,
    })
}
