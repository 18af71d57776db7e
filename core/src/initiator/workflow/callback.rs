//! The coordinator's callback, by which a workflow is taken up again after a crash (dtm-server.md 7.5).

use crate::branch::{ROOT_BRANCH, Status, TransType};
use crate::error::{Error, ErrorKind};
use crate::initiator::answers::Stored;
use crate::participant::Identity;
use crate::participant::answer::{Answer, Done, answer};
use bytes::Bytes;

/// A call that says to be the coordinator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// Which workflow.
    pub name: String,
    /// Which one of these.
    pub gid: String,
    /// What it was begun with.
    pub input: Bytes,
}

impl Callback {
    /// Reads a call: `query` as it stands in the URL, and the body. Error: `Invalid` for one that is no callback.
    pub fn read(query: &str, body: &[u8]) -> Result<Callback, Error> {
        let who = Identity::from_query(query)?;
        if who.trans_type != TransType::Workflow || who.branch_id != ROOT_BRANCH {
            let text = format!("a {} of a {} is no callback", who.op, who.trans_type);
            return Err(Error::invalid(text));
        }
        Ok(Callback {
            name: who.op.to_string(),
            gid: who.gid.to_string(),
            input: Bytes::copy_from_slice(body),
        })
    }

    /// Whether there is something to run, by what the coordinator has stored; all that is known of a call without that is that somebody
    /// reached the URL. Error: `Invalid` for a call that cannot be the coordinator's.
    pub fn goes_on(&self, stored: Option<Stored>) -> Result<bool, Error> {
        let Some(stored) = stored else {
            return Ok(true);
        };
        let began = |(name, input): &(String, Bytes)| *name == self.name && *input == self.input;
        if stored.mode != TransType::Workflow.as_str() || !stored.began.as_ref().is_none_or(began) {
            return Err(Error::invalid(format!(
                "this is no callback of the coordinator: it knows no workflow {} named {:?} with this input",
                self.gid, self.name
            )));
        }
        Ok(stored.status == Status::Prepared)
    }

    /// What to answer: success as soon as it has ended, in whatever way.
    pub fn answer(ended: Result<Bytes, Error>) -> Answer {
        match ended {
            Err(error) if error.kind() != ErrorKind::Failure => answer(&Err(error)),
            _ => answer(&Ok(Done(()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &str = "trans_type=workflow&gid=g&branch_id=00&op=transfer";

    fn stored(mode: &str, status: Status, began: Option<(&str, &[u8])>) -> Option<Stored> {
        let began = began.map(|(name, input)| (name.to_owned(), Bytes::copy_from_slice(input)));
        let mode = mode.to_owned();
        Some(Stored {
            mode,
            status,
            began,
        })
    }

    #[test]
    fn only_what_the_coordinator_has_stored_is_run() {
        let callback = Callback::read(QUERY, b"30").expect("a callback");
        let own = Some(("transfer", b"30".as_slice()));
        let goes_on = |stored| callback.goes_on(stored).map_err(|e| e.kind());
        assert_eq!(goes_on(stored("workflow", Status::Prepared, own)), Ok(true));
        assert_eq!(
            goes_on(stored("workflow", Status::Prepared, None)),
            Ok(true)
        );
        assert_eq!(goes_on(None), Ok(true), "it cannot be asked");
        assert_eq!(goes_on(stored("workflow", Status::Failed, own)), Ok(false));
        assert_eq!(goes_on(stored("workflow", Status::Succeed, own)), Ok(false));
        let (other, more) = (("pay", b"30".as_slice()), ("transfer", b"3000".as_slice()));
        for wrong in [
            stored("saga", Status::Prepared, own),
            stored("workflow", Status::Prepared, Some(other)),
            stored("workflow", Status::Prepared, Some(more)),
        ] {
            assert_eq!(goes_on(wrong), Err(ErrorKind::Invalid));
        }
    }

    #[test]
    fn what_is_no_callback_is_refused() {
        for query in [
            "",
            "trans_type=saga&gid=g&branch_id=00&op=action",
            "trans_type=workflow&gid=g&branch_id=01&op=action",
        ] {
            let read = Callback::read(query, b"").expect_err(query);
            assert_eq!(read.kind(), ErrorKind::Invalid);
        }
    }
}
