//! For axum: [`Identity`] is an extractor, and a handler may return a [`BranchResult`](crate::participant::answer::BranchResult).
//!
//! ```ignore
//! async fn withdraw(who: Identity, State(pool): State<SqlitePool>) -> BranchResult {
//!     match Branch::new(who).begin(&pool).await? {
//!         Begun::Skip(why) => Ok(why.into()),
//!         Begun::Run(mut tx) => { /* the change */ Ok(tx.commit().await?.into()) }
//!     }
//! }
//! ```

use crate::error::Error;
use crate::participant::Identity;
use crate::participant::answer::{Answer, Done, answer};
use axum_core::body::Body;
use axum_core::extract::FromRequestParts;
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;

impl<S: Send + Sync> FromRequestParts<S> for Identity {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Identity, Error> {
        Identity::from_query(parts.uri.query().unwrap_or_default())
    }
}

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        respond(answer(&Ok(self)))
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        respond(answer(&Err(self)))
    }
}

fn respond(answer: Answer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    response
}
