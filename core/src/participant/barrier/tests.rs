use super::*;
use std::collections::BTreeMap;

fn who(op: &str) -> Identity {
    Identity::new("tcc", "g", "01", op).expect("an identity")
}

fn plan_of(dialect: Dialect, style: ParamStyle, op: &str) -> Plan {
    plan(dialect, &dialect.default_table(), style, &who(op), "01").expect("a plan")
}

#[test]
fn guards_are_safe_for_every_driver() {
    let guard = |dialect| {
        let p = plan_of(dialect, ParamStyle::Percent, "try");
        p.guard.expect("of a branch")
    };
    assert_eq!(
        guard(Dialect::MySql).sql,
        "select /*M! if(@@in_transaction = 1, */ reason /*M! , '') */ from dtm_barrier.barrier \
         where gid = %s and branch_id = %s and op = %s and barrier_id = %s"
    );
    // A colon is a parameter to some drivers, and a bare percent sign to others.
    let postgres = guard(Dialect::Postgres).sql.replace("%s", "");
    assert!(!postgres.contains(':') && !postgres.contains('%'));
    assert!(guard(Dialect::Sqlite).sql.starts_with("select reason from"));
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
