//! A coordinator whose clock the test moves, and a participant whose calls are cut off as the test plans it.

use crate::support::{branch, client, registration};
use amends::adapters::sqlx::XaBegun;
use amends::client::{Client, XaRun};
use amends::machine::Calls;
use amends::participant::answer::answer;
use amends::participant::{self, Identity, XaPhase2};
use amends::{Error, ErrorKind, Options};
use amends_participants::{Bank, Books, Crash, CrashingCalls, Host, Stop, User, polled};
use amends_scenarios::{Call, DEADLINE, Listener, Response, SUCCESS, World, eventually, listen};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

/// At which effect of a run, counted from 0, and how it is cut off there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) at: usize,
    pub(crate) stop: Stop,
}

/// How the first call of a branch's op is cut off.
#[derive(Clone, Debug)]
pub(crate) enum How {
    /// At a step of its machine.
    Step(Cut),
    /// It is dropped when it was polled so often, amid whatever its database does then.
    Polled(usize),
    /// As by [`How::Step`], and then the same call comes again, as from a proxy that repeats it.
    Repeated(Cut),
    /// Behind its registration, until it is told to go on.
    Paused(Arc<Crash>),
}

/// How calls were answered: gid, name of the call, status.
type Answers = Vec<(String, String, u16)>;

/// What the participant is made of.
struct Inside<DB: Books> {
    bank: Bank<DB>,
    client: Client,
    plans: Mutex<HashMap<(String, String), How>>,
    reached: Mutex<BTreeSet<(String, usize)>>,
    answers: Mutex<Answers>,
}

pub(crate) struct Place<DB: Books> {
    pub(crate) w: World,
    inside: Arc<Inside<DB>>,
    service: Listener,
}

/// The line that an action writes.
struct Line<'a> {
    gid: &'a str,
    line: &'a str,
}

impl<DB: Books> User<DB> for Line<'_> {
    async fn run(&self, conn: &mut DB::Connection) -> Result<Bytes, Error> {
        DB::write(conn, self.gid, self.line).await.expect("taken");
        Ok(Bytes::new())
    }
}

/// The name of a call within its transaction.
fn name(who: &Identity) -> String {
    format!("{} {}", who.branch_id, who.op)
}

impl<DB: Books> Place<DB> {
    pub(crate) async fn new(bank: Bank<DB>) -> Place<DB> {
        bank.execute("create table book(gid varchar(64) not null, line varchar(32) not null)")
            .await;
        let settings = [("AMENDS_STORE", "memory"), ("AMENDS_CLOCK", "manual")];
        let w = World::with(&settings).await;
        let inside = Arc::new(Inside {
            client: client(&w),
            bank,
            plans: Mutex::default(),
            reached: Mutex::default(),
            answers: Mutex::default(),
        });
        let service = {
            let inside = inside.clone();
            listen(move |call| {
                let inside = inside.clone();
                async move { inside.answer(&call).await }
            })
            .await
        };
        Place { w, inside, service }
    }

    pub(crate) fn bank(&self) -> &Bank<DB> {
        &self.inside.bank
    }

    /// Cuts off the first call of this name (`01 action`).
    pub(crate) fn plan(&self, gid: &str, name: &str, how: How) {
        let mut plans = self.inside.plans.lock().expect("no panic");
        plans.insert((gid.to_owned(), name.to_owned()), how);
    }

    /// The steps at which calls of this name were cut off.
    pub(crate) fn reached(&self, name: &str) -> Vec<usize> {
        let all = self.inside.reached.lock().expect("no panic");
        let of = all.iter().filter(|(of, _)| of == name);
        of.map(|(_, at)| *at).collect()
    }

    /// How calls of this name were answered.
    pub(crate) fn answers(&self, gid: &str, name: &str) -> Vec<u16> {
        let all = self.inside.answers.lock().expect("no panic");
        let of = all.iter().filter(|(g, n, _)| g == gid && n == name);
        of.map(|(_, _, status)| *status).collect()
    }

    /// An initiator: calls two branches, of which the second refuses or not, and submits. The error that it ends with.
    pub(crate) async fn initiate(
        &self,
        gid: &str,
        second: &str,
        crash: &Arc<Crash>,
    ) -> Result<(), Error> {
        let calls = self.inside.calls(crash.clone());
        let server = self.inside.client.server();
        let options = Options {
            // Long enough for a call that waits for a session of the database to go, or for the test.
            request_timeout: 20,
            ..Options::default()
        };
        let mut xa = XaRun::begin(server, Arc::new(calls), gid, options).await?;
        for path in ["fine", second] {
            let url = format!("http://{}/{path}", self.service.addr);
            if let Err(error) = xa.call(url, "{}").await {
                return Err(xa.abort(error).await);
            }
        }
        xa.submit().await
    }

    /// Moves the clock on by so many seconds.
    pub(crate) async fn advance(&self, seconds: u32) {
        let body = format!("{{\"seconds\":{seconds}}}");
        let path = "/api/amends/clock/advance";
        let answer = self.w.dtm.send(http::Method::POST, path, body).await;
        answer.expect("an answer").expect_status(200);
    }

    /// How a transaction stands; `None` if the coordinator never heard of it.
    pub(crate) async fn status(&self, gid: &str) -> Option<String> {
        let view = self.w.dtm.query(gid).await;
        (view.transaction_text() != "null").then(|| view.status().to_owned())
    }

    /// Lets time pass until a transaction has ended.
    pub(crate) async fn ended(&self, gid: &str) -> Option<String> {
        let end = Mutex::new(None);
        eventually(&format!("an end of {gid}"), DEADLINE, async || {
            let status = self.status(gid).await;
            let over = matches!(status.as_deref(), None | Some("succeed" | "failed"));
            if over {
                *end.lock().expect("no panic") = status;
            } else {
                self.advance(60).await;
            }
            over
        })
        .await;
        end.into_inner().expect("no panic")
    }

    /// All of a transaction was done, if that is how it ended, or nothing of it (invariant 5 of faults.md).
    pub(crate) async fn balanced(&self, gid: &str, end: Option<&str>) {
        let mut lines = DB::lines(&self.bank().pool, gid).await;
        lines.sort();
        match end {
            Some("succeed") => assert_eq!(lines, ["01 action", "02 action"], "{gid}"),
            Some("failed") | None => assert!(lines.is_empty(), "{gid} is {end:?}: {lines:?}"),
            Some(other) => panic!("{gid} is {other}"),
        }
    }
}

impl<DB: Books> Inside<DB> {
    async fn answer(&self, call: &Call) -> Option<Response> {
        let who = Identity::from_query(&call.query).expect("a call");
        let (gid, name) = (who.gid.as_str().to_owned(), name(&who));
        let (status, body) = match self.planned(call, &who).await? {
            Ok(()) => (200, SUCCESS.to_owned()),
            Err(error) => {
                let no = answer(&Err(error));
                (no.status, String::from_utf8(no.body).expect("text"))
            }
        };
        let mut answers = self.answers.lock().expect("no panic");
        answers.push((gid, name, status));
        Some(Response {
            status,
            headers: Vec::new(),
            body,
        })
    }

    /// `None` if it died before it could answer.
    async fn planned(&self, call: &Call, who: &Identity) -> Option<Result<(), Error>> {
        let key = (who.gid.as_str().to_owned(), name(who));
        let how = self.plans.lock().expect("no panic").remove(&key);
        match how {
            None => Some(self.whole(call, who, Crash::never()).await),
            Some(How::Paused(crash)) => Some(self.whole(call, who, crash).await),
            Some(How::Polled(times)) => polled(self.whole(call, who, Crash::never()), times).await,
            Some(How::Step(cut)) => self.cut(call, who, cut).await,
            Some(How::Repeated(cut)) => match self.cut(call, who, cut).await {
                Some(Ok(done)) => Some(Ok(done)),
                _ => Some(self.again(call, who).await),
            },
        }
    }

    async fn again(&self, call: &Call, who: &Identity) -> Result<(), Error> {
        let ended = Mutex::new(None);
        eventually("an end of what was asked for again", DEADLINE, async || {
            match self.whole(call, who, Crash::never()).await {
                // The session of the run that was cut off is not gone yet.
                Err(error) if error.kind() == ErrorKind::Conflict => false,
                result => {
                    *ended.lock().expect("no panic") = Some(result);
                    true
                }
            }
        })
        .await;
        ended.into_inner().expect("no panic").expect("an end")
    }

    async fn cut(&self, call: &Call, who: &Identity, cut: Cut) -> Option<Result<(), Error>> {
        let place = participant::Place {
            dialect: DB::DIALECT,
            table: self.bank.table().clone(),
            style: DB::STYLE,
        };
        let (gid, name) = (who.gid.as_str(), name(who));
        let crash = Crash::at(cut.at, cut.stop);
        let calls = self.calls(crash.clone());
        let host = Host::new(&self.bank.pool, calls);
        let write = Line { gid, line: &name };
        let end = if branch(&self.bank, who.clone()).is_action() {
            let at = registration(call);
            let machine = participant::XaBranch::new(place, who.clone(), &at).expect("legal");
            crash.cut(host.drive(machine, &write)).await
        } else {
            let machine = XaPhase2::new(place, who.clone()).expect("legal");
            crash.cut(host.drive(machine, &write)).await
        };
        if crash.happened() {
            let mut reached = self.reached.lock().expect("no panic");
            reached.insert((name, cut.at));
        }
        Some(end?.map(|_| ()))
    }

    fn calls(&self, crash: Arc<Crash>) -> CrashingCalls {
        CrashingCalls {
            calls: Arc::new(self.client.clone()),
            crash,
            decisions: true,
        }
    }

    /// The whole call, with the adapter.
    async fn whole(&self, call: &Call, who: &Identity, crash: Arc<Crash>) -> Result<(), Error> {
        let branch = branch(&self.bank, who.clone());
        if !branch.is_action() {
            return branch.phase2(&self.bank.pool).await.map(|_| ());
        }
        let calls = self.calls(crash);
        let (options, at) = (self.bank.pool.connect_options(), registration(call));
        let calls: Arc<dyn Calls> = Arc::new(calls);
        let mut run = match branch.begin(&*options, &at, calls).await? {
            XaBegun::Run(run) => run,
            // Prepared by an earlier call.
            XaBegun::Skip(_) => return Ok(()),
        };
        DB::write(&mut run, who.gid.as_str(), &name(who)).await?;
        if call.path == "/refuses" {
            return Err(run.refuse("no").await);
        }
        run.prepare().await.map(|_| ())
    }
}
