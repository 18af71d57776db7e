//! What it does when it is called.

use crate::{Subject, Task};
use amends::adapters::sqlx::{Begun, Branch, XaBegun, XaBranch};
use amends::initiator::Try;
use amends::participant::identity::query_value;
use amends::participant::{BranchResult, Identity, Registration};
use amends::{Error, ErrorKind, Options, TransType};
use amends_participants::Books;
use axum::extract::{RawQuery, State};
use std::sync::Arc;

/// Carries out a branch: a line in the book, behind the barrier.
pub(crate) async fn carry_out<DB: Books>(
    subject: &Subject<DB>,
    who: Identity,
    task: &Task,
) -> BranchResult {
    if who.op.as_str() == task.refuse {
        return Err(Error::new(ErrorKind::Failure, "told to refuse"));
    }
    let line = format!("{} {} {}", who.branch_id, who.op, task.name);
    let gid = who.gid.clone();
    match Branch::new(who).begin(&subject.pool).await? {
        Begun::Skip(why) => Ok(why.into()),
        Begun::Run(mut tx) => {
            DB::write(&mut tx, gid.as_str(), &line).await?;
            Ok(tx.commit().await?.into())
        }
    }
}

pub(crate) async fn branch<DB: Books>(
    who: Identity,
    State(subject): State<Arc<Subject<DB>>>,
    RawQuery(query): RawQuery,
    body: String,
) -> BranchResult {
    if who.trans_type == TransType::Xa {
        return xa(&subject, who, &query.unwrap_or_default(), &body).await;
    }
    let task: Task = serde_json::from_str(&body).map_err(|e| Error::invalid(e.to_string()))?;
    if who.op.as_str() == "try" && !task.children.is_empty() {
        let mut nested = subject.client.nested_tcc(&who, Options::default()).await?;
        for child in &task.children {
            let branch = Try {
                try_url: child.url.clone(),
                confirm: child.url.clone(),
                cancel: child.url.clone(),
                payload: child.payload.clone().into(),
            };
            if let Err(error) = nested.branch(&branch).await {
                return Err(nested.abort(error).await);
            }
        }
        nested.submit().await?;
    }
    carry_out(&subject, who, &task).await
}

/// A branch of an xa: prepared on a connection of its own, then committed or rolled back.
async fn xa<DB: Books>(
    subject: &Subject<DB>,
    who: Identity,
    query: &str,
    body: &str,
) -> BranchResult {
    let branch = XaBranch::new(who.clone());
    if !branch.is_action() {
        return branch.phase2(&subject.pool).await;
    }
    let task: Task = serde_json::from_str(body).map_err(|e| Error::invalid(e.to_string()))?;
    let at = Registration {
        server: subject.client.server().clone(),
        phase2_url: query_value(query, "phase2_url"),
    };
    let options = subject.pool.connect_options();
    match branch.begin(&*options, &at, subject.calls.clone()).await? {
        XaBegun::Skip(why) => Ok(why.into()),
        XaBegun::Run(mut run) => {
            if task.refuse == "action" {
                return Err(run.refuse("told to refuse").await);
            }
            let line = format!("{} {} {}", who.branch_id, who.op, task.name);
            DB::write(&mut run, who.gid.as_str(), &line).await?;
            run.prepare().await
        }
    }
}

pub(crate) async fn asked<DB: Books>(
    who: Identity,
    State(subject): State<Arc<Subject<DB>>>,
) -> BranchResult {
    Branch::new(who).check_back(&subject.pool).await
}
