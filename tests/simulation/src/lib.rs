//! A deterministic simulation of the coordinator: initiators, the real `amends::coordinator`, a store that loses what is not durable,
//! and participants, under faults that a seed draws. A seed that breaks an invariant breaks it again.

mod check;
mod client;
mod driver;
mod ends;
mod ledger;
mod network;
mod participant;
mod plan;
mod process;
mod rng;
mod script;
mod search;
mod store;
mod workflow;
mod world;

use amends::TransType;

pub use plan::Small;
pub use rng::Rng;
pub use search::{Faults, Found, search};
use std::panic::{AssertUnwindSafe, catch_unwind};
pub use world::Report;

/// A rule of the coordinator, broken on purpose: the simulation must notice each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Compensations, cancels and rollbacks do not wait for `aborting` to be durable.
    UndoBeforeAborting,
    /// Confirms and commits do not wait for `submitted` to be durable.
    ConfirmBeforeSubmitted,
    /// Actions do not wait for what must be durable before them.
    ActionBeforeDurable,
    /// A submit is answered before it is durable.
    AnswerBeforeSubmit,
    /// A refusal tells a status that is not durable.
    RefuseBeforeDurable,
    /// A driver that lets go leaves no due time.
    ForgetDue,
    /// The store takes writes that are based on an older version.
    StaleVersion,
    /// After a restart only what is runnable now may have run.
    ForgetSecondLevel,
    /// After a restart no call of the earlier process is reckoned with.
    NotUnsure,
}

/// Runs one seed. `only` limits it to one mode; `broken` breaks a rule.
pub fn run(seed: u64, only: Option<TransType>, broken: Option<Broken>, trace: bool) -> Report {
    let world = world::World::new(seed, only, broken, trace);
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(report) => report,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Report {
                violation: Some(format!("panicked: {}", text.unwrap_or_default())),
                ..Report::default()
            }
        }
    }
}

/// Sums of many runs.
#[derive(Clone, Debug, Default)]
pub struct Total {
    /// Runs.
    pub runs: u64,
    /// Events.
    pub events: u64,
    /// Steps of the coordinator.
    pub steps: u64,
    /// Crashes of the coordinator.
    pub crashes: u64,
    /// The seeds that broke an invariant, lowest first, and how.
    pub failures: Vec<(u64, String)>,
}

/// Runs seeds from `first` on `threads` threads, and stops at about `most` failures.
pub fn run_many(
    first: u64,
    runs: u64,
    only: Option<TransType>,
    broken: Option<Broken>,
    threads: u64,
    most: usize,
) -> Total {
    let part = |n: u64| {
        let mut total = Total::default();
        for seed in (first..first + runs)
            .skip(n as usize)
            .step_by(threads as usize)
        {
            let report = run(seed, only, broken, false);
            total.runs += 1;
            total.events += report.events;
            total.steps += report.steps;
            total.crashes += u64::from(report.crashes);
            total.failures.extend(report.violation.map(|v| (seed, v)));
            if total.failures.len() >= most {
                break;
            }
        }
        total
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|n| scope.spawn(move || part(n))).collect();
        let mut sum = Total::default();
        for handle in handles {
            let Ok(total) = handle.join() else { continue };
            sum.runs += total.runs;
            sum.events += total.events;
            sum.steps += total.steps;
            sum.crashes += total.crashes;
            sum.failures.extend(total.failures);
        }
        sum.failures.sort_unstable();
        sum
    })
}
