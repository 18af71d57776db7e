//! The subject of the catalogue in Rust (tests/scenarios/catalogue/README.md): a participant and an initiator that do what they are asked to.

mod initiator;
mod participant;

use amends::client::{Client, Workflows};
use amends::machine::{Calls, Fact, Request};
use amends_participants::Books;
use axum::Router;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use sqlx::{MySql, Postgres};
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;

/// What a branch is asked to do.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Task {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) refuse: String,
    #[serde(default)]
    pub(crate) children: Vec<Address>,
}

/// A branch, to call it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) url: String,
    pub(crate) payload: String,
    #[serde(default)]
    pub(crate) local: bool,
    #[serde(default)]
    pub(crate) confirm: bool,
}

/// Whatever a handler needs.
pub(crate) struct Subject<DB: Books> {
    pub(crate) client: Client,
    pub(crate) calls: Arc<DiesAtSubmit>,
    pub(crate) workflows: Workflows,
    pub(crate) pool: sqlx::Pool<DB>,
}

/// The client, unless it is to die instead of a submit.
#[derive(Debug)]
pub(crate) struct DiesAtSubmit {
    client: Client,
    pub(crate) dies: AtomicBool,
}

impl Calls for DiesAtSubmit {
    fn call(&self, request: Request) -> Pin<Box<dyn Future<Output = Fact> + Send + '_>> {
        if request.url.ends_with("/submit") && self.dies.load(Ordering::SeqCst) {
            die();
        }
        self.client.call(request)
    }
}

/// As kill -9 would.
pub(crate) fn die() -> ! {
    std::process::abort()
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

async fn serve<DB: Books>() {
    let client = Client::new(&env("AMENDS_SERVER")).expect("a client");
    let port = env("AMENDS_PORT");
    let calls = Arc::new(DiesAtSubmit {
        client: client.clone(),
        dies: AtomicBool::new(false),
    });
    let callback = format!("http://127.0.0.1:{port}/workflow");
    let workflows = Workflows::with(
        client.server(),
        calls.clone(),
        &callback,
        initiator::options(false),
    );
    let subject = Arc::new(Subject {
        pool: DB::connect(&env("AMENDS_DATABASE")).await,
        client,
        calls,
        workflows,
    });
    initiator::register(&subject);
    let routes = Router::new()
        .route("/branch", post(participant::branch::<DB>))
        .route("/asked", get(participant::asked::<DB>))
        .route("/workflow", post(initiator::again::<DB>))
        .route("/run", post(initiator::run::<DB>))
        .with_state(subject);
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .expect("the port is free");
    println!("ready");
    axum::serve(listener, routes).await.expect("it serves");
}

#[tokio::main]
async fn main() {
    // Whoever started it is gone when its input ends.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    match env("AMENDS_DATABASE").split(':').next() {
        Some("mysql") => serve::<MySql>().await,
        _ => serve::<Postgres>().await,
    }
}
