//! Where a bank keeps its accounts: SQLite, PostgreSQL, or MySQL and MariaDB. What differs is how a statement writes its parameters.

use amends::adapters::sqlx::Backend;
use amends::participant::ddl;
use sqlx::{AssertSqlSafe, MySql, Pool, Postgres, Sqlite};

/// A database that a bank can be in.
pub trait Database: Backend {
    /// Connects, and makes anew what a bank needs: its accounts, and the barrier's table.
    fn open(url: &str) -> impl Future<Output = Result<Pool<Self>, sqlx::Error>> + Send;

    /// Adds an account.
    fn add(
        pool: &Pool<Self>,
        name: &str,
        balance: i64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Changes an account that has enough; how many there were.
    fn change(
        tx: &mut Self::Connection,
        name: &str,
        add: i64,
        freeze: i64,
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;

    /// Balance and frozen amount of an account.
    fn account(
        pool: &Pool<Self>,
        name: &str,
    ) -> impl Future<Output = Result<(i64, i64), sqlx::Error>> + Send;
}

macro_rules! database {
    ($db:ty, $insert:literal, $update:literal, $select:literal) => {
        impl Database for $db {
            async fn open(url: &str) -> Result<Pool<$db>, sqlx::Error> {
                let pool = Pool::<$db>::connect(url).await?;
                // What `amends barrier ddl --dialect …` prints.
                let mut setup = ddl::create(Self::DIALECT, &Self::DIALECT.default_table());
                setup.push("drop table if exists amends_bank".to_owned());
                setup.push(
                    "create table amends_bank(name varchar(32) primary key, balance bigint, frozen bigint)".to_owned(),
                );
                for statement in setup {
                    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&pool).await?;
                }
                Ok(pool)
            }

            async fn add(pool: &Pool<$db>, name: &str, balance: i64) -> Result<(), sqlx::Error> {
                let insert = sqlx::query($insert).bind(name).bind(balance);
                insert.execute(pool).await.map(|_| ())
            }

            async fn change(
                tx: &mut Self::Connection,
                name: &str,
                add: i64,
                freeze: i64,
            ) -> Result<u64, sqlx::Error> {
                let update = sqlx::query($update).bind(add).bind(freeze).bind(name).bind(add);
                Ok(update.execute(tx).await?.rows_affected())
            }

            async fn account(pool: &Pool<$db>, name: &str) -> Result<(i64, i64), sqlx::Error> {
                sqlx::query_as($select).bind(name).fetch_one(pool).await
            }
        }
    };
}

database!(
    Sqlite,
    "insert into amends_bank values(?, ?, 0)",
    "update amends_bank set balance = balance + ?, frozen = frozen + ? where name = ? and balance + ? >= 0",
    "select balance, frozen from amends_bank where name = ?"
);
database!(
    MySql,
    "insert into amends_bank values(?, ?, 0)",
    "update amends_bank set balance = balance + ?, frozen = frozen + ? where name = ? and balance + ? >= 0",
    "select balance, frozen from amends_bank where name = ?"
);
database!(
    Postgres,
    "insert into amends_bank values($1, $2, 0)",
    "update amends_bank set balance = balance + $1, frozen = frozen + $2 where name = $3 and balance + $4 >= 0",
    "select balance, frozen from amends_bank where name = $1"
);
