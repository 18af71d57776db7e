//! When branches are called again (rules.md 4), in virtual time.

use super::net::{End, end, ok, status};
use super::world::{World, saga};
use amends::Status;
use serde_json::json;

/// The gaps between times, each at least as long as wanted and at most a tenth (jitter) longer.
#[track_caller]
fn assert_gaps(times: &[u64], wanted: &[u64]) {
    let gaps: Vec<u64> = times.windows(2).map(|t| t[1] - t[0]).collect();
    let fits = |(gap, want): (&u64, &u64)| (*want..=want + want / 10).contains(gap);
    assert!(
        gaps.len() == wanted.len() && gaps.iter().zip(wanted).all(fits),
        "gaps {gaps:?}, wanted {wanted:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn errors_double_the_delay_up_to_the_cap_and_raise_attention() {
    let w = World::new(|call| if call.nth < 8 { status(500, 0) } else { ok(0) });
    w.submit(saga("g", 1, json!({}))).await.expect("submit");
    w.pass(150_000).await;
    let tx = w.stored("g").await;
    assert!(tx.state().attention, "three errors in a row");
    w.ends("g", Status::Succeed, 3_600_000).await;
    let s = 1_000;
    assert_gaps(
        &w.net.times("g", "01 action"),
        &[
            20 * s,
            40 * s,
            80 * s,
            160 * s,
            320 * s,
            600 * s,
            600 * s,
            600 * s,
        ],
    );
    assert!(!w.stored("g").await.state().attention);
}

#[tokio::test(start_paused = true)]
async fn ongoing_keeps_the_base_interval() {
    let w = World::new(|call| if call.nth < 5 { status(425, 0) } else { ok(0) });
    w.submit(saga("g", 1, json!({"retry_interval": 7})))
        .await
        .expect("submit");
    w.ends("g", Status::Succeed, 60_000).await;
    assert_gaps(&w.net.times("g", "01 action"), &[7_000; 5]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_branch_is_called_again_after_its_timeout_and_its_delay() {
    let w = World::new(|call| {
        if call.nth < 1 {
            end(End::Silence)
        } else {
            ok(0)
        }
    });
    w.submit(saga(
        "g",
        1,
        json!({"request_timeout": 5, "retry_interval": 1}),
    ))
    .await
    .expect("submit");
    w.ends("g", Status::Succeed, 60_000).await;
    let times = w.net.times("g", "01 action");
    assert!((7_000..=7_200).contains(&times[1]), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn branches_back_off_each_for_itself() {
    let w = World::new(|call| match (call.branch.as_str(), call.nth) {
        ("01", 0..3) => status(500, 0),
        ("02", 0..6) => status(425, 0),
        _ => ok(0),
    });
    w.submit(saga(
        "g",
        3,
        json!({"custom_data": "{\"concurrent\":true}"}),
    ))
    .await
    .expect("submit");
    w.ends("g", Status::Succeed, 600_000).await;
    assert_gaps(&w.net.times("g", "01 action"), &[20_000, 40_000, 80_000]);
    assert_gaps(&w.net.times("g", "02 action"), &[10_000; 6]);
    assert_eq!(w.net.times("g", "03 action").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_limit_gives_a_few_quick_retries_and_then_rolls_back() {
    let w = World::new(|call| match call.name().as_str() {
        "02 action" => status(500, 0),
        _ => ok(0),
    });
    w.submit(saga("g", 2, json!({"retry_limit": 3})))
        .await
        .expect("submit");
    let tx = w.ends("g", Status::Failed, 60_000).await;
    assert_gaps(&w.net.times("g", "02 action"), &[200, 400, 800]);
    assert!(
        tx.state().reason.contains("RetryLimit"),
        "{}",
        tx.state().reason
    );
    assert!(!w.net.effect("g", "01").stays());
}

#[tokio::test(start_paused = true)]
async fn a_reset_makes_it_due_at_once() {
    let w = World::new(|_| status(500, 0));
    w.submit(saga("a", 1, json!({}))).await.expect("submit");
    w.submit(saga("b", 1, json!({}))).await.expect("submit");
    w.pass(5_000).await;
    w.net.behave(|_| ok(0));
    w.engine.reset_next("a").await.expect("resetNextCronTime");
    w.pass(10).await;
    assert_eq!(w.net.times("a", "01 action"), [0, 5_000]);
    assert_eq!(w.net.times("b", "01 action"), [0]);
    let later_than = w.engine.now() + 1_000;
    let (count, more) = w
        .engine
        .reset_all(later_than, 100)
        .await
        .expect("resetCronTime");
    assert_eq!((count, more), (1, false));
    w.ends("a", Status::Succeed, 10).await;
    w.ends("b", Status::Succeed, 10).await;
    assert_eq!(w.net.times("b", "01 action"), [0, 5_010]);
}

#[tokio::test(start_paused = true)]
async fn a_reset_during_a_call_starts_no_second_one() {
    let w = World::new(|_| ok(2_000));
    w.submit(saga("g", 1, json!({}))).await.expect("submit");
    w.pass(100).await;
    for _ in 0..3 {
        w.engine.reset_next("g").await.expect("reset");
        w.submit(saga("g", 1, json!({})))
            .await
            .expect("submit again");
    }
    w.ends("g", Status::Succeed, 5_000).await;
    assert_eq!(w.net.calls("g"), "01 action");
}

#[tokio::test(start_paused = true)]
async fn a_second_submit_cuts_no_delay() {
    let w = World::new(|call| if call.nth == 0 { status(500, 0) } else { ok(0) });
    w.submit(saga("g", 1, json!({}))).await.expect("submit");
    for _ in 0..4 {
        w.pass(2_000).await;
        w.submit(saga("g", 1, json!({})))
            .await
            .expect("submit again");
    }
    w.ends("g", Status::Succeed, 60_000).await;
    assert_gaps(&w.net.times("g", "01 action"), &[20_000]);
}
