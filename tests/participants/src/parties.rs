//! Initiators and participants as the tests need them again and again.

use amends::client::Client;
use amends::{Error, Options};
use amends_scenarios::{Response, World};

/// A client of the coordinator over HTTP.
///
/// # Panics
///
/// Never: it is an address.
pub fn client(w: &World) -> Client {
    Client::new(&format!("http://{}", w.server.addr())).expect("a client")
}

/// A submit is answered with the result.
pub fn waiting() -> Options {
    Options {
        wait_result: true,
        ..Options::default()
    }
}

/// What a participant answers, by its status.
pub fn answered<T>(done: Result<T, Error>) -> Option<Response> {
    Some(Response {
        status: done.err().map_or(200, |e| e.kind().branch_answer().http),
        headers: Vec::new(),
        body: String::new(),
    })
}
