//! What a participant answers to a branch call over HTTP: what was done rests on a proof, what went wrong on the kind of its error
//! (rules.md 8.5).

use crate::error::{Error, ErrorKind};
use crate::wire::http::{SUCCESS, to_json, without_failure};
use serde::Serialize;

/// The proof that a branch call is done: its change is committed, or there is nothing to do. Adapters make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it is what the answer to the coordinator rests on"]
pub struct Done(pub(crate) ());

/// What a handler of a branch call returns.
pub type BranchResult = Result<Done, Error>;

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Names in lower case; the type of the body, which is always JSON.
    pub headers: &'static [(&'static str, &'static str)],
    /// Body.
    pub body: Vec<u8>,
}

/// The answer of a handler. An error that is no definite no is never 409, and its text never holds the word that some coordinators take
/// for one.
pub fn answer(result: &BranchResult) -> Answer {
    #[derive(Serialize)]
    struct Body<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        dtm_result: Option<&'static str>,
        message: &'a str,
    }
    let (status, body) = match result {
        Ok(Done(())) => (200, SUCCESS.as_bytes().to_vec()),
        Err(error) => {
            let status = error.kind().branch_answer().http;
            let dtm_result = match status {
                409 => Some("FAILURE"),
                425 => Some("ONGOING"),
                _ => None,
            };
            let body = to_json(&Body {
                dtm_result,
                message: error.message(),
            });
            let failed = error.kind() == ErrorKind::Failure;
            (status, if failed { body } else { without_failure(body) })
        }
    };
    Answer {
        status,
        headers: &[("content-type", "application/json; charset=utf-8")],
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_answered_as_the_coordinator_wants_it() {
        let answer = answer(&Ok(Done(())));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, br#"{"dtm_result":"SUCCESS"}"#);
    }
}
