//! A simulation that notices nothing proves nothing: each of these breaks one rule on purpose, and must be caught.

use amends_simulation::{Broken, run_many};

fn caught(broken: Broken, most_seeds: u64, words: &[&str]) {
    let total = run_many(0, most_seeds, None, Some(broken), 2, 3);
    let hits: Vec<_> = total
        .failures
        .iter()
        .filter(|(_, what)| words.iter().any(|w| what.contains(w)))
        .collect();
    println!(
        "{broken:?}: {} runs, caught {:?}",
        total.runs, total.failures
    );
    assert!(
        !hits.is_empty(),
        "{broken:?} was not caught in {most_seeds} seeds: {:?}",
        total.failures
    );
}

#[test]
fn compensating_before_aborting_is_durable() {
    caught(Broken::UndoBeforeAborting, 2_000, &["is durable"]);
}

#[test]
fn confirming_before_submitted_is_durable() {
    caught(Broken::ConfirmBeforeSubmitted, 2_000, &["is durable"]);
}

#[test]
fn acting_before_what_it_rests_on_is_durable() {
    caught(Broken::ActionBeforeDurable, 5_000, &["is durable"]);
}

#[test]
fn answering_a_submit_before_it_is_durable() {
    caught(Broken::AnswerBeforeSubmit, 2_000, &["is durable"]);
}

#[test]
fn refusing_with_a_status_that_is_not_durable() {
    caught(Broken::RefuseBeforeDurable, 20_000, &["is durable"]);
}

#[test]
fn letting_go_without_a_due_time() {
    caught(Broken::ForgetDue, 2_000, &["due time"]);
}

#[test]
fn taking_writes_based_on_an_older_version() {
    caught(
        Broken::StaleVersion,
        20_000,
        &["ends as", "never ends", "goes from"],
    );
}

#[test]
fn compensating_only_what_is_runnable_now_after_a_reload() {
    caught(
        Broken::ForgetSecondLevel,
        20_000,
        &["ends as", "which came after it"],
    );
}

#[test]
fn forgetting_calls_of_an_earlier_process() {
    caught(Broken::NotUnsure, 5_000, &["on its way", "undone"]);
}
