//! The loop of one transaction: steps inputs one at a time and carries out their effects in the order of durability (architecture,
//! rule 3): a save is queued at once, calls and answers wait until the saves they rest on are durable.

use super::Engine;
use super::alarm::Alarm;
use super::calls::Calls;
use super::mailbox::{Answer, Mailbox, Message};
use crate::store::{Saved, StoreError, store_error};
use amends::coordinator::{CallId, Effects, Input, Request, Transaction, Wait, When, step};
use amends::{Error, Millis, Outcome, Status, TransType};
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A driver stays for what is due within this time, ms; for anything later it lets go. Less than the shortest base interval (1 s), so that
/// what panicked is let go of, and is served like any other until it is due again.
const STAY_MS: Millis = 900;
/// A transaction that waits for a free slot looks again after this time, ms, should nobody wake it.
const SLOT_WAIT_MS: Millis = 60_000;
/// Pause before a write is tried again while the store takes none.
const STORE_PAUSE: Duration = Duration::from_millis(500);

pub(super) enum Event {
    Ask {
        request: Request,
        wait: bool,
        answer: Answer,
    },
    Result(CallId, Outcome),
    /// A result that was stepped before, and then a save was lost.
    Again(CallId, Outcome),
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

pub(super) struct Driver<'e> {
    pub(super) engine: &'e Arc<Engine>,
    mailbox: &'e Mailbox,
    pub(super) tx: Box<Transaction>,
    /// The time of the event at hand: read once for each.
    now: Millis,
    pub(super) calls: Calls<'e>,
    /// Saves on their way to the store, which answers them in order.
    saves: VecDeque<(u64, BoxFuture<'e, Result<Saved, StoreError>>)>,
    /// Events that came while a save was awaited, in order.
    pub(super) inbox: VecDeque<Event>,
    /// Each with the real time that it waits to, where the clock is none that moves by itself.
    watchers: Vec<(Wait, Option<Instant>, Answer)>,
    /// Results that no durable save holds, with the number of the save that will.
    facts: VecDeque<(u64, CallId, Outcome)>,
    /// The newest save that is durable.
    pub(super) acked: u64,
    /// The newest save that was queued.
    pub(super) built: u64,
    late_at: Option<Millis>,
    pub(super) wake_at: Option<Millis>,
    alarm: Alarm<'e>,
    /// A call found no free slot.
    pub(super) queued: bool,
    /// There is no room for it: its calls wait for its turn.
    pub(super) guest: bool,
    pub(super) counted_end: bool,
}

impl<'e> Driver<'e> {
    pub(super) fn new(
        engine: &'e Arc<Engine>,
        mailbox: &'e Mailbox,
        tx: Box<Transaction>,
    ) -> Box<Driver<'e>> {
        let mut driver = Box::new(Driver {
            engine,
            mailbox,
            counted_end: false,
            tx,
            now: engine.now(),
            calls: Calls::default(),
            saves: VecDeque::new(),
            inbox: VecDeque::new(),
            watchers: Vec::new(),
            facts: VecDeque::new(),
            acked: 0,
            built: 0,
            late_at: None,
            wake_at: None,
            alarm: Alarm::new(engine),
            queued: false,
            guest: mailbox.guest,
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
            self.watch(false, answer);
        }
    }

    pub(super) async fn drive(mut self: Box<Self>) {
        loop {
            self.answer_watchers();
            if self.inbox.is_empty() && self.rest().await {
                return;
            }
            let event = self.next().await;
            self.now = self.engine.now();
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
                Some(Message::Ask {
                    request,
                    wait,
                    answer,
                }) => {
                    return Event::Ask {
                        request,
                        wait,
                        answer,
                    };
                }
                Some(Message::Wake) => {
                    // It was claimed for a driver that goes on instead, which knows more.
                    self.mailbox.take_claimed();
                    return Event::Look;
                }
                None => {}
            }
            let until = [
                self.late_at,
                self.wake_at,
                self.watchers.iter().map(|(w, ..)| w.until).min(),
            ]
            .into_iter()
            .flatten()
            .min();
            self.alarm.set(
                until,
                self.now,
                self.watchers.iter().filter_map(|(_, real, _)| *real),
                self.calls.is_empty() && self.saves.is_empty(),
            );
            tokio::select! {
                biased;
                Some((seq, result)) = first(&mut self.saves), if !self.saves.is_empty() => return Event::Saved(seq, result),
                (id, outcome) = self.calls.next(), if !self.calls.is_empty() => return Event::Result(id, outcome),
                () = self.mailbox.bell.notified() => {
                    if self.engine.stopping() {
                        return Event::Look;
                    }
                    self.now = self.engine.now();
                }
                () = self.alarm.ring() => return Event::Look,
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
                self.take_result(id, outcome).await;
            }
            Event::Again(id, outcome) => self.take_result(id, outcome).await,
            Event::Look => {
                if self.late_at.is_some_and(|at| at <= self.now) {
                    self.save(true);
                }
                self.step_and_carry_out(Input::Wake).await;
                // All calls that are due were made now: a slot that is still set aside is of no use here.
                self.engine.give_back(self.tx.gid());
            }
            Event::Ask {
                request,
                wait,
                answer,
            } => Box::pin(self.ask(request, wait, answer)).await,
        }
    }

    async fn take_result(&mut self, id: CallId, outcome: Outcome) {
        self.facts.push_back((self.built + 1, id, outcome.clone()));
        self.step_and_carry_out(Input::Result(id, outcome)).await;
    }

    async fn ask(&mut self, request: Request, wait: bool, answer: Answer) {
        let abort = matches!(request, Request::Abort { .. });
        let wait = self.waits(wait, abort);
        // Who waits for the result is worth exceeding the limit.
        self.guest &= !wait;
        match step(
            &mut self.tx,
            Input::Request(request.clone()),
            &self.engine.env_at(self.now),
        ) {
            Err(e) => {
                let _ = answer.send(Err(e));
            }
            Ok(fx) => match self.carry_out(fx).await {
                Ok(()) => self.accepted(wait, abort, answer),
                // A conflict never reaches a client: decide again on what is stored (architecture 5).
                Err(Lost::Conflict) => {
                    Box::pin(self.recover(Lost::Conflict)).await;
                    self.inbox.push_back(Event::Ask {
                        request,
                        wait,
                        answer,
                    });
                }
                Err(Lost::Refused(e)) => {
                    let _ = answer.send(Err(store_error(e.clone())));
                    Box::pin(self.recover(Lost::Refused(e))).await;
                }
            },
        }
    }

    /// A request's effects are durable: answers it, now or with the result.
    pub(super) fn accepted(&mut self, wait: bool, abort: bool, answer: Answer) {
        if wait {
            self.watch(abort, answer);
        } else {
            let _ = answer.send(Ok(()));
        }
    }

    fn watch(&mut self, abort: bool, answer: Answer) {
        let wait = Wait::new(abort, &self.tx, self.now, &self.engine.policy);
        let real = self.engine.real(wait.until - self.now);
        self.watchers.push((wait, real, answer));
    }

    /// Whether a request is answered with the result: the wish of an abort may be stored, and some requests are the result themselves.
    fn waits(&self, wish: bool, abort: bool) -> bool {
        let wish = wish || (abort && self.tx.definition().options.wait_result);
        match self.tx.trans_type() {
            TransType::Workflow => false,
            TransType::Msg => wish && !abort,
            _ => wish,
        }
    }

    fn answer_watchers(&mut self) {
        let now = self.now;
        let stopping = self.engine.stopping() && self.calls.is_empty();
        let mut i = 0;
        while let Some((wait, real, _)) = self.watchers.get_mut(i) {
            if stopping || real.is_some_and(|real| real <= Instant::now()) {
                wait.until = now;
            }
            // It goes on as soon as there is a slot, or with what is still to be decided on.
            let goes_on = (self.queued || !self.inbox.is_empty()) && now < wait.until;
            let result = match goes_on {
                true => None,
                false => wait.answer(&self.tx, now, &self.engine.policy),
            };
            match result {
                Some(result) => {
                    let (_, _, answer) = self.watchers.swap_remove(i);
                    let _ = answer.send(result);
                }
                None => i += 1,
            }
        }
    }

    pub(super) async fn step_and_carry_out(&mut self, input: Input) {
        // Only requests are refused.
        let Ok(fx) = step(&mut self.tx, input, &self.engine.env_at(self.now)) else {
            return;
        };
        if let Err(lost) = self.carry_out(fx).await {
            Box::pin(self.recover(lost)).await;
        }
    }

    async fn carry_out(&mut self, fx: Effects) -> Result<(), Lost> {
        match fx.save {
            Some(When::Now) => self.save(true),
            Some(When::Late) => {
                let at = self.now + self.engine.policy.late_write;
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
        self.make_calls(fx.calls);
        Ok(())
    }

    /// Queues a save of all that is known.
    fn save(&mut self, driven: bool) {
        let (seq, save) = self.tx.take_save(driven);
        self.built = seq;
        self.late_at = None;
        let saved = self.engine.store.save(self.tx.gid().clone(), save);
        self.saves.push_back((seq, saved));
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
                Some((seq, result)) = first(&mut self.saves), if !self.saves.is_empty() => self.saved(seq, result)?,
                (id, outcome) = self.calls.next(), if !self.calls.is_empty() => self.inbox.push_back(Event::Result(id, outcome)),
                else => return Err(Lost::Conflict),
            }
            self.now = self.engine.now();
        }
        Ok(())
    }

    /// Reads the record again and puts what no durable save holds back into the inbox, to be decided on again. It is claimed, for a save
    /// that let go of it may have come through although its answer was lost.
    async fn recover(&mut self, lost: Lost) {
        self.saves.clear();
        self.late_at = None;
        if let Lost::Refused(e) = lost {
            self.engine.warn(
                self.tx.gid(),
                &format!("a write was refused, it is tried again: {e}"),
            );
            tokio::time::sleep(STORE_PAUSE).await;
        }
        loop {
            match self.engine.store.claim(self.tx.gid()).await {
                Ok(Some(record)) => match self.tx.reload(
                    &record,
                    &self.engine.policy,
                    self.facts.iter().map(|(_, id, _)| *id),
                ) {
                    Ok(tx) => {
                        *self.tx = tx;
                        break;
                    }
                    Err(e) => self.engine.warn(self.tx.gid(), &e.to_string()),
                },
                Ok(None) => self.engine.warn(self.tx.gid(), "the record is gone"),
                Err(e) => {
                    self.engine
                        .warn(self.tx.gid(), &format!("the record cannot be read: {e}"));
                    self.turn_away(&store_error(e));
                }
            }
            tokio::time::sleep(STORE_PAUSE).await;
        }
        self.acked = self.built;
        for (_, id, outcome) in std::mem::take(&mut self.facts).into_iter().rev() {
            self.inbox.push_front(Event::Again(id, outcome));
        }
        self.inbox.push_back(Event::Look);
        self.now = self.engine.now();
    }

    /// While the store is out of reach: refuses what is asked, and ends the waits that are over.
    fn turn_away(&mut self, error: &Error) {
        self.mailbox.refuse(error);
        let now = self.engine.now();
        for (wait, real, answer) in std::mem::take(&mut self.watchers) {
            if now < wait.until {
                self.watchers.push((wait, real, answer));
            } else {
                let _ = answer.send(Err(error.clone()));
            }
        }
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
            let soon = self.wake_at.is_some_and(|at| at <= self.now + STAY_MS);
            if soon || !self.watchers.is_empty() {
                return false;
            }
        }
        self.answer_watchers();
        if self.queued {
            self.tx.look_by(self.now + SLOT_WAIT_MS);
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
                let (tx, now) = (&self.tx, self.now);
                // A life in which nothing was to be written only refused requests.
                if self.built > 0 {
                    let ok = tx.status() != Status::Failed;
                    let age = now - tx.state().created;
                    self.engine.metrics.process(tx.trans_type(), ok, age);
                }
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
}

/// The answer of the save that was queued first.
async fn first(
    saves: &mut VecDeque<(u64, BoxFuture<'_, Result<Saved, StoreError>>)>,
) -> Option<(u64, Result<Saved, StoreError>)> {
    let (seq, saved) = saves.front_mut()?;
    let (seq, result) = (*seq, saved.await);
    saves.pop_front();
    Some((seq, result))
}
