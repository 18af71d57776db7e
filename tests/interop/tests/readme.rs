//! The Go program of the README, run as it stands there but for the ports.

use amends_interop::{Program, World, find};
use std::path::Path;

#[tokio::test]
async fn the_go_program_of_the_readme_runs() {
    let Some(go) = find("go") else {
        println!("SKIPPED: go is not installed here");
        return;
    };
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(here.join("../../README.md")).expect("the README");
    let (_, rest) = readme.split_once("```go\n").expect("a Go program");
    let (program, _) = rest.split_once("```").expect("its end");
    let world = World::start().await;
    let program = program
        .replace("127.0.0.1:36790", &world.server.grpc_addr().to_string())
        .replace(":8082", &format!(":{}", amends_scenarios::free_port()));
    let dir = tempfile::tempdir().expect("a folder");
    // The versions that the tests pin.
    for file in ["go.mod", "go.sum"] {
        std::fs::copy(here.join("go").join(file), dir.path().join(file)).expect(file);
    }
    std::fs::write(dir.path().join("main.go"), program).expect("written");
    Program::new(go)
        .args(&["run", "."])
        .dir(dir.path())
        .env([("GOTOOLCHAIN".to_owned(), "local".to_owned())])
        .run();
    let client = world.server.client();
    for (gid, status, rows) in [
        ("transfer-4", "succeed", "psps"),
        ("transfer-5", "failed", "sssf"),
    ] {
        let view = client.query(gid).await;
        assert_eq!(
            (view.status(), view.rows().as_str()),
            (status, rows),
            "{gid}"
        );
    }
}
