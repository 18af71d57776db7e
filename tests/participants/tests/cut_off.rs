//! A run that is cut off, as by a timeout around it: at whichever point it stops, its money and its row go together, its connection does
//! not come back with something open on it, and the pool of one connection serves the next.

use amends::Error;
use amends::adapters::sqlx::{Backend, Begun};
use amends_interop::Databases;
use amends_participants::{Bank, call, mariadb, plain, polled, postgres, sqlite};
use sqlx::Connection;

/// A whole run. Its own statement is another text each time, so that the database has to be asked what it means, too.
async fn run<DB: Backend>(bank: &Bank<DB>, gid: &str) -> Result<(), Error> {
    let branch = bank.branch(call(gid, "action"));
    let Begun::Run(mut run) = branch.begin(&bank.pool).await? else {
        panic!("skipped");
    };
    let take = format!("update account set balance = balance - 30 where id = 1 /* {gid} */");
    DB::exec(&mut run, plain(&take)).await?;
    let _committed = run.commit().await?;
    Ok(())
}

async fn refused<DB: Backend>(bank: &Bank<DB>, gid: &str) {
    let branch = bank.branch(call(gid, "action"));
    let Begun::Run(mut run) = branch.begin(&bank.pool).await.expect("begun") else {
        panic!("skipped");
    };
    DB::exec(
        &mut run,
        plain("update account set balance = 7 where id = 1"),
    )
    .await
    .expect("changed");
    let _error = run.refuse("no").await;
}

/// The next user of the one connection finds it as new.
async fn serves<DB: Backend>(wide: &Bank<DB>, narrow: &Bank<DB>, n: &mut i64) {
    *n += 1;
    assert_eq!(narrow.number("select 40 + 2").await, 42);
    narrow.execute("update ticks set n = n + 1").await;
    let seen = wide.number("select n from ticks").await;
    assert_eq!(seen, *n, "a transaction was left open on the connection");
}

async fn at_every_point<DB: Backend>(wide: &Bank<DB>)
where
    <DB::Connection as Connection>::Options: Clone,
{
    wide.execute("create table ticks(n int not null)").await;
    wide.execute("insert into ticks values(0)").await;
    let narrow = wide.narrow().await;
    // In one statement, for a COMMIT that was sent before its run was cut off may be carried out at any time.
    let open = format!(
        "select (select balance from account where id = 1) + 30 * (select count(*) from {} where gid like 'cut-%')",
        wide.table()
    );
    let (mut ticks, mut points) = (0, 0);
    // How often a run is polled depends on how fast answers come.
    for round in 0.. {
        if points >= 100 {
            break;
        }
        for polls in 1.. {
            let gid = format!("cut-{round}-{polls}");
            let ended = polled(run(&narrow, &gid), polls).await;
            serves(wide, &narrow, &mut ticks).await;
            points += 1;
            let rows = wide.rows(&gid).await;
            assert!(rows <= 1 && (rows == 1 || ended.is_none()), "{gid}");
            assert_eq!(wide.number(&open).await, 0, "{gid}: half done");
            if let Some(result) = ended {
                result.expect("executed");
                break;
            }
        }
        for polls in 1.. {
            let gid = format!("refused-{round}-{polls}");
            let ended = polled(refused(&narrow, &gid), polls).await;
            serves(wide, &narrow, &mut ticks).await;
            points += 1;
            assert_eq!(wide.rows(&gid).await, 0, "{gid}");
            assert_eq!(wide.number(&open).await, 0, "{gid}");
            if ended.is_some() {
                break;
            }
        }
    }
    narrow.pool.close().await;
    wide.pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mariadb() {
    let databases = Databases::start();
    let bank = mariadb(databases.mariadb(), "repeatable read", "dtm_barrier").await;
    at_every_point(&bank).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql() {
    let databases = Databases::start();
    let bank = postgres(databases.postgres(), "dtm_barrier").await;
    at_every_point(&bank).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() {
    let dir = tempfile::tempdir().expect("a folder");
    let bank = sqlite(dir.path()).await;
    at_every_point(&bank).await;
}
