//! What a participant does: the barrier, as statements to run and verdicts on what they did. No database is touched here; whoever holds the
//! connection runs the statements, inside the transaction that also carries the business change (dtm-clients.md 2.11, rules.md 9).

pub mod answer;
pub mod barrier;
pub mod db_error;
pub mod ddl;
pub mod dialect;
pub mod identity;
pub mod mongo;
pub mod redis;
pub mod run;
#[cfg(test)]
pub(crate) mod testing;
pub mod xa;

pub use answer::{BranchResult, Done};
pub use barrier::{BarrierResult, Plan, Verdict};
pub use db_error::{DbError, classify_commit_error, classify_db_error};
pub use dialect::{Dialect, ParamStyle, Table};
pub use identity::Identity;
pub use run::{BarrierRun, Mode, Place};
pub use xa::{Registration, XaBranch, XaPhase2};
