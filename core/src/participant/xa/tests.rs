use super::*;
use crate::error::ErrorKind;
use crate::initiator::Server;
use crate::machine::{Machine, Step, StepKind, answer};
use crate::participant::{BarrierResult, Identity, ParamStyle};
use bytes::Bytes;

fn place(dialect: Dialect) -> Place {
    Place {
        dialect,
        table: dialect.default_table(),
        style: ParamStyle::Question,
    }
}

fn who(op: &str) -> Identity {
    Identity::new("xa", "g", "01", op).expect("an identity")
}

fn at() -> Registration {
    Registration {
        server: Server::new("http://h:1", 3_000),
        phase2_url: "http://p/xa".to_owned(),
    }
}

fn action(dialect: Dialect) -> XaBranch {
    XaBranch::new(place(dialect), who("action"), &at()).expect("legal")
}

fn phase2(dialect: Dialect, op: &str) -> XaPhase2 {
    XaPhase2::new(place(dialect), who(op)).expect("legal")
}

/// A step in a word or two.
fn word(kind: &StepKind) -> String {
    match kind {
        StepKind::Exec(s) | StepKind::Query(s) => {
            let sql = &s.sql;
            for (part, word) in [
                ("get_lock", "lock"),
                ("insert", "row"),
                ("select /*M!", "guard"),
                ("select case", "guard"),
                ("for update", "locking read"),
                ("select reason", "plain read"),
                ("pg_prepared_xacts", "look"),
                ("lock_timeout to", "unlimit"),
                ("timeout", "limit"),
            ] {
                if sql.contains(part) {
                    return word.to_owned();
                }
            }
            sql.clone()
        }
        StepKind::Call(r) => r.url.rsplit('/').next().unwrap_or_default().to_owned(),
        StepKind::RunUser(_) => "user".to_owned(),
        StepKind::Begin { .. } => "begin".to_owned(),
        StepKind::Commit => "commit".to_owned(),
        StepKind::Detach => "detach".to_owned(),
        StepKind::Sleep(_) => "sleep".to_owned(),
        other => format!("{other:?}"),
    }
}

fn good(kind: &StepKind) -> Fact {
    match kind {
        StepKind::Exec(_) => Fact::Affected(1),
        StepKind::Query(s) if s.sql.contains("get_lock") => Fact::Text(Some("1".to_owned())),
        StepKind::Query(_) => Fact::Text(Some("action".to_owned())),
        StepKind::Call(_) => answer(200, r#"{"dtm_result":"SUCCESS"}"#),
        StepKind::RunUser(_) => Fact::UserOk(Bytes::from_static(b"done")),
        _ => Fact::Done,
    }
}

fn refused(sqlstate: &str, errno: i64) -> Fact {
    Fact::DbFailed {
        sqlstate: Some(sqlstate.to_owned()),
        errno: Some(errno),
        message: "refused".to_owned(),
    }
}

fn found(reason: Option<&str>) -> Fact {
    Fact::Text(reason.map(str::to_owned))
}

type Facts<'a> = &'a [(&'a str, Fact)];
type Want = Result<Option<BarrierResult>, ErrorKind>;
type Ended = (
    Vec<String>,
    Result<Option<BarrierResult>, ErrorKind>,
    String,
);

/// Runs a machine whose steps of these words end with these facts, the first time; all others end well.
fn run(mut machine: impl Machine, facts: &[(&str, Fact)]) -> Ended {
    let mut facts = facts.to_vec();
    let mut log = Vec::new();
    loop {
        let Step { id, kind } = machine.poll().expect("a step");
        assert_eq!(machine.poll(), None, "one at a time");
        if let StepKind::Done(result) = kind {
            assert_eq!(machine.poll(), None);
            let message = result.as_ref().err().map(ToString::to_string);
            let result = result.map(|o| o.barrier).map_err(|e| e.kind());
            return (log, result, message.unwrap_or_default());
        }
        let word = word(&kind);
        let at = facts.iter().position(|(w, _)| *w == word);
        let fact = at.map_or_else(|| good(&kind), |at| facts.remove(at).1);
        log.push(word);
        machine.resolve(id, fact).expect("it fits");
    }
}

const MYSQL: [&str; 9] = [
    "lock",
    "xa start 'g-01'",
    "row",
    "user",
    "guard",
    "registerBranch",
    "xa end 'g-01'",
    "xa prepare 'g-01'",
    "detach",
];
const POSTGRES: [&str; 10] = [
    "begin",
    "limit",
    "row",
    "unlimit",
    "user",
    "guard",
    "registerBranch",
    "prepare transaction 'g-01'",
    "look",
    "detach",
];

#[test]
fn an_action_is_registered_and_prepared() {
    let executed = Ok(Some(BarrierResult::Executed));
    let (log, result, _) = run(action(Dialect::MySql), &[]);
    assert_eq!((log, result), (MYSQL.map(str::to_owned).into(), executed));
    let (log, result, _) = run(action(Dialect::Postgres), &[]);
    assert_eq!(
        (log, result),
        (POSTGRES.map(str::to_owned).into(), executed)
    );
}

#[test]
fn what_is_registered() {
    let mut machine = action(Dialect::Postgres);
    loop {
        let Step { id, kind } = machine.poll().expect("a step");
        if let StepKind::Call(request) = &kind {
            let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
            assert_eq!(
                body,
                serde_json::json!({"gid": "g", "trans_type": "xa", "branch_id": "01", "url": "http://p/xa"})
            );
            return;
        }
        machine.resolve(id, good(&kind)).expect("it fits");
    }
}

/// What ends an action otherwise: the fact, the error or the barrier's result, and what comes behind the step.
#[test]
fn actions_that_end_otherwise() {
    use ErrorKind::*;
    let duplicate = Ok(Some(BarrierResult::Duplicate));
    let mysql_undo: &[&str] = &["xa end 'g-01'", "xa rollback 'g-01'", "detach"];
    let not_open = r#"{"message":"no trans with gid: g status: prepared found FAILURE"}"#;
    let no = Fact::UserFailed {
        kind: Failure,
        message: "no".to_owned(),
    };
    let table: &[(Dialect, Facts, Want, &[&str])] = &[
        (
            Dialect::MySql,
            &[("lock", found(Some("0")))],
            Err(Conflict),
            &["detach"],
        ),
        (
            Dialect::MySql,
            &[("xa start 'g-01'", refused("XAE08", 1440))],
            duplicate,
            &["detach"],
        ),
        (
            Dialect::MySql,
            &[("row", Fact::Affected(0))],
            duplicate,
            mysql_undo,
        ),
        (
            Dialect::MySql,
            &[
                ("row", Fact::Affected(0)),
                ("locking read", found(Some("rollback"))),
            ],
            Err(Failure),
            mysql_undo,
        ),
        (
            Dialect::MySql,
            &[("row", refused("42S02", 1146))],
            Err(Invalid),
            mysql_undo,
        ),
        (
            Dialect::MySql,
            &[("user", no.clone())],
            Err(Failure),
            mysql_undo,
        ),
        (
            Dialect::MySql,
            &[("guard", found(None))],
            Err(Aborted),
            mysql_undo,
        ),
        (
            Dialect::MySql,
            &[("registerBranch", answer(409, not_open))],
            Err(Failure),
            mysql_undo,
        ),
        (
            Dialect::MySql,
            &[("registerBranch", answer(400, "{}"))],
            Err(Invalid),
            mysql_undo,
        ),
        (
            Dialect::MySql,
            &[("xa end 'g-01'", refused("XA102", 1614))],
            Err(Conflict),
            &["xa rollback 'g-01'", "detach"],
        ),
        (
            Dialect::MySql,
            &[("xa prepare 'g-01'", refused("08S01", 2013))],
            Err(OutcomeUnknown),
            &["detach"],
        ),
        (
            Dialect::Postgres,
            &[("row", refused("55P03", 0)), ("look", found(Some("g-01")))],
            duplicate,
            &["rollback", "look", "detach"],
        ),
        (
            Dialect::Postgres,
            &[("row", refused("55P03", 0)), ("look", found(None))],
            Err(Conflict),
            &["rollback", "look", "detach"],
        ),
        (
            Dialect::Postgres,
            &[("user", no)],
            Err(Failure),
            &["rollback", "detach"],
        ),
        (
            Dialect::Postgres,
            &[("guard", refused("25P02", 0))],
            Err(Aborted),
            &["rollback", "detach"],
        ),
        (
            Dialect::Postgres,
            &[("prepare transaction 'g-01'", refused("55000", 0))],
            Err(Invalid),
            &["rollback", "detach"],
        ),
        (
            Dialect::Postgres,
            &[("look", found(None))],
            Err(Aborted),
            &["detach"],
        ),
    ];
    for (dialect, facts, want, tail) in table {
        let (log, result, message) = run(action(*dialect), facts);
        assert_eq!(result, *want, "{dialect} {facts:?}: {message}");
        assert!(
            log.ends_with(&tail.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()),
            "{facts:?}: {log:?}"
        );
    }
    let facts = [("prepare transaction 'g-01'", refused("55000", 0))];
    let (_, _, message) = run(action(Dialect::Postgres), &facts);
    assert!(message.contains("max_prepared_transactions"), "{message}");
}

/// A registration whose answer was lost is asked for again; DTM then says that it is there.
#[test]
fn a_lost_registration() {
    let lost = Fact::NoAnswer {
        sent: true,
        message: "cut".to_owned(),
    };
    let there = answer(500, r#"{"message":"storage: UniqueKeyConflict"}"#);
    let facts = [("registerBranch", lost), ("registerBranch", there)];
    let (log, result, _) = run(action(Dialect::MySql), &facts);
    assert_eq!(result, Ok(Some(BarrierResult::Executed)), "{log:?}");
}

#[test]
fn phase_2_is_proved() {
    use ErrorKind::*;
    let (executed, duplicate) = (
        Ok(Some(BarrierResult::Executed)),
        Ok(Some(BarrierResult::Duplicate)),
    );
    let nota = || ("xa commit 'g-01'", refused("XAE04", 1397));
    let gone = || ("commit prepared 'g-01'", refused("42704", 0));
    let marked = || ("locking read", found(Some("rollback")));
    let rolled_back = ["begin", "limit", "row", "locking read", "commit", "detach"];
    let proof: &[&str] = &["plain read"];
    let table: &[(Dialect, &str, Facts, Want, &[&str])] = &[
        (Dialect::MySql, "commit", &[], duplicate, proof),
        (Dialect::MySql, "commit", &[nota()], duplicate, proof),
        (
            Dialect::MySql,
            "commit",
            &[nota(), ("plain read", found(None))],
            Err(Ongoing),
            proof,
        ),
        // MariaDB says that it has committed, and has not.
        (
            Dialect::MySql,
            "commit",
            &[("plain read", found(None))],
            Err(Ongoing),
            proof,
        ),
        (
            Dialect::MySql,
            "commit",
            &[nota(), ("plain read", found(Some("rollback")))],
            Err(Refused),
            proof,
        ),
        (
            Dialect::Postgres,
            "commit",
            &[],
            executed,
            &["commit prepared 'g-01'"],
        ),
        (Dialect::Postgres, "commit", &[gone()], duplicate, proof),
        (
            Dialect::Postgres,
            "commit",
            &[("commit prepared 'g-01'", refused("55000", 0))],
            Err(Conflict),
            &[],
        ),
        (
            Dialect::MySql,
            "rollback",
            &[marked()],
            executed,
            &rolled_back,
        ),
        (
            Dialect::MySql,
            "rollback",
            &[("xa rollback 'g-01'", refused("XAE04", 1397)), marked()],
            executed,
            &rolled_back,
        ),
        (
            Dialect::Postgres,
            "rollback",
            &[marked()],
            executed,
            &rolled_back,
        ),
        (
            Dialect::MySql,
            "rollback",
            &[("row", refused("HY000", 1205))],
            Err(Conflict),
            &["row", "detach"],
        ),
        // It was committed.
        (
            Dialect::MySql,
            "rollback",
            &[],
            Err(Refused),
            &["locking read", "detach"],
        ),
    ];
    for (dialect, op, facts, want, tail) in table {
        let (log, result, message) = run(phase2(*dialect, op), facts);
        assert_eq!(result, *want, "{dialect} {op} {facts:?}: {message}");
        assert!(
            log.ends_with(&tail.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()),
            "{op} {facts:?}: {log:?}"
        );
    }
}

/// Whatever step fails, or is cancelled: there is an end, nobody is told that it went well, and no connection with an open branch is
/// given back.
#[test]
fn every_step_may_fail() {
    for dialect in [Dialect::MySql, Dialect::Postgres] {
        for broken in [refused("08006", 2013), refused("HY000", 1), Fact::Cancelled] {
            for at in 0..MYSQL.len().max(POSTGRES.len()) {
                let mut machine = action(dialect);
                let (mut n, mut detached) = (0, false);
                let result = loop {
                    let Step { id, kind } = machine.poll().expect("a step");
                    if let StepKind::Done(result) = kind {
                        break result;
                    }
                    detached |= kind == StepKind::Detach;
                    let wrong = Fact::UserOk(Bytes::new());
                    if !matches!(kind, StepKind::RunUser(_)) {
                        machine.resolve(id, wrong).expect_err("none of its facts");
                    }
                    let database = !matches!(kind, StepKind::RunUser(_) | StepKind::Call(_));
                    let breaks = n == at && (database || broken == Fact::Cancelled);
                    let fact = if breaks { broken.clone() } else { good(&kind) };
                    machine.resolve(id, fact).expect("it fits");
                    n += 1;
                };
                assert!(detached, "{dialect} {broken:?} at {at}");
                if n <= at {
                    result.expect("nothing was broken");
                }
            }
        }
    }
}

#[test]
fn what_has_no_xa_is_refused() {
    for dialect in [Dialect::Sqlite, Dialect::SqlServer, Dialect::Oracle] {
        let error = XaBranch::new(place(dialect), who("action"), &at()).expect_err("none");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(XaPhase2::new(place(dialect), who("commit")).is_err());
    }
    assert!(XaBranch::new(place(Dialect::MySql), who("commit"), &at()).is_err());
    assert!(XaPhase2::new(place(Dialect::MySql), who("action")).is_err());
    let saga = Identity::new("saga", "g", "01", "action").expect("an identity");
    assert!(XaBranch::new(place(Dialect::MySql), saga, &at()).is_err());
    let nowhere = Registration {
        phase2_url: String::new(),
        ..at()
    };
    assert!(XaBranch::new(place(Dialect::MySql), who("action"), &nowhere).is_err());
}
