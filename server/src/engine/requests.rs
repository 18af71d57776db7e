//! What front ends ask of the engine. Each of these may be dropped by its caller at any time: what it started goes on.

use super::Engine;
use super::carried::Carried;
use super::mailbox::{Answer, Message};
use super::start::{Start, resubmit};
use crate::store::{Append, Appended, Created, Filter, store_error};
use amends::coordinator::{Input, Request, Transaction, admit, refused, step, unended};
use amends::wire::request::{BranchRequest, GlobalRequest};
use amends::{Error, ErrorKind, Gid, Millis, Options, Policy, Status, TransType};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

type Answered = oneshot::Receiver<Result<(), Error>>;

/// By whom a new transaction is driven.
enum Driven {
    /// By whoever asked for it.
    Here(BoxFuture<'static, ()>),
    /// By a task.
    Elsewhere,
    /// By nobody: there is no room.
    Not(Box<Transaction>, Answer),
}

impl Engine {
    /// Stores a transaction that is not decided yet. Again for one that is prepared: success, and nothing changes.
    pub async fn prepare(&self, mut req: GlobalRequest) -> Result<(), Error> {
        let gid = Gid::new(&req.gid, &self.policy.limits)?;
        // A repeated prepare is answered by the stored status, whatever else it says; it need not resolve its topics again.
        let unresolved = admit::topics(&req).next().is_some();
        let unasked = req.trans_type == TransType::Msg.as_str() && req.query_prepared.is_empty();
        if (unresolved || unasked)
            && let Some(mut tx) = self.read(&gid).await?
        {
            return step(&mut tx, Input::Request(Request::Prepare), &self.env()).map(|_| ());
        }
        if unasked {
            return Err(Error::invalid(
                "query_prepared is empty: a message that is prepared needs a URL to ask whether to deliver it",
            ));
        }
        let def = self.define(&mut req).await?;
        if def.trans_type == TransType::Workflow {
            return Err(Error::invalid("a workflow is prepared by prepareWorkflow"));
        }
        match self
            .store_prepared(&mut Transaction::new(def, Status::Prepared, self.now()))
            .await?
        {
            None => Ok(()),
            Some(mut stored) => {
                step(&mut stored, Input::Request(Request::Prepare), &self.env()).map(|_| ())
            }
        }
    }

    /// Checks a request that may be stored, its topics resolved.
    async fn define(
        &self,
        req: &mut GlobalRequest,
    ) -> Result<amends::coordinator::Definition, Error> {
        let names: Vec<&str> = admit::topics(req).collect();
        let subscribers = if names.is_empty() {
            Default::default()
        } else {
            self.topics.resolve(&names).await?
        };
        admit::define(req, &subscribers, &self.policy.limits)
    }

    /// Stores a transaction that nobody drives; the stored one if its gid is taken.
    async fn store_prepared(&self, tx: &mut Transaction) -> Result<Option<Transaction>, Error> {
        let fx = step(tx, Input::Wake, &self.env())?;
        // What would be called is called when somebody drives it.
        for call in &fx.calls {
            tx.withdraw(call.id);
            tx.look_by(self.now());
        }
        let (_, save) = tx.take_save(false);
        let due = save.index.due;
        match self
            .store
            .create(tx.gid().clone(), save)
            .await
            .map_err(store_error)?
        {
            Created::New => {
                if let Some(due) = due {
                    self.timer.hint(due);
                }
                Ok(None)
            }
            Created::Exists(mut record) => {
                record.exact = true;
                Transaction::load(&record, self.now(), &self.policy).map(Some)
            }
        }
    }

    /// Submits: stores what is new and drives it, or decides what was prepared. Waits for the result if the request says so
    /// (rules.md 2.3).
    pub async fn submit(self: &Arc<Self>, mut req: GlobalRequest) -> Result<(), Error> {
        let trans_type = admit::trans_type(&req.trans_type)?;
        let gid = Gid::new(&req.gid, &self.policy.limits)?;
        if trans_type == TransType::Workflow {
            return self.ask(&gid, end(&req, &self.policy.limits)?, false).await;
        }
        let creates = matches!(trans_type, TransType::Saga | TransType::Msg);
        let by_topic = creates && admit::topics(&req).next().is_some();
        if !creates || (by_topic && self.store.load(&gid).await.map_err(store_error)?.is_some()) {
            return self.resubmit(&gid, trans_type, &req).await;
        }
        let def = match self.define(&mut req).await {
            Ok(def) => def,
            // The steps come from what is stored (rules.md 2.2), so that those of this request need not make sense.
            Err(e) => {
                return if self.read(&gid).await?.is_some() {
                    self.resubmit(&gid, trans_type, &req).await
                } else {
                    Err(e)
                };
            }
        };
        let tx = Transaction::new(def, Status::Submitted, self.now());
        let (answer, answered) = oneshot::channel();
        match self.drive_new(tx, req.wait_result, answer) {
            Driven::Here(driver) => Carried::new(driver, answered).await,
            Driven::Elsewhere => received(answered).await,
            // Boxed, as what is rare or large is here: the server moves this future about with every submit.
            Driven::Not(tx, answer) => {
                Box::pin(self.store_for_later(*tx, req.wait_result, answer, answered)).await
            }
        }
    }

    /// Submits what is stored; of the request only what may replace something counts.
    async fn resubmit(
        self: &Arc<Self>,
        gid: &Gid,
        trans_type: TransType,
        req: &GlobalRequest,
    ) -> Result<(), Error> {
        let options = Box::new(Options {
            wait_result: false,
            ..req.options(&self.policy.limits)?
        });
        self.ask(
            gid,
            Request::Submit {
                trans_type,
                options,
                custom_data: req.custom_data.clone(),
            },
            req.wait_result,
        )
        .await
    }

    /// Drives a new transaction, or hands the submit to who drives its gid. Gives it back where there is no room.
    fn drive_new(self: &Arc<Self>, tx: Transaction, wait: bool, answer: Answer) -> Driven {
        let mut drivers = self.drivers();
        match drivers.get(tx.gid()) {
            Some(mailbox) => mailbox.post(Message::Ask {
                request: resubmit(&tx),
                wait,
                answer,
            }),
            None if drivers.len() < self.in_flight_max && !self.stopping() => {
                let gid = tx.gid().clone();
                let start = Start::New(Box::new(tx), wait, answer);
                let driver = self.enter(&mut drivers, gid, start, None);
                if wait {
                    return Driven::Here(Box::pin(driver));
                }
                tokio::spawn(driver);
            }
            None => return Driven::Not(Box::new(tx), answer),
        }
        Driven::Elsewhere
    }

    /// There is no room: stores what is new, to be driven when there is. A wait goes on beyond the limit, to its end (rules.md 4.5).
    async fn store_for_later(
        self: &Arc<Self>,
        mut tx: Transaction,
        wait: bool,
        answer: Answer,
        answered: Answered,
    ) -> Result<(), Error> {
        if self.stopping() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the server is shutting down",
            ));
        }
        let gid = tx.gid().clone();
        let request = resubmit(&tx);
        let longest = self.policy.longest_call(&tx.definition().options) + 2 * amends::time::SECOND;
        if wait {
            // Before it is stored: a driver may find the record before this task goes on.
            self.early().entry(gid.clone()).or_default().push(answer);
            let stored = self.store_prepared(&mut tx).await;
            if !matches!(stored, Ok(None)) {
                drop(answered);
                self.forget_early(&gid);
                return match stored? {
                    Some(_) => self.ask(&gid, request, true).await,
                    None => Ok(()),
                };
            }
            let longest = Duration::from_millis(longest.max(0) as u64);
            return tokio::time::timeout(longest, received(answered))
                .await
                .unwrap_or_else(|_| {
                    self.forget_early(&gid);
                    Err(waits_for_its_turn(&self.policy))
                });
        }
        match self.store_prepared(&mut tx).await? {
            None => Ok(()),
            Some(_) => self.ask(&gid, request, false).await,
        }
    }

    /// Forgets those that waited for a driver of this gid and no longer listen; others of the same gid wait on.
    fn forget_early(&self, gid: &Gid) {
        let mut early = self.early();
        if let Some(answers) = early.get_mut(gid) {
            answers.retain(|answer| !answer.is_closed());
            if answers.is_empty() {
                early.remove(gid);
            }
        }
    }

    /// Asks a stored transaction.
    async fn ask(self: &Arc<Self>, gid: &Gid, request: Request, wait: bool) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.post(
            gid,
            Message::Ask {
                request,
                wait,
                answer,
            },
        );
        received(answered).await
    }

    /// Undoes a tcc or xa, or withdraws a prepared message.
    pub async fn abort(self: &Arc<Self>, req: GlobalRequest) -> Result<(), Error> {
        let gid = Gid::new(&req.gid, &self.policy.limits)?;
        if !req.trans_type.is_empty() {
            // The stored type decides; a word that is none is a mistake all the same.
            admit::trans_type(&req.trans_type)?;
        }
        self.ask(
            &gid,
            Request::Abort {
                reason: req.rollback_reason.clone(),
            },
            req.wait_result,
        )
        .await
    }

    /// Ends a transaction as failed without further calls (rules.md 1.3).
    pub async fn force_stop(
        self: &Arc<Self>,
        gid: &str,
        actor: &str,
        reason: &str,
    ) -> Result<(), Error> {
        let gid = Gid::new(gid, &self.policy.limits)?;
        tracing::warn!(%gid, actor, reason, "force stop");
        self.ask(
            &gid,
            Request::ForceStop {
                actor: actor.to_owned(),
                reason: reason.to_owned(),
            },
            false,
        )
        .await
    }

    /// Stores rows of a tcc, xa or workflow that is prepared (rules.md 2.5).
    pub async fn register_branch(&self, req: BranchRequest) -> Result<(), Error> {
        let reg = admit::register(&req, &self.policy.limits)?;
        let workflow = reg.trans_type == TransType::Workflow;
        let limits = &self.policy.limits;
        let append = Append {
            gid: reg.gid.clone(),
            required: (reg.trans_type, Status::Prepared),
            forbidden: reg.forbidden(),
            part: reg.registration.part(self.now()),
            branches_max: u32::try_from(limits.branches).unwrap_or(u32::MAX),
            bytes_max: limits.transaction as u64,
        };
        let appended = self.store.append(append).await.map_err(store_error)?;
        match appended {
            Appended::Done => Ok(()),
            Appended::TooManyBranches => Err(Error::invalid(format!(
                "{} has too many branches, the limit is {}",
                reg.gid, limits.branches
            ))),
            Appended::TooLarge => Err(Error::invalid(format!(
                "{} would be too large with this branch, the limit is {} bytes",
                reg.gid, limits.transaction
            ))),
            // The run token is part of what is compared: the same runner asks again because the answer was lost.
            Appended::Same if !workflow || !reg.registration.run.is_empty() => Ok(()),
            Appended::Same | Appended::Forbidden => Err(refused(&reg.gid, Some(Status::Prepared))),
            Appended::Differs if workflow => Err(refused(&reg.gid, Some(Status::Prepared))),
            Appended::Differs => Err(Error::refused(
                Some(Status::Prepared),
                format!(
                    "branch {} is registered with other content FAILURE",
                    reg.registration.branch_id
                ),
            )),
            Appended::WrongStatus(_, status) if workflow => Err(refused(&reg.gid, Some(status))),
            Appended::Unknown if workflow => Err(refused(&reg.gid, None)),
            Appended::WrongStatus(_, status) => Err(not_open(&reg.gid, Some(status))),
            Appended::Unknown => Err(not_open(&reg.gid, None)),
        }
    }

    /// Stores a workflow, or finds it, and returns it with its progress.
    pub async fn prepare_workflow(
        self: &Arc<Self>,
        mut req: GlobalRequest,
    ) -> Result<Transaction, Error> {
        let gid = Gid::new(&req.gid, &self.policy.limits)?;
        let def = match self.define(&mut req).await {
            Ok(def) if def.trans_type == TransType::Workflow => def,
            Ok(def) => {
                return Err(Error::invalid(format!(
                    "trans_type is {}: prepareWorkflow takes workflow",
                    def.trans_type
                )));
            }
            // A repeated one is answered by what is stored, whatever else it says.
            Err(e) => {
                return if self.read(&gid).await?.is_some() {
                    self.workflow_again(&gid).await
                } else {
                    Err(e)
                };
            }
        };
        let mut tx = Transaction::new(def, Status::Prepared, self.now());
        match self.store_prepared(&mut tx).await? {
            None => Ok(tx),
            Some(_) => self.workflow_again(&gid).await,
        }
    }

    /// A workflow that is stored, its callback put off because its client was heard of.
    async fn workflow_again(self: &Arc<Self>, gid: &Gid) -> Result<Transaction, Error> {
        self.ask(gid, Request::PrepareWorkflow, false).await?;
        self.read(gid)
            .await?
            .ok_or_else(|| Error::unknown_gid(gid.as_str()))
    }

    /// A transaction as it is stored.
    pub async fn query(&self, gid: &str) -> Result<Option<Transaction>, Error> {
        if gid.is_empty() {
            return Err(Error::invalid("no gid specified"));
        }
        self.read(&Gid::stored(gid)).await
    }

    /// Transactions as they are stored, ordered by gid, and the position of the next page.
    pub async fn list(
        &self,
        filter: Filter,
        position: Option<String>,
        limit: usize,
    ) -> Result<(Vec<Transaction>, Option<String>), Error> {
        let page = self
            .store
            .list(filter, position, limit)
            .await
            .map_err(store_error)?;
        let mut all = Vec::with_capacity(page.records.len());
        for mut record in page.records {
            record.exact = true;
            match Transaction::load(&record, self.now(), &self.policy) {
                Ok(tx) => all.push(tx),
                // One that is damaged must not hide the others.
                Err(e) => {
                    tracing::error!(gid = %record.gid, error = %e, "a stored transaction cannot be read")
                }
            }
        }
        Ok((all, page.next))
    }

    /// Makes every branch of a transaction due now (rules.md 4.4). Success for one that has ended.
    pub async fn reset_next(self: &Arc<Self>, gid: &str) -> Result<(), Error> {
        let gid = Gid::new(gid, &self.policy.limits)?;
        self.ask(&gid, Request::Reset, false).await
    }

    /// The same for up to `limit` transactions that are due later than `after`; how many, and whether there are more.
    pub async fn reset_all(
        self: &Arc<Self>,
        after: Millis,
        limit: usize,
    ) -> Result<(usize, bool), Error> {
        let (gids, more) = self
            .store
            .due_later(after, limit)
            .await
            .map_err(store_error)?;
        for gid in &gids {
            match self.ask(gid, Request::Reset, false).await {
                Err(e) if e.kind() != ErrorKind::UnknownGid => return Err(e),
                _ => {}
            }
        }
        Ok((gids.len(), more))
    }

    /// Logs a line about a transaction, a few per minute and transaction.
    pub(super) fn warn(&self, gid: &Gid, what: &str) {
        if let Some(suppressed) = self.log.allow(gid.as_str()) {
            tracing::warn!(%gid, suppressed, "{what}");
        }
    }

    /// The same, where it is no fault of ours.
    pub(super) fn info(&self, gid: &Gid, what: &str) {
        if let Some(suppressed) = self.log.allow(gid.as_str()) {
            tracing::info!(%gid, suppressed, "{what}");
        }
    }
}

async fn received(answered: Answered) -> Result<(), Error> {
    answered.await.unwrap_or_else(|_| Err(nobody_answered()))
}

/// What a request is told whose driver ended without an answer.
pub(super) fn nobody_answered() -> Error {
    Error::new(ErrorKind::Internal, "internal error, see the server's log")
}

/// What a request is told that waited for a driver and got none; only sagas and messages wait so.
pub(super) fn waits_for_its_turn(policy: &Policy) -> Error {
    unended(TransType::Saga, "it waits for its turn", policy)
}

fn not_open(gid: &Gid, status: Option<Status>) -> Error {
    Error::refused(
        status,
        format!("no trans with gid: {gid} status: prepared found FAILURE"),
    )
}

/// A workflow's end as its submit names it.
fn end(req: &GlobalRequest, limits: &amends::Limits) -> Result<Request, Error> {
    let extra = |key: &str| req.req_extra.get(key).cloned().unwrap_or_default();
    let status = match extra("status").as_str() {
        "succeed" => Status::Succeed,
        "failed" => Status::Failed,
        other => {
            return Err(Error::invalid(format!(
                "req_extra: status is {other:?}: a workflow ends as succeed or failed"
            )));
        }
    };
    let result = extra("result");
    if result.len() > limits.result {
        return Err(Error::invalid(format!(
            "req_extra: result has {} bytes, the limit is {}",
            result.len(),
            limits.result
        )));
    }
    Ok(Request::End {
        status,
        reason: extra("rollback_reason"),
        result,
    })
}
