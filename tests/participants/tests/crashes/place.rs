//! Everything of one database: its coordinator, a participant with a book of lines per transaction, a client.

use amends::adapters::sqlx::{Backend, Begun};
use amends::client::Client;
use amends::initiator::Message;
use amends::participant::{BranchResult, Identity};
use amends::{Error, ErrorKind, Options};
use amends_participants::{Bank, answered, with};
use amends_scenarios::{Listener, Settings, World, listen};
use http::Method;
use std::sync::Arc;

/// Everything of one database: its coordinator, a participant with a book of lines per transaction, a client.
pub(crate) struct Place<DB: Backend> {
    pub(crate) w: World,
    pub(crate) bank: Bank<DB>,
    service: Listener,
    pub(crate) client: Client,
}

/// Writes a line into the book of a transaction.
pub(crate) async fn write<DB: Backend>(
    conn: &mut DB::Connection,
    gid: &str,
    line: &str,
) -> Result<(), Error> {
    let insert = with::<DB, _>("insert into book(gid, line) values(?, ?)", [gid, line]);
    DB::exec(conn, insert).await?;
    Ok(())
}

/// Changes the book of a transaction, behind the barrier of this call.
async fn book<DB: Backend>(bank: &Bank<DB>, who: Identity) -> BranchResult {
    let (gid, line) = (who.gid.clone(), format!("{} {}", who.branch_id, who.op));
    match bank.branch(who).begin(&bank.pool).await? {
        Begun::Skip(why) => Ok(why.into()),
        Begun::Run(mut run) => {
            write::<DB>(&mut run, gid.as_str(), &line).await?;
            Ok(run.commit().await?.into())
        }
    }
}

/// Nothing is asked, and nothing times out, before the test says so.
const BY_HAND: Settings<'static> = &[("AMENDS_STORE", "memory"), ("AMENDS_CLOCK", "manual")];

impl<DB: Backend> Place<DB> {
    pub(crate) async fn new(bank: Bank<DB>) -> Arc<Place<DB>> {
        bank.execute("create table book(gid varchar(64) not null, line varchar(32) not null)")
            .await;
        let w = World::with(BY_HAND).await;
        let client = Client::new(&format!("http://{}", w.server.addr())).expect("a client");
        let service = {
            let bank = bank.clone();
            listen(move |call| {
                let bank = bank.clone();
                async move {
                    let who = Identity::from_query(&call.query).expect("a branch call");
                    let done = match (call.path.as_str(), who.op.as_str()) {
                        ("/asked", _) => bank.branch(who).check_back(&bank.pool).await,
                        ("/refuses", "try") => Err(Error::new(ErrorKind::Failure, "no")),
                        _ => book(&bank, who).await,
                    };
                    answered(done)
                }
            })
            .await
        };
        Arc::new(Place {
            w,
            bank,
            service,
            client,
        })
    }

    pub(crate) fn at(&self, path: &str) -> String {
        format!("http://{}/{path}", self.service.addr)
    }

    /// The lines of a transaction's book.
    pub(crate) async fn lines(&self, gid: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for line in [
            "local",
            "01 action",
            "01 confirm",
            "01 cancel",
            "01 try",
            "02 confirm",
            "02 cancel",
            "02 try",
        ] {
            let sql = "select count(*) from book where gid = ? and line = ?";
            for _ in 0..self.bank.number_with(sql, [gid, line]).await {
                lines.push(line.to_owned());
            }
        }
        lines
    }

    pub(crate) fn soon() -> Options {
        Options {
            timeout_to_fail: 1,
            retry_interval: 1,
            request_timeout: 2,
            ..Options::default()
        }
    }

    /// A message with one receiver.
    pub(crate) fn message(&self, gid: &str) -> Message {
        let mut message = Message::new(gid, &self.at("asked"), Self::soon());
        message.send(&self.at("deliver"), "{}");
        message.table(self.bank.table().clone());
        message
    }

    /// Lets the coordinator ask whatever it does not know, time out what is not decided, and deliver.
    pub(crate) async fn ask(&self) {
        let moved = self.w.dtm.send(
            Method::POST,
            "/api/amends/clock/advance",
            r#"{"seconds":5}"#,
        );
        moved.await.expect("an answer").expect_status(200);
    }

    /// How it ended, now that nothing is left to be done for it; `None` if the coordinator never heard of it.
    pub(crate) async fn ended(&self, gid: &str) -> Option<String> {
        let view = self.w.dtm.query(gid).await;
        (view.transaction_text() != "null").then(|| view.status().to_owned())
    }
}
