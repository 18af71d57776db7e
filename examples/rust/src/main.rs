//! See the library of this example.

use amends_example_bank::World;
use sqlx::{MySql, Postgres, Sqlite};
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let coordinator =
        std::env::var("AMENDS_SERVER").unwrap_or_else(|_| "http://127.0.0.1:36789".to_owned());
    let played =
        async {
            let folder = tempfile::tempdir()?;
            let file = folder.path().join("bank.db");
            let sqlite = format!("sqlite:{}?mode=rwc", file.display());
            let database = std::env::args().nth(1).unwrap_or(sqlite);
            match database.split(':').next() {
            Some("sqlite") => World::<Sqlite>::open(&coordinator, &database).await?.play().await,
            Some("mysql") => World::<MySql>::open(&coordinator, &database).await?.play().await,
            Some("postgres" | "postgresql") => {
                World::<Postgres>::open(&coordinator, &database).await?.play().await
            }
            _ => Err(format!(
                "{database:?} is no URL of a database: it begins with sqlite:, mysql: or postgres:"
            )
            .into()),
        }
        };
    match played.await {
        Ok(lines) => {
            for line in lines {
                println!("{line}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
