//! For axum: [`Identity`] is an extractor, and a handler may return a [`BranchResult`](crate::participant::answer::BranchResult).
//!
//! ```
//! # use amends::{Error, ErrorKind, participant::{BranchResult, Identity}};
//! # fn has_seats() -> bool { true }
//! # async fn reserve(_: Identity) -> BranchResult { Err(Error::new(ErrorKind::Ongoing, "no database here")) }
//! async fn seats(who: Identity) -> BranchResult {
//!     if !has_seats() {
//!         // 409: everything is undone.
//!         return Err(Error::new(ErrorKind::Failure, "no seats"));
//!     }
//!     // Behind a barrier, which makes the proof that it is done; `docs/barriers.md` has the whole handler.
//!     reserve(who).await
//! }
//! ```

use crate::error::Error;
use crate::participant::Identity;
use crate::participant::answer::{Answer, Done, answer};
use axum_core::body::Body;
use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use http::request::Parts;

impl<S: Send + Sync> FromRequestParts<S> for Identity {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Identity, Error> {
        Identity::from_query(parts.uri.query().unwrap_or_default())
    }
}

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        answer(&Ok(self)).into_response()
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        answer(&Err(self)).into_response()
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        http::Response::<Vec<u8>>::from(self).map(Body::from)
    }
}
