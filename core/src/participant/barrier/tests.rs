use super::*;
use std::collections::BTreeMap;

fn who(op: &str) -> Identity {
    Identity::new("tcc", "g", "01", op).expect("an identity")
}

fn plan_of(dialect: Dialect, style: ParamStyle, op: &str) -> Plan {
    plan(dialect, &dialect.default_table(), style, &who(op), "01").expect("a plan")
}

#[test]
fn statements_by_dialect() {
    let p = plan_of(Dialect::MySql, ParamStyle::Question, "cancel");
    let origin = p.origin.expect("a cancel undoes a try");
    assert_eq!(
        origin.sql,
        "insert ignore into dtm_barrier.barrier(trans_type, gid, branch_id, op, barrier_id, reason) values(?, ?, ?, ?, ?, ?)"
    );
    assert_eq!(origin.params, ["tcc", "g", "01", "try", "01", "cancel"]);
    assert_eq!(
        p.current.params,
        ["tcc", "g", "01", "cancel", "01", "cancel"]
    );
    assert_eq!(
        p.reason.sql,
        "select reason from dtm_barrier.barrier where gid = ? and branch_id = ? and op = ? and barrier_id = ? for update"
    );
    assert_eq!(p.reason.params, ["g", "01", "cancel", "01"]);

    let p = plan_of(Dialect::Postgres, ParamStyle::Dollar, "try");
    assert_eq!(p.origin, None);
    assert_eq!(
        p.current.sql,
        "insert into dtm_barrier.barrier(trans_type, gid, branch_id, op, barrier_id, reason) values($1, $2, $3, $4, $5, $6) on conflict do nothing"
    );
    let p = plan_of(Dialect::Sqlite, ParamStyle::Question, "try");
    assert!(p.current.sql.starts_with("insert into barrier("));
    assert!(!p.reason.sql.contains("for update"));

    // Untested against a server; what can be checked is that each parameter stands in its place once per value.
    for dialect in Dialect::ALL {
        for style in [
            ParamStyle::Question,
            ParamStyle::Dollar,
            ParamStyle::Percent,
            ParamStyle::Colon,
            ParamStyle::AtP,
        ] {
            let p = plan_of(*dialect, style, "compensate");
            for s in [p.origin.expect("an undo"), p.current, p.reason] {
                let mut marks = String::new();
                for n in 1..=s.params.len() {
                    let mut mark = String::new();
                    style.write(n, &mut mark);
                    assert!(s.sql.contains(&mark), "{dialect} {style:?}: {}", s.sql);
                    marks = mark;
                }
                let plain = matches!(style, ParamStyle::Question | ParamStyle::Percent);
                let count = s.sql.matches(&marks).count();
                assert_eq!(
                    count,
                    if plain { s.params.len() } else { 1 },
                    "{dialect} {style:?}: {}",
                    s.sql
                );
            }
        }
    }
}

#[test]
fn barrier_ids_are_checked() {
    let make = |id: &str| {
        plan(
            Dialect::Sqlite,
            &Dialect::Sqlite.default_table(),
            ParamStyle::Question,
            &who("try"),
            id,
        )
    };
    assert!(make(&"1".repeat(BARRIER_ID_MAX)).is_ok());
    assert!(make(&"1".repeat(BARRIER_ID_MAX + 1)).is_err());
    assert!(make("").is_err());
    assert_eq!((barrier_id(1), barrier_id(12)), ("01".into(), "12".into()));
}

/// A table with a unique key, as far as barriers use it.
#[derive(Default)]
struct Rows(BTreeMap<Vec<String>, String>);

impl Rows {
    fn insert(&mut self, s: &Statement) -> u64 {
        let (key, reason) = (s.params[1..5].to_vec(), s.params[5].clone());
        if self.0.contains_key(&key) {
            return 0;
        }
        self.0.insert(key, reason);
        1
    }

    /// One call of a branch, committed.
    fn call(&mut self, op: &str) -> Option<BarrierResult> {
        let who = who(op);
        let p = plan_of(Dialect::Postgres, ParamStyle::Dollar, op);
        let origin = p.origin.map(|s| self.insert(&s));
        let current = self.insert(&p.current);
        match decide(&who.op, origin, current) {
            Verdict::Run => Some(BarrierResult::Executed),
            Verdict::Skip(result) => Some(result),
            Verdict::NeedReason => Some(by_reason(&who.op, &self.0[&p.reason.params])),
            Verdict::Duplicated => None,
        }
    }
}

#[test]
fn every_order_of_an_action_and_its_undo() {
    use BarrierResult::*;
    for (op, undo) in [
        ("try", "cancel"),
        ("action", "compensate"),
        ("action", "rollback"),
    ] {
        for (calls, want) in [
            (
                [op, op, undo, undo],
                [Executed, Duplicate, Executed, Duplicate],
            ),
            (
                [op, undo, op, undo],
                [Executed, Executed, Duplicate, Duplicate],
            ),
            (
                [op, undo, undo, op],
                [Executed, Executed, Duplicate, Duplicate],
            ),
            (
                [undo, op, op, undo],
                [NullCompensation, Suspended, Suspended, Duplicate],
            ),
            (
                [undo, op, undo, op],
                [NullCompensation, Suspended, Duplicate, Suspended],
            ),
            (
                [undo, undo, op, op],
                [NullCompensation, Duplicate, Suspended, Suspended],
            ),
        ] {
            let mut rows = Rows::default();
            let got = calls.map(|call| rows.call(call).expect("no message"));
            assert_eq!(got, want, "{calls:?}");
        }
    }
}

#[test]
fn ops_that_undo_nothing_are_made_once() {
    for op in ["confirm", "commit", "business", "anything"] {
        let mut rows = Rows::default();
        assert_eq!(rows.call(op), Some(BarrierResult::Executed));
        assert_eq!(rows.call(op), Some(BarrierResult::Duplicate));
    }
}

#[test]
fn a_message_is_committed_or_rolled_back_and_never_both() {
    let table = Dialect::Postgres.default_table();
    let message = Identity::new("msg", "g", "00", "msg").expect("an identity");
    let local = |rows: &mut Rows| {
        let p = plan(
            Dialect::Postgres,
            &table,
            ParamStyle::Dollar,
            &message,
            &barrier_id(1),
        )
        .expect("a plan");
        decide(&message.op, None, rows.insert(&p.current))
    };
    // Whatever branch the coordinator names, the row asked for is the message's.
    let asked = Identity::new("msg", "g", "07", "action").expect("an identity");
    let check = |rows: &mut Rows| {
        let p = query_prepared(Dialect::Postgres, &table, ParamStyle::Dollar, &asked);
        rows.insert(&p.current);
        was_committed(&rows.0[&p.reason.params])
    };
    let mut rows = Rows::default();
    assert_eq!(local(&mut rows), Verdict::Run);
    assert!(check(&mut rows) && check(&mut rows));
    assert_eq!(local(&mut rows), Verdict::Duplicated, "a gid used before");

    let mut rows = Rows::default();
    assert!(!check(&mut rows) && !check(&mut rows));
    assert_eq!(local(&mut rows), Verdict::Duplicated, "it came too late");
}
