//! The calls of a driver: each needs a slot, and is told to the transaction as its result.

use super::Engine;
use super::driver::Driver;
use crate::dispatch::Reply;
use crate::dispatch::slots::{Acquire, Permit};
use amends::Outcome;
use amends::coordinator::{Call, CallId};
use amends::wire::call::{BranchCall, Target};
use amends::wire::url::host;
use futures_util::future::{BoxFuture, FutureExt, poll_fn};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

impl Driver<'_> {
    pub(super) fn make_calls(&mut self, calls: Vec<Call>) {
        self.queued = false;
        let held = self.engine.stopping() || self.guest;
        for call in calls {
            if held || !self.send(&call) {
                self.tx.withdraw(call.id);
                self.queued |= !held;
            }
            if held {
                // Nobody else knows that it is due: its turn, or the next start, makes it.
                self.tx.look_by(self.engine.now());
            }
        }
    }

    /// Sends a call if there is a slot for it.
    fn send(&mut self, call: &Call) -> bool {
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
        let request = BranchCall::new(
            &target,
            &call.payload,
            &def.options.branch_headers,
            timeout,
            &engine.policy.compat,
        );
        self.calls.push(Sent {
            engine,
            id: call.id,
            permit: Some(permit),
            reply: engine.transport.call(request),
        });
        true
    }
}

/// The calls of one driver that are on the wire. Nearly always it is one, which needs no set to be kept in.
#[derive(Default)]
pub(super) struct Calls<'e> {
    one: Option<Sent<'e>>,
    more: Option<FuturesUnordered<Sent<'e>>>,
}

impl<'e> Calls<'e> {
    fn push(&mut self, call: Sent<'e>) {
        if self.one.is_none() {
            self.one = Some(call);
        } else {
            self.more.get_or_insert_default().push(call);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.one.is_none() && self.more.as_ref().is_none_or(FuturesUnordered::is_empty)
    }

    /// The result of the next call that ends; pending while there is none.
    pub(super) async fn next(&mut self) -> (CallId, Outcome) {
        poll_fn(|cx| {
            if let Some(one) = &mut self.one
                && let Poll::Ready(ended) = one.poll_unpin(cx)
            {
                self.one = None;
                return Poll::Ready(ended);
            }
            match self.more.as_mut().map(|more| more.poll_next_unpin(cx)) {
                Some(Poll::Ready(Some(ended))) => Poll::Ready(ended),
                _ => Poll::Pending,
            }
        })
        .await
    }
}

/// A call on the wire; when it ends, its slot is free.
pub(super) struct Sent<'e> {
    engine: &'e Arc<Engine>,
    id: CallId,
    permit: Option<Permit>,
    reply: BoxFuture<'static, Reply>,
}

impl Future for Sent<'_> {
    type Output = (CallId, Outcome);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(self.reply.as_mut().poll(cx));
        if let Some(permit) = self.permit.take() {
            let (engine, host) = (self.engine, permit.host().clone());
            let freed = engine.slots.release(permit, reply.unreachable);
            engine.freed(Some(&host), freed);
        }
        Poll::Ready((self.id, reply.outcome))
    }
}
