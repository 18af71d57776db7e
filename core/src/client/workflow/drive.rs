//! The driver of a run: it makes what the machine asks for, and polls the body beside it.

use super::{Body, Job, WorkflowRun, locked};
use crate::branch::{Op, ROOT_BRANCH};
use crate::error::{Error, ErrorKind};
use crate::initiator::workflow::Leave;
use crate::machine::{Calls, Fact, Machine, Step, StepId, StepKind};
use crate::pause::pause;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tracing::Instrument;

/// How long a body that is to be left may go on beside a step that is not made any more, to register what its other branches need.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Carries out a run.
pub(super) async fn drive(
    run: &WorkflowRun,
    body: &Body,
    input: &[u8],
    calls: &Arc<dyn Calls>,
) -> Result<Bytes, Error> {
    let shared = &run.0;
    let mut jobs: JoinSet<(StepId, Fact)> = JoinSet::new();
    let mut open: Option<(StepId, Job)> = None;
    let stuck = || Error::new(ErrorKind::Internal, "a workflow that does not go on");
    loop {
        while let Some(Step { id, kind }) = { locked(&shared.machine).poll() } {
            match kind {
                StepKind::Call(request) => {
                    let calls = calls.clone();
                    jobs.spawn(async move { (id, calls.call(request).await) }.in_current_span());
                }
                StepKind::Sleep(ms) => {
                    let deadline = calls.deadline();
                    jobs.spawn(async move { (id, pause(ms, deadline).await) });
                }
                StepKind::RunUser(who) if who.branch_id == ROOT_BRANCH => {
                    open = Some((id, body(run.clone(), Bytes::copy_from_slice(input))));
                }
                StepKind::RunUser(who) if who.op == Op::ACTION => {
                    locked(&shared.given).insert(who.branch_id.clone(), (id, who));
                }
                StepKind::RunUser(who) => {
                    let key = (who.branch_id.clone(), who.op.clone());
                    let undo = locked(&shared.undo).remove(&key).ok_or_else(stuck)?;
                    jobs.spawn(async move { (id, Fact::from(undo(who).await)) }.in_current_span());
                }
                StepKind::Done(result) => return result.map(|output| output.value),
                other => {
                    return Err(Error::new(
                        ErrorKind::Internal,
                        format!("a workflow does not ask for {other:?}"),
                    ));
                }
            }
        }
        shared.changed.notify_waiters();
        let leave = locked(&shared.machine).leave();
        let (id, fact) = match &mut open {
            None => tokio::select! {
                Some(done) = jobs.join_next() => done.map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?,
                else => return Err(stuck()),
            },
            Some((step, _)) if leave == Leave::Now => (*step, unwound()),
            Some((step, running)) => tokio::select! {
                result = running => (*step, Fact::from(result)),
                Some(done) = jobs.join_next() => done.map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?,
                () = shared.work.notified() => continue,
                () = tokio::time::sleep(LAST_WORDS), if leave == Leave::WhenIdle => (*step, unwound()),
            },
        };
        if open.as_ref().is_some_and(|(step, _)| *step == id) {
            open = None;
            shared.leave();
            // Nobody waits for what its steps still do.
            jobs = JoinSet::new();
        }
        locked(&shared.machine).resolve(id, fact)?;
    }
}

fn unwound() -> Fact {
    Fact::from(Err(Error::new(
        ErrorKind::Unwind,
        "the workflow is decided",
    )))
}
