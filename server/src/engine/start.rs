//! How a driver's life begins and ends: its transaction is new, claimed or in the store, and a panic costs one life only.

use super::Engine;
use super::driver::{Driver, Event};
use super::mailbox::{Answer, Mailbox, Message};
use super::requests::nobody_answered;
use crate::store::{Created, store_error};
use amends::coordinator::record::Record;
use amends::coordinator::{Input, Request, Transaction, step};
use amends::{Error, ErrorKind, Gid, Options};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// How a driver comes to its transaction.
pub(super) enum Start {
    /// It is new; its submit is answered when it is stored, or with its result.
    New(Box<Transaction>, bool, Answer),
    /// It was claimed.
    Claimed(Box<Record>),
    /// It is in the store.
    Stored,
}

/// Drives a transaction until nothing is to be done now. A panic in it is caught, and the transaction looked at again later.
pub(super) async fn run(engine: Arc<Engine>, gid: Gid, mailbox: Arc<Mailbox>, start: Start) {
    let mut start = start;
    let mut panics = 0;
    loop {
        let life = AssertUnwindSafe(drive(&engine, &gid, &mailbox, start, panics > 0))
            .catch_unwind()
            .await;
        match life {
            Ok(()) => panics = 0,
            Err(panic) => {
                panics += 1;
                engine.give_back(&gid);
                tracing::error!(%gid, panic = panic_text(&*panic), "a step panicked; the transaction is looked at again later");
                if panics > 1 {
                    mailbox.refuse(&nobody_answered());
                    tokio::time::sleep(Duration::from_millis(
                        engine.policy.retry_interval.max(0) as u64
                    ))
                    .await;
                }
                start = Start::Stored;
                continue;
            }
        }
        // A slot that was set aside while it let go comes with mail: it is kept, or it would be passed from one to the next of those that
        // let go and never be used.
        if engine.retire(&gid, &mailbox) {
            engine.give_back(&gid);
            mailbox.refuse(&Error::new(
                ErrorKind::Unavailable,
                "the server is shutting down",
            ));
            return;
        }
        start = mailbox.take_claimed().map_or(Start::Stored, Start::Claimed);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}

async fn drive(engine: &Arc<Engine>, gid: &Gid, mailbox: &Mailbox, start: Start, panicked: bool) {
    let its_turn = matches!(start, Start::Claimed(_));
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
    driver.guest &= !its_turn;
    driver.counted_end = driver.tx.status().is_final();
    if panicked && !driver.tx.status().is_final() {
        driver.step_and_carry_out(Input::Panicked).await;
    }
    driver.inbox.push_back(Event::Look);
    driver.drive().await;
}

/// Takes a stored transaction for driving; requests for one that is unknown are refused.
async fn claim(
    engine: &Arc<Engine>,
    gid: &Gid,
    mailbox: &Mailbox,
    panicked: bool,
) -> Option<Box<Transaction>> {
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

fn open(
    engine: &Arc<Engine>,
    gid: &Gid,
    mailbox: &Mailbox,
    record: &Record,
) -> Option<Box<Transaction>> {
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
            mailbox.post(Message::Ask {
                request: resubmit(&tx),
                wait,
                answer,
            });
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
    let options = Box::new(Options {
        wait_result: false,
        ..def.options.clone()
    });
    Request::Submit {
        trans_type: def.trans_type,
        options,
        custom_data: def.custom_data.clone(),
    }
}
