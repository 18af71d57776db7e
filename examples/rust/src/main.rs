//! See the library of this example.

use amends_example_bank::World;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let coordinator =
        std::env::var("AMENDS_SERVER").unwrap_or_else(|_| "http://127.0.0.1:36789".to_owned());
    let played = async {
        let folder = tempfile::tempdir()?;
        World::open(&coordinator, folder.path()).await?.play().await
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
