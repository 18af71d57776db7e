//! What must hold, whatever happens (faults.md 1: 1–5, 8 and 12; rules.md 1): checked at every durable write, call and answer.

use crate::client::Verb;
use crate::ledger::Pace;
use crate::plan::Kind;
use crate::world::World;
use amends::branch::BranchStatus;
use amends::coordinator::record::Record;
use amends::coordinator::transaction::{Custom, State};
use amends::coordinator::{Call, Input, Request, retry};
use amends::{Error, ErrorKind, Millis, Outcome, Purpose, Status, TransType};

/// No due time is further away than the longest delay of the policy, with jitter, plus the longest option that plans draw, ms.
const FURTHEST_DUE: Millis = 700_000;
/// Errors of one branch that one crash can make forgotten: quick retries are at least 200 ms apart.
const LOST_ERRORS: u64 = 5;

impl World {
    pub(crate) fn ledger_input(&mut self, tx: usize, input: &Input) {
        if matches!(input, Input::Request(Request::Reset)) {
            let ledger = &mut self.ledgers[tx];
            ledger.reset();
            // Whoever resets it during a call wants one more if that fails.
            ledger.again.extend(ledger.open.iter().copied());
        }
    }

    /// A call was answered.
    pub(crate) fn ledger_outcome(&mut self, tx: usize, target: (usize, Kind), outcome: &Outcome) {
        let options = &self.plans[tx].def.options;
        let base = self.policy.base_interval(options);
        let quick = options.retry_limit > 0
            && self.plans[tx].trans_type == TransType::Saga
            && target.1 == Kind::Action;
        let (clock, since) = (self.clock(), self.now);
        let p = self.ledgers[tx].pace.entry(target).or_default();
        p.since = since;
        match outcome {
            Outcome::Success => *p = Pace::default(),
            Outcome::Ongoing => p.not_before = clock + base,
            Outcome::Error(_) | Outcome::Failure(_) => {
                p.errors += 1;
                p.not_before = clock
                    + if quick {
                        retry::quick(base, 1)
                    } else {
                        retry::backoff(base, p.errors, &self.policy)
                    };
                if quick {
                    *self.ledgers[tx].errors.entry(target.0).or_default() += 1;
                }
            }
        }
        let ledger = &mut self.ledgers[tx];
        ledger.open.remove(&target);
        if ledger.again.remove(&target)
            && let Some(p) = ledger.pace.get_mut(&target)
        {
            p.not_before = 0;
        }
    }

    fn state(&self, tx: usize) -> Option<State> {
        let stored = self.store.records.get(&tx)?;
        serde_json::from_slice(&stored.state).ok()
    }

    /// What a driver that was lost may have started, by what is durable.
    pub(crate) fn loaded(&mut self, tx: usize, record: &Record) {
        if record.exact
            || self.plans[tx].trans_type != TransType::Saga
            || record.index.status != Status::Submitted
        {
            return;
        }
        let Some(state) = self.state(tx) else { return };
        let plan = &self.plans[tx];
        let done: Vec<bool> = (0..plan.before.len())
            .map(|k| succeeded(&state, 2 * k + 1))
            .collect();
        let frontier = plan.frontier(&done);
        for (may, f) in self.ledgers[tx].may.iter_mut().zip(frontier) {
            *may |= f;
        }
    }

    /// A call is about to be sent.
    pub(crate) fn check_send(&mut self, tx: usize, call: &Call, target: Option<(usize, Kind)>) {
        let durable = self.store.records.get(&tx).map(|s| s.index.status);
        let wanted = match (call.purpose, target) {
            (Purpose::Branch, None) => {
                return self.fail(
                    tx,
                    format_args!("calls an unknown branch {} {}", call.branch_id, call.op),
                );
            }
            (Purpose::Branch, Some((_, kind))) if kind.undoes() => Status::Aborting,
            (Purpose::Branch, _) => Status::Submitted,
            _ => Status::Prepared,
        };
        if durable != Some(wanted) {
            self.fail(
                tx,
                format_args!(
                    "calls {} {} while {durable:?} is durable",
                    call.branch_id, call.op
                ),
            );
        }
        let life = self.life;
        let same = |c: &&crate::network::CallState| {
            c.tx == tx && c.life == life && !c.ended && c.id == call.id
        };
        if self.calls.iter().any(|c| same(&c)) {
            self.fail(
                tx,
                format_args!("calls {} {} twice at a time", call.branch_id, call.op),
            );
        }
        let Some((branch, kind)) = target else { return };
        if self.ledgers[tx]
            .pace
            .get(&(branch, kind))
            .is_some_and(|p| p.not_before > self.clock())
        {
            self.fail(
                tx,
                format_args!(
                    "calls {} {} sooner than the policy allows",
                    call.branch_id, call.op
                ),
            );
        }
        match self.plans[tx].trans_type {
            TransType::Saga if kind == Kind::Action => self.check_action(tx, branch),
            TransType::Saga => self.check_compensation(tx, branch),
            TransType::Msg if self.delayed(tx) => {
                self.fail(tx, "delivers before its delay is over");
            }
            TransType::Tcc | TransType::Xa => self.check_phase2(tx, branch, kind),
            TransType::Msg
                if !self.plans[tx].def.options.concurrent
                    && branch > 0
                    && self.sites[tx].served(branch - 1, kind) == 0 =>
            {
                self.fail(
                    tx,
                    format_args!("delivers step {branch} before the one before it"),
                );
            }
            _ => {}
        }
    }

    /// Whether a message's delay is not over (rules.md 2.2).
    fn delayed(&self, tx: usize) -> bool {
        let Custom::Msg { delay } = self.plans[tx].def.custom else {
            return false;
        };
        let submitted = self.state(tx).and_then(|s| s.submitted);
        submitted.is_none_or(|at| self.clock() < at + delay)
    }

    fn check_action(&mut self, tx: usize, step: usize) {
        let limit = self.plans[tx].def.options.retry_limit;
        let errors = self.ledgers[tx].errors.get(&step).copied().unwrap_or(0);
        // A crash may forget those that came just before it.
        if limit > 0 && errors > limit + LOST_ERRORS * u64::from(self.crashes) {
            self.fail(
                tx,
                format_args!("calls step {step} after {errors} errors, the limit is {limit}"),
            );
        }
        let Some(state) = self.state(tx) else { return };
        let plan = &self.plans[tx];
        for b in plan.before[step].clone() {
            if !self.no_call(tx, b) && self.sites[tx].served(b, Kind::Action) == 0 {
                self.fail(
                    tx,
                    format_args!("starts step {step} before step {b} succeeded"),
                );
            }
            for bb in self.plans[tx].before[b].clone() {
                if !succeeded(&state, 2 * bb + 1) {
                    self.fail(
                        tx,
                        format_args!(
                            "starts step {step} before the success of step {bb} is durable"
                        ),
                    );
                }
            }
        }
    }

    /// Whether a step's action has no URL.
    pub(crate) fn no_call(&self, tx: usize, step: usize) -> bool {
        self.plans[tx].def.rows[2 * step + 1].url.is_empty()
    }

    fn check_compensation(&mut self, tx: usize, step: usize) {
        let ledger = &self.ledgers[tx];
        if !ledger.was_sent(step, Kind::Action) && !ledger.may[step] && !self.no_call(tx, step) {
            self.fail(
                tx,
                format_args!("compensates step {step}, whose action never ran"),
            );
        }
        let calls = self.ledgers[tx].calls.get(&(step, Kind::Action));
        let under_way = calls
            .into_iter()
            .flatten()
            .any(|n| !self.calls[*n].ended && self.calls[*n].gives_up > self.now);
        if under_way {
            self.fail(
                tx,
                format_args!("compensates step {step} while its action is on its way"),
            );
        }
        let after: Vec<usize> = self.plans[tx].after(step).collect();
        for n in after {
            let ran = self.ledgers[tx].was_sent(n, Kind::Action);
            if ran && self.plans[tx].undoable[n] && self.sites[tx].served(n, Kind::Compensate) == 0
            {
                self.fail(
                    tx,
                    format_args!("compensates step {step} before step {n}, which came after it"),
                );
            }
        }
    }

    /// Registered branches in their order.
    pub(crate) fn registered(&self, tx: usize) -> Vec<usize> {
        let Some(stored) = self.store.records.get(&tx) else {
            return Vec::new();
        };
        stored
            .parts
            .iter()
            .filter_map(|p| self.plans[tx].branch(&p.keys.first()?.0))
            .collect()
    }

    fn check_phase2(&mut self, tx: usize, branch: usize, kind: Kind) {
        let mut order = self.registered(tx);
        if self.plans[tx].trans_type == TransType::Tcc {
            order.reverse();
        }
        let Some(place) = order.iter().position(|b| *b == branch) else {
            return self.fail(
                tx,
                format_args!("calls {kind:?} of branch {branch}, which is not registered"),
            );
        };
        if let Some(first) = order[..place]
            .iter()
            .find(|b| self.sites[tx].served(**b, kind) == 0)
        {
            let first = *first;
            self.fail(
                tx,
                format_args!("calls {kind:?} of branch {branch} before branch {first}"),
            );
        }
    }

    /// A write became durable.
    pub(crate) fn check_stored(&mut self, tx: usize) {
        let Some(stored) = self.store.records.get(&tx) else {
            return;
        };
        let index = stored.index.clone();
        let Some(state) = self.state(tx) else {
            return self.fail(tx, "its state cannot be read");
        };
        if state.status != index.status {
            self.fail(
                tx,
                format_args!(
                    "is indexed as {} and stored as {}",
                    index.status, state.status
                ),
            );
        }
        let late = index
            .due
            .is_some_and(|due| due > self.clock() + FURTHEST_DUE);
        if index.status.is_final() != index.due.is_none() || late {
            self.fail(
                tx,
                format_args!(
                    "has the due time {:?} at {} while it is {}",
                    index.due,
                    self.clock(),
                    index.status
                ),
            );
        }
        let forced = state.forced.is_some();
        let ledger = &mut self.ledgers[tx];
        let (before, after) = (ledger.status.replace(index.status), index.status);
        let legal = match before {
            None => after != Status::Aborting && after != Status::Failed,
            Some(b) if b == after => true,
            Some(b) if b.is_final() => false,
            Some(_) if forced && !ledger.forced => after == Status::Failed,
            Some(b) => moves(index.trans_type, b, after),
        };
        ledger.forced = forced;
        if !legal {
            self.fail(tx, format_args!("goes from {before:?} to {after}"));
        }
        if !forced
            && index.trans_type == TransType::Workflow
            && after.is_final()
            && self.decision(tx).is_some_and(|d| d != after)
        {
            self.fail(tx, format_args!("ends as {after} against its decision row"));
        }
    }

    fn decision(&self, tx: usize) -> Option<Status> {
        let record = self.store.records.get(&tx)?.record(&self.plans[tx].gid);
        let t = amends::coordinator::Transaction::load(&record, self.clock(), &self.policy).ok()?;
        let row = t.decision_row()?;
        Some(if row.state.status == BranchStatus::Succeed {
            Status::Succeed
        } else {
            Status::Failed
        })
    }

    /// A request is answered.
    pub(crate) fn check_answer(&mut self, tx: usize, verb: &Verb, result: &Result<(), Error>) {
        let durable = self.store.records.get(&tx).map(|s| s.index.status);
        let told = match (verb, result) {
            (Verb::Register(r), Ok(())) => {
                let keys = r
                    .rows
                    .iter()
                    .map(|(op, _)| (r.branch_id.clone(), op.as_str().to_owned()));
                let all = self
                    .store
                    .records
                    .get(&tx)
                    .is_some_and(|s| keys.into_iter().all(|key| s.has(&key)));
                if !all {
                    self.fail(tx, "acknowledges a registration that is not durable");
                }
                return;
            }
            (Verb::Submit { .. }, Ok(())) => Some(Status::Submitted),
            (Verb::Abort { .. }, Ok(())) if self.plans[tx].trans_type == TransType::Msg => {
                Some(Status::Failed)
            }
            (Verb::Abort { .. }, Ok(())) => Some(Status::Aborting),
            (Verb::End { status }, Ok(())) => Some(*status),
            (Verb::ForceStop, Ok(())) => Some(Status::Failed),
            (_, Ok(())) => Some(Status::Prepared),
            (_, Err(e)) if e.kind() == ErrorKind::UnknownGid => {
                if durable.is_some() {
                    self.fail(tx, "is there and is answered as unknown");
                }
                return;
            }
            (_, Err(e)) => e.status(),
        };
        let Some(told) = told else { return };
        let agrees = durable.is_some_and(|d| {
            let forced_or_undone = d == Status::Failed && !told.is_final();
            d == told || forced_or_undone || (!told.is_final() && reaches(told, d))
        });
        if !agrees {
            self.fail(
                tx,
                format_args!("answers {verb:?} with {told} while {durable:?} is durable"),
            );
        }
    }

    /// A request that waited is answered.
    pub(crate) fn check_wait(&mut self, tx: usize, abort: bool, result: &Result<(), Error>) {
        let durable = self.store.records.get(&tx).map(|s| s.index.status);
        let agrees = match result {
            Ok(()) if abort => durable == Some(Status::Failed),
            Ok(()) => durable == Some(Status::Succeed),
            Err(e) if e.kind() == ErrorKind::Failure => {
                matches!(durable, Some(Status::Failed | Status::Aborting))
            }
            Err(_) => true,
        };
        if !agrees {
            self.fail(
                tx,
                format_args!("tells who waited {result:?} while {durable:?} is durable"),
            );
        }
    }
}

fn succeeded(state: &State, row: usize) -> bool {
    state
        .rows
        .get(&(row as u32))
        .is_some_and(|r| r.status == BranchStatus::Succeed)
}

/// Whether a mode may go from one status to another (dtm-server.md 9). Where nothing is to be called in between, several changes
/// become one write.
fn moves(ty: TransType, from: Status, to: Status) -> bool {
    let undoes = !matches!(ty, TransType::Msg | TransType::Workflow);
    match (from, to) {
        (Status::Prepared, Status::Submitted) => ty != TransType::Workflow,
        (Status::Prepared, Status::Aborting) => undoes,
        (Status::Submitted, Status::Aborting | Status::Failed) => ty == TransType::Saga,
        (Status::Prepared, Status::Failed | Status::Succeed) => true,
        (Status::Submitted, Status::Succeed) => true,
        (Status::Aborting, Status::Failed) => true,
        _ => false,
    }
}

/// Whether a status may have become another one since.
fn reaches(from: Status, to: Status) -> bool {
    match from {
        Status::Prepared => true,
        Status::Submitted => to != Status::Prepared,
        Status::Aborting => to == Status::Failed,
        _ => false,
    }
}
