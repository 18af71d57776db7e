//! For tower: [`IdentityLayer`] reads whose branch an HTTP request is, [`CallLayer`] writes it on the requests that a client sends.
//! They fit around whatever speaks the types of crate `http`: axum's routers, hyper's services and clients, tonic's.
//!
//! ```
//! # use amends::{Error, adapters::tower::{CallLayer, IdentityLayer}, participant::Identity};
//! # use bytes::Bytes; use http::{Request, Response}; use http_body_util::Full; use std::collections::BTreeMap;
//! # use std::convert::Infallible;
//! # fn client() -> impl tower::Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send> {
//! #     tower::service_fn(async |_| Ok(Response::default()))
//! # }
//! async fn withdraw(request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, Infallible> {
//!     // Only a branch call has one.
//!     let who = request.extensions().get::<Identity>();
//!     # let _ = who;
//!     # Ok(Response::default())
//! }
//! let service = tower::ServiceBuilder::new().layer(IdentityLayer).service_fn(withdraw);
//!
//! // Requests through `bank` are calls of this branch.
//! let who = Identity::new("tcc", "transfer-1", "01", "try")?;
//! let headers = BTreeMap::from([("x-tenant".to_owned(), "blue".to_owned())]);
//! let calls = CallLayer::new(&who, "http://127.0.0.1:36789/api/dtmsvr", &headers)?;
//! let bank = tower::ServiceBuilder::new().layer(calls).service(client());
//! # let _: (Box<dyn std::any::Any>, _) = (Box::new(service), bank);
//! # Ok::<(), Error>(())
//! ```
//!
//! With axum, `Router::new().layer(IdentityLayer)` is the same, and a handler takes `Option<Extension<Identity>>`. A handler that is for branch
//! calls only takes the [`Identity`] itself, by feature `axum`, and needs no layer.

use crate::branch::{self, IDENTITY};
use crate::error::Error;
use crate::participant::Identity;
use crate::participant::answer::answer;
use crate::wire::http::of_the_connection;
use crate::wire::url::{add_query, unescape};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{Either, Full};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_layer::Layer;
use tower_service::Service;

/// A boxed error, as tower's own layers have it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The names of a query's parameters, decoded.
fn names(query: &str) -> Vec<String> {
    let names = query.split('&').map(|pair| pair.split('=').next());
    names.flatten().map(unescape).collect()
}

/// Puts the [`Identity`] of a branch call into the extensions of its request.
///
/// A request whose query names at least two of `gid`, `trans_type`, `branch_id` and `op` is taken for a branch call. If it is malformed, it is
/// answered with 500 and goes no further. Every other request passes as it is and has no identity, also when it has one parameter of such a
/// name: that may be anybody's.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdentityLayer;

impl<S> Layer<S> for IdentityLayer {
    type Service = IdentityService<S>;

    fn layer(&self, inner: S) -> IdentityService<S> {
        IdentityService { inner }
    }
}

/// A service within an [`IdentityLayer`].
#[derive(Clone, Copy, Debug)]
pub struct IdentityService<S> {
    inner: S,
}

impl<S, Q, B> Service<Request<Q>> for IdentityService<S>
where
    S: Service<Request<Q>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<Either<B, Full<Bytes>>>;
    type Error = S::Error;
    type Future = BoxFuture<Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let names = names(query);
        let known = IDENTITY
            .iter()
            .filter(|key| names.iter().any(|n| n == *key));
        if known.count() > 1 {
            match Identity::from_query(query) {
                Ok(who) => {
                    request.extensions_mut().insert(who);
                }
                Err(error) => {
                    let answer = Response::<Vec<u8>>::from(answer(&Err(error)));
                    let answer = answer.map(|body| Full::new(Bytes::from(body)));
                    return Box::pin(async move { Ok(answer.map(Either::Right)) });
                }
            }
        }
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(Either::Left)) })
    }
}

/// Makes the requests of a client calls of one branch: its identity goes into the query, the transaction's headers beside it
/// (dtm-clients.md 2.4).
///
/// A request that cannot carry it is not sent: its error is an [`Error`] of kind `Invalid`, boxed.
#[derive(Clone, Debug)]
pub struct CallLayer {
    marks: Arc<Marks>,
}

#[derive(Debug)]
struct Marks {
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
}

impl CallLayer {
    /// Calls of this branch. `dtm` is the base URL of the coordinator, by which the called one registers branches of its own; empty if it has
    /// none to register. `headers` are the `branch_headers` of the transaction; they replace headers of the request, but those that belong to
    /// its connection (`host`, `content-length`, …) are left out. Error: `Invalid` for a header that cannot be sent.
    pub fn new(
        who: &Identity,
        dtm: &str,
        headers: &BTreeMap<String, String>,
    ) -> Result<CallLayer, Error> {
        let (gid, op) = (who.gid.as_str(), who.op.as_str());
        let mut named = branch::identity(gid, who.trans_type, &who.branch_id, op);
        named.sort_unstable();
        let dtm = Some(("dtm", dtm)).filter(|(_, url)| !url.is_empty());
        let query = named.into_iter().chain(dtm);
        let query = query.map(|(key, value)| (key, value.to_owned()));
        let query = query.collect();
        let mut sent = HeaderMap::new();
        for (name, value) in headers {
            let bad = |why: String| {
                Error::invalid(format!("the branch header {name:?} cannot be sent: {why}"))
            };
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| bad(e.to_string()))?;
            let value = HeaderValue::from_str(value).map_err(|e| bad(e.to_string()))?;
            if !of_the_connection(name.as_str()) {
                sent.insert(name, value);
            }
        }
        Ok(CallLayer {
            marks: Arc::new(Marks {
                query,
                headers: sent,
            }),
        })
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> CallService<S> {
        CallService {
            inner,
            marks: self.marks.clone(),
        }
    }
}

impl Marks {
    fn uri(&self, uri: &Uri) -> Result<Uri, Error> {
        let Some(before) = uri.path_and_query() else {
            return Err(Error::invalid(format!(
                "{uri} has no path: it is no URL of a branch"
            )));
        };
        let names = names(before.query().unwrap_or_default());
        if let Some((key, _)) = self
            .query
            .iter()
            .find(|(key, _)| names.iter().any(|n| n == key))
        {
            return Err(Error::invalid(format!(
                "the URL of a branch must not have a parameter {key:?} of its own: it says whose branch is called"
            )));
        }
        let mut after = before.as_str().to_owned();
        let query = self.query.iter().map(|(key, value)| (*key, value.as_str()));
        add_query(&mut after, query);
        let cannot =
            |e: String| Error::invalid(format!("the URL of the branch cannot be sent: {e}"));
        let mut parts = uri.clone().into_parts();
        let after = PathAndQuery::try_from(after).map_err(|e| cannot(e.to_string()))?;
        parts.path_and_query = Some(after);
        Uri::from_parts(parts).map_err(|e| cannot(e.to_string()))
    }
}

/// A client within a [`CallLayer`].
#[derive(Clone, Debug)]
pub struct CallService<S> {
    inner: S,
    marks: Arc<Marks>,
}

impl<S, Q> Service<Request<Q>> for CallService<S>
where
    S: Service<Request<Q>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        match self.marks.uri(request.uri()) {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return Box::pin(async move { Err(error.into()) }),
        }
        for (name, value) in &self.marks.headers {
            request.headers_mut().insert(name, value.clone());
        }
        let answer = self.inner.call(request);
        Box::pin(async move { answer.await.map_err(Into::into) })
    }
}
