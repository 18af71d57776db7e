//! One request to the coordinator as a machine of its own: a submit, a prepare, an abort.

use super::ask::{Answered, Ask};
use super::server::{Server, body};
use crate::branch::{Status, TransType};
use crate::error::{Error, ErrorKind};
use crate::gid::Gid;
use crate::limits::{Limits, REASON_MAX, cut};
use crate::machine::{Fact, Machine, Output, Request, Step, StepId, StepKind, Steps, wrong};
use crate::options::Options;
use bytes::Bytes;
use serde_json::{Value, json};

/// One request, made again while that is harmless and helps.
#[derive(Clone, Debug)]
pub struct Asking {
    ask: Ask,
    /// What the end of it means.
    read: fn(Answered) -> Result<Output, Error>,
    end: Option<Result<Output, Error>>,
    steps: Steps,
}

impl Asking {
    fn new(request: Request, read: fn(Answered) -> Result<Output, Error>) -> Asking {
        Asking {
            ask: Ask::new(request),
            read,
            end: None,
            steps: Steps::default(),
        }
    }

    pub(super) fn submit(request: Request) -> Asking {
        Asking::new(request, submitted)
    }

    pub(super) fn prepare(request: Request) -> Asking {
        Asking::new(request, plain)
    }

    /// Takes back what was prepared: undoes a TCC or an XA, withdraws a message. One that has failed already is as it should be. Error:
    /// `Invalid` for a gid that is none.
    pub fn abort(
        server: &Server,
        mode: TransType,
        gid: &str,
        reason: &str,
    ) -> Result<Asking, Error> {
        Gid::new(gid, &Limits::default())?;
        let request = abort_request(server, mode, gid, reason, &Options::default());
        Ok(Asking::new(request, |answered| match answered {
            Answered::Refused { error, .. } if error.status() == Some(Status::Failed) => Ok(done()),
            other => plain(other),
        }))
    }
}

/// What an answer means where the status of the transaction does not matter.
fn plain(answered: Answered) -> Result<Output, Error> {
    match answered {
        Answered::Ok(()) => Ok(done()),
        Answered::Refused { error, maybe_done } => Err(unclear(error, maybe_done)),
        Answered::Unanswered(error) => Err(error),
    }
}

fn done() -> Output {
    Output::from(Bytes::new())
}

/// The request that takes back what was prepared.
pub(super) fn abort_request(
    server: &Server,
    mode: TransType,
    gid: &str,
    reason: &str,
    options: &Options,
) -> Request {
    let mut all = body(gid, mode.as_str(), options);
    all.insert("rollback_reason".to_owned(), json!(cut(reason, REASON_MAX)));
    server.post_and_wait("abort", &Value::Object(all), options)
}

/// What a submit's answer means. One that was sent again may meet the end of the first.
pub(super) fn submitted(answered: Answered) -> Result<Output, Error> {
    match answered {
        Answered::Ok(()) => Ok(done()),
        Answered::Refused { error, maybe_done } => match (error.kind(), error.status()) {
            (ErrorKind::Refused, Some(Status::Succeed)) if maybe_done => Ok(done()),
            (ErrorKind::Refused, status @ Some(Status::Aborting | Status::Failed))
                if maybe_done =>
            {
                Err(Error::new(ErrorKind::Failure, error.message()).with_status(status))
            }
            _ => Err(unclear(error, maybe_done)),
        },
        Answered::Unanswered(error) => Err(error),
    }
}

/// The last attempt's error says nothing of an earlier one that may have been taken.
fn unclear(error: Error, maybe_done: bool) -> Error {
    use ErrorKind::{Internal, Invalid, TooLarge, Unauthorized};
    match error.kind() {
        Internal | Invalid | TooLarge | Unauthorized if maybe_done => {
            Error::new(ErrorKind::OutcomeUnknown, error.message())
        }
        _ => error,
    }
}

impl Machine for Asking {
    fn poll(&mut self) -> Option<Step> {
        self.steps.idle()?;
        let kind = match &self.end {
            Some(result) => StepKind::Done(result.clone()),
            None => self.ask.step(),
        };
        Some(self.steps.give((), kind))
    }

    fn resolve(&mut self, id: StepId, fact: Fact) -> Result<(), Error> {
        self.steps.who(id)?;
        let ended = self.ask.next(fact).ok_or_else(|| wrong(id))?;
        self.end = ended.map(self.read);
        self.steps.end(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initiator::Message;
    use crate::machine::answer;

    const SERVER: &str = "http://h:1";

    /// Answers the one call that it makes.
    fn answered(
        mut machine: Asking,
        status: u16,
        body: &'static str,
    ) -> (Request, Option<ErrorKind>) {
        let step = machine.poll().expect("a step");
        let StepKind::Call(request) = step.kind else {
            panic!("{step:?}")
        };
        machine
            .resolve(step.id, answer(status, body))
            .expect("it fits");
        let StepKind::Done(result) = machine.poll().expect("an end").kind else {
            panic!("no end")
        };
        (request, result.err().map(|e| e.kind()))
    }

    #[test]
    fn an_abort_is_done_when_it_has_failed() {
        let server = Server::new(SERVER, 3_000);
        let abort =
            || Asking::abort(&server, TransType::Msg, "g", "changed my mind").expect("legal");
        let of = |status, body| answered(abort(), status, body).1;
        let (request, ended) = answered(abort(), 200, r#"{"dtm_result":"SUCCESS"}"#);
        assert_eq!(ended, None);
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        assert_eq!(body["trans_type"], "msg");
        assert_eq!(body["rollback_reason"], "changed my mind");
        let failed =
            r#"{"message":"trans type: 'msg' current status 'failed', cannot abort. FAILURE"}"#;
        assert_eq!(of(409, failed), None);
        let submitted =
            r#"{"message":"trans type: 'msg' current status 'submitted', cannot abort. FAILURE"}"#;
        assert_eq!(of(409, submitted), Some(ErrorKind::Refused));
        let unknown = r#"{"message":"no TransGlobal with gid: g found"}"#;
        assert_eq!(of(404, unknown), Some(ErrorKind::UnknownGid));
        let error = Asking::abort(&server, TransType::Tcc, "", "").expect_err("no gid");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_message_without_a_local_transaction() {
        let server = Server::new(SERVER, 3_000);
        let mut message = Message::new("g", "", Options::default());
        message.send("http://h/in", "{}");
        let submit = message.submit(&server).expect("nobody has to be asked");
        let (request, ended) = answered(submit, 200, r#"{"dtm_result":"SUCCESS"}"#);
        assert_eq!(ended, None);
        assert_eq!(request.url, "http://h:1/api/dtmsvr/submit");
        let error = message.prepare(&server).expect_err("whom to ask");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let mut message = Message::new("g", "http://h/check", Options::default());
        message.send("http://h/in", "{}");
        let prepare = message.prepare(&server).expect("legal");
        let failed = r#"{"message":"current status 'failed', cannot prepare. FAILURE"}"#;
        let (request, ended) = answered(prepare, 409, failed);
        assert_eq!(ended, Some(ErrorKind::Refused));
        assert_eq!(request.url, "http://h:1/api/dtmsvr/prepare");
    }
}
