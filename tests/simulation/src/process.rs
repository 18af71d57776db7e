//! The coordinator's process: what it does with requests and with records that are due, as the server's engine does it.

use crate::Broken;
use crate::client::{Answer, Verb};
use crate::driver::{Driver, Phase};
use crate::store::{AppendWrite, Queued, Write};
use crate::world::{Event, World, tell};
use amends::coordinator::{Input, Request, Transaction, admit, saga};
use amends::{Millis, Status, TransType};
use std::collections::BTreeMap;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The client.
    pub(crate) client: usize,
    /// Its operation.
    pub(crate) op: u64,
    /// `Some(abort)` if it waits for the result.
    pub(crate) wait: Option<bool>,
}

/// One input of a driver, and who waits for its answer.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) input: Input,
    pub(crate) ask: Option<(Ask, Verb)>,
}

/// What a process knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Process {
    pub(crate) drivers: BTreeMap<usize, Driver>,
    pub(crate) asks: BTreeMap<u64, (Ask, Verb)>,
    next: u64,
}

impl Process {
    /// What matters later of what it knows, for the exhaustive search; numbers that only tell things apart do not.
    pub(crate) fn remember(&self, now: Millis, f: &mut impl std::fmt::Write) {
        for (tx, d) in &self.drivers {
            let _ = write!(f, "{tx} ");
            d.remember(now, f);
        }
        let _ = write!(f, "{:?}", self.asks.values());
    }

    /// Who waits for a write, as far as it matters later.
    pub(crate) fn waits_for(&self, queued: &Queued) -> bool {
        match queued.write {
            Write::Append(_) => true,
            Write::Create(_) | Write::Save(..) => {
                let driver = self.drivers.get(&queued.tx);
                driver.is_some_and(|d| d.id == queued.waiter)
                    || self.asks.contains_key(&queued.waiter)
            }
        }
    }
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl World {
    /// A request arrives.
    pub(crate) fn arrive(&mut self, client: usize, op: u64, verb: Verb) {
        let tx = self.clients[client].tx;
        let ask = Ask {
            client,
            op,
            wait: verb.wait(),
        };
        if self.process.is_none() {
            return self.after(
                1,
                Event::Answered {
                    client,
                    op,
                    answer: Answer::Unknown,
                },
            );
        }
        tell!(
            self,
            "request {} client {client}: {verb:?}",
            self.plans[tx].gid
        );
        let unknown = !self.store.records.contains_key(&tx) && self.driver(tx).is_none();
        match verb {
            Verb::Register(ref registration) => {
                let plan = &self.plans[tx];
                let register = admit::Register {
                    gid: plan.gid.clone(),
                    trans_type: plan.trans_type,
                    registration: registration.clone(),
                };
                let write = Write::Append(AppendWrite {
                    required: (plan.trans_type, Status::Prepared),
                    forbidden: register.forbidden(),
                    part: registration.part(self.clock()),
                    registration: registration.clone(),
                });
                let waiter = self.remember(ask, verb);
                self.write(Queued { tx, waiter, write });
            }
            Verb::Prepare | Verb::PrepareWorkflow if unknown => self.create_prepared(tx, ask, verb),
            Verb::Submit { .. }
                if unknown
                    && matches!(self.plans[tx].trans_type, TransType::Saga | TransType::Msg) =>
            {
                self.create_submitted(tx, ask, verb)
            }
            _ if unknown => self.answer(
                tx,
                ask,
                &verb,
                Err(amends::Error::unknown_gid(self.plans[tx].gid.as_str())),
            ),
            _ => self.route(tx, ask, verb),
        }
    }

    fn driver(&self, tx: usize) -> Option<&Driver> {
        self.process.as_ref().and_then(|p| p.drivers.get(&tx))
    }

    fn remember(&mut self, ask: Ask, verb: Verb) -> u64 {
        let Some(p) = &mut self.process else { return 0 };
        let n = p.number();
        p.asks.insert(n, (ask, verb));
        n
    }

    fn create_prepared(&mut self, tx: usize, ask: Ask, verb: Verb) {
        let mut t = Transaction::new(self.plans[tx].def.clone(), Status::Prepared, self.clock());
        if let Err(e) = self.one_step(&mut t, Input::Wake) {
            return self.fail(tx, format_args!("a wake is refused: {e}"));
        }
        let (_, save) = t.take_save(false);
        let waiter = self.remember(ask, verb);
        self.write(Queued {
            tx,
            waiter,
            write: Write::Create(save),
        });
    }

    /// Hands a request to the transaction's driver; claims the record if there is none.
    pub(crate) fn route(&mut self, tx: usize, ask: Ask, verb: Verb) {
        let input = match &verb {
            Verb::Prepare => Input::Request(Request::Prepare),
            Verb::PrepareWorkflow => Input::Request(Request::PrepareWorkflow),
            Verb::Submit { .. } => submit_input(&self.plans[tx]),
            Verb::Abort { .. } => Input::Request(Request::Abort {
                reason: "asked".to_owned(),
            }),
            Verb::End { status } => Input::Request(Request::End {
                status: *status,
                reason: "ended".to_owned(),
                result: "cg==".to_owned(),
            }),
            Verb::ForceStop => Input::Request(Request::ForceStop {
                actor: "op".to_owned(),
                reason: String::new(),
            }),
            Verb::Reset => Input::Request(Request::Reset),
            Verb::Register(_) => return,
        };
        self.hand(
            tx,
            Item {
                input,
                ask: Some((ask, verb)),
            },
        );
    }

    pub(crate) fn hand(&mut self, tx: usize, item: Item) {
        if self.driver(tx).is_none() && !self.claim(tx) {
            return;
        }
        if let Some(d) = self.process.as_mut().and_then(|p| p.drivers.get_mut(&tx)) {
            d.inbox.push_back(item);
        }
        self.pump(tx);
    }

    /// An event of another transaction's: a host is back.
    pub(crate) fn host_back(&mut self, tx: usize, host: String) {
        if self.process.is_some()
            && self
                .store
                .records
                .get(&tx)
                .is_some_and(|s| !s.index.status.is_final())
        {
            self.ledgers[tx].reset();
            self.hand(
                tx,
                Item {
                    input: Input::Request(Request::HostBack(host)),
                    ask: None,
                },
            );
        }
    }

    pub(crate) fn load(&mut self, tx: usize) -> Option<(Transaction, bool)> {
        let mut now = self.clock();
        if self.broken == Some(Broken::NotUnsure) {
            now -= 1_000_000;
        }
        let stored = self.store.records.get_mut(&tx)?;
        stored.held = true;
        let record = stored.record(&self.plans[tx].gid);
        match Transaction::load(&record, now, &self.policy) {
            Ok(mut t) => {
                if self.broken == Some(Broken::ForgetSecondLevel) {
                    saga::forget_second_level(&mut t);
                }
                self.loaded(tx, &record);
                Some((t, !record.exact))
            }
            Err(e) => {
                self.fail(tx, format_args!("its record cannot be read: {e}"));
                None
            }
        }
    }

    fn claim(&mut self, tx: usize) -> bool {
        let Some((t, driven)) = self.load(tx) else {
            return false;
        };
        tell!(self, "claim {} exact {}", self.plans[tx].gid, !driven);
        let mut d = self.new_driver(t, Phase::Running);
        d.driven = driven;
        d.inbox.push_back(Item {
            input: Input::Wake,
            ask: None,
        });
        if let Some(p) = &mut self.process {
            p.drivers.insert(tx, d);
        }
        true
    }

    /// A step of some driver panicked.
    pub(crate) fn step_panicked(&mut self) {
        let drivers: Vec<usize> = self
            .process
            .iter()
            .flat_map(|p| p.drivers.keys().copied())
            .collect();
        if drivers.is_empty() {
            return;
        }
        let tx = drivers[self.rng.below(drivers.len() as u64) as usize];
        self.hand(
            tx,
            Item {
                input: Input::Panicked,
                ask: None,
            },
        );
    }

    /// A branch call ended.
    pub(crate) fn result(&mut self, tx: usize, driver: u64, input: Input) {
        let Some(d) = self
            .process
            .as_mut()
            .and_then(|p| p.drivers.get_mut(&tx))
            .filter(|d| d.id == driver)
        else {
            return;
        };
        d.inbox.push_back(Item { input, ask: None });
        self.pump(tx);
    }

    /// The due queue: takes a record that is due and that nobody holds.
    pub(crate) fn look(&mut self, tx: usize) {
        let clock = self.clock();
        let due = self.store.records.get(&tx).is_some_and(|s| {
            !s.held && (s.index.driven || s.index.due.is_some_and(|d| d <= clock))
        });
        if due && self.driver(tx).is_none() && self.claim(tx) {
            self.pump(tx);
        }
    }
}

/// A submit of what is stored already.
pub(crate) fn submit_input(plan: &crate::plan::Plan) -> Input {
    let options = Box::new(plan.def.options.clone());
    Input::Request(Request::Submit {
        trans_type: plan.trans_type,
        options,
        custom_data: plan.def.custom_data.clone(),
    })
}
