//! The Go programs in `go/`: DTM's Go client against the real binary.

use amends_interop::{Program, World, find};
use std::time::Duration;

#[tokio::test]
async fn the_go_client_works_unchanged() {
    let Some(go) = find("go") else {
        println!("SKIPPED: go is not installed here");
        return;
    };
    let world = World::start().await;
    // For one test: `INTEROP_GO="-run=Saga"`.
    let more = std::env::var("INTEROP_GO").unwrap_or_default();
    let more: Vec<&str> = more.split_whitespace().collect();
    Program::new(go)
        .args(&["test", "-count=1", "-parallel=8", "-v"])
        .args(&more)
        .args(&["./..."])
        .dir(concat!(env!("CARGO_MANIFEST_DIR"), "/go"))
        .env(world.env())
        .deadline(Duration::from_secs(600))
        .run();
}
