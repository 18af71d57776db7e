//! Properties that hold for every sequence of inputs. The driver checks the standing rules at every step; here the sequences, and the
//! outcome at the end, are arbitrary.

use crate::bodies::{Topics, concurrent, empty, global, msg, saga, with, workflow};
use crate::driver::World;
use amends::coordinator::admit::define;
use amends::coordinator::{CallId, Env, Input, Request, Transaction, Wait, step};
use amends::options::Options;
use amends::{ErrorKind, Outcome, Policy, Status, TransType};
use proptest::prelude::*;
use serde_json::{Value, json};

/// This many cases, or as many as PROPTEST_CASES says.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        config
    } else {
        ProptestConfig { cases, ..config }
    }
}

/// One thing that happens to a transaction.
#[derive(Clone, Debug)]
enum Event {
    Answer(usize, Outcome),
    Pass(i64),
    Sync,
    /// Whether saves are acknowledged at once from here on.
    AtOnce(bool),
    Crash,
    LetGo,
    Wake,
    Panicked,
    Request(Request),
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        6 => Just(Outcome::Success),
        1 => "[ -~é]{0,12}".prop_map(Outcome::Failure),
        1 => Just(Outcome::Ongoing),
        2 => "[ -~é]{0,12}".prop_map(Outcome::Error),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let submit = |trans_type: TransType, custom_data: &str| {
        let options = Box::new(Options {
            retry_limit: 1,
            concurrent: true,
            ..Options::default()
        });
        Request::Submit {
            trans_type,
            options,
            custom_data: custom_data.to_owned(),
        }
    };
    let ending = |status| Request::End {
        status,
        reason: "over".to_owned(),
        result: "AAEC".to_owned(),
    };
    prop_oneof![
        2 => Just(Request::Prepare),
        2 => Just(Request::PrepareWorkflow),
        4 => (0..5usize, prop_oneof![Just(""), Just("{}"), Just("{"), Just("{\"concurrent\":true}")])
            .prop_map(move |(t, custom)| submit(TransType::ALL[t], custom)),
        2 => (0..5usize).prop_map(move |s| ending(Status::ALL[s])),
        2 => Just(Request::Abort { reason: "no".to_owned() }),
        1 => Just(Request::ForceStop { actor: "ops".to_owned(), reason: "enough".to_owned() }),
        3 => Just(Request::Reset),
        1 => prop_oneof![Just("http://a"), Just("http://b"), Just("http://q")].prop_map(|h| Request::HostBack(h.to_owned())),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (any::<usize>(), outcome()).prop_map(|(i, o)| Event::Answer(i, o)),
        4 => prop_oneof![0..500i64, 0..40_000i64, 0..700_000i64].prop_map(Event::Pass),
        3 => Just(Event::Sync),
        1 => any::<bool>().prop_map(Event::AtOnce),
        1 => Just(Event::Crash),
        1 => Just(Event::LetGo),
        1 => Just(Event::Wake),
        1 => Just(Event::Panicked),
        3 => request().prop_map(Event::Request),
    ]
}

/// Orders in which each step waits for some of the earlier ones.
fn orders(steps: usize) -> impl Strategy<Value = Value> {
    proptest::collection::vec(any::<u32>(), steps).prop_map(move |bits| {
        let before = |k: usize| {
            (0..k)
                .filter(|b| bits[k] >> b & 1 == 1)
                .collect::<Vec<usize>>()
        };
        Value::Object(
            (0..steps)
                .map(|k| (k.to_string(), json!(before(k))))
                .collect(),
        )
    })
}

/// A request of any mode, and how many branches a client registers.
pub(crate) fn body() -> impl Strategy<Value = (Value, usize)> {
    let steps = 0..6usize;
    let options = (0..40u64, 0..10u64, 0..20u64, 0..3u64, any::<bool>()).prop_map(|(timeout, request, interval, limit, concurrent)| {
        json!({"timeout_to_fail": timeout, "request_timeout": request, "retry_interval": interval, "retry_limit": limit,
            "concurrent": concurrent})
    });
    let mode = prop_oneof![
        steps.clone().prop_map(|n| (saga(n), 0)),
        steps
            .clone()
            .prop_flat_map(|n| orders(n).prop_map(move |o| (concurrent(n, o), 0))),
        steps.clone().prop_map(|n| (msg(n), 0)),
        (steps.clone(), 0..20i64).prop_map(|(n, delay)| (
            with(
                msg(n),
                json!({"custom_data": format!("{{\"delay\":{delay}}}")})
            ),
            0
        )),
        steps.clone().prop_map(|n| (empty("tcc"), n)),
        steps.prop_map(|n| (empty("xa"), n)),
        Just((workflow(), 0)),
    ];
    (mode, options, any::<u8>()).prop_map(|((mut body, branches), options, blanks)| {
        // Some URLs are empty: success without a call.
        for (k, s) in body["steps"]
            .as_array_mut()
            .into_iter()
            .flatten()
            .enumerate()
        {
            if blanks >> k & 3 == 3 {
                s["action"] = json!("");
            }
            if blanks >> k & 5 == 5 {
                s["compensate"] = json!("");
            }
        }
        (with(body, options), branches)
    })
}

/// A transaction under test, and what was seen of it.
pub(crate) struct Run {
    w: World,
    wait: Wait,
    crashed: bool,
    said: Option<Result<(), ErrorKind>>,
}

impl Run {
    pub(crate) fn new(body: &Value, branches: usize, submitted: bool) -> Run {
        let status = if submitted && matches!(body["trans_type"].as_str(), Some("saga" | "msg")) {
            Status::Submitted
        } else {
            Status::Prepared
        };
        let mut w = World::store(body, status, Policy::default(), &Topics::new(), true);
        w.register_branches(branches);
        w.input(Input::Wake).expect("a wake is never refused");
        let wait = Wait::new(false, &w.tx, w.now, &w.policy);
        Run {
            w,
            wait,
            crashed: false,
            said: None,
        }
    }

    fn happen(&mut self, event: Event) {
        let w = &mut self.w;
        // While calls wait for a save the driver steps nothing; the process may die, though.
        if !w.held.is_empty() && !matches!(event, Event::Crash) {
            w.sync();
        }
        match event {
            Event::Answer(_, _) if w.flying.is_empty() => {}
            Event::Answer(i, outcome) => {
                let call = w.flying.remove(i % w.flying.len());
                w.input(Input::Result(call.id, outcome))
                    .expect("a result is never refused");
            }
            Event::Pass(ms) => w.pass(ms),
            Event::Sync => w.sync(),
            Event::AtOnce(at_once) => {
                w.sync();
                w.at_once = at_once;
            }
            Event::Crash => {
                self.crashed = true;
                w.crash();
            }
            Event::LetGo => {
                w.sync();
                if !w.tx.in_flight() && w.held.is_empty() {
                    w.let_go_and_resume();
                }
            }
            Event::Wake => drop(w.input(Input::Wake).expect("a wake is never refused")),
            Event::Panicked => drop(w.input(Input::Panicked).expect("never refused")),
            Event::Request(request) => {
                if let Err(e) = w.ask(request) {
                    assert!(
                        matches!(
                            e.kind(),
                            ErrorKind::Invalid | ErrorKind::Refused | ErrorKind::RowRefused
                        ),
                        "{e}"
                    );
                }
            }
        }
        w.check_round_trip();
        self.listen();
    }

    /// What a waiting request is told must stay true.
    fn listen(&mut self) {
        let w = &self.w;
        if w.all_durable()
            && let Some(answer) = self.wait.answer(&w.tx, w.now, &w.policy)
        {
            let answer = answer.map_err(|e| e.kind());
            if !matches!(answer, Err(ErrorKind::Ongoing)) {
                self.said = Some(answer);
            }
        }
    }

    /// From now on everything works: it must come to its end.
    pub(crate) fn calm(&mut self) {
        self.w.sync();
        self.w.at_once = true;
        for _round in 0..1_000 {
            self.listen();
            if self.w.status().is_final() {
                break;
            }
            if let Some(call) = self.w.flying.pop() {
                self.w
                    .input(Input::Result(call.id, Outcome::Success))
                    .expect("a result is never refused");
            } else if self.w.status() == Status::Prepared
                && self.w.tx.trans_type() == TransType::Workflow
            {
                self.w.end(Status::Succeed, "", "").expect("it is open");
            } else if self.w.status() == Status::Prepared
                && self.w.tx.trans_type() == TransType::Saga
            {
                self.w.submit_again(saga(0)).expect("it is prepared");
            } else {
                let due = self.w.due_in().expect("a due time");
                self.w.pass(due);
            }
        }
        assert!(
            self.w.status().is_final(),
            "it never ends: {} {}",
            self.w.status(),
            self.w.rows()
        );
        assert_eq!(
            self.w.record.index.status,
            self.w.status(),
            "its end is durable"
        );
        self.w.check_round_trip();
        self.judge();
    }

    fn judge(&self) {
        let w = &self.w;
        match self.said {
            Some(Ok(())) => assert_eq!(w.status(), Status::Succeed, "success was told"),
            Some(Err(kind)) => assert_eq!(
                (kind, w.status()),
                (ErrorKind::Failure, Status::Failed),
                "a failure was told"
            ),
            None => {}
        }
        if w.tx.state().forced.is_some() {
            return;
        }
        let ever = |id: &str, op: &str| w.ever.contains(&format!("{id} {op}"));
        let done = w.status() == Status::Succeed;
        for row in w.tx.rows() {
            let (id, op, succeeded) = (
                &*row.branch_id,
                row.op.as_str(),
                row.state.status.as_str() == "succeed",
            );
            match (op, done) {
                ("action" | "confirm" | "commit", true) => {
                    assert!(succeeded, "{id} {op} was skipped")
                }
                ("compensate" | "cancel" | "rollback", true) => {
                    assert!(!ever(id, op), "{id} {op} though it succeeded")
                }
                ("confirm" | "commit", false) => {
                    assert!(!ever(id, op), "{id} {op} though it failed")
                }
                ("cancel" | "rollback", false) => assert!(succeeded, "{id} {op} was skipped"),
                ("action", false) if w.tx.trans_type() == TransType::Msg => {
                    assert!(!ever(id, op), "delivered though it failed")
                }
                ("compensate", false) => {
                    if ever(id, "action") {
                        assert!(succeeded, "{id} ran and was not undone");
                    } else if !self.crashed {
                        // Nothing that never ran is undone; its action may have succeeded without a call.
                        let action =
                            w.tx.rows()
                                .iter()
                                .find(|r| r.branch_id == id && r.op.as_str() == "action");
                        let free = action.is_some_and(|a| {
                            a.url.is_empty() && a.state.status.as_str() == "succeed"
                        });
                        assert!(free || !ever(id, op), "{id} was undone and never ran");
                    }
                }
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn whatever_happens_the_rules_hold_and_it_ends(
        (body, branches) in body(),
        submitted in any::<bool>(),
        random in any::<u64>(),
        events in proptest::collection::vec(event(), 0..40),
    ) {
        let mut run = Run::new(&body, branches, submitted);
        run.w.random = random;
        for e in events {
            run.happen(e);
        }
        run.calm();
    }
}

fn any_input() -> impl Strategy<Value = Input> {
    let id = prop_oneof![
        Just(CallId::Root),
        (0..14usize).prop_map(CallId::Row),
        any::<usize>().prop_map(CallId::Row)
    ];
    prop_oneof![
        2 => Just(Input::Wake),
        1 => Just(Input::Panicked),
        6 => (id, outcome()).prop_map(|(i, o)| Input::Result(i, o)),
        4 => request().prop_map(Input::Request),
    ]
}

proptest! {
    #![proptest_config(cases(600))]

    /// No driver at all: results of calls that were never made, any clock, saves that nobody stores.
    #[test]
    fn no_input_panics_and_no_end_changes(
        (body, _) in body(),
        submitted in any::<bool>(),
        inputs in proptest::collection::vec((any_input(), any::<i64>(), any::<u64>()), 0..40),
    ) {
        let policy = Policy::default();
        let def = define(&mut global(&body), &Topics::new(), &policy.limits).expect("admitted");
        let mut tx = Transaction::new(def, if submitted { Status::Submitted } else { Status::Prepared }, 0);
        for (input, now, random) in inputs {
            let (before, env) = (tx.clone(), Env { now: now >> (now & 31), policy: &policy, random });
            match step(&mut tx, input, &env) {
                Err(_) => prop_assert_eq!(&tx, &before),
                Ok(fx) => {
                    prop_assert!(!before.status().is_final() || before.status() == tx.status());
                    prop_assert!(tx.status().is_final() || fx.wake_at.is_some() || tx.in_flight());
                    prop_assert!(!tx.status().is_final() || fx.calls.is_empty());
                }
            }
            if random & 3 == 0 {
                let _ = tx.take_save(random & 4 == 0);
            }
        }
    }
}
