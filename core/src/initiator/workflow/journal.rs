//! What a workflow has recorded: rows on the coordinator. Ours hold frames that name the run and the step (journal v2, rules.md 10.2);
//! rows of DTM's Go client hold the bare bytes, and are read as well (v1, dtm-clients.md 2.10).

use crate::branch::{BranchStatus, Op, ROOT_BRANCH};
use crate::error::{Error, ErrorKind};
use crate::initiator::answers::Progresses;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What every frame begins with.
const MAGIC: &[u8] = b"amends journal 2\n";

/// What a row of journal v2 holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The run that stored it.
    pub run: String,
    /// Name of the step.
    pub step: String,
    /// Why it failed.
    pub message: String,
    /// Of a decision: what phase 2 does, in this order.
    pub items: Option<Vec<String>>,
    /// Of a failed action: that it may have been done all the same. The workflow cannot succeed any more.
    pub given_up: bool,
    /// What it returned.
    pub data: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Head {
    run: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    step: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    items: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    given_up: bool,
}

impl Frame {
    /// Base64 text, so that it passes any transport: magic, a line of JSON, then the bytes as they are.
    pub fn encode(&self) -> String {
        let head = Head {
            run: self.run.clone(),
            step: self.step.clone(),
            message: self.message.clone(),
            items: self.items.clone(),
            given_up: self.given_up,
        };
        let mut all = MAGIC.to_vec();
        all.extend(serde_json::to_vec(&head).unwrap_or_default());
        all.push(b'\n');
        all.extend_from_slice(&self.data);
        STANDARD.encode(all)
    }

    /// The frame in a row; `None` for a row of DTM's client.
    pub fn decode(stored: &[u8]) -> Option<Frame> {
        let all = STANDARD.decode(stored).ok()?;
        let rest = all.strip_prefix(MAGIC)?;
        let end = rest.iter().position(|b| *b == b'\n')?;
        let head: Head = serde_json::from_slice(&rest[..end]).ok()?;
        Some(Frame {
            run: head.run,
            step: head.step,
            message: head.message,
            items: head.items,
            given_up: head.given_up,
            data: Bytes::copy_from_slice(&rest[end + 1..]),
        })
    }
}

/// A row as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Whether it says success.
    pub ok: bool,
    /// What it holds; of DTM's client, its bytes alone.
    pub frame: Frame,
    /// Whether this run of the body has come to it.
    seen: bool,
}

impl Row {
    /// What was recorded.
    pub fn result(&self) -> Result<Bytes, Error> {
        if self.ok {
            Ok(self.frame.data.clone())
        } else {
            Err(Error::new(ErrorKind::Failure, &self.frame.message))
        }
    }
}

/// Whether to commit or to roll back, once and for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The result, or why it failed.
    pub end: Result<Bytes, String>,
    /// What phase 2 does, in this order; `None` if whoever decided did not say.
    pub items: Option<Vec<String>>,
}

/// Everything a workflow has recorded.
#[derive(Clone, Debug, Default)]
pub struct Journal(BTreeMap<(String, String), Row>);

impl Journal {
    /// From what the coordinator answered.
    pub fn new(progresses: &Progresses) -> Journal {
        let rows = progresses.rows.iter().map(|row| {
            let ok = row.status == BranchStatus::Succeed;
            let frame = Frame::decode(&row.data).unwrap_or_else(|| Frame {
                message: if ok {
                    String::new()
                } else {
                    String::from_utf8_lossy(&row.data).into_owned()
                },
                data: row.data.clone(),
                ..Frame::default()
            });
            let row_of = Row {
                ok,
                frame,
                seen: false,
            };
            ((row.branch_id.clone(), row.op.clone()), row_of)
        });
        Journal(rows.collect())
    }

    /// A row.
    pub fn get(&self, branch: &str, op: &str) -> Option<&Row> {
        self.0.get(&(branch.to_owned(), op.to_owned()))
    }

    /// What was recorded of a step. Error: `Nondeterministic` if another step was recorded in its place.
    pub fn replay(
        &mut self,
        branch: &str,
        op: &str,
        step: &str,
    ) -> Result<Option<Result<Bytes, Error>>, Error> {
        let Some(row) = self.0.get_mut(&(branch.to_owned(), op.to_owned())) else {
            // DTM's client stores this row of a local XA transaction before the one of its action.
            let half = self.get(branch, Op::BUSINESS.as_str()).is_some();
            let half = half && op == Op::ACTION.as_str();
            return Ok(half.then(|| {
                Err(Error::new(
                    ErrorKind::Failure,
                    format!("the XA transaction of branch {branch} was cut off: it is rolled back"),
                ))
            }));
        };
        row.seen = true;
        let recorded = &row.frame.step;
        if !recorded.is_empty() && recorded != step {
            return Err(Error::new(
                ErrorKind::Nondeterministic,
                format!(
                    "branch {branch} was recorded as step {recorded:?}, and this run has {step:?} in its place: a workflow must take the same steps each time"
                ),
            ));
        }
        Ok(Some(row.result()))
    }

    /// Whether an earlier run has recorded anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Why an earlier run has given up, though it was stopped before it decided so.
    pub fn given_up(&self) -> Option<&str> {
        let row = self.0.values().find(|row| row.frame.given_up)?;
        Some(&row.frame.message)
    }

    /// A recorded action that this run of the body did not come to.
    pub fn unseen(&self) -> Option<(&str, &str)> {
        let mut actions = self
            .0
            .iter()
            .filter(|((_, op), _)| op == Op::ACTION.as_str());
        let unseen = actions.find(|(_, row)| !row.seen);
        unseen.map(|((branch, _), row)| (branch.as_str(), row.frame.step.as_str()))
    }

    /// The decision. Of DTM's client, which stores none, phase 2 itself tells.
    pub fn decision(&self) -> Option<Decision> {
        if let Some(row) = self.get(ROOT_BRANCH, Op::DECISION.as_str()) {
            return Some(Decision {
                end: if row.ok {
                    Ok(row.frame.data.clone())
                } else {
                    Err(row.frame.message.clone())
                },
                items: row.frame.items.clone(),
            });
        }
        let any = |op: Op| self.0.keys().any(|(_, of)| *of == op.as_str());
        let end = if any(Op::ROLLBACK) {
            Err("it was being rolled back".to_owned())
        } else if any(Op::COMMIT) {
            Ok(Bytes::new())
        } else {
            return None;
        };
        Some(Decision { end, items: None })
    }
}
