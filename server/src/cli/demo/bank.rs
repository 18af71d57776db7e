//! A bank of the demo, without its HTTP and gRPC: what a participant has to do.
//!
//! A coordinator that promises an end after any crash must repeat calls whose answer it did not see. So a participant meets calls that
//! come twice, undos of what never arrived, and calls that arrive after their undo. One *barrier* row per (gid, branch_id, op), written
//! in the same local transaction as the money moves, sorts them out. In a real bank it is a table beside the accounts.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// From this amount on a person looks at a deposit first.
const REVIEW_FROM: u32 = 50;

/// Which branch of which global transaction is called, and for what. It stands in the query of every HTTP call and in the metadata of every gRPC call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Branch<'a> {
    pub(super) gid: &'a str,
    pub(super) branch_id: &'a str,
    pub(super) op: &'a str,
}

/// What is to be moved: the body of a call, JSON over HTTP and protobuf over gRPC.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, prost::Message)]
pub(super) struct Order {
    #[prost(string, tag = "1")]
    pub(super) account: String,
    #[prost(uint32, tag = "2")]
    pub(super) amount: u32,
}

/// What a bank answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// 200: done, now or by an earlier call.
    Done(String),
    /// 409: a definite no, and nothing has changed.
    Refused(String),
    /// 425: not decided yet, ask again.
    NotYet(String),
}

/// An account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) balance: i64,
    /// Taken by a try, and neither confirmed nor cancelled yet.
    pub(super) frozen: i64,
}

type Row = (String, String, String);

/// Everything a bank remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct Bank {
    accounts: BTreeMap<String, Account>,
    /// Each row with the op that wrote it.
    barrier: BTreeMap<Row, String>,
    reviewed: BTreeSet<Row>,
}

impl Bank {
    pub(super) fn new(account: &str, balance: i64) -> Bank {
        let account = (account.to_owned(), Account { balance, frozen: 0 });
        Bank {
            accounts: BTreeMap::from([account]),
            ..Bank::default()
        }
    }

    pub(super) fn accounts(&self) -> &BTreeMap<String, Account> {
        &self.accounts
    }

    /// Money leaves an account. `msg` is the sender's own half of a two-phase message.
    pub(super) fn withdraw(&mut self, branch: Branch<'_>, order: &Order) -> Answer {
        self.local_transaction(branch, |bank| {
            let account = bank.account(&order.account)?;
            let amount = i64::from(order.amount);
            match branch.op {
                "action" | "msg" => {
                    account.take(amount)?;
                    Ok(format!("{amount} taken"))
                }
                "compensate" => {
                    account.balance += amount;
                    Ok(format!("{amount} given back"))
                }
                "try" => {
                    account.take(amount)?;
                    account.frozen += amount;
                    Ok(format!("{amount} frozen"))
                }
                "confirm" => {
                    account.frozen -= amount;
                    Ok(format!("frozen {amount} paid out"))
                }
                "cancel" => {
                    account.frozen -= amount;
                    account.balance += amount;
                    Ok(format!("frozen {amount} released"))
                }
                other => Err(unknown(other)),
            }
        })
    }

    /// Money arrives in an account.
    pub(super) fn deposit(&mut self, branch: Branch<'_>, order: &Order) -> Answer {
        let under_review = branch.op == "action" && order.amount >= REVIEW_FROM;
        if under_review && self.reviewed.insert(branch.row(branch.op)) {
            return Answer::NotYet("a clerk looks at it".to_owned());
        }
        self.local_transaction(branch, |bank| {
            let account = bank.account(&order.account)?;
            let amount = i64::from(order.amount);
            match branch.op {
                "action" | "confirm" => {
                    account.balance += amount;
                    Ok(format!("{amount} received"))
                }
                "compensate" => {
                    account.balance -= amount;
                    Ok(format!("{amount} sent back"))
                }
                "try" => Ok(format!("{amount} will be accepted")),
                "cancel" => Ok(format!("{amount} no longer expected")),
                other => Err(unknown(other)),
            }
        })
    }

    /// Answers the coordinator's question whether the withdrawal of a message was committed. A no must stay true, so it leaves a row
    /// that shuts out a withdrawal that comes later.
    pub(super) fn was_sent(&mut self, branch: Branch<'_>) -> Answer {
        let row = self.barrier.entry(branch.row(branch.op));
        if row.or_insert_with(|| "asked".to_owned()) == branch.op {
            Answer::Done("yes, it was sent".to_owned())
        } else {
            Answer::Refused("it was not sent and never will be".to_owned())
        }
    }

    /// Barrier rows and work become true together, or not at all.
    fn local_transaction(
        &mut self,
        branch: Branch<'_>,
        work: impl FnOnce(&mut Bank) -> Result<String, Answer>,
    ) -> Answer {
        let mut changed = self.clone();
        let answer = match changed.barrier(branch) {
            Barrier::Pass => work(&mut changed).map_or_else(|no| no, Answer::Done),
            Barrier::Duplicate => Answer::Done("done before".to_owned()),
            Barrier::NullCompensation => Answer::Done("nothing to undo".to_owned()),
            Barrier::Suspended => Answer::Refused("its undo came first".to_owned()),
        };
        if matches!(answer, Answer::Done(_)) {
            *self = changed;
        }
        answer
    }

    fn barrier(&mut self, branch: Branch<'_>) -> Barrier {
        let undone = match branch.op {
            "compensate" => Some("action"),
            "cancel" => Some("try"),
            _ => None,
        };
        // The undo also takes the row of what it undoes: if that was free, nothing had happened, and nothing can any more.
        let never_happened = undone.is_some_and(|op| self.take_row(branch, op).is_none());
        match self.take_row(branch, branch.op) {
            Some(writer) if writer == branch.op => Barrier::Duplicate,
            Some(_) => Barrier::Suspended,
            None if never_happened => Barrier::NullCompensation,
            None => Barrier::Pass,
        }
    }

    /// Writes a row unless there is one; then, the op that wrote it.
    fn take_row(&mut self, branch: Branch<'_>, op: &str) -> Option<String> {
        let row = branch.row(op);
        let writer = self.barrier.get(&row).cloned();
        if writer.is_none() {
            self.barrier.insert(row, branch.op.to_owned());
        }
        writer
    }

    fn account(&mut self, name: &str) -> Result<&mut Account, Answer> {
        let missing = || Answer::Refused(format!("no account {} here", name.escape_debug()));
        self.accounts.get_mut(name).ok_or_else(missing)
    }
}

/// What the barrier says of a call.
enum Barrier {
    Pass,
    Duplicate,
    NullCompensation,
    Suspended,
}

impl Branch<'_> {
    fn row(&self, op: &str) -> Row {
        (
            self.gid.to_owned(),
            self.branch_id.to_owned(),
            op.to_owned(),
        )
    }
}

impl Account {
    fn take(&mut self, amount: i64) -> Result<(), Answer> {
        if self.balance < amount {
            return Err(Answer::Refused(format!("only {} left", self.balance)));
        }
        self.balance -= amount;
        Ok(())
    }
}

fn unknown(op: &str) -> Answer {
    Answer::Refused(format!("unknown op {op:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(op: &str) -> Branch<'_> {
        Branch {
            gid: "g",
            branch_id: "01",
            op,
        }
    }

    fn order(account: &str, amount: u32) -> Order {
        let account = account.to_owned();
        Order { account, amount }
    }

    fn state(bank: &Bank) -> (i64, i64) {
        let account = bank.accounts["alice"];
        (account.balance, account.frozen)
    }

    fn done(text: &str) -> Answer {
        Answer::Done(text.to_owned())
    }

    #[test]
    fn a_repeated_call_moves_money_once() {
        let mut bank = Bank::new("alice", 100);
        let order = order("alice", 30);
        let expected = [
            ("action", "30 taken", 70),
            ("action", "done before", 70),
            ("compensate", "30 given back", 100),
            ("compensate", "done before", 100),
        ];
        for (op, text, balance) in expected {
            assert_eq!(bank.withdraw(branch(op), &order), done(text));
            assert_eq!(state(&bank), (balance, 0));
        }
    }

    #[test]
    fn an_undo_that_comes_first_undoes_nothing_and_shuts_out_the_rest() {
        for (undo, late) in [("compensate", "action"), ("cancel", "try")] {
            let mut bank = Bank::new("alice", 100);
            let order = order("alice", 30);
            let answer = bank.withdraw(branch(undo), &order);
            assert_eq!(answer, done("nothing to undo"));
            let answer = bank.withdraw(branch(late), &order);
            assert_eq!(answer, Answer::Refused("its undo came first".to_owned()));
            assert_eq!(state(&bank), (100, 0));
        }
    }

    #[test]
    fn a_refusal_leaves_no_row_so_its_undo_has_nothing_to_undo() {
        let mut bank = Bank::new("alice", 20);
        let order = order("alice", 30);
        let answer = bank.withdraw(branch("action"), &order);
        assert_eq!(answer, Answer::Refused("only 20 left".to_owned()));
        assert!(bank.barrier.is_empty());
        let answer = bank.withdraw(branch("compensate"), &order);
        assert_eq!(answer, done("nothing to undo"));
        assert_eq!(state(&bank), (20, 0));
    }

    #[test]
    fn a_try_freezes_until_it_is_confirmed_or_cancelled() {
        for (end, after) in [("confirm", (70, 0)), ("cancel", (100, 0))] {
            let mut bank = Bank::new("alice", 100);
            let order = order("alice", 30);
            bank.withdraw(branch("try"), &order);
            assert_eq!(state(&bank), (70, 30));
            bank.withdraw(branch(end), &order);
            assert_eq!(state(&bank), after);
        }
    }

    #[test]
    fn only_a_confirmed_deposit_arrives() {
        for (end, balance) in [("confirm", 130), ("cancel", 100)] {
            let mut bank = Bank::new("alice", 100);
            let order = order("alice", 30);
            bank.deposit(branch("try"), &order);
            assert_eq!(state(&bank), (100, 0));
            bank.deposit(branch(end), &order);
            assert_eq!(state(&bank), (balance, 0));
        }
    }

    #[test]
    fn a_large_deposit_is_reviewed_once() {
        let mut bank = Bank::new("alice", 0);
        let order = order("alice", REVIEW_FROM);
        let first = bank.deposit(branch("action"), &order);
        assert!(matches!(first, Answer::NotYet(_)), "{first:?}");
        assert_eq!(state(&bank), (0, 0));
        assert_eq!(bank.deposit(branch("action"), &order), done("50 received"));
        assert_eq!(state(&bank), (50, 0));
    }

    #[test]
    fn the_answer_of_a_check_back_stays_true() {
        let order = order("alice", 30);
        let mut bank = Bank::new("alice", 100);
        bank.withdraw(branch("msg"), &order);
        assert_eq!(bank.was_sent(branch("msg")), done("yes, it was sent"));

        let mut bank = Bank::new("alice", 100);
        let no = Answer::Refused("it was not sent and never will be".to_owned());
        assert_eq!(bank.was_sent(branch("msg")), no);
        let late = bank.withdraw(branch("msg"), &order);
        assert!(matches!(late, Answer::Refused(_)), "{late:?}");
        assert_eq!(bank.was_sent(branch("msg")), no);
        assert_eq!(state(&bank), (100, 0));
    }

    #[test]
    fn what_is_unknown_is_refused() {
        let mut bank = Bank::new("alice", 100);
        for answer in [
            bank.withdraw(branch("action"), &order("bob", 1)),
            bank.withdraw(branch("pray"), &order("alice", 1)),
            bank.deposit(branch("pray"), &order("alice", 1)),
        ] {
            assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
        }
    }
}
