//! Balances before and after, and whether everything adds up.

use super::bank::Account;
use super::timeline::{Style, Tone};
use crate::cli::output;
use std::collections::BTreeMap;

/// All accounts of all banks.
pub(super) type Balances = BTreeMap<String, Account>;

/// A transaction that has run: what it was to do, and what it did.
pub(super) struct Entry {
    pub(super) gid: &'static str,
    /// The final status that was expected.
    pub(super) ends: &'static str,
    pub(super) status: String,
    /// Whose account it should have gone to.
    pub(super) to: &'static str,
    /// What should have gone there from Alice.
    pub(super) moves: i64,
    pub(super) before: Balances,
    pub(super) after: Balances,
}

/// Everything that ran since the accounts were opened.
pub(super) struct Books {
    pub(super) opening: Balances,
    pub(super) entries: Vec<Entry>,
}

/// One thing that was checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) holds: bool,
    pub(super) text: String,
}

impl Check {
    pub(super) fn line(&self, style: Style) -> String {
        let (word, tone) = if self.holds {
            ("ok   ", Tone::Good)
        } else {
            ("WRONG", Tone::Bad)
        };
        format!("  {}  {}\n", style.tone(word, tone), self.text)
    }
}

impl Entry {
    /// The balances as a small table.
    pub(super) fn table(&self) -> String {
        let frozen = |account: &Account| match account.frozen {
            0 => String::new(),
            frozen => frozen.to_string(),
        };
        let rows = self.after.iter().map(|(name, after)| {
            let before = self.before.get(name).copied().unwrap_or_default();
            let numbers = [before.balance, after.balance].map(|n| format!("{n:>6}"));
            let [was, is] = numbers;
            vec![format!("         {name}"), was, is, frozen(after)]
        });
        let header = ["         account", "before", " after", "frozen"];
        output::table(&header, rows.collect())
    }

    fn check(&self) -> Check {
        let moved = |name: &str| {
            let of = |balances: &Balances| balances.get(name).map_or(0, |a| a.balance);
            of(&self.after) - of(&self.before)
        };
        let (alice, other) = (moved("alice"), moved(self.to));
        let holds = self.status == self.ends && alice == -self.moves && other == self.moves;
        let Entry {
            gid,
            status,
            ends,
            to,
            moves,
            ..
        } = self;
        let mut text = format!("{gid}: {status}, alice {alice:+}, {to} {other:+}");
        if !holds {
            text.push_str(&format!(
                "; expected {ends}, alice {:+}, {to} {moves:+}",
                -moves
            ));
        }
        Check { holds, text }
    }
}

impl Books {
    /// Checks everything against the accounts as they are now.
    pub(super) fn check(&self, closing: &Balances) -> Vec<Check> {
        let mut checks: Vec<Check> = self.entries.iter().map(Entry::check).collect();
        let (was, is) = (money(&self.opening), money(closing));
        checks.push(Check {
            holds: was == is,
            text: format!("all money together: {was} at first, {is} now"),
        });
        let frozen: i64 = closing.values().map(|account| account.frozen).sum();
        checks.push(Check {
            holds: closing.values().all(|account| account.frozen == 0),
            text: format!("frozen: {frozen}"),
        });
        checks
    }
}

fn money(balances: &Balances) -> i64 {
    let accounts = balances.values();
    accounts.map(|a| a.balance + a.frozen).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balances(alice: (i64, i64), bob: (i64, i64)) -> Balances {
        let account = |(balance, frozen)| Account { balance, frozen };
        BTreeMap::from([
            ("alice".to_owned(), account(alice)),
            ("bob".to_owned(), account(bob)),
        ])
    }

    fn entry(status: &str, after: Balances) -> Entry {
        Entry {
            gid: "g",
            ends: "succeed",
            status: status.to_owned(),
            to: "bob",
            moves: 30,
            before: balances((100, 0), (0, 0)),
            after,
        }
    }

    fn wrong(status: &str, after: Balances) -> Vec<String> {
        let books = Books {
            opening: balances((100, 0), (0, 0)),
            entries: vec![entry(status, after.clone())],
        };
        let checks = books.check(&after).into_iter();
        let wrong = checks.filter(|check| !check.holds);
        wrong.map(|check| check.text).collect()
    }

    #[test]
    fn books_that_add_up() {
        let none = Vec::<String>::new();
        assert_eq!(wrong("succeed", balances((70, 0), (30, 0))), none);
    }

    #[test]
    fn everything_that_differs_is_named() {
        assert_eq!(
            wrong("failed", balances((70, 0), (30, 0))),
            ["g: failed, alice -30, bob +30; expected succeed, alice -30, bob +30"]
        );
        assert_eq!(
            wrong("succeed", balances((70, 0), (0, 0))),
            [
                "g: succeed, alice -30, bob +0; expected succeed, alice -30, bob +30",
                "all money together: 100 at first, 70 now"
            ]
        );
        assert_eq!(
            wrong("succeed", balances((70, 5), (30, -5))),
            ["frozen: 0"],
            "amounts that cancel each other out"
        );
    }

    #[test]
    fn balances_before_and_after() {
        let table = entry("succeed", balances((70, 0), (30, 0))).table();
        assert_eq!(
            table,
            "         account  before   after\n         alice       100      70\n         bob           0      30\n"
        );
    }
}
