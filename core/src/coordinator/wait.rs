//! What a request that wants the result is answered with, and when (rules.md 2.3).

use super::transaction::Transaction;
use crate::branch::{Status, TransType};
use crate::error::{Error, ErrorKind};
use crate::options::Policy;
use crate::time::{Millis, SECOND};

/// Longest quick retry: a wait goes on over one.
const QUICK: Millis = SECOND;

/// A request that waits for the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// It was an abort of tcc or xa: ending in `failed` is its success.
    pub abort: bool,
    /// When it is answered at the latest.
    pub until: Millis,
}

impl Wait {
    /// The wait of a request that arrives now.
    pub fn new(abort: bool, tx: &Transaction, now: Millis, policy: &Policy) -> Wait {
        Wait {
            abort,
            until: now + policy.longest_call(&tx.def.options) + 2 * SECOND,
        }
    }

    /// The answer, once there is one. Call it only when what `tx` shows is durable.
    pub fn answer(
        &self,
        tx: &Transaction,
        now: Millis,
        policy: &Policy,
    ) -> Option<Result<(), Error>> {
        if tx.status().is_final() || now >= self.until {
            return Some(self.result(tx, policy));
        }
        let soon = |at: Millis| at <= self.until || at <= now + QUICK;
        let goes_on = tx.in_flight() || tx.due().is_some_and(soon);
        if goes_on {
            None
        } else {
            Some(self.result(tx, policy))
        }
    }

    fn result(&self, tx: &Transaction, policy: &Policy) -> Result<(), Error> {
        let status = tx.status();
        let ty = tx.trans_type();
        let failed = |text: &str| {
            Err(Error::new(ErrorKind::Failure, ending_in_failure(text)).with_status(status))
        };
        match status {
            Status::Succeed => Ok(()),
            Status::Failed if self.abort && tx.state().forced.is_none() => Ok(()),
            Status::Failed => failed(&tx.state().reason),
            Status::Aborting if ty == TransType::Saga => failed(&tx.state().reason),
            _ => Err(unended(ty, &format!("status {status}"), policy).with_status(status)),
        }
    }
}

/// What a wait that did not end is answered (rules.md 2.3): DTM's text for tcc and xa, ours for the others.
pub fn unended(trans_type: TransType, why: &str, policy: &Policy) -> Error {
    match trans_type {
        TransType::Saga | TransType::Msg if policy.compat.wait_result_409 => Error::new(
            ErrorKind::Failure,
            "wait result not return success: FAILURE",
        ),
        TransType::Tcc | TransType::Xa => Error::new(ErrorKind::Ongoing, "ONGOING"),
        _ => Error::new(ErrorKind::Ongoing, format!("ONGOING: not ended yet, {why}")),
    }
}

fn ending_in_failure(text: &str) -> String {
    if text.ends_with("FAILURE") {
        text.to_owned()
    } else {
        format!("{text} FAILURE").trim_start().to_owned()
    }
}
