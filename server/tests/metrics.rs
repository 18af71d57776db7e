//! The text of `/api/metrics`.

use amends::{Op, Outcome, Status, TransType};
use amends_server::metrics::{Front, Metrics};
use amends_server::store::Stats;
use std::time::Duration;

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
}

#[test]
fn dtms_names_labels_and_buckets() {
    let m = Metrics::new();
    m.request(Front::Http, "submit", true, Duration::from_millis(30));
    m.request(Front::Http, "submit", false, Duration::from_secs(20));
    m.request(Front::Http, "submit?gid=secret", true, Duration::ZERO);
    m.process(TransType::Tcc, true, 1_500);
    m.branch(TransType::Saga, "01", &Op::ACTION, &Outcome::Success);
    m.branch(
        TransType::Saga,
        "01",
        &Op::ACTION,
        &Outcome::Error("x".to_owned()),
    );
    m.branch(
        TransType::Saga,
        "01-02",
        &Op::new("custom"),
        &Outcome::Ongoing,
    );
    m.branch(
        TransType::Msg,
        "100",
        &Op::MSG,
        &Outcome::Failure("no".to_owned()),
    );
    let text = m.render(&Stats::default(), 0);
    for line in [
        "# HELP dtm_server_info The information of this dtm server.",
        "# HELP dtm_server_process_total All request received by dtm",
        "# TYPE dtm_server_response_duration histogram",
        "dtm_server_process_total{api=\"submit\",status=\"ok\",type=\"http\"} 1",
        "dtm_server_process_total{api=\"submit\",status=\"fail\",type=\"http\"} 1",
        "dtm_server_process_total{api=\"other\",status=\"ok\",type=\"http\"} 1",
        "dtm_server_response_duration_bucket{api=\"submit\",type=\"http\",le=\"0.025\"} 0",
        "dtm_server_response_duration_bucket{api=\"submit\",type=\"http\",le=\"0.05\"} 1",
        "dtm_server_response_duration_bucket{api=\"submit\",type=\"http\",le=\"10\"} 1",
        "dtm_server_response_duration_bucket{api=\"submit\",type=\"http\",le=\"+Inf\"} 2",
        "dtm_transaction_process_total{model=\"tcc\",status=\"ok\"} 1",
        "dtm_transaction_handled_duration_sum{model=\"tcc\"} 1.5",
        "dtm_branch_process_total{branchid=\"01\",branchtype=\"action\",model=\"saga\",status=\"ok\"} 1",
        "dtm_branch_process_total{branchid=\"01\",branchtype=\"action\",model=\"saga\",status=\"fail\"} 1",
        "dtm_branch_process_total{branchid=\"other\",branchtype=\"other\",model=\"saga\",status=\"fail\"} 1",
        "amends_branch_attempts_total{op=\"action\",outcome=\"error\",trans_type=\"saga\"} 1",
        "amends_branch_attempts_total{op=\"other\",outcome=\"ongoing\",trans_type=\"saga\"} 1",
        "amends_branch_attempts_total{op=\"msg\",outcome=\"failure\",trans_type=\"msg\"} 1",
    ] {
        has(&text, line);
    }
    assert!(text.contains("dtm_server_info{gin_version="), "{text}");
    assert!(
        !text.contains("secret") && !text.contains("custom"),
        "labels are bounded"
    );
}

#[test]
fn gauges_are_what_the_store_says_when_somebody_looks() {
    let m = Metrics::new();
    m.driven.set(7);
    let mut stats = Stats {
        unfinished: vec![
            ((TransType::Saga, Status::Prepared), 2),
            ((TransType::Xa, Status::Aborting), 1),
        ],
        attention: 2,
        oldest_created: Some(1_000),
        earliest_due: Some(61_500),
        syncs: 10,
        bytes_written: 4_096,
    };
    let text = m.render(&stats, 61_000);
    for line in [
        "amends_transactions_unfinished{status=\"prepared\",trans_type=\"saga\"} 2",
        "amends_transactions_unfinished{status=\"aborting\",trans_type=\"xa\"} 1",
        "amends_transactions_unfinished{status=\"submitted\",trans_type=\"tcc\"} 0",
        "amends_saga_prepared 2",
        "amends_attention 2",
        "amends_transactions_oldest_age_seconds 60",
        "amends_due_lag_seconds 0",
        "amends_store_syncs_total 10",
        "amends_store_written_bytes_total 4096",
        "amends_transactions_driven 7",
    ] {
        has(&text, line);
    }
    stats = Stats {
        syncs: 12,
        earliest_due: Some(61_500),
        ..Stats::default()
    };
    let text = m.render(&stats, 62_000);
    for line in [
        "amends_transactions_unfinished{status=\"prepared\",trans_type=\"saga\"} 0",
        "amends_saga_prepared 0",
        "amends_transactions_oldest_age_seconds 0",
        "amends_due_lag_seconds 0.5",
        "amends_store_syncs_total 12",
    ] {
        has(&text, line);
    }
}

#[test]
fn forced_ends_are_counted_apart() {
    let m = Metrics::new();
    m.finished(TransType::Saga, Status::Succeed, false);
    m.finished(TransType::Saga, Status::Failed, false);
    m.finished(TransType::Saga, Status::Failed, true);
    m.finished(TransType::Saga, Status::Failed, true);
    let text = m.render(&Stats::default(), 0);
    for (status, n) in [("succeed", 1), ("failed", 1), ("forced", 2)] {
        has(
            &text,
            &format!(
                "amends_transactions_finished_total{{status=\"{status}\",trans_type=\"saga\"}} {n}"
            ),
        );
    }
}

#[test]
fn two_coordinators_in_one_process_count_for_themselves() {
    let (a, b) = (Metrics::new(), Metrics::new());
    a.finished(TransType::Msg, Status::Succeed, false);
    assert!(
        !b.render(&Stats::default(), 0)
            .contains("amends_transactions_finished_total{")
    );
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_tells_about_itself() {
    let text = Metrics::new().render(&Stats::default(), 0);
    let value = |name: &str| -> f64 {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap_or_else(|| panic!("no {name} in\n{text}"));
        line.trim().parse().expect("number")
    };
    assert!(value("process_resident_memory_bytes ") > 1e6);
    assert!(value("process_open_fds ") >= 3.0);
    assert!(value("process_start_time_seconds ") > 1.5e9);
    assert!(value("process_cpu_seconds_total ") >= 0.0);
}
