//! The same orders, overlaps and storm on MariaDB through another driver, with CLIENT_FOUND_ROWS and without: what the barrier's inserts
//! report must not depend on it. sqlx cannot switch it off. The driver is a host of the barrier's machine, as any language's would be.

use amends::Error;
use amends::machine::{Fact, Machine, Statement, Step, StepKind};
use amends::participant::{
    BarrierResult, BarrierRun, Dialect, Identity, Mode, ParamStyle, Place, Table, ddl,
};
use amends_interop::{Databases, Login};
use amends_participants::{ORDERS, TCC_ORDERS, call, cancel_orders, storm};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Params, Pool};
use std::time::Duration;
use tokio::task::JoinSet;

/// A bank whose one account is reached through this driver.
#[derive(Clone)]
struct Bank {
    pool: Pool,
    place: Place,
}

fn params(s: &Statement) -> Params {
    match s.params.len() {
        0 => Params::Empty,
        _ => Params::Positional(s.params.iter().map(|p| p.as_str().into()).collect()),
    }
}

fn failed(error: &mysql_async::Error) -> Fact {
    let (sqlstate, errno) = match error {
        mysql_async::Error::Server(e) => (Some(e.state.clone()), Some(i64::from(e.code))),
        _ => (None, None),
    };
    Fact::DbFailed {
        sqlstate,
        errno,
        message: error.to_string(),
    }
}

async fn done(conn: &mut Conn, sql: &str) -> Fact {
    match conn.query_drop(sql).await {
        Ok(()) => Fact::Done,
        Err(error) => failed(&error),
    }
}

impl Bank {
    async fn open(login: &Login, schema: &str, isolation: &str, found_rows: bool) -> Bank {
        let set = format!("set session transaction isolation level {isolation}");
        let options = OptsBuilder::default()
            .ip_or_hostname(login.host.clone())
            .tcp_port(login.port)
            .user(Some(login.user.clone()))
            .pass(Some(login.password.clone()))
            .db_name(Some(login.database.clone()))
            .client_found_rows(found_rows)
            .setup(vec![set]);
        let table = Table::new(&format!("{schema}.barrier")).expect("a name");
        let bank = Bank {
            pool: Pool::new(options),
            place: Place {
                dialect: Dialect::MySql,
                table,
                style: ParamStyle::Question,
            },
        };
        let mut conn = bank.pool.get_conn().await.expect("a connection");
        let mut setup = ddl::create(Dialect::MySql, &bank.place.table);
        setup
            .push("create or replace table account(id int primary key, balance bigint)".to_owned());
        setup.push("insert into account values(1, 0)".to_owned());
        for sql in setup {
            conn.query_drop(&sql).await.expect(&sql);
        }
        // Both switches are what they are said to be.
        let level: Option<String> = conn
            .query_first("select @@tx_isolation")
            .await
            .expect("a row");
        assert_eq!(level, Some(isolation.to_uppercase().replace(' ', "-")));
        let mut same = conn
            .query_iter("update account set balance = balance where id = 1")
            .await
            .expect("nothing changed");
        assert_eq!(same.affected_rows(), u64::from(found_rows));
        same.for_each(drop).await.expect("no rows");
        drop(same);
        drop(conn);
        bank
    }

    async fn balance(&self) -> i64 {
        let mut conn = self.pool.get_conn().await.expect("a connection");
        let row = conn.query_first("select balance from account").await;
        row.expect("a row").expect("a value")
    }

    async fn carry_out(&self, who: Identity) -> Result<BarrierResult, Error> {
        let amount = match who.op.as_str() {
            "action" | "try" => -30,
            "compensate" | "cancel" => 30,
            _ => 0,
        };
        let user = format!("update account set balance = balance + {amount} where id = 1");
        let mut machine = BarrierRun::new(self.place.clone(), who, "01", Mode::Managed, 7)?;
        let mut conn = self.pool.get_conn().await.expect("a connection");
        loop {
            let Step { id, kind } = machine.poll().expect("a step");
            let fact = match kind {
                StepKind::Begin { .. } => done(&mut conn, "begin").await,
                StepKind::Commit => done(&mut conn, "commit").await,
                StepKind::Rollback => done(&mut conn, "rollback").await,
                StepKind::Exec(s) => match conn.exec_drop(&s.sql, params(&s)).await {
                    Ok(()) => Fact::Affected(conn.affected_rows()),
                    Err(error) => failed(&error),
                },
                StepKind::Query(s) => match conn.exec_first(&s.sql, params(&s)).await {
                    Ok(text) => Fact::Text(text),
                    Err(error) => failed(&error),
                },
                StepKind::RunUser(_) => {
                    conn.query_drop(&user).await.expect("changed");
                    Fact::UserOk(Default::default())
                }
                StepKind::Sleep(pause) => {
                    tokio::time::sleep(Duration::from_millis(pause.unsigned_abs())).await;
                    Fact::Done
                }
                StepKind::Done(result) => {
                    return result.map(|done| done.barrier.expect("of a branch"));
                }
                other => panic!("{other:?}"),
            };
            machine.resolve(id, fact)?;
        }
    }
}

async fn every_order_and_overlap(bank: &Bank) {
    let all = ORDERS
        .into_iter()
        .chain(TCC_ORDERS)
        .chain(cancel_orders())
        .enumerate();
    for (n, (calls, want)) in all {
        let gid = format!("order-{n}");
        for (op, want) in calls.iter().zip(want) {
            let got = bank.carry_out(call(&gid, op)).await.expect("no error");
            assert_eq!(got, want, "{calls:?}: {op}");
        }
        assert_eq!(bank.balance().await, 0, "{calls:?}");

        let mut overlap = JoinSet::new();
        for op in calls {
            let (bank, who) = (bank.clone(), call(&format!("overlap-{n}"), op));
            overlap.spawn(async move { bank.carry_out(who).await });
        }
        while let Some(ended) = overlap.join_next().await {
            let _any = ended.expect("no panic").expect("no error that a user sees");
        }
        assert_eq!(bank.balance().await, 0, "{calls:?} at a time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn barriers_do_not_depend_on_found_rows() {
    let databases = Databases::start();
    for isolation in ["repeatable read", "read committed"] {
        for found_rows in [true, false] {
            let schema = format!("barrier_{}_{found_rows}", isolation.replace(' ', "_"));
            let bank = Bank::open(databases.mariadb(), &schema, isolation, found_rows).await;
            every_order_and_overlap(&bank).await;
            // With FOUND_ROWS, tests/disorder.rs has it.
            if !found_rows {
                storm(1_000, |who| {
                    let bank = bank.clone();
                    async move { bank.carry_out(who).await }
                })
                .await;
                assert_eq!(bank.balance().await, 0);
            }
            bank.pool.disconnect().await.expect("closed");
        }
    }
}
