//! For tonic: [`identity`] reads whose branch a gRPC call is, [`CallInterceptor`] writes it on the calls that a client makes, and an [`Error`]
//! becomes a [`Status`] with `?`.
//!
//! ```
//! # use amends::{Error, ErrorKind, adapters::tonic::{CallInterceptor, answer}, participant::{BranchResult, Identity}};
//! # use std::collections::BTreeMap; use tonic::{Request, Response, Status};
//! # fn has_seats() -> bool { true }
//! # async fn reserve(_: Identity) -> BranchResult { Err(Error::new(ErrorKind::Ongoing, "no database here")) }
//! async fn seats(request: Request<()>) -> Result<Response<()>, Status> {
//!     let who = Identity::from_tonic(&request)?;
//!     if !has_seats() {
//!         // ABORTED: everything is undone.
//!         return Err(Error::new(ErrorKind::Failure, "no seats").into());
//!     }
//!     // Behind a barrier, which makes the proof that it is done.
//!     answer(reserve(who).await)
//! }
//!
//! // Calls through a client with this interceptor are calls of this branch: `BankClient::with_interceptor(channel, calls)`.
//! let who = Identity::new("tcc", "transfer-1", "01", "try")?;
//! let calls = CallInterceptor::new(&who, "127.0.0.1:36790", &BTreeMap::new())?;
//! # let _: Box<dyn tonic::service::Interceptor> = Box::new(calls);
//! # Ok::<(), Error>(())
//! ```
//!
//! A service with `InterceptedService::new(service, identity)` around it answers what is malformed by itself; a method then finds the
//! [`Identity`] in the extensions of its request. Values are sent and read as they are, without percent-encoding, as DTM does.

use crate::branch::{IDENTITY_METADATA, Protocol};
use crate::error::{Error, ErrorKind};
use crate::limits::{REASON_MAX, cut};
use crate::outcome::Purpose;
use crate::participant::{BranchResult, Identity};
use crate::wire::call::Target;
use crate::wire::grpc::{GrpcCall, check_metadata};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::collections::BTreeMap;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Code, Request, Response, Status};

impl Identity {
    /// From the metadata of a call. A key that is there twice is refused. Error: `Invalid`.
    pub fn from_tonic<T>(request: &Request<T>) -> Result<Identity, Error> {
        read(request.metadata())
    }
}

fn read(metadata: &MetadataMap) -> Result<Identity, Error> {
    let mut texts = [""; 4];
    for (key, text) in IDENTITY_METADATA.into_iter().zip(&mut texts) {
        let mut values = metadata.get_all(key).iter();
        if let Some(value) = values.next() {
            *text = value
                .to_str()
                .map_err(|_| Error::invalid(format!("{key} is not printable ASCII")))?;
        }
        if values.next().is_some() {
            return Err(Error::invalid(format!(
                "{key} is there twice: it names one branch"
            )));
        }
    }
    Identity::of(texts)
}

/// An interceptor of a service: puts the [`Identity`] of a branch call into the extensions of its request. A call without any of the
/// identity's metadata passes as it is; one that has some and is malformed is answered with INTERNAL and goes no further.
pub fn identity(mut request: Request<()>) -> Result<Request<()>, Status> {
    let metadata = request.metadata();
    if IDENTITY_METADATA
        .iter()
        .any(|key| metadata.contains_key(*key))
    {
        let who = Identity::from_tonic(&request)?;
        request.extensions_mut().insert(who);
    }
    Ok(request)
}

/// What a method of a branch returns. With another message than the empty one: `answer(done).map(|_| Response::new(reply))`.
pub fn answer(result: BranchResult) -> Result<Response<()>, Status> {
    let _done = result?;
    Ok(Response::new(()))
}

/// ABORTED for a definite no, FAILED_PRECONDITION for one to ask again, else INTERNAL (rules.md 8.5).
///
/// Some coordinators and clients look for the words `FAILURE` and `ONGOING` in the message. They stand there in small letters where the code
/// says something else. A message is cut to what a coordinator keeps of it: one that is too long for a trailer would be lost with its code.
impl From<Error> for Status {
    fn from(error: Error) -> Status {
        let code = Code::from(error.kind().branch_answer().grpc);
        let mut message = cut(error.message(), REASON_MAX);
        for (word, kind) in [
            ("FAILURE", ErrorKind::Failure),
            ("ONGOING", ErrorKind::Ongoing),
        ] {
            if code != Code::from(kind.branch_answer().grpc) {
                message = message.replace(word, &word.to_ascii_lowercase());
            }
        }
        Status::new(code, message)
    }
}

/// An interceptor of a client: makes its calls calls of one branch, with the transaction's headers beside its identity (dtm-clients.md 2.4).
#[derive(Clone, Debug)]
pub struct CallInterceptor {
    metadata: HeaderMap,
}

impl CallInterceptor {
    /// Calls of this branch. `dtm` is the coordinator, by which the called one registers branches of its own; empty if it has none to
    /// register. `headers` are the `branch_headers` of the transaction; values of keys with `-bin` are encoded, and keys that belong to the
    /// call itself are left out. Error: `Invalid` for what gRPC cannot carry, as for a gid that is not printable ASCII.
    pub fn new(
        who: &Identity,
        dtm: &str,
        headers: &BTreeMap<String, String>,
    ) -> Result<CallInterceptor, Error> {
        let sent = [
            ("gid", who.gid.as_str()),
            ("branch_id", &who.branch_id),
            ("op", who.op.as_str()),
            ("dtm", dtm),
        ];
        check_metadata(sent, headers)?;
        let target = Target {
            gid: &who.gid,
            trans_type: who.trans_type,
            protocol: Protocol::Grpc,
            branch_id: &who.branch_id,
            op: &who.op,
            url: "",
            purpose: Purpose::Branch,
        };
        let call = GrpcCall::new(&target, &Bytes::new(), headers, 0);
        let mut metadata = HeaderMap::new();
        for (key, value) in &call.metadata {
            let value = if key == "dtm-dtm" { dtm } else { value };
            let cannot =
                |e: String| Error::invalid(format!("the metadata {key:?} cannot be sent: {e}"));
            let name = HeaderName::from_bytes(key.as_bytes()).map_err(|e| cannot(e.to_string()))?;
            let value = HeaderValue::from_str(value).map_err(|e| cannot(e.to_string()))?;
            metadata.insert(name, value);
        }
        Ok(CallInterceptor { metadata })
    }
}

impl Interceptor for CallInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata: &mut HeaderMap = request.metadata_mut().as_mut();
        for (key, value) in &self.metadata {
            metadata.insert(key, value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frozen table decides the code, and no text contradicts it.
    #[test]
    fn a_message_never_says_what_its_code_does_not() {
        for kind in ErrorKind::ALL {
            let status = Status::from(Error::new(*kind, "ONGOING"));
            assert_eq!(i32::from(status.code()), kind.branch_answer().grpc);
            let ongoing = status.code() == Code::FailedPrecondition;
            assert_eq!(status.message() == "ONGOING", ongoing, "{kind:?}");
            let status = Status::from(Error::new(*kind, "a FAILURE of AUTH_FAILURE"));
            let failed = status.message().contains("FAILURE");
            assert_eq!(failed, *kind == ErrorKind::Failure, "{kind:?}");
        }
        let long = Status::from(Error::new(ErrorKind::Failure, "ü".repeat(100_000)));
        assert!(long.message().len() <= REASON_MAX && long.message().ends_with('…'));
    }

    #[test]
    fn what_grpc_cannot_carry_is_refused() {
        let who = |gid: &str| Identity::new("saga", gid, "01", "action").expect("an identity");
        let headers = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let none = BTreeMap::new();
        assert!(CallInterceptor::new(&who("g"), "", &none).is_ok());
        for refused in [
            CallInterceptor::new(&who("gü"), "", &none),
            CallInterceptor::new(&who("g"), "hü:1", &none),
            CallInterceptor::new(&who("g"), "", &headers("x y", "1")),
            CallInterceptor::new(&who("g"), "", &headers("", "1")),
            CallInterceptor::new(&who("g"), "", &headers("x", "ü")),
        ] {
            assert_eq!(refused.expect_err("refused").kind(), ErrorKind::Invalid);
        }
        let binary = CallInterceptor::new(&who("g"), "", &headers("X-Bin", "ü")).expect("encoded");
        assert_eq!(binary.metadata["x-bin"], "w7w");
    }
}
