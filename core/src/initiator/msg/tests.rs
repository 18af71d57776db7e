use super::*;
use crate::machine::{Request, answer};
use crate::participant::testing::{Db, word};
use crate::participant::{Dialect, ParamStyle};

const GID: &str = "g";

fn place() -> Place {
    Place {
        dialect: Dialect::Postgres,
        table: Dialect::Postgres.default_table(),
        style: ParamStyle::Dollar,
    }
}

fn machine() -> Commit {
    let server = Server::new("http://h:1", 3_000);
    let mut message = Message::new(GID, "http://me/asked", Options::default());
    message.send("http://h/in", "{}");
    message.delay(7);
    message.commit_with(&server, place(), 7).expect("legal")
}

/// The coordinator and the database of one message.
#[derive(Default)]
struct World {
    db: Db,
    status: &'static str,
    log: Vec<String>,
}

impl World {
    fn call(&mut self, request: &Request) -> Fact {
        let route = request.url.rsplit('/').next().unwrap_or_default();
        self.log.push(route.to_owned());
        let (from, to): (&[&str], _) = match route {
            "prepare" => (&["", "prepared"], "prepared"),
            "submit" => (&["prepared", "submitted"], "submitted"),
            "abort" => (&["prepared"], "failed"),
            other => panic!("{other}"),
        };
        if from.contains(&self.status) {
            self.status = to;
            return answer(200, r#"{"dtm_result":"SUCCESS"}"#);
        }
        answer(
            409,
            format!(
                r#"{{"message":"current status '{0}', cannot go on. FAILURE","status":"{0}"}}"#,
                self.status
            ),
        )
    }

    fn step(&mut self, kind: &StepKind) -> Fact {
        match kind {
            StepKind::Call(request) => self.call(request),
            StepKind::Sleep(_) => Fact::Done,
            kind => {
                self.log.push(word(kind).to_owned());
                self.db.step(kind)
            }
        }
    }

    /// Runs a machine; `disturb` may replace what is told of a step, before or after its effect.
    fn run(
        &mut self,
        mut machine: Commit,
        mut disturb: impl FnMut(&mut World, &StepKind) -> Option<Fact>,
    ) -> Result<Output, Error> {
        loop {
            let step = machine.poll().expect("a step");
            if let StepKind::Done(result) = step.kind {
                assert_eq!(machine.poll(), None);
                return result;
            }
            let fact = disturb(self, &step.kind).unwrap_or_else(|| self.step(&step.kind));
            machine.resolve(step.id, fact).expect("it fits");
        }
    }

    fn committed(&self) -> bool {
        self.db.committed.values().any(|reason| reason == "msg")
    }

    /// What the coordinator does with a message that it did not hear of: it asks until it knows.
    fn ask(&mut self) {
        if self.status == "prepared" {
            let who = Identity::new("msg", GID, "00", "msg").expect("an identity");
            let asked = BarrierRun::check_back(place(), who, 7);
            self.status = match self.db.run(asked, |_, _| None) {
                Ok(_) => "submitted",
                Err(error) if error.kind() == ErrorKind::Failure => "failed",
                Err(error) => panic!("{error}"),
            };
        }
    }
}

fn calm(_: &mut World, _: &StepKind) -> Option<Fact> {
    None
}

fn lost() -> Fact {
    Fact::DbFailed {
        sqlstate: Some("08006".to_owned()),
        errno: None,
        message: "the connection is gone".to_owned(),
    }
}

#[test]
fn prepare_then_the_local_transaction_then_submit() {
    let mut w = World::default();
    let done = w.run(machine(), calm).expect("committed");
    assert_eq!(&done.value[..], b"done");
    assert_eq!(
        w.log,
        [
            "prepare", "begin", "exec", "user", "query", "commit", "submit"
        ]
    );
    assert_eq!((w.status, w.committed()), ("submitted", true));
}

#[test]
fn a_failure_withdraws_the_message() {
    for kind in [ErrorKind::Failure, ErrorKind::Database] {
        let mut w = World::default();
        let refuse = |_: &mut World, step: &StepKind| {
            matches!(step, StepKind::RunUser(_)).then(|| Fact::UserFailed {
                kind,
                message: "no".to_owned(),
            })
        };
        let error = w.run(machine(), refuse).expect_err("refused");
        assert_eq!((error.kind(), error.message()), (kind, "no"));
        assert_eq!((w.status, w.committed()), ("failed", false));
    }
}

#[test]
fn what_is_withdrawn_cannot_be_committed_by_another_run() {
    let mut w = World::default();
    let refuse = |_: &mut World, step: &StepKind| {
        matches!(step, StepKind::RunUser(_)).then(|| Fact::UserFailed {
            kind: ErrorKind::Failure,
            message: "no".to_owned(),
        })
    };
    w.run(machine(), refuse).expect_err("refused");
    let last = |word: &str| w.log.iter().rposition(|w| w == word);
    assert!(
        last("commit") < last("abort"),
        "the mark comes first: {:?}",
        w.log
    );
    // Another run had prepared before: it meets the mark.
    w.status = "prepared";
    let error = w.run(machine(), calm).expect_err("shut out");
    assert_eq!(
        (error.kind(), error.committed()),
        (ErrorKind::Duplicated, Some(false))
    );
    assert!(!w.committed());

    // Withdrawn by somebody else between the commit and the submit: that is no success.
    let mut w = World::default();
    let withdraw = |w: &mut World, step: &StepKind| {
        let submits = matches!(step, StepKind::Call(r) if r.url.ends_with("/submit"));
        if submits {
            w.status = "failed";
        }
        None
    };
    let error = w.run(machine(), withdraw).expect_err("never delivered");
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.message().contains("withdrawn"), "{error}");
}

#[test]
fn a_commit_whose_answer_is_lost_is_looked_up() {
    for done in [true, false] {
        let mut w = World::default();
        let mut first = true;
        let cut = |w: &mut World, step: &StepKind| {
            let here = matches!(step, StepKind::Commit) && std::mem::take(&mut first);
            here.then(|| {
                if done {
                    w.db.step(step);
                }
                lost()
            })
        };
        let result = w.run(machine(), cut);
        if done {
            result.expect("it was committed");
            assert_eq!((w.status, w.committed()), ("submitted", true));
        } else {
            let error = result.expect_err("it was not");
            assert_eq!(
                error.kind(),
                ErrorKind::Database,
                "known, and may be tried under another gid"
            );
            assert_eq!((w.status, w.committed()), ("failed", false));
        }
    }
}

#[test]
fn what_cannot_be_found_out_is_left_to_the_coordinator() {
    let mut w = World::default();
    let mut broken = false;
    let cut = |w: &mut World, step: &StepKind| {
        if matches!(step, StepKind::Commit) && !broken {
            w.db.step(step);
            broken = true;
            return Some(lost());
        }
        (broken && matches!(step, StepKind::Begin { .. })).then(lost)
    };
    let error = w.run(machine(), cut).expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(w.status, "prepared");
    w.ask();
    assert_eq!((w.status, w.committed()), ("submitted", true));
}

#[test]
fn a_gid_that_was_used_before_says_what_became_of_it() {
    let mut w = World::default();
    w.run(machine(), calm).expect("committed");
    // The coordinator has forgotten it meanwhile; the database has not.
    w.status = "";
    let error = w.run(machine(), calm).expect_err("used");
    assert_eq!(error.kind(), ErrorKind::Duplicated);
    assert_eq!(error.committed(), Some(true), "{error}");
    assert_eq!(w.status, "submitted");

    let mut w = World {
        status: "prepared",
        ..World::default()
    };
    w.ask();
    w.status = "";
    let error = w.run(machine(), calm).expect_err("used");
    assert_eq!(error.committed(), Some(false), "{error}");
    assert_eq!((w.status, w.committed()), ("failed", false));
}

/// Of two runs under one gid, the one that fails never reports what the other did as its own.
#[test]
fn a_run_that_failed_beside_one_that_committed_is_a_duplicate() {
    let mut w = World::default();
    w.run(machine(), calm).expect("committed");
    w.status = "";
    let broken = |_: &mut World, step: &StepKind| {
        matches!(step, StepKind::Exec(s) if s.params[5] == "msg").then(|| Fact::DbFailed {
            sqlstate: Some("53200".to_owned()),
            errno: None,
            message: "out of memory".to_owned(),
        })
    };
    let error = w.run(machine(), broken).expect_err("not this one");
    assert_eq!(
        (error.kind(), error.committed()),
        (ErrorKind::Duplicated, Some(true))
    );
    assert_eq!(w.status, "submitted", "and that one is delivered");
}

/// The user's code committed by itself: the message goes with the row, and the user hears of it.
#[test]
fn a_local_transaction_that_was_ended_by_its_code_is_reported() {
    let mut w = World::default();
    let mut guarded = false;
    let ended = |w: &mut World, step: &StepKind| {
        let guard = matches!(step, StepKind::Query(_)) && !std::mem::replace(&mut guarded, true);
        guard.then(|| {
            w.db.step(&StepKind::Commit);
            Fact::Text(Some(String::new()))
        })
    };
    let error = w.run(machine(), ended).expect_err("not one change");
    assert_eq!(error.kind(), ErrorKind::HalfDone);
    assert_eq!((w.status, w.committed()), ("submitted", true));
}

#[test]
fn nothing_is_done_here_before_it_is_prepared() {
    let mut w = World {
        status: "failed",
        ..World::default()
    };
    let error = w.run(machine(), calm).expect_err("refused");
    assert_eq!(
        (error.kind(), error.committed()),
        (ErrorKind::Duplicated, Some(false))
    );
    assert_eq!(w.log, ["prepare"]);

    let mut w = World::default();
    let unreachable = |_: &mut World, step: &StepKind| {
        matches!(step, StepKind::Call(_)).then(|| Fact::NoAnswer {
            sent: true,
            message: "cut".to_owned(),
        })
    };
    let error = w.run(machine(), unreachable).expect_err("not prepared");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(w.db.log.is_empty());
}

#[test]
fn a_submit_without_an_answer_is_made_up_for_by_the_coordinator() {
    let mut w = World::default();
    let cut = |_: &mut World, step: &StepKind| {
        matches!(step, StepKind::Call(r) if r.url.ends_with("submit")).then(|| Fact::NoAnswer {
            sent: false,
            message: "refused".to_owned(),
        })
    };
    w.run(machine(), cut).expect("it is committed");
    assert_eq!(w.status, "prepared");
    w.ask();
    assert_eq!((w.status, w.committed()), ("submitted", true));
}

/// Invariant 6: local commit ⇔ delivered. Stopped before and after the effect of every step, the coordinator finds out the truth.
#[test]
fn stopping_at_every_step_keeps_both_sides_together() {
    for stop in 0..8 {
        for effect in [false, true] {
            let mut w = World::default();
            let mut machine = machine();
            for n in 0.. {
                let step = machine.poll().expect("a step");
                if let StepKind::Done(_) = step.kind {
                    break;
                }
                if n == stop {
                    if effect {
                        w.step(&step.kind);
                    }
                    break;
                }
                let fact = w.step(&step.kind);
                machine.resolve(step.id, fact).expect("it fits");
            }
            drop(machine);
            w.db.open = None;
            w.ask();
            let delivered = w.status == "submitted";
            assert_eq!(
                delivered,
                w.committed(),
                "stopped at {stop}, effect {effect}: {:?}",
                w.log
            );
        }
    }
}

#[test]
fn the_body_has_what_the_coordinator_needs() {
    let mut machine = machine();
    let Some(Step {
        kind: StepKind::Call(prepare),
        ..
    }) = machine.poll()
    else {
        panic!("it begins with a call");
    };
    let body: Value = serde_json::from_slice(&prepare.body).expect("JSON");
    assert_eq!(body["query_prepared"], "http://me/asked");
    assert_eq!(body["custom_data"], r#"{"delay":7}"#);
    assert_eq!(body["steps"], json!([{"action": "http://h/in"}]));
    let server = Server::new("http://h:1", 3_000);
    let nobody = Message::new(GID, "", Options::default());
    let error = nobody
        .commit_with(&server, place(), 7)
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
