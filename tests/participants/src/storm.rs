//! A storm of branch calls, on whatever carries them out.

use crate::call;
use amends::Error;
use amends::participant::{BarrierResult, Identity};
use tokio::task::JoinSet;

/// Calls at a time.
const CALLS: usize = 64;

/// Many pairs of an action and its compensation at a time: no conflict that the user sees comes from barrier statements (rules.md 9.2).
///
/// # Panics
///
/// When a call ends with an error.
pub async fn storm<F>(pairs: usize, carry_out: impl Fn(Identity) -> F)
where
    F: Future<Output = Result<BarrierResult, Error>> + Send + 'static,
{
    let mut calls = JoinSet::new();
    let (mut count, mut errors) = (0, Vec::new());
    for n in 0..pairs {
        // Some arrive again, all at a time: on MariaDB it is the repeated actions whose inserts deadlock. A barrier that does not try again
        // shows the user about a hundred of 1,000 pairs; without repetition, none.
        let pair = ["action", "compensate"].iter();
        let again = if n % 4 == 0 { 2 } else { 1 };
        for op in pair.cycle().take(2 * again) {
            count += 1;
            calls.spawn(carry_out(call(&format!("storm-{n}"), op)));
        }
        while calls.len() > CALLS {
            let done = calls.join_next().await.expect("a call");
            errors.extend(done.expect("no panic").err());
        }
    }
    while let Some(done) = calls.join_next().await {
        errors.extend(done.expect("no panic").err());
    }
    assert!(
        errors.is_empty(),
        "{} of {count}: {:?}",
        errors.len(),
        errors[0]
    );
}
