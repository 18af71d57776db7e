//! Initiators: what applications ask of the coordinator and of participants, over the same bad network.

use crate::participant::Xa;
use crate::plan::Kind;
use crate::process::Ask;
use crate::workflow::Runner;
use crate::world::{Event, World, tell};
use amends::branch::BranchStatus;
use amends::coordinator::codec::Registration;
use amends::{Error, ErrorKind, Millis, Op, Outcome, Status, TransType};
use bytes::Bytes;

/// A client gives up after so many attempts.
const MOST_TRIES: u32 = 8;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Prepare,
    PrepareWorkflow,
    Submit { wait: bool },
    Abort { wait: bool },
    Register(Registration),
    End { status: Status },
    ForceStop,
    Reset,
}

impl Verb {
    /// `Some(abort)` if its answer waits for the result.
    pub(crate) fn wait(&self) -> Option<bool> {
        match self {
            Verb::Submit { wait: true } => Some(false),
            Verb::Abort { wait: true } => Some(true),
            _ => None,
        }
    }
}

/// A row of a workflow as a client reads it: branch, operation, status, data.
pub(crate) type ProgressRow = (String, String, BranchStatus, Bytes);

/// What a client hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ok,
    /// Of prepareWorkflow: status and rows.
    Progress(Status, Vec<ProgressRow>),
    Refused(ErrorKind),
    /// A participant's definite no.
    Failure,
    /// Nothing, or an error that says nothing.
    Unknown,
}

/// One step of a client's script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Ask(Verb),
    Call(usize, Kind),
    /// The local transaction of a message.
    Local,
    Pause(Millis),
    HostBack(String),
}

/// What a client is.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    /// Follows its script; the second list is what it does when a step fails.
    Script(Vec<Act>, Vec<Act>),
    /// Asks what comes to its mind and never minds the answer.
    Chaos(Vec<Act>),
    /// Runs a workflow.
    Runner(Runner),
}

/// A client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) tx: usize,
    pub(crate) role: Role,
    pub(crate) at: usize,
    pub(crate) op: u64,
    pub(crate) tries: u32,
    pub(crate) act: Option<Act>,
    pub(crate) dead: bool,
}

impl World {
    /// Every transaction's clients begin.
    pub(crate) fn start_clients(&mut self) {
        for tx in 0..self.plans.len() {
            let begin = self.rng.range(0, 3_000);
            if self.plans[tx].trans_type == TransType::Workflow {
                self.runner_in(tx, begin);
            } else {
                let (script, on_failure) = self.script(tx);
                self.add_client(tx, Role::Script(script, on_failure), begin);
            }
            if self.plans[tx].chaos {
                let script = self.chaos(tx);
                self.add_client(tx, Role::Chaos(script), begin);
            }
        }
    }

    /// A callback starts a runner of the workflow.
    pub(crate) fn start_runner(&mut self, tx: usize) {
        self.runner_in(tx, 1);
    }

    fn runner_in(&mut self, tx: usize, delay: Millis) {
        let run = format!("run{}", self.clients.len());
        self.add_client(tx, Role::Runner(Runner::new(run)), delay);
    }

    fn add_client(&mut self, tx: usize, role: Role, delay: Millis) {
        let client = self.clients.len();
        self.clients.push(Client {
            tx,
            role,
            at: 0,
            op: 0,
            tries: 0,
            act: None,
            dead: false,
        });
        self.after(delay, Event::Client { client, op: 0 });
    }

    /// Has a client do something; its operation gets a new number.
    pub(crate) fn act(&mut self, client: usize, act: Act) {
        if self.fault(self.weather.client_dies) {
            return self.client_dies(client);
        }
        let c = &mut self.clients[client];
        c.op += 1;
        c.tries = 0;
        c.act = Some(act);
        self.attempt(client);
    }

    fn client_dies(&mut self, client: usize) {
        tell!(self, "client {client} dies");
        self.clients[client].dead = true;
        let tx = self.clients[client].tx;
        if matches!(self.clients[client].role, Role::Script(..)) {
            // Its connections to databases are gone.
            self.sites[tx].xa.retain(|_, xa| *xa != Xa::Active);
        }
    }

    fn attempt(&mut self, client: usize) {
        let Client { tx, op, .. } = self.clients[client];
        let Some(act) = self.clients[client].act.clone() else {
            return;
        };
        match act {
            Act::Ask(verb) => {
                if !self.fault(self.weather.lost) {
                    let delay = self.travel();
                    self.after(
                        delay,
                        Event::Arrive {
                            client,
                            op,
                            verb: verb.clone(),
                        },
                    );
                }
                if self.fault(self.weather.doubled) {
                    let delay = self.rng.range(0, 10_000);
                    self.after(
                        delay,
                        Event::Arrive {
                            client,
                            op,
                            verb: verb.clone(),
                        },
                    );
                }
                let patience = if verb.wait().is_some() { 40_000 } else { 5_000 };
                self.after(patience, Event::Client { client, op });
            }
            Act::Call(branch, kind) => {
                // A database connection neither loses nor doubles.
                let xa = self.plans[tx].trans_type == TransType::Xa;
                if xa || !self.fault(self.weather.lost) {
                    let delay = self.travel();
                    self.after(
                        delay,
                        Event::Direct {
                            client,
                            op,
                            branch,
                            kind,
                        },
                    );
                }
                if !xa && self.fault(self.weather.doubled) {
                    let delay = self.rng.range(0, 10_000);
                    self.after(
                        delay,
                        Event::Direct {
                            client,
                            op,
                            branch,
                            kind,
                        },
                    );
                }
                if !xa {
                    self.after(4_000, Event::Client { client, op });
                }
            }
            Act::Local => {
                // Without a prepare nothing protects the local transaction, and nobody asks about it.
                let commits = self.plans[tx].commits || !self.plans[tx].prepares;
                let committed = *self.sites[tx].local.get_or_insert(commits);
                let answer = if committed {
                    Answer::Ok
                } else {
                    Answer::Failure
                };
                let delay = self.travel();
                self.after(delay, Event::Answered { client, op, answer });
            }
            Act::Pause(delay) => self.after(
                delay,
                Event::Answered {
                    client,
                    op,
                    answer: Answer::Ok,
                },
            ),
            Act::HostBack(host) => {
                self.after(
                    1,
                    Event::Answered {
                        client,
                        op,
                        answer: Answer::Ok,
                    },
                );
                self.host_back(tx, host);
            }
        }
    }

    /// Whether the network can lose this: not what a client tells itself, nor what goes over a database connection.
    pub(crate) fn can_be_lost(&self, event: &Event) -> bool {
        match event {
            Event::Answered { client, .. } | Event::Direct { client, .. } => {
                match self.clients[*client].act {
                    Some(Act::Ask(_)) => true,
                    Some(Act::Call(..)) => {
                        self.plans[self.clients[*client].tx].trans_type != TransType::Xa
                    }
                    _ => false,
                }
            }
            _ => true,
        }
    }

    /// A client begins, or has waited long enough.
    pub(crate) fn client_timer(&mut self, client: usize, op: u64) {
        let c = &mut self.clients[client];
        if c.dead || c.op != op {
            return;
        }
        c.tries += 1;
        match c.act {
            // A participant's silence is not repeated: the client does not know what happened, and undoes.
            None | Some(Act::Call(..)) => self.client_next(client, Answer::Unknown),
            Some(_) if c.tries >= MOST_TRIES => self.client_next(client, Answer::Unknown),
            Some(_) => self.attempt(client),
        }
    }

    /// A client hears something.
    pub(crate) fn client_answered(&mut self, client: usize, op: u64, answer: Answer) {
        let c = &self.clients[client];
        if c.dead || c.op != op {
            return;
        }
        if answer == Answer::Unknown && matches!(c.act, Some(Act::Ask(_))) {
            let delay = self.rng.range(300, 1_500);
            return self.after(delay, Event::Client { client, op });
        }
        self.client_next(client, answer);
    }

    fn client_next(&mut self, client: usize, answer: Answer) {
        let first = self.clients[client].act.is_none();
        // Whatever else is still heard of this operation is too late.
        self.clients[client].op += 1;
        let next = match self.clients[client].role.clone() {
            Role::Runner(runner) => return self.run_on(client, runner, answer, first),
            Role::Chaos(acts) => acts.get(self.clients[client].at).cloned(),
            Role::Script(acts, on_failure) => {
                let submitted = self.clients[client].at == acts.len();
                if !first && answer != Answer::Ok && !submitted {
                    let tx = self.clients[client].tx;
                    self.sites[tx].xa.retain(|_, xa| *xa != Xa::Active);
                    let prepared = self.clients[client].at > 1;
                    let act = if prepared {
                        on_failure.first().cloned()
                    } else {
                        None
                    };
                    self.clients[client].role = Role::Script(Vec::new(), Vec::new());
                    self.clients[client].at = 0;
                    act
                } else {
                    acts.get(self.clients[client].at).cloned()
                }
            }
        };
        self.clients[client].at += 1;
        if let Some(act) = next {
            self.act(client, act);
        }
    }

    /// A client's own call reaches a participant.
    pub(crate) fn direct(&mut self, client: usize, op: u64, branch: usize, kind: Kind) {
        let Client {
            tx,
            dead,
            op: current,
            ..
        } = self.clients[client];
        let outcome = if self.plans[tx].trans_type == TransType::Xa {
            if dead || op != current {
                return;
            }
            self.xa_work(tx, branch, kind)
        } else {
            self.branch(tx, branch, kind)
        };
        tell!(
            self,
            "client {client} calls {branch} {kind:?} -> {outcome:?}"
        );
        let answer = match outcome {
            Outcome::Success => Answer::Ok,
            Outcome::Failure(_) => Answer::Failure,
            _ => Answer::Unknown,
        };
        let xa = self.plans[tx].trans_type == TransType::Xa;
        if xa || !self.fault(self.weather.lost) {
            let delay = self.travel();
            self.after(delay, Event::Answered { client, op, answer });
        }
    }

    /// Local work of an XA branch (`Action` begins it, `Try` prepares it).
    fn xa_work(&mut self, tx: usize, branch: usize, kind: Kind) -> Outcome {
        let refuse = self.rng.permille(self.plans[tx].refuses[branch] / 2);
        let xa = &mut self.sites[tx].xa;
        match (kind, xa.get(&branch)) {
            (Kind::Action, None) if !refuse => {
                xa.insert(branch, Xa::Active);
                Outcome::Success
            }
            (Kind::Try, Some(Xa::Active)) => {
                xa.insert(branch, Xa::Prepared);
                Outcome::Success
            }
            _ => Outcome::Failure("refused".to_owned()),
        }
    }

    /// Answers a request: what is told must be durable by now.
    pub(crate) fn answer(&mut self, tx: usize, ask: Ask, verb: &Verb, result: Result<(), Error>) {
        self.check_answer(tx, verb, &result);
        let answer = match (&result, verb) {
            (Ok(()), Verb::PrepareWorkflow) => self.progress(tx),
            (Ok(()), _) => Answer::Ok,
            (Err(e), _) => Answer::Refused(e.kind()),
        };
        self.tell_client(tx, ask, answer);
    }

    /// Answers a request that waited for the result.
    pub(crate) fn answer_wait(
        &mut self,
        tx: usize,
        ask: Ask,
        abort: bool,
        result: Result<(), Error>,
    ) {
        self.check_wait(tx, abort, &result);
        self.tell_client(
            tx,
            ask,
            if result.is_ok() {
                Answer::Ok
            } else {
                Answer::Failure
            },
        );
    }

    fn tell_client(&mut self, tx: usize, ask: Ask, answer: Answer) {
        tell!(
            self,
            "answer {} client {} {answer:?}",
            self.plans[tx].gid,
            ask.client
        );
        if !self.fault(self.weather.lost) {
            let delay = self.travel();
            self.after(
                delay,
                Event::Answered {
                    client: ask.client,
                    op: ask.op,
                    answer,
                },
            );
        }
    }
}

/// A registration.
pub(crate) fn registration(
    branch: &str,
    rows: Vec<(Op, String)>,
    status: BranchStatus,
    run: &str,
    data: Bytes,
) -> Registration {
    Registration {
        branch_id: branch.to_owned(),
        rows,
        status,
        run: run.to_owned(),
        data,
    }
}
