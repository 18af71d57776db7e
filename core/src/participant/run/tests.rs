use super::*;
use crate::machine::answer;
use crate::participant::testing::{Db, word};
use std::collections::BTreeMap;

fn place(dialect: Dialect) -> Place {
    Place {
        dialect,
        table: dialect.default_table(),
        style: ParamStyle::Question,
    }
}

fn run_of(dialect: Dialect, trans_type: &str, op: &str, mode: Mode) -> BarrierRun {
    let who = Identity::new(trans_type, "g", "01", op).expect("an identity");
    BarrierRun::new(place(dialect), who, "01", mode, 7).expect("a run")
}

fn calm(_: usize, _: &StepKind) -> Option<Fact> {
    None
}

fn db_failed(sqlstate: &str, errno: i64) -> Fact {
    Fact::DbFailed {
        sqlstate: Some(sqlstate.to_owned()),
        errno: Some(errno),
        message: "as told".to_owned(),
    }
}

fn barrier(result: Result<Output, Error>) -> Option<BarrierResult> {
    result.expect("it succeeds").barrier
}

#[test]
fn managed_runs_begin_and_commit() {
    let mut db = Db::default();
    let action = || run_of(Dialect::MySql, "saga", "action", Mode::Managed);
    let done = db.run(action(), calm).expect("executed");
    assert_eq!(
        (done.barrier, &done.value[..]),
        (Some(BarrierResult::Executed), &b"done"[..])
    );
    assert_eq!(
        db.log,
        ["begin", "exec", "savepoint", "user", "release", "commit"]
    );
    db.log.clear();
    assert_eq!(
        barrier(db.run(action(), calm)),
        Some(BarrierResult::Duplicate)
    );
    assert_eq!(db.log, ["begin", "exec", "query", "commit"]);

    let mut db = Db::default();
    let undo = run_of(Dialect::Postgres, "saga", "compensate", Mode::Managed);
    assert_eq!(
        barrier(db.run(undo, calm)),
        Some(BarrierResult::NullCompensation)
    );
    assert_eq!(db.log, ["begin", "exec", "exec", "commit"]);
    let late = run_of(Dialect::Postgres, "saga", "action", Mode::Managed);
    assert_eq!(barrier(db.run(late, calm)), Some(BarrierResult::Suspended));
}

#[test]
fn a_suspended_step_of_a_workflow_is_a_failure() {
    let mut db = Db::default();
    db.run(
        run_of(Dialect::MySql, "workflow", "rollback", Mode::Managed),
        calm,
    )
    .expect("nothing to undo");
    let late = run_of(Dialect::MySql, "workflow", "action", Mode::Managed);
    let error = db.run(late, calm).expect_err("suspended");
    assert_eq!(error.kind(), ErrorKind::Failure);
    assert_eq!(
        db.log.last().map(String::as_str),
        Some("commit"),
        "the rows stay"
    );
}

#[test]
fn postgres_is_asked_whether_it_had_aborted() {
    let mut db = Db::default();
    let action = || run_of(Dialect::Postgres, "saga", "action", Mode::Managed);
    let swallowed = |_: usize, kind: &StepKind| {
        matches!(kind, StepKind::Query(_)).then(|| db_failed("25P02", 0))
    };
    let error = db.run(action(), swallowed).expect_err("never executed");
    assert_eq!(error.kind(), ErrorKind::Aborted);
    assert_eq!(db.log, ["begin", "exec", "user", "rollback"]);
    assert!(db.committed.is_empty());
    db.log.clear();
    db.run(action(), calm).expect("executed");
    assert_eq!(db.log, ["begin", "exec", "user", "query", "commit"]);
}

/// MySQL rolls back the whole transaction at a deadlock, and the session goes on in another one: the savepoint and our row are gone. What
/// that other one holds is rolled back, too.
#[test]
fn a_transaction_that_is_gone_is_never_executed() {
    for (dialect, reason) in [
        (Dialect::MySql, None),
        (Dialect::Postgres, None),
        (Dialect::Postgres, Some("compensate".to_owned())),
    ] {
        let mut db = Db::default();
        let gone = |_: usize, kind: &StepKind| match word(kind) {
            "release" => Some(db_failed("42000", 1305)),
            "query" => Some(Fact::Text(reason.clone())),
            _ => None,
        };
        let action = run_of(dialect, "saga", "action", Mode::Managed);
        let error = db.run(action, gone).expect_err("never executed");
        assert_eq!(error.kind(), ErrorKind::Aborted, "{dialect}");
        assert_eq!(db.log.last().map(String::as_str), Some("rollback"));
        assert!(db.committed.is_empty());
    }
}

#[test]
fn conflicts_in_front_of_the_users_code_are_tried_again_and_behind_it_are_not() {
    for at in [0, 1, 2] {
        let mut db = Db::default();
        let mut failures = 0;
        let undo = run_of(Dialect::MySql, "saga", "compensate", Mode::Managed);
        let result = db.run(undo, |_, kind| {
            let here = match at {
                0 => matches!(kind, StepKind::Begin { .. }),
                1 => matches!(kind, StepKind::Exec(s) if s.params[3] == "action"),
                _ => matches!(kind, StepKind::Exec(s) if s.params[3] == "compensate"),
            };
            (here && failures < RETRIES).then(|| {
                failures += 1;
                db_failed("40001", 1213)
            })
        });
        assert_eq!(barrier(result), Some(BarrierResult::NullCompensation));
        assert_eq!(failures, RETRIES);
        let sleeps = db.log.iter().filter(|w| *w == "sleep").count();
        assert_eq!(sleeps, RETRIES as usize);
    }
    let mut db = Db::default();
    let endless = |_: usize, kind: &StepKind| {
        matches!(kind, StepKind::Exec(_)).then(|| db_failed("40001", 1213))
    };
    let action = run_of(Dialect::MySql, "saga", "action", Mode::Managed);
    let error = db.run(action, endless).expect_err("gives up");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(error.kind().branch_answer().http, 425);
    let sleeps = db.log.iter().filter(|w| *w == "sleep").count();
    assert_eq!((sleeps, db.open.is_none()), (RETRIES as usize, true));

    let mut db = Db::default();
    let at_commit =
        |_: usize, kind: &StepKind| matches!(kind, StepKind::Commit).then(|| db_failed("40001", 0));
    let action = run_of(Dialect::Postgres, "saga", "action", Mode::Managed);
    let error = db.run(action, at_commit).expect_err("rolled back");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(
        db.log,
        ["begin", "exec", "user", "query", "rollback"],
        "the user's code does not run twice"
    );
}

#[test]
fn a_commit_whose_answer_is_lost_is_unknown() {
    let mut db = Db::default();
    let lost = |_: usize, kind: &StepKind| {
        matches!(kind, StepKind::Commit).then(|| db_failed("HY000", 2013))
    };
    let action = run_of(Dialect::MySql, "saga", "action", Mode::Managed);
    let error = db.run(action, lost).expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(error.kind().branch_answer().http, 500, "asked again");
    assert!(db.detached);
}

/// What is answered to a COMMIT is definite, unless it says that nobody knows.
#[test]
fn a_commit_that_is_refused_is_rolled_back() {
    for (dialect, sqlstate, errno) in [
        (Dialect::Postgres, "23503", 0),
        (Dialect::MySql, "HY000", 3101),
        (Dialect::Sqlite, "787", 787),
    ] {
        let mut db = Db::default();
        let refused = |_: usize, kind: &StepKind| {
            matches!(kind, StepKind::Commit).then(|| db_failed(sqlstate, errno))
        };
        let action = run_of(dialect, "saga", "action", Mode::Managed);
        let error = db.run(action, refused).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Database, "{dialect}");
        assert_eq!(db.log.last().map(String::as_str), Some("rollback"));
        assert!(db.committed.is_empty() && !db.detached);
    }
}

/// The user's code committed by itself: seen by the guard, or by SQLite's COMMIT; never executed, and the connection is closed.
#[test]
fn a_transaction_that_the_users_code_ended_is_half_done() {
    for (dialect, row) in [
        // MySQL sees the row only, MariaDB that it is of another transaction as well.
        (Dialect::MySql, Some("action")),
        (Dialect::MySql, Some("")),
        (Dialect::Postgres, Some("")),
        (Dialect::Sqlite, None),
    ] {
        let mut db = Db::default();
        let ended = |_: usize, kind: &StepKind| match word(kind) {
            "release" => Some(db_failed("42000", 1305)),
            "query" => row.map(|row| Fact::Text(Some(row.to_owned()))),
            "commit" => Some(db_failed("1", 1)),
            _ => None,
        };
        let action = run_of(dialect, "saga", "action", Mode::Managed);
        let error = db.run(action, ended).expect_err("never executed");
        assert_eq!(error.kind(), ErrorKind::HalfDone, "{dialect}");
        assert_eq!(error.kind().branch_answer().http, 500);
        assert!(db.detached, "{dialect}");
    }
}

#[test]
fn what_the_users_code_says_is_kept() {
    for (kind, http) in [
        (ErrorKind::Failure, 409),
        (ErrorKind::Ongoing, 425),
        (ErrorKind::Database, 500),
    ] {
        let mut db = Db::default();
        let refuse = |_: usize, step: &StepKind| {
            matches!(step, StepKind::RunUser(_)).then(|| Fact::UserFailed {
                kind,
                message: "no money".to_owned(),
            })
        };
        let action = run_of(Dialect::MySql, "saga", "action", Mode::Managed);
        let error = db.run(action, refuse).expect_err("refused");
        assert_eq!((error.kind(), error.message()), (kind, "no money"));
        assert_eq!(kind.branch_answer().http, http);
        assert!(
            db.committed.is_empty(),
            "no row, so that it can be tried again"
        );
    }
}

#[test]
fn a_missing_table_names_the_command() {
    for (dialect, sqlstate, errno) in [
        (Dialect::MySql, "42S02", 1146),
        (Dialect::Postgres, "42P01", 0),
    ] {
        let mut db = Db::default();
        let missing = |_: usize, kind: &StepKind| {
            matches!(kind, StepKind::Exec(_)).then(|| db_failed(sqlstate, errno))
        };
        let action = run_of(dialect, "saga", "action", Mode::Managed);
        let error = db.run(action, missing).expect_err("no table");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let command = format!("amends barrier ddl --dialect {dialect}");
        assert!(error.message().contains(&command), "{error}");
        assert_eq!(db.log, ["begin", "rollback"]);
    }
}

#[test]
fn joined_runs_leave_the_transaction_to_the_user() {
    let mut db = Db {
        open: Some(BTreeMap::new()),
        ..Db::default()
    };
    let action = || run_of(Dialect::MySql, "saga", "action", Mode::Joined);
    assert_eq!(
        barrier(db.run(action(), calm)),
        Some(BarrierResult::Executed)
    );
    assert_eq!(
        barrier(db.run(action(), calm)),
        Some(BarrierResult::Duplicate)
    );
    assert_eq!(db.log, ["exec", "user", "exec", "query"]);
    let conflict = |_: usize, kind: &StepKind| {
        matches!(kind, StepKind::Exec(_)).then(|| db_failed("40001", 1213))
    };
    let error = db
        .run(action(), conflict)
        .expect_err("the user's to repeat");
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[test]
fn a_check_back_commits_before_it_answers() {
    let message = Identity::new("msg", "g", "00", "msg").expect("an identity");
    let check = || BarrierRun::check_back(place(Dialect::Postgres), message.clone(), 7);
    let mut db = Db::default();
    let error = db.run(check(), calm).expect_err("never committed");
    assert_eq!(error.kind(), ErrorKind::Failure);
    assert_eq!(db.log, ["begin", "exec", "query", "commit"]);
    let local = BarrierRun::new(
        place(Dialect::Postgres),
        message.clone(),
        "01",
        Mode::Managed,
        7,
    )
    .expect("a run");
    let error = db.run(local.clone(), calm).expect_err("too late");
    assert_eq!(error.kind(), ErrorKind::Duplicated);
    assert_eq!(error.committed(), Some(false));
    assert_eq!(db.log.last().map(String::as_str), Some("rollback"));

    let mut db = Db::default();
    db.run(local.clone(), calm).expect("committed");
    let error = db.run(local, calm).expect_err("used before");
    assert_eq!(error.kind(), ErrorKind::Duplicated);
    assert_eq!(error.committed(), Some(true));
    db.run(check(), calm).expect("it was committed");
    // An error of the database is no answer.
    let down = |_: usize, kind: &StepKind| {
        matches!(kind, StepKind::Query(_)).then(|| db_failed("08006", 0))
    };
    let error = db.run(check(), down).expect_err("unknown");
    assert_eq!(error.kind().branch_answer().http, 500);
}

/// Stopping after any step is a crash: what was committed is either everything or nothing, and a new run ends it.
#[test]
fn stopping_at_every_step_is_harmless() {
    for op in ["action", "compensate"] {
        for stop in 0..6 {
            let mut db = Db::default();
            let mut machine = run_of(Dialect::Postgres, "saga", op, Mode::Managed);
            for _ in 0..stop {
                let Some(step) = machine.poll() else { break };
                if let StepKind::Done(_) = step.kind {
                    break;
                }
                let fact = db.step(&step.kind);
                machine.resolve(step.id, fact).expect("it fits");
            }
            drop(machine);
            // The connection is gone, and with it what was not committed.
            db.open = None;
            let again = run_of(Dialect::Postgres, "saga", op, Mode::Managed);
            db.run(again, calm).expect("it ends");
            let users = db.log.iter().filter(|w| *w == "user").count();
            let rows = db.committed.len();
            assert_eq!(rows, if op == "action" { 1 } else { 2 }, "{op} {stop}");
            assert!(users <= 2, "{op} {stop}: {:?}", db.log);
        }
    }
}

#[test]
fn cancelled_at_every_step_nothing_is_left_open() {
    for at in 0..5 {
        let mut db = Db::default();
        let action = run_of(Dialect::Postgres, "saga", "action", Mode::Managed);
        let result = db.run(action, |n, _| (n == at).then_some(Fact::Cancelled));
        let error = result.expect_err("cancelled");
        assert!(db.open.is_none(), "step {at}: {:?}", db.log);
        assert!(db.committed.is_empty());
        let unknown = error.kind() == ErrorKind::OutcomeUnknown;
        assert_eq!(unknown, at == 4, "only the commit is in doubt: step {at}");
    }
}

#[test]
fn facts_that_do_not_fit_change_nothing() {
    let mut machine = run_of(Dialect::MySql, "saga", "action", Mode::Managed);
    assert!(machine.resolve(0, Fact::Done).is_err(), "nothing was asked");
    let step = machine.poll().expect("begin");
    for wrong in [
        Fact::Affected(1),
        Fact::Text(None),
        Fact::UserOk(Bytes::new()),
        answer(200, ""),
    ] {
        assert!(machine.resolve(step.id, wrong).is_err());
    }
    assert!(machine.resolve(step.id + 1, Fact::Done).is_err());
    machine.resolve(step.id, Fact::Done).expect("it fits");
    assert!(
        machine.resolve(step.id, Fact::Done).is_err(),
        "it has ended"
    );
    assert_eq!(word(&machine.poll().expect("a step").kind), "exec");
}

#[test]
fn a_message_has_one_row() {
    for (branch_id, part) in [("01", "01"), ("00", "02"), ("00", "stock")] {
        let who = Identity::new("msg", "g", branch_id, "msg").expect("an identity");
        let run = BarrierRun::new(place(Dialect::MySql), who, part, Mode::Managed, 7);
        let error = run.expect_err("no check-back would look there");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{branch_id} {part}");
    }
    let receiver = Identity::new("msg", "g", "01", "action").expect("an identity");
    assert!(BarrierRun::new(place(Dialect::MySql), receiver, "02", Mode::Managed, 7).is_ok());
}
