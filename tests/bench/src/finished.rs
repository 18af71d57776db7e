//! Counts ended sagas of a coordinator that has no counter for them, by asking for some of them.

use crate::error::BenchError;
use crate::http::Target;
use crate::submit::Gids;
use serde::Deserialize;
use std::time::{Duration, Instant};

/// How many gids are asked for.
const SAMPLE: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
struct Query {
    transaction: Option<Transaction>,
}

#[derive(Deserialize)]
struct Transaction {
    status: String,
}

/// Waits until an even sample of `numbers`, the last one included, has ended well.
pub(crate) async fn wait_for_all(
    target: &Target,
    gids: &Gids,
    numbers: &[u64],
) -> Result<(), BenchError> {
    let deadline = Instant::now() + PATIENCE;
    let distance = numbers.len().div_ceil(SAMPLE).max(1);
    for number in numbers.iter().rev().step_by(distance).rev() {
        let gid = gids.gid(*number);
        while !has_succeeded(target, &gid).await? {
            if Instant::now() > deadline {
                return Err(BenchError::Late(format!(
                    "{gid} had not ended {PATIENCE:?} after the load"
                )));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}

async fn has_succeeded(target: &Target, gid: &str) -> Result<bool, BenchError> {
    let path = format!("/api/dtmsvr/query?gid={gid}");
    let (status, body) = target.get(&path, Duration::from_secs(30)).await?;
    let answer: Query = serde_json::from_slice(&body).map_err(|error| {
        BenchError::Setup(format!("{path} answered {status}, not readable: {error}"))
    })?;
    match answer.transaction {
        Some(transaction) if transaction.status == "failed" => {
            Err(BenchError::Setup(format!("{gid} failed")))
        }
        Some(transaction) => Ok(transaction.status == "succeed"),
        None => Err(BenchError::Setup(format!(
            "{gid} was acknowledged and is unknown"
        ))),
    }
}
