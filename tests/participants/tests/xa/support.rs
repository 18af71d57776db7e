//! A participant whose accounts are changed by XA branches.

use amends::adapters::sqlx::{Backend, XaBegun, XaBranch, XaRun};
use amends::client::Client;
use amends::machine::{Calls, Fact, Request, Statement};
use amends::participant::answer::answer;
use amends::participant::identity::query_value;
use amends::participant::{BranchResult, Identity, Registration};
use amends::{Error, ErrorKind, Options};
use amends_participants::{Bank, Books};
use amends_scenarios::{Call, Listener, Response, World, listen};
use bytes::Bytes;
use std::pin::Pin;
use std::sync::Arc;

/// Nothing stays prepared (invariant 7), and these are the balances.
pub(crate) async fn ended<DB: Books>(bank: &Bank<DB>, balances: [i64; 2]) {
    let names = DB::prepared(&bank.pool).await;
    assert!(names.is_empty(), "still prepared: {names:?}");
    assert_eq!(accounts(bank).await, balances);
}

pub(crate) async fn accounts<DB: Backend>(bank: &Bank<DB>) -> [i64; 2] {
    let second = "select balance from account where id = 2";
    [bank.balance().await, bank.number(second).await]
}

/// Opens a second account.
pub(crate) async fn two_accounts<DB: Backend>(bank: Bank<DB>) -> Bank<DB> {
    bank.execute("insert into account(id, balance) values(2, 0)")
        .await;
    bank
}

pub(crate) fn client(w: &World) -> Client {
    Client::new(&format!("http://{}", w.server.addr())).expect("a client")
}

pub(crate) fn waiting() -> Options {
    Options {
        wait_result: true,
        retry_interval: 1,
        ..Options::default()
    }
}

pub(crate) fn who(gid: &str, op: &str) -> Identity {
    Identity::new("xa", gid, "01", op).expect("an identity")
}

pub(crate) fn branch<DB: Backend>(bank: &Bank<DB>, who: Identity) -> XaBranch {
    XaBranch::new(who).table(bank.table().clone())
}

pub(crate) async fn phase2<DB: Backend>(bank: &Bank<DB>, gid: &str, op: &str) -> BranchResult {
    branch(bank, who(gid, op)).phase2(&bank.pool).await
}

/// A coordinator that takes every registration.
#[derive(Debug)]
pub(crate) struct TakesAll;

impl Calls for TakesAll {
    fn call(&self, _: Request) -> Pin<Box<dyn Future<Output = Fact> + Send + '_>> {
        Box::pin(async {
            Fact::Answer {
                status: 200,
                body: Bytes::from_static(br#"{"dtm_result":"SUCCESS"}"#),
                message: String::new(),
            }
        })
    }
}

pub(crate) fn anywhere() -> Registration {
    Registration {
        server: amends::initiator::Server::new("http://h:1", 3_000),
        phase2_url: "http://h/xa".to_owned(),
    }
}

/// Begins the action of this gid, away from any coordinator.
pub(crate) async fn begin<DB: Backend>(bank: &Bank<DB>, gid: &str) -> Result<XaBegun<DB>, Error> {
    let options = bank.pool.connect_options();
    branch(bank, who(gid, "action"))
        .begin(&*options, &anywhere(), Arc::new(TakesAll))
        .await
}

pub(crate) async fn begun<DB: Backend>(bank: &Bank<DB>, gid: &str) -> XaRun<DB> {
    match begin(bank, gid).await.expect("begun") {
        XaBegun::Run(run) => run,
        XaBegun::Skip(why) => panic!("skipped: {why:?}"),
    }
}

pub(crate) async fn change<DB: Backend>(
    run: &mut XaRun<DB>,
    account: u32,
    amount: i64,
) -> Result<(), Error> {
    let sql = format!("update account set balance = balance + {amount} where id = {account}");
    execute(run, &sql).await
}

pub(crate) async fn execute<DB: Backend>(run: &mut XaRun<DB>, sql: &str) -> Result<(), Error> {
    let done = DB::exec(run, Statement::plain(sql)).await;
    done.map(|_| ())
        .map_err(|e| Error::new(ErrorKind::Database, e.to_string()))
}

/// Where a call of an action wants its branch registered.
pub(crate) fn registration(call: &Call) -> Registration {
    let value = |name: &str| query_value(&call.query, name);
    Registration {
        server: amends::initiator::Server::new(&value("dtm"), 3_000),
        phase2_url: value("phase2_url"),
    }
}

/// The participant: `/out` takes 30 from account 1, `/in` puts it on account 2, `/refuse` refuses, and `/dies-open` and `/dies-prepared`
/// never answer, for they die there.
pub(crate) async fn participant<DB: Backend>(bank: &Bank<DB>, client: &Client) -> Listener {
    let (bank, client) = (bank.clone(), client.clone());
    listen(move |call| {
        let (bank, client) = (bank.clone(), client.clone());
        async move {
            let result = carry_out(&bank, &client, &call).await?;
            let answer = answer(&result);
            Some(Response {
                status: answer.status,
                headers: Vec::new(),
                body: String::from_utf8(answer.body).expect("text"),
            })
        }
    })
    .await
}

async fn carry_out<DB: Backend>(
    bank: &Bank<DB>,
    client: &Client,
    call: &Call,
) -> Option<BranchResult> {
    let branch = branch(bank, Identity::from_query(&call.query).expect("a call"));
    if !branch.is_action() {
        assert!(call.body.is_empty());
        return Some(branch.phase2(&bank.pool).await);
    }
    assert_eq!(call.text(), "{}");
    let at = registration(call);
    let options = bank.pool.connect_options();
    let mut run = match branch.begin(&*options, &at, Arc::new(client.clone())).await {
        Ok(XaBegun::Run(run)) => run,
        Ok(XaBegun::Skip(skipped)) => return Some(Ok(skipped.into())),
        Err(error) => return Some(Err(error)),
    };
    let (account, amount) = match call.path.as_str() {
        "/in" => (2, 30),
        _ => (1, -30),
    };
    if let Err(error) = change(&mut run, account, amount).await {
        return Some(Err(error));
    }
    match call.path.as_str() {
        "/refuse" => Some(Err(run.refuse("no money").await)),
        "/dies-open" => None,
        "/dies-prepared" => {
            let _done = run.prepare().await.expect("prepared");
            None
        }
        _ => Some(run.prepare().await),
    }
}
