//! A book: lines of transactions, in MySQL or PostgreSQL.

use amends::Error;
use amends::adapters::sqlx::Backend;
use amends::participant::ddl;
use amends_interop::WithXa;
use sqlx::{AssertSqlSafe, MySql, Pool, Postgres};

/// A database that keeps a book.
pub trait Books: Backend + WithXa {
    /// Connects to a database by its URL.
    ///
    /// # Panics
    ///
    /// When that fails.
    fn connect(url: &str) -> impl Future<Output = Pool<Self>> + Send;

    /// Makes the book and the barrier's table.
    ///
    /// # Panics
    ///
    /// When that fails.
    fn create(pool: &Pool<Self>) -> impl Future<Output = ()> + Send;

    /// Writes a line.
    ///
    /// # Errors
    ///
    /// Those of the database.
    fn write(
        conn: &mut Self::Connection,
        gid: &str,
        line: &str,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// The lines of a transaction.
    ///
    /// # Panics
    ///
    /// When they cannot be read.
    fn lines(pool: &Pool<Self>, gid: &str) -> impl Future<Output = Vec<String>> + Send;
}

macro_rules! books {
    ($db:ty, $insert:literal, $select:literal) => {
        impl Books for $db {
            async fn connect(url: &str) -> Pool<$db> {
                Pool::connect(url).await.expect("a database")
            }

            async fn create(pool: &Pool<$db>) {
                let mut all = ddl::create(Self::DIALECT, &Self::DIALECT.default_table());
                all.push(
                    "create table book(gid varchar(128) not null, line varchar(128) not null)"
                        .to_owned(),
                );
                for sql in all {
                    let made = sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await;
                    made.expect("a table");
                }
            }

            async fn write(
                conn: &mut Self::Connection,
                gid: &str,
                line: &str,
            ) -> Result<(), Error> {
                let insert = sqlx::query($insert).bind(gid).bind(line);
                insert.execute(conn).await?;
                Ok(())
            }

            async fn lines(pool: &Pool<$db>, gid: &str) -> Vec<String> {
                let select = sqlx::query_scalar($select).bind(gid);
                select.fetch_all(pool).await.expect("the lines")
            }
        }
    };
}

books!(
    MySql,
    "insert into book(gid, line) values(?, ?)",
    "select line from book where gid = ?"
);
books!(
    Postgres,
    "insert into book(gid, line) values($1, $2)",
    "select line from book where gid = $1"
);
