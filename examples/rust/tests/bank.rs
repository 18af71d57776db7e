//! The example against the real coordinator, on each database. Build the binary first (`cargo build -p amends-server`).

use amends_example_bank::World;
use amends_example_bank::database::Database;
use amends_interop::Databases;
use amends_scenarios::Server;
use sqlx::{MySql, Postgres, Sqlite};

async fn the_books_add_up<DB: Database>(database: &str) {
    let server = Server::start(&[]).await;
    let url = format!("http://{}", server.addr());
    let world = World::<DB>::open(&url, database).await.expect("it opens");
    let lines = world.play().await.expect("the books add up");
    assert_eq!(lines.len(), 9);
    assert_eq!(lines[0], "a saga of 30: went through");
    assert!(lines[1].contains("Failure") && lines[1].contains("bobby has no 30 here"));
    assert!(lines[7].contains("Failure") && lines[7].contains("alice has no 4000 here"));
    assert_eq!(lines[8], "alice (35, 0), bob (65, 0)");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bank.db");
    the_books_add_up::<Sqlite>(&format!("sqlite:{}?mode=rwc", file.display())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_mariadb_and_postgresql() {
    let databases = Databases::start();
    the_books_add_up::<MySql>(&databases.mariadb().url("mysql")).await;
    the_books_add_up::<Postgres>(&databases.postgres().url("postgres")).await;
}
