//! One initiator of the load, and what its transactions must look like in the end.

use crate::bank::{Bank, Target};
use crate::random::Random;
use amends_scenarios::{Answer, Client, View};
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The mode, and how the transaction is meant to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A saga that can succeed.
    Saga,
    /// A saga one of whose actions refuses.
    FailingSaga,
    /// A TCC that its initiator submits.
    Tcc,
    /// A TCC that its initiator aborts.
    AbortedTcc,
    /// A TCC whose initiator disappears after the tries.
    LostTcc,
    /// A message.
    Msg,
    /// A message whose initiator disappears before or after its local transaction.
    LostMsg,
}

impl Kind {
    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }
}

/// A transaction of the load.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) gid: String,
    pub(crate) kind: Kind,
    /// The branches that must move something if it succeeds, with their amounts.
    branches: Vec<(String, i64)>,
    /// Whether any request that stores it was acknowledged.
    stored: bool,
    /// Whether submit (or abort) was acknowledged.
    decided: bool,
    /// What the initiator's own local transaction moved, under the branch id 00.
    committed: bool,
}

impl Plan {
    pub(crate) fn acknowledged(&self) -> bool {
        self.stored || self.decided
    }

    /// Asserts that the end is one that its history allows, and that exactly its effects are in the bank's books.
    pub(crate) fn check(&self, view: &View, bank: &Bank) {
        let known = !view.status().is_empty();
        assert!(
            known || !self.acknowledged(),
            "acknowledged and lost: {self:?}"
        );
        let allowed: &[&str] = match self.kind {
            Kind::Saga => &["succeed"],
            Kind::FailingSaga | Kind::AbortedTcc | Kind::LostTcc => &["failed"],
            Kind::Tcc if self.decided => &["succeed"],
            Kind::Tcc => &["succeed", "failed"],
            Kind::Msg | Kind::LostMsg if self.committed => &["succeed"],
            Kind::Msg | Kind::LostMsg => &["failed"],
        };
        assert!(
            !known || allowed.contains(&view.status()),
            "{self:?} ended as {}",
            view.text
        );
        for (branch, amount) in &self.branches {
            let moved = bank.moved(&self.gid, branch);
            let want = if view.status() == "succeed" {
                *amount
            } else {
                0
            };
            assert_eq!(moved, want, "branch {branch} of {self:?}: {}", view.text);
        }
        assert!(
            known || !self.committed,
            "a local transaction without its message: {self:?}"
        );
    }
}

/// An initiator that starts one transaction after the other.
#[derive(Debug)]
pub(crate) struct Load {
    worker: u64,
    dtm: Client,
    bank: Bank,
    random: Random,
}

impl Load {
    pub(crate) fn new(worker: u64, dtm: Client, bank: Bank, random: Random) -> Load {
        Load {
            worker,
            dtm,
            bank,
            random,
        }
    }

    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self, stop: Arc<AtomicBool>) -> Vec<Plan> {
        let mut plans = Vec::new();
        // Gids that are prefixes of each other: k1, k10, k100, …
        for i in 0u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let gid = format!("k{}-{i}", self.worker);
            plans.push(match self.random.below(10) {
                0..=3 => self.saga(gid, Kind::Saga).await,
                4..=5 => self.saga(gid, Kind::FailingSaga).await,
                6 => self.tcc(gid, Kind::Tcc).await,
                7 => {
                    let kind = if self.random.percent(50) {
                        Kind::AbortedTcc
                    } else {
                        Kind::LostTcc
                    };
                    self.tcc(gid, kind).await
                }
                8 => self.msg(gid, Kind::Msg).await,
                _ => self.msg(gid, Kind::LostMsg).await,
            });
        }
        plans
    }

    /// Sends until there is an answer, as a careful client does; gives up after a few lost ones in some cases.
    async fn send(&mut self, route: &str, body: &Value) -> Option<Answer> {
        let patient = self.random.percent(70);
        let path = format!("/api/dtmsvr/{route}");
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match self.dtm.send(Method::POST, &path, body.to_string()).await {
                // Out of service for the moment is no answer either.
                Ok(answer) if answer.status != 503 => return Some(answer),
                Ok(_) | Err(_) if !patient => return None,
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            assert!(
                Instant::now() < end,
                "no answer of {route} {body} within 30 s"
            );
        }
    }

    fn target(&mut self, gid: &str, branch: &str, amount: i64, refuses: bool) -> Target {
        let account = format!("account{}", self.random.below(5));
        Target {
            gid: gid.to_owned(),
            branch: branch.to_owned(),
            account,
            amount,
            refuses,
        }
    }

    fn url(&self, target: &Target) -> String {
        let refuse = if target.refuses { "/refuse" } else { "" };
        self.bank
            .url(&format!("/{}/{}{refuse}", target.account, target.amount))
    }

    fn plan(gid: String, kind: Kind) -> Plan {
        Plan {
            gid,
            kind,
            branches: Vec::new(),
            stored: false,
            decided: false,
            committed: false,
        }
    }

    async fn saga(&mut self, gid: String, kind: Kind) -> Plan {
        let mut plan = Load::plan(gid, kind);
        let amounts: &[i64] = if self.random.percent(50) {
            &[-30, 30]
        } else {
            &[-30, 10, 20]
        };
        let refusing = if kind == Kind::FailingSaga {
            self.random.below(amounts.len() as u64) as usize
        } else {
            9
        };
        let mut steps = Vec::new();
        for (i, amount) in amounts.iter().enumerate() {
            let branch = format!("{:02}", i + 1);
            let target = self.target(&plan.gid, &branch, *amount, i == refusing);
            let url = self.url(&target);
            steps.push(json!({"action": url, "compensate": url}));
            plan.branches.push((branch, *amount));
        }
        let concurrent = format!("{{\"concurrent\":{}}}", self.random.percent(30));
        let body = json!({
            "gid": plan.gid,
            "trans_type": "saga",
            "steps": steps,
            "payloads": vec!["{}"; amounts.len()],
            "custom_data": concurrent,
            "wait_result": self.random.percent(30),
        });
        if let Some(answer) = self.send("submit", &body).await {
            // 409: it failed, or had ended before the submit was repeated; 425: it was stored and has not ended.
            assert!(
                matches!(answer.status, 200 | 409 | 425),
                "{body}: {}",
                answer.text()
            );
            plan.decided = true;
        }
        plan
    }

    async fn tcc(&mut self, gid: String, kind: Kind) -> Plan {
        let mut plan = Load::plan(gid, kind);
        let tcc = json!({"gid": plan.gid, "trans_type": "tcc"});
        match self.send("prepare", &tcc).await {
            Some(answer) if answer.status == 200 => plan.stored = true,
            _ => return plan,
        }
        for (branch, amount) in [("01", -30), ("02", 30)] {
            let target = self.target(&plan.gid, branch, amount, false);
            let url = self.url(&target);
            let body = json!({"gid": plan.gid, "trans_type": "tcc", "branch_id": branch, "data": "{}", "confirm": url, "cancel": url});
            match self.send("registerBranch", &body).await {
                Some(answer) if answer.status == 200 => self.bank.try_branch(&target),
                // Refused because it timed out meanwhile, or nobody knows: an initiator does not go on.
                _ => return plan,
            }
            plan.branches.push((branch.to_owned(), amount));
        }
        let route = match kind {
            Kind::Tcc => "submit",
            Kind::AbortedTcc => "abort",
            _ => return plan,
        };
        if let Some(answer) = self.send(route, &tcc).await {
            // A repeated submit may find that the first one went through to the end.
            plan.decided = answer.status == 200 || answer.text().contains("'succeed'");
            assert!(
                matches!(answer.status, 200 | 409),
                "{route} {tcc}: {}",
                answer.text()
            );
        }
        plan
    }

    async fn msg(&mut self, gid: String, kind: Kind) -> Plan {
        let mut plan = Load::plan(gid, kind);
        let own = self.target(&plan.gid, "00", -30, false);
        let other = self.target(&plan.gid, "01", 30, false);
        let body = json!({
            "gid": plan.gid,
            "trans_type": "msg",
            "steps": [{"action": self.url(&other)}],
            "payloads": ["{}"],
            "query_prepared": self.url(&own),
        });
        plan.branches = vec![("00".to_owned(), -30), ("01".to_owned(), 30)];
        match self.send("prepare", &body).await {
            Some(answer) if answer.status == 200 => plan.stored = true,
            _ => return plan,
        }
        if kind == Kind::LostMsg && self.random.percent(50) {
            return plan;
        }
        plan.committed = self.bank.commit_locally(&own);
        if kind == Kind::LostMsg || !plan.committed {
            return plan;
        }
        if let Some(answer) = self.send("submit", &body).await {
            plan.decided = answer.status == 200 || answer.text().contains("'succeed'");
            assert!(
                plan.decided,
                "submit of a committed message: {}",
                answer.text()
            );
        }
        plan
    }
}
