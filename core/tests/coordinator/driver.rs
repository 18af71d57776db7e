//! A driver in miniature: virtual time, a store that holds what was acknowledged, calls that the test answers. Every step is checked
//! against the rules that hold always, so that each table test proves them along the way.

use crate::bodies::{Topics, global};
use crate::invariants::name;
use amends::coordinator::admit::{define, register};
use amends::coordinator::record::{Index, Part, Record, Save};
use amends::coordinator::transaction::RowState;
use amends::coordinator::{
    Alert, Call, CallId, Effects, Env, Input, Request, Transaction, When, step,
};
use amends::wire::request::BranchRequest;
use amends::{Error, Millis, Op, Outcome, Policy, Status, TransType};
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};

/// When the virtual clock starts.
pub(crate) const START: Millis = 1_000_000_000_000;
/// The default base interval.
pub(crate) const BASE: Millis = 10_000;

/// One transaction, its driver, and the store.
pub(crate) struct World {
    pub(crate) tx: Transaction,
    pub(crate) now: Millis,
    pub(crate) policy: Policy,
    /// The random bits of every step; 0 is no jitter.
    pub(crate) random: u64,
    /// Whether saves are acknowledged as soon as they are queued. Otherwise the test calls [`World::sync`].
    pub(crate) at_once: bool,
    /// Skips the checks that take a copy of the transaction at every step, for very large ones.
    pub(crate) lean: bool,
    /// What is durable.
    pub(crate) record: Record,
    pub(crate) flying: Vec<Call>,
    /// Calls that wait for the save with this number.
    pub(crate) held: Vec<(u64, Call)>,
    pub(crate) alerts: Vec<Alert>,
    /// Every call that was ever sent.
    pub(crate) ever: BTreeSet<String>,
    /// Calls of a process that died, and until when they may be on their way.
    pub(crate) ghosts: Vec<(CallId, Millis)>,
    pub(crate) queued: VecDeque<(u64, Save)>,
    acked: u64,
    late_at: Option<Millis>,
    sent: Vec<String>,
}

impl World {
    /// A request that stores the transaction as submitted.
    pub(crate) fn submit(body: Value) -> World {
        World::store(
            &body,
            Status::Submitted,
            Policy::default(),
            &Topics::new(),
            true,
        )
    }

    /// A prepare, or prepareWorkflow.
    pub(crate) fn prepare(body: Value) -> World {
        World::store(
            &body,
            Status::Prepared,
            Policy::default(),
            &Topics::new(),
            true,
        )
    }

    /// As [`World::submit`] or [`World::prepare`], with everything chosen.
    pub(crate) fn store(
        body: &Value,
        status: Status,
        policy: Policy,
        topics: &Topics,
        at_once: bool,
    ) -> World {
        let def =
            define(&mut global(body), topics, &policy.limits).expect("a request that is admitted");
        let gid = def.gid.clone();
        let tx = Transaction::new(def, status, START);
        let index = Index {
            status,
            trans_type: tx.trans_type(),
            due: Some(START),
            quiet: None,
            created: START,
            finished: None,
            attempts: 0,
            failing_hosts: Vec::new(),
            attention: false,
            branches: 0,
            bytes: 0,
            driven: false,
        };
        let record = Record {
            gid,
            version: 0,
            index,
            exact: true,
            state: Default::default(),
            parts: Vec::new(),
        };
        let mut w = World {
            tx,
            now: START,
            policy,
            random: 0,
            at_once,
            lean: false,
            record,
            flying: Vec::new(),
            held: Vec::new(),
            alerts: Vec::new(),
            ever: BTreeSet::new(),
            ghosts: Vec::new(),
            queued: VecDeque::new(),
            acked: 0,
            late_at: None,
            sent: Vec::new(),
        };
        let fx = w.input(Input::Wake).expect("a wake is never refused");
        assert!(
            fx.save.is_some() && fx.after >= 1,
            "what was just made is stored before anything follows"
        );
        if fx.save == Some(When::Late) {
            w.queue(true);
            w.sync_if_at_once();
        }
        w
    }

    /// Steps an input, and does what it says.
    pub(crate) fn input(&mut self, input: Input) -> Result<Effects, Error> {
        let before = (!self.lean).then(|| self.tx.clone());
        let env = Env {
            now: self.now,
            policy: &self.policy,
            random: self.random,
        };
        let fx = match step(&mut self.tx, input, &env) {
            Ok(fx) => fx,
            Err(e) => {
                assert_eq!(
                    before.as_ref().unwrap_or(&self.tx),
                    &self.tx,
                    "a refused request changes nothing"
                );
                return Err(e);
            }
        };
        if let Some(before) = before {
            self.check(&before, &fx);
        }
        match fx.save {
            Some(When::Now) => self.queue(true),
            Some(When::Late) => {
                self.late_at = self.late_at.or(Some(self.now + self.policy.late_write))
            }
            None => {}
        }
        self.alerts.extend(fx.alerts.iter().cloned());
        self.held
            .extend(fx.calls.iter().map(|c| (fx.after, c.clone())));
        self.release();
        self.sync_if_at_once();
        Ok(fx)
    }

    fn queue(&mut self, driven: bool) {
        self.late_at = None;
        let save = self.tx.take_save(driven);
        self.queued.push_back(save);
    }

    fn sync_if_at_once(&mut self) {
        if self.at_once && !self.queued.is_empty() {
            self.sync();
        }
    }

    /// Makes what is queued durable, in order.
    pub(crate) fn sync(&mut self) {
        while let Some((seq, save)) = self.queued.pop_front() {
            assert_eq!(
                save.base, self.record.version,
                "a save is based on the version that is stored"
            );
            assert_eq!(
                save.index.due.is_none(),
                save.index.status.is_final(),
                "due exactly while it has not ended"
            );
            self.record.version += 1;
            self.record.exact = !save.index.driven;
            self.record.index = save.index;
            self.record.state = save.state;
            self.record.parts.extend(save.parts);
            self.acked = seq;
            // A driver may look at any time.
            self.input(Input::Wake).expect("a look is never refused");
        }
        self.release();
    }

    /// Sends the calls whose save is durable.
    fn release(&mut self) {
        let (go, stay) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|(after, _)| *after <= self.acked);
        self.held = stay;
        let go: Vec<(u64, Call)> = go;
        for (_, call) in go {
            let stored = self.record.index.status;
            match call.op.as_str() {
                "compensate" | "cancel" | "rollback" => assert_eq!(
                    stored,
                    Status::Aborting,
                    "{} before it is decided durably",
                    name(&call)
                ),
                "action" | "confirm" | "commit" => {
                    assert_eq!(
                        stored,
                        Status::Submitted,
                        "{} before it is decided durably",
                        name(&call)
                    );
                    self.check_levels(&call);
                }
                _ => {}
            }
            if call.op == Op::COMPENSATE {
                self.check_backward(&call);
            }
            self.ever.insert(name(&call));
            self.sent.push(name(&call));
            self.flying.push(call);
        }
    }

    /// The calls sent since this was last asked.
    pub(crate) fn sent(&mut self) -> Vec<String> {
        std::mem::take(&mut self.sent)
    }

    /// A call in flight.
    pub(crate) fn call(&self, which: &str) -> &Call {
        self.flying
            .iter()
            .find(|c| name(c) == which)
            .unwrap_or_else(|| panic!("{which} is not in flight"))
    }

    /// Answers a call in flight.
    pub(crate) fn answer(&mut self, which: &str, outcome: Outcome) -> Effects {
        let i = self
            .flying
            .iter()
            .position(|c| name(c) == which)
            .unwrap_or_else(|| panic!("{which} is not in flight"));
        let call = self.flying.remove(i);
        self.input(Input::Result(call.id, outcome))
            .expect("a result is never refused")
    }

    /// Answers with success, one after the other.
    pub(crate) fn succeed(&mut self, which: &[&str]) {
        for w in which {
            self.answer(w, Outcome::Success);
        }
    }

    /// Lets time pass; wakes and late writes happen when they are due.
    pub(crate) fn pass(&mut self, ms: Millis) {
        let end = self.now + ms;
        for _round in 0..100_000 {
            let due = self.tx.due();
            let next = [due, self.late_at].into_iter().flatten().min();
            let Some(at) = next.filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            if self.late_at == Some(at) {
                self.queue(true);
                self.sync_if_at_once();
            }
            if due == Some(at) {
                self.input(Input::Wake).expect("a wake is never refused");
            }
        }
        panic!("it spins");
    }

    /// Asks for something.
    pub(crate) fn ask(&mut self, request: Request) -> Result<Effects, Error> {
        self.input(Input::Request(request))
    }

    /// A submit of what is stored.
    pub(crate) fn submit_again(&mut self, body: Value) -> Result<Effects, Error> {
        let r = global(&body);
        let trans_type = TransType::parse(&r.trans_type).expect("a known type");
        let options = Box::new(r.options(&self.policy.limits).expect("good options"));
        self.ask(Request::Submit {
            trans_type,
            options,
            custom_data: r.custom_data,
        })
    }

    pub(crate) fn abort(&mut self, reason: &str) -> Result<Effects, Error> {
        self.ask(Request::Abort {
            reason: reason.to_owned(),
        })
    }

    pub(crate) fn force_stop(&mut self) -> Result<Effects, Error> {
        self.ask(Request::ForceStop {
            actor: "ops".to_owned(),
            reason: "stuck".to_owned(),
        })
    }

    pub(crate) fn end(
        &mut self,
        status: Status,
        reason: &str,
        result: &str,
    ) -> Result<Effects, Error> {
        self.ask(Request::End {
            status,
            reason: reason.to_owned(),
            result: result.to_owned(),
        })
    }

    /// registerBranch: the store appends the part, which raises the version and may move the due time; nobody drives the record then.
    pub(crate) fn register(&mut self, body: Value) -> Result<Part, Error> {
        let request = BranchRequest::from_json(body.to_string().as_bytes())?;
        let part = register(&request, &self.policy.limits)?
            .registration
            .part(self.now);
        self.record.parts.push(part.clone());
        self.record.version += 1;
        let moved = self.record.index.quiet.map(|quiet| self.now + quiet);
        self.record.index.due = moved.or(self.record.index.due);
        self.load();
        Ok(part)
    }

    /// Registers branches 01… of a tcc (URLs `http://b/k/…`) or an xa.
    pub(crate) fn register_branches(&mut self, count: usize) {
        for k in 1..=count {
            let url = format!("http://b/{k}");
            let (id, ty) = (format!("{k:02}"), self.tx.trans_type().as_str());
            let body = json!({"gid": "g", "trans_type": ty, "branch_id": id, "data": format!("{{\"n\":{k}}}"),
                "confirm": format!("{url}/confirm"), "cancel": format!("{url}/cancel"), "url": url});
            self.register(body).expect("a branch that is admitted");
        }
    }

    /// The driver lets go: everything is written, the record is exact.
    pub(crate) fn let_go(&mut self) {
        assert!(!self.tx.in_flight() && self.held.is_empty());
        self.queue(false);
        self.sync();
        assert!(self.record.exact);
    }

    /// Reads the record as a driver that claims it.
    pub(crate) fn load(&mut self) {
        self.tx = Transaction::load(&self.record, self.now, &self.policy)
            .expect("a record that was saved");
        self.record.exact = false;
        self.acked = 0;
        self.late_at = None;
    }

    /// The process dies: what was not acknowledged is gone, and a new one claims the record and looks.
    pub(crate) fn crash(&mut self) {
        let until = self.now + self.policy.longest_call(&self.tx.definition().options);
        self.ghosts
            .extend(self.flying.iter().map(|c| (c.id, until)));
        self.queued.clear();
        self.held.clear();
        self.flying.clear();
        self.record.exact = false;
        self.load();
        self.input(Input::Wake).expect("a wake is never refused");
    }

    /// Let go, then claimed again at once.
    pub(crate) fn let_go_and_resume(&mut self) {
        self.let_go();
        self.load();
        self.input(Input::Wake).expect("a wake is never refused");
    }

    pub(crate) fn status(&self) -> Status {
        self.tx.status()
    }

    pub(crate) fn reason(&self) -> &str {
        &self.tx.state().reason
    }

    /// The rows' states by their first letters: `p,s,p,s`.
    pub(crate) fn rows(&self) -> String {
        let letters: Vec<&str> = self
            .tx
            .rows()
            .iter()
            .map(|r| &r.state.status.as_str()[..1])
            .collect();
        letters.join(",")
    }

    /// Progress of a row.
    pub(crate) fn row(&self, which: &str) -> &RowState {
        let row = self
            .tx
            .rows()
            .iter()
            .find(|r| format!("{} {}", r.branch_id, r.op) == which);
        &row.unwrap_or_else(|| panic!("there is no row {which}"))
            .state
    }

    /// How long from now until it is looked at, ms.
    pub(crate) fn due_in(&self) -> Option<Millis> {
        self.tx.due().map(|at| at - self.now)
    }

    /// Whether everything that was stepped is durable.
    pub(crate) fn all_durable(&self) -> bool {
        self.queued.is_empty()
    }
}
