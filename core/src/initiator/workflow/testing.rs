//! A coordinator in a few lines, and a host that runs a workflow against it.

use super::*;
use crate::machine::{Machine, Step};
use serde_json::Value;
use std::collections::BTreeMap;

/// A coordinator in a few lines: rows, a status, and who may write.
#[derive(Default)]
pub(super) struct Coordinator {
    pub(super) rows: Vec<Value>,
    pub(super) status: String,
    pub(super) reason: Value,
    pub(super) result: Value,
    /// As DTM's: no run token, and nothing is forbidden after a decision.
    pub(super) dtm: bool,
    /// Loses the answer of the next request of this route.
    pub(super) loses: Option<&'static str>,
    /// Answers a 409 that says nothing to all requests of this route.
    pub(super) refuses: Option<&'static str>,
}

impl Coordinator {
    pub(super) fn open() -> Coordinator {
        Coordinator {
            status: "prepared".to_owned(),
            ..Coordinator::default()
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        let name = |row: &Value| {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            format!("{}-{}", text("branch_id"), text("op"))
        };
        self.rows.iter().map(name).collect()
    }

    fn register(&mut self, row: Value) -> (u16, String) {
        let refused = (
            409,
            format!(
                r#"{{"message":"no trans with gid: g status: prepared found","status":"{}"}}"#,
                self.status
            ),
        );
        let same = |r: &&Value| r["branch_id"] == row["branch_id"] && r["op"] == row["op"];
        if let Some(stored) = self.rows.iter().find(same) {
            return match stored["run"] == row["run"] && !self.dtm {
                true => (200, SUCCESS.to_owned()),
                false => refused,
            };
        }
        let decided = self.names().contains(&"00-decision".to_owned());
        if self.status != "prepared" || decided && row["op"] == "action" && !self.dtm {
            return refused;
        }
        self.rows.push(row);
        (200, SUCCESS.to_owned())
    }

    fn answer(&mut self, request: &Request) -> Fact {
        let route = request.url.rsplit('/').next().expect("a route").to_owned();
        if self.refuses == Some(&*route) {
            return crate::machine::answer(409, "conflict");
        }
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        let (status, answer) = match route.as_str() {
            "prepareWorkflow" => {
                let rows: Vec<Value> = self
                    .rows
                    .iter()
                    .map(|row| {
                        json!({
                            "branch_id": row["branch_id"], "op": row["op"], "status": row["status"],
                            "bin_data": STANDARD.encode(row["data"].as_str().expect("text")),
                        })
                    })
                    .collect();
                let tx = json!({"status": self.status, "rollback_reason": self.reason, "result": self.result});
                (
                    200,
                    json!({"progresses": rows, "transaction": tx}).to_string(),
                )
            }
            "registerBranch" => self.register(body),
            "submit" => {
                let extra = &body["req_extra"];
                let end = extra["status"].as_str().expect("a status");
                if self.status == "prepared" || self.status == end {
                    self.status = end.to_owned();
                    self.reason = extra["rollback_reason"].clone();
                    self.result = extra["result"].clone();
                    (200, SUCCESS.to_owned())
                } else {
                    (
                        409,
                        r#"{"message":"no trans with gid: g status: prepared found"}"#.to_owned(),
                    )
                }
            }
            other => panic!("{other}"),
        };
        if self.loses.take_if(|lost| **lost == *route).is_some() {
            return Fact::NoAnswer {
                sent: true,
                message: "cut".to_owned(),
            };
        }
        crate::machine::answer(status, answer)
    }
}

const SUCCESS: &str = r#"{"dtm_result":"SUCCESS"}"#;

pub(super) fn workflow(run: u8) -> Workflow {
    let server = Server::new("http://c", 1_000);
    Workflow::new(
        &server,
        "wf",
        "g",
        b"in",
        "http://me",
        Options::default(),
        [run; 16],
    )
    .expect("legal")
}

/// What the branches do: by `id-op`, else success with their name.
pub(super) type Answers = BTreeMap<&'static str, Result<&'static str, ErrorKind>>;

/// Runs a body that takes these steps one after the other, each with an undo; gives up the whole run when it has made `until` steps.
pub(super) struct Host<'a> {
    pub(super) coordinator: &'a mut Coordinator,
    pub(super) answers: Answers,
    pub(super) ran: Vec<String>,
    pub(super) steps: usize,
    pub(super) until: usize,
    /// Before this step, another run goes to its end, and every step of it that is not recorded is refused.
    pub(super) overtaken: usize,
}

impl<'a> Host<'a> {
    pub(super) fn new(coordinator: &'a mut Coordinator) -> Host<'a> {
        Host {
            coordinator,
            answers: Answers::new(),
            ran: Vec::new(),
            steps: 0,
            until: usize::MAX,
            overtaken: usize::MAX,
        }
    }

    pub(super) fn answers(
        mut self,
        all: &[(&'static str, Result<&'static str, ErrorKind>)],
    ) -> Self {
        self.answers = all.iter().cloned().collect();
        self
    }

    fn work(&mut self, name: &str) -> Fact {
        self.ran.push(name.to_owned());
        match self.answers.get(name) {
            Some(Err(kind)) => Fact::UserFailed {
                kind: *kind,
                message: format!("{name} says no"),
            },
            Some(Ok(value)) => Fact::UserOk(Bytes::from(*value)),
            None => Fact::UserOk(Bytes::from(name.to_owned())),
        }
    }

    /// Goes on until the body is to run, or it has ended; `None` is a crash.
    pub(super) fn go(&mut self, machine: &mut Workflow) -> Option<Result<Bytes, Error>> {
        while let Some(Step { id, kind }) = machine.poll() {
            if self.steps == self.until {
                return None;
            }
            if self.steps == self.overtaken {
                let refuses = |id| (id, Err(ErrorKind::Failure));
                let refuses = ["01-action", "02-action"].map(refuses);
                let mut other = Host::new(self.coordinator).answers(&refuses);
                let ended = other.run(workflow(2), &["a", "b"]);
                let ran = std::mem::take(&mut other.ran);
                self.ran
                    .extend(ran.into_iter().map(|name| format!("other {name}")));
                assert!(ended.expect("no crash").map_err(|e| e.kind()) != Err(ErrorKind::LostRace));
            }
            self.steps += 1;
            let fact = match kind {
                StepKind::Done(result) => return Some(result.map(|output| output.value)),
                StepKind::Call(request) => self.coordinator.answer(&request),
                StepKind::Sleep(_) => Fact::Done,
                StepKind::RunUser(who) if who.branch_id == "00" => {
                    return Some(Ok(Bytes::from(id.to_string())));
                }
                StepKind::RunUser(who) => self.work(&format!("{}-{}", who.branch_id, who.op)),
                other => panic!("{other:?}"),
            };
            machine.resolve(id, fact).expect("it fits");
        }
        Some(Err(Error::new(ErrorKind::Internal, "idle")))
    }

    pub(super) fn part(
        &mut self,
        machine: &mut Workflow,
        part: PartNumber,
    ) -> Option<Result<Bytes, Error>> {
        if machine.result(part).is_none() {
            let _ = self.go(machine)?;
        }
        machine.result(part)
    }

    /// `None` is a crash.
    pub(super) fn run(
        &mut self,
        mut machine: Workflow,
        body: &[&str],
    ) -> Option<Result<Bytes, Error>> {
        let opened = self.go(&mut machine)?;
        if !matches!(machine.state, State::Running) {
            return Some(opened);
        }
        let mut end = Ok(Bytes::from("done"));
        for step in body {
            if let Err(error) = self.step(&mut machine, step)? {
                end = Err(error);
                break;
            }
        }
        self.end(&mut machine, end)
    }

    /// A step of a body, with what confirms and undoes it.
    pub(super) fn step(
        &mut self,
        machine: &mut Workflow,
        name: &str,
    ) -> Option<Result<Bytes, Error>> {
        let part = added(machine, name);
        machine.action(part, Work::Run).expect("named");
        self.part(machine, part)
    }

    /// The end of a body, and what follows from it.
    pub(super) fn end(
        &mut self,
        machine: &mut Workflow,
        end: Result<Bytes, Error>,
    ) -> Option<Result<Bytes, Error>> {
        let fact = Fact::from(end);
        let id = machine.steps.id_of(Who::Main).expect("the body runs");
        machine.resolve(id, fact).expect("it fits");
        self.go(machine)
    }
}

/// A branch, and what confirms and undoes it.
pub(super) fn added(machine: &mut Workflow, name: &str) -> PartNumber {
    let part = machine.branch(name).expect("running");
    machine.on_rollback(part, Work::Run).expect("named");
    machine.on_commit(part, Work::Run).expect("named");
    part
}
