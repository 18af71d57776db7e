//! The branches of XA that a database holds prepared.

use sqlx::{MySql, Pool, Postgres, Row};

/// A database with XA.
pub trait WithXa: sqlx::Database {
    /// The names of the branches that are prepared.
    ///
    /// # Panics
    ///
    /// When it cannot be asked.
    fn prepared(pool: &Pool<Self>) -> impl Future<Output = Vec<String>> + Send;
}

macro_rules! with_xa {
    ($db:ty, $sql:literal, $column:literal) => {
        impl WithXa for $db {
            async fn prepared(pool: &Pool<$db>) -> Vec<String> {
                let rows = sqlx::raw_sql($sql).fetch_all(pool).await;
                let rows = rows.expect("a list of what is prepared");
                let name = rows.iter().map(|row| row.try_get_unchecked($column));
                name.map(|name| name.expect("a name")).collect()
            }
        }
    };
}

with_xa!(MySql, "xa recover", "data");
with_xa!(Postgres, "select gid from pg_prepared_xacts", "gid");

/// The same of the database at this URL, with a connection of its own.
pub(crate) async fn prepared_at<DB: WithXa>(url: &str) -> Vec<String> {
    let pool = Pool::<DB>::connect(url).await.expect("a database");
    let names = DB::prepared(&pool).await;
    pool.close().await;
    names
}
