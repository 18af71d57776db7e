//! A transfer as a workflow: a withdrawal and a reservation at a service, a deposit in an own database. Each change is a line in a book, behind
//! a barrier.

use amends::adapters::sqlx::{Backend, Begun};
use amends::client::{WorkflowRun, Workflows};
use amends::participant::Identity;
use amends::{Error, ErrorKind};
use amends_participants::{Bank, Crash, answered, with};
use amends_scenarios::{Listener, listen};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::Mutex;

/// What is answered for an action by its participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// It is done.
    Yes,
    /// Never.
    No,
    /// Nothing that could be understood; and the workflow gives up.
    What,
}

/// What the actions of this transfer are answered from now on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moods {
    pub(crate) withdraw: Says,
    pub(crate) reserve: Says,
    pub(crate) deposit: Says,
}

impl Moods {
    pub(crate) const FINE: Moods = Moods {
        withdraw: Says::Yes,
        reserve: Says::Yes,
        deposit: Says::Yes,
    };
    pub(crate) const REFUSED: Moods = Moods {
        withdraw: Says::No,
        reserve: Says::No,
        deposit: Says::No,
    };
}

/// A bank that keeps a book, and its service.
pub(crate) struct World<DB: Backend> {
    pub(crate) bank: Bank<DB>,
    pub(crate) service: Listener,
    pub(crate) moods: Arc<Mutex<Moods>>,
}

/// Writes a line into the book, behind the barrier.
async fn write<DB: Backend>(
    bank: &Bank<DB>,
    who: Identity,
    what: &str,
    crash: &Crash,
) -> Result<(), Error> {
    let never = Crash::never();
    let (all, commit) = if crash.pauses() {
        (crash, &*never)
    } else {
        (&*never, crash)
    };
    let written = async {
        let (gid, op) = (who.gid.clone(), who.op.clone());
        let Begun::Run(mut run) = bank.branch(who).begin(&bank.pool).await? else {
            return Ok(());
        };
        let line = with::<DB, _>(
            "insert into book(gid, what, op) values(?, ?, ?)",
            [gid.as_str(), what, op.as_str()],
        );
        DB::exec(&mut run, line).await?;
        let unknown = || Error::new(ErrorKind::OutcomeUnknown, "the answer was lost");
        let heard = commit.heard(run.commit()).await;
        heard.unwrap_or_else(|| Err(unknown())).map(|_| ())
    };
    all.effect(written).await
}

fn said(says: Says) -> Result<(), Error> {
    match says {
        Says::Yes => Ok(()),
        Says::No => Err(Error::new(ErrorKind::Failure, "no")),
        Says::What => Err(Error::new(ErrorKind::OutcomeUnknown, "what?")),
    }
}

impl<DB: Backend> World<DB> {
    pub(crate) async fn new(bank: Bank<DB>) -> World<DB> {
        bank.execute("create table book(gid varchar(64) not null, what varchar(16) not null, op varchar(16) not null)").await;
        let moods = Arc::new(Mutex::new(Moods::FINE));
        let service = {
            let (bank, moods) = (bank.clone(), moods.clone());
            listen(move |call| {
                let (bank, moods) = (bank.clone(), moods.clone());
                async move {
                    let who = Identity::from_query(&call.query).expect("a branch call");
                    let what = call.path.trim_start_matches('/').to_owned();
                    let moods = *moods.lock().expect("a mood");
                    let says = match (what.as_str(), who.op.as_str()) {
                        ("withdraw", "action") => moods.withdraw,
                        ("reserve", "action") => moods.reserve,
                        _ => Says::Yes,
                    };
                    let done = match said(says) {
                        Ok(()) => write(&bank, who, &what, &Crash::never()).await,
                        Err(error) => Err(error),
                    };
                    answered(done)
                }
            })
            .await
        };
        World {
            bank,
            service,
            moods,
        }
    }

    pub(crate) fn feel(&self, moods: Moods) {
        *self.moods.lock().expect("a mood") = moods;
    }

    /// Registers the workflow; its own commits are effects of this crash.
    pub(crate) fn register(&self, workflows: &Workflows, crash: &Arc<Crash>) {
        let service = format!("http://{}", self.service.addr);
        let (bank, moods, crash) = (self.bank.clone(), self.moods.clone(), crash.clone());
        let body = move |wf: WorkflowRun, _: Bytes| {
            transfer(
                wf,
                service.clone(),
                bank.clone(),
                moods.clone(),
                crash.clone(),
            )
        };
        workflows.register("transfer", body).expect("a new name");
    }

    /// Lines of the book: what was done and confirmed or undone, in the order of their names.
    pub(crate) async fn book(&self, gid: &str) -> Vec<(String, i64)> {
        let sql = "select count(*) from book where gid = ? and what = ? and op = ?";
        let mut lines = Vec::new();
        for what in ["withdraw", "reserve", "deposit"] {
            for op in ["action", "commit", "rollback"] {
                let n = self.bank.number_with(sql, [gid, what, op]).await;
                if n > 0 {
                    lines.push((format!("{what} {op}"), n));
                }
            }
        }
        lines
    }
}

async fn transfer<DB: Backend>(
    wf: WorkflowRun,
    service: String,
    bank: Bank<DB>,
    moods: Arc<Mutex<Moods>>,
    crash: Arc<Crash>,
) -> Result<Bytes, Error> {
    let at = |path: &str| format!("{service}/{path}");
    let given_up = |error: Error| match error.kind() {
        ErrorKind::OutcomeUnknown => Error::new(ErrorKind::Failure, format!("given up: {error}")),
        _ => error,
    };
    wf.now().await?;
    wf.branch("withdraw")?
        .on_rollback_call(&at("withdraw"), "{}")
        .call(&at("withdraw"), "{}")
        .await
        .map_err(given_up)?;
    wf.branch("reserve")?
        .on_rollback_call(&at("reserve"), "{}")
        .on_commit_call(&at("reserve"), "{}")
        .call(&at("reserve"), "{}")
        .await
        .map_err(given_up)?;
    let undo = {
        let (bank, crash) = (bank.clone(), crash.clone());
        move |who| async move { write(&bank, who, "deposit", &crash).await }
    };
    wf.branch("deposit")?
        .on_rollback(undo)
        .run(async |who| {
            let mood = moods.lock().expect("a mood").deposit;
            said(mood)?;
            write(&bank, who, "deposit", &crash).await?;
            Ok(Bytes::new())
        })
        .await
        .map_err(given_up)?;
    Ok(Bytes::from("done"))
}
