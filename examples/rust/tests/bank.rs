//! The example against the real coordinator. Build the binary first (`cargo build -p amends-server`).

use amends_example_bank::World;
use amends_scenarios::Server;

#[tokio::test(flavor = "multi_thread")]
async fn the_books_add_up() {
    let server = Server::start(&[]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("http://{}", server.addr());
    let world = World::open(&url, folder.path()).await.expect("it opens");
    let lines = world.play().await.expect("the books add up");
    assert_eq!(lines.len(), 7);
    assert_eq!(lines[0], "a saga of 30: went through");
    assert!(lines[1].contains("Failure") && lines[1].contains("bobby has no 30 here"));
    assert_eq!(lines[6], "alice (40, 0), bob (60, 0)");
}
