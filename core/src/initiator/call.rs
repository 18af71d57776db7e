//! The calls that an initiator makes to branches itself, over HTTP or gRPC as their URLs say (dtm-server.md 7.1).

use super::server::Server;
use crate::branch::Protocol;
use crate::error::{Error, ErrorKind};
use crate::limits::Limits;
use crate::machine::{Fact, Request};
use crate::options::{Compat, Options, Policy};
use crate::outcome::{Outcome, Purpose, classify_http};
use crate::wire::call::{Via, via};
use crate::wire::grpc::{Code, check_metadata, classify_grpc, metadata_of};
use crate::wire::http::of_the_connection;
use crate::wire::url::add_query;
use bytes::Bytes;

/// `host:port/…` is a gRPC target where the coordinator is spoken to over gRPC.
fn protocol(server: &Server) -> Protocol {
    if server.is_grpc() {
        Protocol::Grpc
    } else {
        Protocol::Http
    }
}

/// Whether a URL is called over gRPC.
pub(super) fn is_grpc(server: &Server, url: &str) -> bool {
    via(protocol(server), url, usize::MAX) == Ok(Via::Grpc)
}

/// Refuses a URL that cannot be called with this identity. Error: `Invalid`, which names the URL by `what`.
pub(super) fn check_url(
    server: &Server,
    what: &str,
    url: &str,
    gid: &str,
    options: &Options,
) -> Result<(), Error> {
    let named = |e: Error| Error::invalid(format!("{what}: {e}"));
    if via(protocol(server), url, Limits::default().url).map_err(named)? == Via::Grpc {
        check_metadata([("gid", gid)], &options.branch_headers)?;
    }
    Ok(())
}

/// A call of a branch, with its identity in the query or the metadata, and the transaction's headers (dtm-clients.md 2.4).
pub(super) fn branch_call(
    server: &Server,
    url: &str,
    identity: &[(&str, &str)],
    options: &Options,
    payload: &[u8],
) -> Request {
    let body = Bytes::copy_from_slice(payload);
    let timeout = Policy::default().call_timeout(options);
    if is_grpc(server, url) {
        let own = identity.iter();
        let own = own.map(|(key, value)| (format!("dtm-{key}"), (*value).to_owned()));
        return Request {
            method: "GRPC",
            url: url.to_owned(),
            headers: own.chain(metadata_of(&options.branch_headers)).collect(),
            body,
            timeout,
        };
    }
    let mut url = url.to_owned();
    add_query(&mut url, identity.iter().copied());
    let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    let of_tx = options.branch_headers.iter();
    for (key, value) in of_tx {
        let key = key.to_ascii_lowercase();
        if of_the_connection(&key) {
            continue;
        }
        headers.retain(|(known, _)| *known != key);
        headers.push((key, value.clone()));
    }
    Request {
        method: "POST",
        url,
        headers,
        body,
        timeout,
    }
}

/// The reason in a refusal: its `message`, if it is JSON that has one.
fn said(text: String) -> String {
    #[derive(serde::Deserialize)]
    struct Refusal {
        message: String,
    }
    serde_json::from_str(&text).map_or(text, |refusal: Refusal| refusal.message)
}

/// What the user's code ended with; `None` if the fact does not fit.
pub(super) fn ran(fact: Fact) -> Option<Result<Bytes, Error>> {
    match fact {
        Fact::UserOk(value) => Some(Ok(value)),
        Fact::UserFailed { kind, message } => Some(Err(Error::new(kind, message))),
        Fact::Cancelled => Some(Err(cancelled())),
        _ => None,
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::OutcomeUnknown, "cancelled")
}

/// What came of a call of a branch; `None` if the fact does not fit.
pub(super) fn called(grpc: bool, fact: Fact) -> Option<Result<Bytes, Error>> {
    let unknown = |text| Err(Error::new(ErrorKind::OutcomeUnknown, text));
    Some(match fact {
        Fact::Answer {
            status,
            body,
            message,
        } => {
            let outcome = if grpc {
                classify_grpc(Code(status.into()), &message)
            } else {
                classify_http(Purpose::Branch, status, &body, &Compat::default())
            };
            match outcome {
                Outcome::Success => Ok(body),
                Outcome::Failure(text) if text.is_empty() => {
                    Err(Error::new(ErrorKind::Failure, "refused, without a reason"))
                }
                Outcome::Failure(text) => Err(Error::new(ErrorKind::Failure, said(text))),
                Outcome::Ongoing => Err(Error::new(ErrorKind::Ongoing, "not done yet")),
                Outcome::Error(text) => unknown(text),
            }
        }
        Fact::NoAnswer { message, .. } => unknown(message),
        Fact::Cancelled => Err(cancelled()),
        _ => return None,
    })
}
