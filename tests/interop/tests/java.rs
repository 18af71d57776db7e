//! The Java tests in `java/`: DTM's Java client against the real binary.

use amends_interop::{Program, World, find};
use std::time::Duration;

#[tokio::test]
async fn the_java_client_works_unchanged() {
    for needed in ["java", "mvn"] {
        if find(needed).is_none() {
            println!("SKIPPED: {needed} is not installed here");
            return;
        }
    }
    let world = World::start().await;
    let build = concat!(
        "-Dinterop.build=",
        env!("CARGO_TARGET_TMPDIR"),
        "/interop-java"
    );
    Program::new("mvn")
        .args(&["--batch-mode", "--no-transfer-progress"])
        .args(&["-Dstyle.color=never", build, "test"])
        .dir(concat!(env!("CARGO_MANIFEST_DIR"), "/java"))
        .env(world.env())
        .deadline(Duration::from_secs(600))
        .run();
}
