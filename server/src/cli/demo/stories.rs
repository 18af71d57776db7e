//! The eight transfers, each as an application would make it.

use super::bank::{Answer, Branch, Order};
use super::books::{Balances, Books, Entry};
use super::client::Client;
use super::service::BankService;
use super::timeline::Timeline;
use crate::cli::{Exit, Failure, output};
use amends::wire::grpc::dtmgimp::{DtmRequest, DtmTransOptions};
use prost::Message;
use serde_json::{Value, json};
use std::time::Duration;

/// How long the story waits for a call to the bank that is down.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who plays.
pub(super) struct Stage {
    pub(super) client: Client,
    pub(super) alice: BankService,
    pub(super) bob: BankService,
    /// Speaks gRPC.
    pub(super) carol: BankService,
    pub(super) timeline: Timeline,
}

/// One transfer and what must come of it.
struct Story {
    gid: &'static str,
    title: &'static str,
    about: &'static str,
    /// Final status.
    ends: &'static str,
    /// Whose account it is to go to.
    to: &'static str,
    /// What goes there from Alice in the end.
    moves: i64,
}

/// Runs all of them, and returns what there is to check.
pub(super) async fn run(stage: &mut Stage) -> Result<Books, Failure> {
    let mut books = Books {
        opening: stage.balances().await?,
        entries: Vec::new(),
    };
    let story = Story {
        gid: "demo-1",
        title: "1  A transfer that succeeds",
        about: "A saga of two steps: 30 leave Alice's bank, 30 arrive at Bob's.",
        ends: "succeed",
        to: "bob",
        moves: 30,
    };
    tell(stage, &mut books, story, succeeds).await?;
    let story = Story {
        gid: "demo-2",
        title: "2  A transfer that the receiving bank refuses",
        about: "It goes to an account that is not there (409). Alice gets her 30 back; Bob's bank is asked\n\
                to undo as well, and its barrier knows that there is nothing to undo.",
        ends: "failed",
        to: "bob",
        moves: 0,
    };
    tell(stage, &mut books, story, is_refused).await?;
    let story = Story {
        gid: "demo-3",
        title: "3  A transfer that takes its time",
        about: "Bob's bank looks at 60 first and answers \"not yet\" (425): it is asked again after 1 s.",
        ends: "succeed",
        to: "bob",
        moves: 60,
    };
    tell(stage, &mut books, story, takes_time).await?;
    let story = Story {
        gid: "demo-4",
        title: "4  A transfer to a bank that is down",
        about: "Bob's bank is called again after 2 s, then 4 s and so on, up to every 10 min, until it is back.",
        ends: "succeed",
        to: "bob",
        moves: 20,
    };
    tell(stage, &mut books, story, finds_the_bank_down).await?;
    let story = Story {
        gid: "demo-5",
        title: "5  TCC: try, then confirm or cancel",
        about: "The app asks both banks to reserve 40; since both agree, the coordinator confirms both.",
        ends: "succeed",
        to: "bob",
        moves: 40,
    };
    tell(stage, &mut books, story, is_tried_first).await?;
    let story = Story {
        gid: "demo-6",
        title: "6  A two-phase message whose sender crashes",
        about: "Alice's bank announces a message and commits its own withdrawal of 10, but never gets to\n\
                submit. After 1 s the coordinator asks whether it was sent, and delivers it.",
        ends: "succeed",
        to: "bob",
        moves: 10,
    };
    tell(stage, &mut books, story, is_a_message).await?;
    let story = Story {
        gid: "demo-7",
        title: "7  A transfer to a bank that speaks gRPC",
        about: "The app submits over gRPC, too. Alice's bank is called over HTTP as before.",
        ends: "succeed",
        to: "carol",
        moves: 15,
    };
    tell(stage, &mut books, story, speaks_grpc).await?;
    let story = Story {
        gid: "demo-8",
        title: "8  And one that this bank refuses",
        about: "Over gRPC, ABORTED is the definite no, and FAILED_PRECONDITION would be \"not yet\".",
        ends: "failed",
        to: "carol",
        moves: 0,
    };
    tell(stage, &mut books, story, speaks_grpc_and_refuses).await?;
    Ok(books)
}

async fn tell(
    stage: &mut Stage,
    books: &mut Books,
    story: Story,
    play: impl AsyncFnOnce(&mut Stage, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let title = stage.timeline.style().bold(story.title);
    let about = story.about.replace('\n', "\n   ");
    output::print(&format!("\n{title}\n   {about}\n\n"));
    let before = stage.balances().await?;
    stage.timeline.restart();
    play(stage, story.gid).await?;
    let status = stage.client.end_of(story.gid).await?;
    let transaction = stage.client.transaction(story.gid).await?;
    if let Some(reason) = transaction.get("rollback_reason").and_then(Value::as_str) {
        stage.timeline.note(&format!("reason: {reason}"));
    }
    let entry = Entry {
        gid: story.gid,
        ends: story.ends,
        status,
        to: story.to,
        moves: story.moves,
        before,
        after: stage.balances().await?,
    };
    output::print(&format!("\n{}", entry.table()));
    books.entries.push(entry);
    Ok(())
}

impl Stage {
    /// All accounts of all banks.
    pub(super) async fn balances(&self) -> Result<Balances, Failure> {
        let mut all = self.client.accounts(&self.alice).await?;
        all.extend(self.client.accounts(&self.bob).await?);
        all.extend(self.carol.accounts());
        Ok(all)
    }

    /// The body that submits a saga from Alice to this account at Bob's bank.
    pub(super) fn saga(&self, gid: &str, to: &str, amount: u32) -> Value {
        let [withdraw, deposit] = [self.alice.url("/withdraw"), self.bob.url("/deposit")];
        json!({
            "gid": gid,
            "trans_type": "saga",
            "retry_interval": 1,
            "steps": [
                {"action": withdraw, "compensate": withdraw},
                {"action": deposit, "compensate": deposit},
            ],
            "payloads": [body(&order("alice", amount)), body(&order(to, amount))],
        })
    }
}

impl Stage {
    /// The gRPC message that submits a saga from Alice to this account at Carol's bank. Each payload is what its bank takes.
    fn grpc_saga(&self, gid: &str, to: &str, amount: u32) -> DtmRequest {
        let withdraw = self.alice.url("/withdraw");
        let deposit = self.carol.url("/bank.Bank/Deposit");
        let steps = json!([
            {"action": withdraw, "compensate": withdraw},
            {"action": deposit, "compensate": deposit},
        ]);
        DtmRequest {
            gid: gid.to_owned(),
            trans_type: "saga".to_owned(),
            trans_options: Some(DtmTransOptions {
                wait_result: true,
                ..Default::default()
            }),
            steps: steps.to_string(),
            bin_payloads: vec![
                body(&order("alice", amount)).into(),
                order(to, amount).encode_to_vec().into(),
            ],
            ..Default::default()
        }
    }
}

fn order(account: &str, amount: u32) -> Order {
    let account = account.to_owned();
    Order { account, amount }
}

/// Payloads are texts that the coordinator passes on as they are.
fn body(order: &Order) -> String {
    json!(order).to_string()
}

async fn succeeds(stage: &mut Stage, gid: &str) -> Result<(), Failure> {
    let mut saga = stage.saga(gid, "bob", 30);
    saga["wait_result"] = true.into();
    stage.client.post("submit", &saga).await?;
    Ok(())
}

async fn is_refused(stage: &mut Stage, gid: &str) -> Result<(), Failure> {
    let mut saga = stage.saga(gid, "bobby", 30);
    saga["wait_result"] = true.into();
    stage.client.post("submit", &saga).await?;
    Ok(())
}

async fn takes_time(stage: &mut Stage, gid: &str) -> Result<(), Failure> {
    let saga = stage.saga(gid, "bob", 60);
    stage.client.post("submit", &saga).await?;
    Ok(())
}

async fn finds_the_bank_down(stage: &mut Stage, gid: &str) -> Result<(), Failure> {
    let port = |error: std::io::Error| {
        let message = format!("the port of Bob's bank is lost: {error}");
        Failure::new(Exit::Failed, message)
    };
    let mut unanswered = stage.timeline.unanswered();
    stage.bob.go_down().await.map_err(port)?;
    stage.timeline.note("-- Bob's bank goes down");
    let saga = stage.saga(gid, "bob", 20);
    stage.client.post("submit", &saga).await?;
    // If none comes, the books will tell.
    let _ = tokio::time::timeout(PATIENCE, unanswered.changed()).await;
    stage.timeline.note("-- Bob's bank is back");
    stage.bob.come_back().map_err(port)
}

async fn is_tried_first(stage: &mut Stage, gid: &str) -> Result<(), Failure> {
    let tcc = json!({"gid": gid, "trans_type": "tcc", "retry_interval": 1});
    let client = &stage.client;
    let mut agreed = client.post("prepare", &tcc).await?;
    let branches = [
        ("01", stage.alice.url("/withdraw"), order("alice", 40)),
        ("02", stage.bob.url("/deposit"), order("bob", 40)),
    ];
    for (branch_id, url, order) in branches {
        let branch = json!({
            "gid": gid, "trans_type": "tcc", "branch_id": branch_id,
            "confirm": url, "cancel": url, "data": body(&order),
        });
        // Registered first, so that a try whose answer is lost is cancelled too.
        agreed = agreed
            && client.post("registerBranch", &branch).await?
            && client.try_branch(&url, gid, branch_id, &order).await?;
    }
    let decision = if agreed { "submit" } else { "abort" };
    client.post(decision, &tcc).await?;
    Ok(())
}

async fn is_a_message(stage: &mut Stage, gid: &str) -> Result<(), Failure> {
    let message = json!({
        "gid": gid,
        "trans_type": "msg",
        "retry_interval": 1,
        // Seconds until the coordinator asks.
        "timeout_to_fail": 1,
        "query_prepared": stage.alice.url("/sent"),
        "steps": [{"action": stage.bob.url("/deposit")}],
        "payloads": [body(&order("bob", 10))],
    });
    let sender = stage.client.named(stage.alice.name());
    let prepared = sender.post("prepare", &message).await?;
    let branch = Branch {
        gid,
        branch_id: "00",
        op: "msg",
    };
    if prepared && let Answer::Done(_) = stage.alice.locally(branch, &order("alice", 10)) {
        stage
            .timeline
            .note("-- the sender crashes before it submits");
    }
    Ok(())
}

async fn speaks_grpc(stage: &mut Stage, gid: &str) -> Result<(), Failure> {
    let saga = stage.grpc_saga(gid, "carol", 15);
    stage.client.submit(&saga).await
}

async fn speaks_grpc_and_refuses(stage: &mut Stage, gid: &str) -> Result<(), Failure> {
    let saga = stage.grpc_saga(gid, "caroline", 15);
    stage.client.submit(&saga).await
}
