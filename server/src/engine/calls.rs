//! The calls of a driver: each needs a slot, and is told to the transaction as its result.

use super::driver::Driver;
use crate::dispatch::slots::Acquire;
use amends::coordinator::Call;
use amends::wire::call::{HttpCall, Target, host};

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
        let request = HttpCall::new(
            &target,
            &call.payload,
            &def.options.branch_headers,
            timeout,
            &engine.policy.compat,
        );
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
}
