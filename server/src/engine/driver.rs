//! The loop of one transaction: steps inputs one at a time and carries out their effects in the order of durability (architecture,
//! rule 3): a save is queued at once, calls and answers wait until the saves they rest on are durable.

use super::mailbox::{Answer, Mailbox, Message};
use super::Engine;
use crate::store::{Created, Saved, StoreError, store_error};
use amends::coordinator::record::Record;
use amends::coordinator::{Call, CallId, Effects, Input, Request, Transaction, Wait, When, step};
use amends::branch::ROOT_BRANCH;
use amends::wire::call::{HttpCall, Target, host};
use amends::{Error, ErrorKind, Gid, Millis, Op, Options, Outcome, Status, TransType};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// A driver stays for what is due within this time, ms; for anything later it lets go. Less than the shortest base interval (1 s), so that
/// what panicked is let go of, and is served like any other until it is due again.
const STAY_MS: Millis = 900;
/// A transaction that waits for a free slot looks again after this time, ms, should nobody wake it.
const SLOT_WAIT_MS: Millis = 60_000;
/// Pause before a write is tried again while the store takes none.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// How a driver comes to its transaction.
pub(super) enum Start {
    /// It is new; its submit is answered when it is stored, or with its result.
    New(Box<Transaction>, bool, Answer),
    /// It was claimed.
    Claimed(Box<Record>),
    /// It is in the store.
    Stored,
}

enum Event {
    Ask { request: Request, wait: bool, answer: Answer },
    Result(CallId, Outcome),
    Saved(u64, Result<Saved, StoreError>),
    Look,
}

/// Why effects could not be carried out: what was stepped since the last durable save is void.
enum Lost {
    /// Somebody else wrote the record.
    Conflict,
    /// The store takes no writes.
    Refused(StoreError),
}

/// Drives a transaction until nothing is to be done now. A panic in it is caught, and the transaction looked at again later.
pub(super) async fn run(engine: Arc<Engine>, gid: Gid, mailbox: Arc<Mailbox>, start: Start) {
    let mut start = start;
    let mut panics = 0;
    loop {
        let life = AssertUnwindSafe(drive(&engine, &gid, &mailbox, start, panics > 0)).catch_unwind().await;
        match life {
            Ok(()) => panics = 0,
            Err(panic) => {
                panics += 1;
                engine.give_back(&gid);
                        tracing::error!(%gid, panic = panic_text(&*panic), "a step panicked; the transaction is looked at again later");
                if panics > 1 {
                    mailbox.refuse(&Error::new(ErrorKind::Internal, "internal error, see the server's log"));
                    tokio::time::sleep(Duration::from_millis(engine.policy.retry_interval.max(0) as u64)).await;
                }
                start = Start::Stored;
                continue;
            }
        }
        // A slot that was set aside while it let go comes with mail: it is kept, or it would be passed from one to the next of those that
        // let go and never be used.
        if engine.retire(&gid, &mailbox) {
            engine.give_back(&gid);
            mailbox.refuse(&Error::new(ErrorKind::Unavailable, "the server is shutting down"));
            return;
        }
        start = Start::Stored;
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown")
}

async fn drive(engine: &Arc<Engine>, gid: &Gid, mailbox: &Mailbox, start: Start, panicked: bool) {
    let tx = match start {
        Start::New(tx, wait, answer) => {
            if let Some(driver) = create(engine, mailbox, tx, wait, answer).await {
                driver.drive().await;
            }
            return;
        }
        Start::Claimed(record) => open(engine, gid, mailbox, &record),
        Start::Stored => claim(engine, gid, mailbox, panicked).await,
    };
    let Some(tx) = tx else { return };
    let mut driver = Driver::new(engine, mailbox, tx);
    driver.counted_end = driver.tx.status().is_final();
    driver.mark();
    if panicked && !driver.tx.status().is_final() {
        driver.step_and_carry_out(Input::Panicked).await;
    }
    driver.inbox.push_back(Event::Look);
    driver.drive().await;
}

/// Takes a stored transaction for driving; requests for one that is unknown are refused.
async fn claim(engine: &Arc<Engine>, gid: &Gid, mailbox: &Mailbox, panicked: bool) -> Option<Box<Transaction>> {
    match engine.store.claim(gid).await {
        Ok(Some(mut record)) => {
            // What the life that panicked had started is not known.
            record.exact &= !panicked;
            open(engine, gid, mailbox, &record)
        }
        Ok(None) => {
            mailbox.refuse(&Error::unknown_gid(gid.as_str()));
            None
        }
        Err(e) => {
            // As in `create`.
            engine.store.unclaim(gid);
            mailbox.refuse(&store_error(e));
            None
        }
    }
}

fn open(engine: &Arc<Engine>, gid: &Gid, mailbox: &Mailbox, record: &Record) -> Option<Box<Transaction>> {
    match Transaction::load(record, engine.now(), &engine.policy) {
        Ok(tx) => Some(Box::new(tx)),
        Err(e) => {
            // It stays claimed: looking at it again and again would not mend it.
            tracing::error!(%gid, error = %e, "a stored transaction cannot be read");
            mailbox.refuse(&e);
            None
        }
    }
}

/// Stores a new transaction, answers its submit, and makes its first calls. If its gid is taken, the submit, put into the mailbox, is one of
/// the stored transaction.
async fn create<'e>(
    engine: &'e Arc<Engine>,
    mailbox: &'e Mailbox,
    mut tx: Box<Transaction>,
    wait: bool,
    answer: Answer,
) -> Option<Box<Driver<'e>>> {
    let fx = match step(&mut tx, Input::Wake, &engine.env()) {
        Ok(fx) => fx,
        Err(e) => {
            let _ = answer.send(Err(e));
            return None;
        }
    };
    let (seq, save) = tx.take_save(true);
    match engine.store.create(tx.gid().clone(), save).await {
        Ok(Created::New) => {
            let mut driver = Driver::new(engine, mailbox, tx);
            (driver.acked, driver.built) = (seq, seq);
            driver.wake_at = fx.wake_at;
            driver.accepted(wait, false, answer);
            driver.count_end();
            driver.make_calls(fx.calls);
            Some(driver)
        }
        Ok(Created::Exists(_)) => {
            mailbox.post(Message::Ask { request: resubmit(&tx), wait, answer });
            None
        }
        Err(e) => {
            let e = store_error(e);
            // Should it be stored although its answer was lost, it waits for its due time like any other.
            engine.store.unclaim(tx.gid());
            mailbox.refuse(&e);
            let _ = answer.send(Err(e));
            None
        }
    }
}

/// What a submit asks of the transaction that is stored under its gid.
pub(super) fn resubmit(tx: &Transaction) -> Request {
    let def = tx.definition();
    let options = Box::new(Options { wait_result: false, ..def.options.clone() });
    Request::Submit { trans_type: def.trans_type, options, custom_data: def.custom_data.clone() }
}

struct Driver<'e> {
    engine: &'e Arc<Engine>,
    mailbox: &'e Mailbox,
    tx: Box<Transaction>,
    calls: FuturesUnordered<BoxFuture<'e, (CallId, Outcome)>>,
    saves: FuturesOrdered<BoxFuture<'e, (u64, Result<Saved, StoreError>)>>,
    /// Events that came while a save was awaited, in order.
    inbox: VecDeque<Event>,
    watchers: Vec<(Wait, Answer)>,
    /// Results that no durable save holds, with the number of the save that will.
    facts: VecDeque<(u64, CallId, Outcome)>,
    /// The newest save that is durable.
    acked: u64,
    /// The newest save that was queued.
    built: u64,
    late_at: Option<Millis>,
    wake_at: Option<Millis>,
    /// A call found no free slot.
    queued: bool,
    counted_end: bool,
    /// Whether it is known as one that wants attention.
    marked: bool,
}

impl<'e> Driver<'e> {
    fn new(engine: &'e Arc<Engine>, mailbox: &'e Mailbox, tx: Box<Transaction>) -> Box<Driver<'e>> {
        let mut driver = Box::new(Driver {
            engine,
            mailbox,
            counted_end: false,
            marked: false,
            tx,
            calls: FuturesUnordered::new(),
            saves: FuturesOrdered::new(),
            inbox: VecDeque::new(),
            watchers: Vec::new(),
            facts: VecDeque::new(),
            acked: 0,
            built: 0,
            late_at: None,
            wake_at: None,
            queued: false,
        });
        driver.adopt_early();
        driver
    }

    /// Takes over the requests that waited for this driver.
    fn adopt_early(&mut self) {
        let mut early = self.engine.early();
        if early.is_empty() {
            return;
        }
        for answer in early.remove(self.tx.gid()).unwrap_or_default() {
            self.watchers.push((Wait::new(false, &self.tx, self.engine.now(), &self.engine.policy), answer));
        }
    }

    async fn drive(mut self: Box<Self>) {
        loop {
            self.answer_watchers();
            if self.inbox.is_empty() && self.rest().await {
                return;
            }
            let event = self.next().await;
            self.handle(event).await;
        }
    }

    /// The next thing that happens.
    async fn next(&mut self) -> Event {
        if let Some(event) = self.inbox.pop_front() {
            return event;
        }
        loop {
            match self.mailbox.take() {
                Some(Message::Ask { request, wait, answer }) => return Event::Ask { request, wait, answer },
                Some(Message::Wake) => return Event::Look,
                None => {}
            }
            let until = [self.late_at, self.wake_at, self.watchers.iter().map(|(w, _)| w.until).min()].into_iter().flatten().min();
            let pause = until.map(|at| Duration::from_millis(u64::try_from(at - self.engine.now()).unwrap_or(0)));
            tokio::select! {
                biased;
                Some((seq, result)) = self.saves.next(), if !self.saves.is_empty() => return Event::Saved(seq, result),
                Some((id, outcome)) = self.calls.next(), if !self.calls.is_empty() => return Event::Result(id, outcome),
                () = self.mailbox.bell.notified() => {
                    if self.engine.stopping() {
                        return Event::Look;
                    }
                }
                () = sleep(pause), if pause.is_some() => return Event::Look,
            }
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Saved(seq, result) => {
                if let Err(lost) = self.saved(seq, result) {
                    Box::pin(self.recover(lost)).await;
                }
            }
            Event::Result(id, outcome) => {
                self.observe(id, &outcome);
                self.facts.push_back((self.built + 1, id, outcome.clone()));
                self.step_and_carry_out(Input::Result(id, outcome)).await;
            }
            Event::Look => {
                let now = self.engine.now();
                if self.late_at.is_some_and(|at| at <= now) {
                    self.save(true);
                }
                self.step_and_carry_out(Input::Wake).await;
                // All calls that are due were made now: a slot that is still set aside is of no use here.
                self.engine.give_back(self.tx.gid());
            }
            Event::Ask { request, wait, answer } => Box::pin(self.ask(request, wait, answer)).await,
        }
    }

    async fn ask(&mut self, request: Request, wait: bool, answer: Answer) {
        let abort = matches!(request, Request::Abort { .. });
        match step(&mut self.tx, Input::Request(request.clone()), &self.engine.env()) {
            Err(e) => {
                let _ = answer.send(Err(e));
            }
            Ok(fx) => match self.carry_out(fx).await {
                Ok(()) => self.accepted(wait, abort, answer),
                // A conflict never reaches a client: decide again on what is stored (architecture 5).
                Err(Lost::Conflict) => {
                    Box::pin(self.recover(Lost::Conflict)).await;
                    self.inbox.push_back(Event::Ask { request, wait, answer });
                }
                Err(Lost::Refused(e)) => {
                    let _ = answer.send(Err(store_error(e.clone())));
                    Box::pin(self.recover(Lost::Refused(e))).await;
                }
            },
        }
    }

    /// A request's effects are durable: answers it, now or with the result.
    fn accepted(&mut self, wait: bool, abort: bool, answer: Answer) {
        let tx = &self.tx;
        let wait = wait || (abort && tx.definition().options.wait_result);
        if wait && tx.trans_type() != TransType::Workflow && !(abort && tx.trans_type() == TransType::Msg) {
            self.watchers.push((Wait::new(abort, tx, self.engine.now(), &self.engine.policy), answer));
        } else {
            let _ = answer.send(Ok(()));
        }
    }

    fn answer_watchers(&mut self) {
        if self.watchers.is_empty() {
            return;
        }
        let (now, stopping) = (self.engine.now(), self.engine.stopping() && self.calls.is_empty());
        for (mut wait, answer) in std::mem::take(&mut self.watchers) {
            if stopping {
                wait.until = now;
            }
            // It goes on as soon as there is a slot, or with what is still to be decided on.
            let goes_on = (self.queued || !self.inbox.is_empty()) && now < wait.until;
            match if goes_on { None } else { wait.answer(&self.tx, now, &self.engine.policy) } {
                Some(result) => {
                    let _ = answer.send(result);
                }
                None => self.watchers.push((wait, answer)),
            }
        }
    }

    async fn step_and_carry_out(&mut self, input: Input) {
        // Only requests are refused.
        let Ok(fx) = step(&mut self.tx, input, &self.engine.env()) else { return };
        if let Err(lost) = self.carry_out(fx).await {
            Box::pin(self.recover(lost)).await;
        }
    }

    async fn carry_out(&mut self, fx: Effects) -> Result<(), Lost> {
        match fx.save {
            Some(When::Now) => self.save(true),
            Some(When::Late) => {
                let at = self.engine.now() + self.engine.policy.late_write;
                self.late_at.get_or_insert(at);
            }
            None => {}
        }
        self.wake_at = fx.wake_at;
        for alert in fx.alerts {
            self.alert(alert);
        }
        if fx.after > self.acked
            && let Err(lost) = self.durable(fx.after).await
        {
            fx.calls.iter().for_each(|c| self.tx.withdraw(c.id));
            return Err(lost);
        }
        self.count_end();
        self.mark();
        self.make_calls(fx.calls);
        Ok(())
    }

    /// Queues a save of all that is known.
    fn save(&mut self, driven: bool) {
        let (seq, save) = self.tx.take_save(driven);
        self.built = seq;
        self.late_at = None;
        let saved = self.engine.store.save(self.tx.gid().clone(), save);
        self.saves.push_back(Box::pin(async move { (seq, saved.await) }));
    }

    fn saved(&mut self, seq: u64, result: Result<Saved, StoreError>) -> Result<(), Lost> {
        match result {
            Ok(Saved::Done) => {
                self.acked = seq;
                while self.facts.front().is_some_and(|(s, ..)| *s <= seq) {
                    self.facts.pop_front();
                }
                Ok(())
            }
            Ok(Saved::Conflict) => Err(Lost::Conflict),
            Err(e) => Err(Lost::Refused(e)),
        }
    }

    /// Waits until this save is durable. Calls that end meanwhile are kept for later.
    async fn durable(&mut self, seq: u64) -> Result<(), Lost> {
        while self.acked < seq {
            tokio::select! {
                biased;
                Some((seq, result)) = self.saves.next(), if !self.saves.is_empty() => self.saved(seq, result)?,
                Some((id, outcome)) = self.calls.next(), if !self.calls.is_empty() => self.inbox.push_back(Event::Result(id, outcome)),
                else => return Err(Lost::Conflict),
            }
        }
        Ok(())
    }

    /// Reads the record again and puts what no durable save holds back into the inbox, to be decided on again. It is claimed, for a save
    /// that let go of it may have come through although its answer was lost.
    async fn recover(&mut self, lost: Lost) {
        self.saves.clear();
        self.late_at = None;
        if let Lost::Refused(e) = lost {
            self.engine.warn(self.tx.gid(), &format!("a write was refused, it is tried again: {e}"));
            tokio::time::sleep(STORE_PAUSE).await;
        }
        loop {
            match self.engine.store.claim(self.tx.gid()).await {
                Ok(Some(record)) => match self.tx.reload(&record, &self.engine.policy, self.facts.iter().map(|(_, id, _)| *id)) {
                    Ok(tx) => {
                        *self.tx = tx;
                        break;
                    }
                    Err(e) => self.engine.warn(self.tx.gid(), &e.to_string()),
                },
                Ok(None) => self.engine.warn(self.tx.gid(), "the record is gone"),
                Err(e) => {
                    self.engine.warn(self.tx.gid(), &format!("the record cannot be read: {e}"));
                    self.turn_away(&store_error(e));
                }
            }
            tokio::time::sleep(STORE_PAUSE).await;
        }
        self.acked = self.built;
        for (_, id, outcome) in std::mem::take(&mut self.facts).into_iter().rev() {
            self.inbox.push_front(Event::Result(id, outcome));
        }
        self.inbox.push_back(Event::Look);
    }

    /// While the store is out of reach: refuses what is asked, and ends the waits that are over.
    fn turn_away(&mut self, error: &Error) {
        self.mailbox.refuse(error);
        let now = self.engine.now();
        for (wait, answer) in std::mem::take(&mut self.watchers) {
            if now < wait.until {
                self.watchers.push((wait, answer));
            } else {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }

    fn make_calls(&mut self, calls: Vec<Call>) {
        self.queued = false;
        let stopping = self.engine.stopping();
        for call in calls {
            if stopping || !self.send(&call) {
                self.tx.withdraw(call.id);
                self.queued |= !stopping;
            }
            if stopping {
                // Nobody else knows that it is due: the next start makes it.
                self.tx.look_by(self.engine.now());
            }
        }
    }

    /// Sends a call if there is a slot for it.
    fn send(&mut self, call: &Call) -> bool {
        use crate::dispatch::slots::Acquire;
        let engine = self.engine;
        let permit = match engine.slots.try_acquire(host(&call.url), self.tx.gid()) {
            Acquire::Granted(permit) => permit,
            Acquire::Queued => return false,
        };
        let def = self.tx.definition();
        let target = Target {
            gid: &def.gid,
            trans_type: def.trans_type,
            protocol: def.protocol,
            branch_id: &call.branch_id,
            op: &call.op,
            url: &call.url,
            purpose: call.purpose,
        };
        let timeout = engine.policy.call_timeout(&def.options);
        let request = HttpCall::new(&target, &call.payload, &def.options.branch_headers, timeout, &engine.policy.compat);
        let sent = engine.transport.call(request);
        let id = call.id;
        let host = host(&call.url).to_owned();
        self.calls.push(Box::pin(async move {
            let reply = sent.await;
            engine.freed(Some(&host), engine.slots.release(permit, reply.unreachable));
            (id, reply.outcome)
        }));
        true
    }

    /// Ends the driver if nothing is to be done soon: lets go with everything that is known, so that the record is exact
    /// (rules.md 1.2). Says whether it ended.
    async fn rest(&mut self) -> bool {
        if !self.calls.is_empty() || self.tx.in_flight() || !self.mailbox.is_empty() {
            return false;
        }
        let stopping = self.engine.stopping();
        let ended = self.tx.status().is_final();
        if !ended && !stopping {
            let soon = self.wake_at.is_some_and(|at| at <= self.engine.now() + STAY_MS);
            if soon || !self.watchers.is_empty() {
                return false;
            }
        }
        self.answer_watchers();
        if self.queued {
            self.tx.look_by(self.engine.now() + SLOT_WAIT_MS);
        }
        if ended {
            if self.tx.is_dirty() {
                self.save(false);
            }
        } else {
            self.save(false);
        }
        let due = self.tx.due();
        match self.durable(self.built).await {
            Ok(()) => {
                let (tx, now) = (&self.tx, self.engine.now());
                self.engine.metrics.process(tx.trans_type(), tx.status() != Status::Failed, now - tx.state().created);
                if let Some(due) = due {
                    self.engine.timer.hint(due);
                }
                // Something may have come while the last save was on its way.
                self.inbox.is_empty()
            }
            Err(lost) => {
                Box::pin(self.recover(lost)).await;
                false
            }
        }
    }

    fn observe(&self, id: CallId, outcome: &Outcome) {
        let tx = &self.tx;
        let (branch_id, op) = match id {
            // A callback's operation is its workflow's name: one label for all of them.
            CallId::Root => (ROOT_BRANCH, &Op::MSG),
            CallId::Row(i) => (tx.rows()[i].branch_id.as_str(), &tx.rows()[i].op),
        };
        self.engine.metrics.branch(tx.trans_type(), branch_id, op, outcome);
        if let Outcome::Error(text) | Outcome::Failure(text) = outcome {
            let what = if matches!(outcome, Outcome::Error(_)) { "failed" } else { "was refused" };
            let text = amends::limits::cut(text, 300);
            self.engine.info(tx.gid(), &format!("branch {branch_id} {op} {what}: {text}"));
        }
    }

    fn alert(&self, alert: amends::coordinator::Alert) {
        let gid = self.tx.gid().clone();
        let amends::coordinator::Alert { branch, error, retry_count, status } = alert;
        self.engine.alerts.send(crate::alert::Alert { branch, error, gid, retry_count, status });
    }

    /// Keeps the set of those that want attention (rules.md 4.3).
    fn mark(&mut self) {
        let marked = self.tx.state().attention;
        if marked != self.marked {
            self.marked = marked;
            let mut all = self.engine.attention.lock().unwrap_or_else(PoisonError::into_inner);
            if marked { all.insert(self.tx.gid().clone()) } else { all.remove(self.tx.gid()) };
        }
    }

    /// Counts an outcome once, when it is durable.
    fn count_end(&mut self) {
        let status = self.tx.status();
        if !status.is_final() || self.counted_end {
            return;
        }
        self.counted_end = true;
        let forced = self.tx.state().forced.is_some();
        self.engine.metrics.finished(self.tx.trans_type(), status, forced);
        if status == Status::Failed {
            self.engine.info(self.tx.gid(), &format!("ended as failed: {}", amends::limits::cut(&self.tx.state().reason, 300)));
        }
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
