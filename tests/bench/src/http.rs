//! The leanest HTTP there is: hyper's connections without a framework around them.

use crate::error::BenchError;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Calls at a time on one HTTP/2 connection, as many as the coordinator itself takes.
const STREAMS_MAX: u32 = 4_096;

/// The answer of DTM's protocol that says yes.
pub(crate) const SUCCESS: &[u8] = br#"{"dtm_result":"SUCCESS"}"#;

/// A coordinator's address: `http://host:port`, with or without the API's prefix.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    authority: String,
    host: HeaderValue,
    grpc: Option<String>,
}

impl Target {
    /// Reads `http://host:port`; a path after it is dropped, for every DTM-compatible server has the same ones.
    pub(crate) fn parse(url: &str) -> Result<Target, BenchError> {
        let wrong = || {
            BenchError::Setup(format!(
                "`{url}` is no address of a coordinator: write http://host:port"
            ))
        };
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let authority = rest.split('/').next().unwrap_or_default();
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Target {
            authority: authority.to_owned(),
            host: HeaderValue::from_str(authority).map_err(|_| wrong())?,
            grpc: None,
        })
    }

    /// The same coordinator, whose gRPC API is at `authority` (`host:port`).
    pub(crate) fn with_grpc(self, authority: impl Into<String>) -> Target {
        Target {
            grpc: Some(authority.into()),
            ..self
        }
    }

    /// `host:port` of its gRPC API.
    pub(crate) fn grpc(&self) -> Result<&str, BenchError> {
        let missing =
            || BenchError::Setup("no gRPC address of the coordinator is known".to_owned());
        self.grpc.as_deref().ok_or_else(missing)
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// A POST of JSON to `uri`, which holds a path only.
    pub(crate) fn post(&self, uri: Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = self.request(Method::POST, uri, body);
        request
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request
    }

    fn request(&self, method: Method, uri: Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(HOST, self.host.clone());
        request
    }

    /// One GET on a connection of its own, within `limit`.
    pub(crate) async fn get(
        &self,
        path: &str,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), BenchError> {
        let uri: Uri = path
            .parse()
            .map_err(|_| BenchError::Setup(format!("`{path}` is no path")))?;
        let exchange = async {
            let mut connection = Connection::open(&self.authority).await?;
            connection
                .send(self.request(Method::GET, uri, Bytes::new()))
                .await
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(BenchError::Late(format!(
                "no answer from http://{}{path} within {limit:?}",
                self.authority
            ))),
        }
    }
}

/// A kept-alive client connection: one request at a time.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects to `host:port`.
    pub(crate) async fn open(authority: &str) -> Result<Connection, BenchError> {
        let what = || format!("connecting to http://{authority}");
        let stream = connect(authority).await.map_err(BenchError::io(what()))?;
        // As the coordinator does it, or the null coordinator would be no floor.
        let (sender, connection) = hyper::client::conn::http1::Builder::new()
            .writev(false)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(BenchError::http(what()))?;
        tokio::spawn(async move {
            // How a connection ended is told by the request that was on it.
            let _ = connection.await;
        });
        Ok(Connection { sender })
    }

    /// Whether the peer closed it while it was idle.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends one request and reads the whole answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), BenchError> {
        let broken = || BenchError::http("the HTTP exchange broke");
        self.sender.ready().await.map_err(broken())?;
        let answer = self.sender.send_request(request).await.map_err(broken())?;
        let status = answer.status();
        let body = answer
            .into_body()
            .collect()
            .await
            .map_err(broken())?
            .to_bytes();
        Ok((status, body))
    }
}

/// A connection to `host:port` on which small writes do not wait for each other.
pub(crate) async fn connect(authority: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A listener on loopback; port 0 takes a free one.
pub(crate) async fn listen(port: u16) -> Result<TcpListener, BenchError> {
    TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(BenchError::io(format!("listening on 127.0.0.1:{port}")))
}

/// Serves `handler` on `listener` until the task is dropped, over HTTP/1.1 or HTTP/2, whichever a client speaks.
pub(crate) async fn serve<H, F, B>(listener: TcpListener, handler: H) -> Result<(), BenchError>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().writev(false);
    builder.http2().max_concurrent_streams(STREAMS_MAX);
    let what = || "accepting a connection";
    loop {
        let (stream, _) = listener.accept().await.map_err(BenchError::io(what()))?;
        stream.set_nodelay(true).map_err(BenchError::io(what()))?;
        let (builder, handler) = (builder.clone(), handler.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            // A peer that went away is its own affair.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// An answer of JSON.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_with_or_without_the_prefix() {
        for url in [
            "http://127.0.0.1:36789",
            "http://127.0.0.1:36789/",
            "http://127.0.0.1:36789/api/dtmsvr",
        ] {
            assert_eq!(
                Target::parse(url).unwrap().authority(),
                "127.0.0.1:36789",
                "{url}"
            );
        }
        for url in [
            "127.0.0.1:36789",
            "https://h:1",
            "http://h",
            "http://:1",
            "http://h:x",
        ] {
            let text = Target::parse(url).unwrap_err().to_string();
            assert!(text.contains("http://host:port"), "{text}");
        }
    }
}
