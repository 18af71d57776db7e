//! Connections to branches: TCP, with TLS where it is asked for; and how their failures are told.

use super::Reply;
use super::pool::Io;
use amends::Outcome;
use futures_util::future::{Ready, ready};
use http::Uri;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::OnceCell;
use tower::Service;

/// Why there is no answer.
pub(super) struct Failed {
    pub(super) text: String,
    pub(super) unreachable: bool,
}

impl From<Failed> for Reply {
    fn from(failed: Failed) -> Reply {
        Reply {
            outcome: Outcome::Error(failed.text),
            unreachable: failed.unreachable,
        }
    }
}

/// Where to connect to.
pub(super) struct Place<'a> {
    pub(super) tls: bool,
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// Host and port as the URL has them.
    pub(super) authority: &'a str,
    /// How texts name it.
    pub(super) shown: &'a str,
}

/// Opens connections. The system's root certificates are read at the first one with TLS.
#[derive(Default)]
pub(super) struct Connector {
    /// Protocols offered within TLS.
    alpn: &'static [&'static [u8]],
    tls: OnceCell<Arc<ClientConfig>>,
}

impl Connector {
    /// One whose TLS offers HTTP/2 only.
    pub(super) fn http2() -> Connector {
        Connector {
            alpn: &[b"h2"],
            tls: OnceCell::new(),
        }
    }

    pub(super) async fn connect(&self, place: &Place<'_>) -> Result<Io, Failed> {
        let shown = place.shown;
        let fail = |text: String| Failed {
            text,
            unreachable: true,
        };
        let addresses = lookup_host((place.host, place.port))
            .await
            .map_err(|e| fail(format!("the host of {shown} cannot be resolved: {e}")))?;
        let mut outcome = Err(fail(format!("the host of {shown} has no address")));
        for address in addresses {
            outcome = TcpStream::connect(address)
                .await
                .map_err(|e| match e.kind() {
                    io::ErrorKind::ConnectionRefused => {
                        fail(format!("connection refused by {shown}"))
                    }
                    _ => fail(format!("no connection to {shown}: {e}")),
                });
            if outcome.is_ok() {
                break;
            }
        }
        let tcp = outcome?;
        // Calls are small and wait for their answer: nothing is gained by gathering.
        tcp.set_nodelay(true)
            .map_err(|e| fail(format!("no connection to {shown}: {e}")))?;
        let tcp = TokioIo::new(tcp);
        if !place.tls {
            return Ok(Io::Http(tcp));
        }
        self.encrypt(place.authority, tcp)
            .await
            .map_err(|e| fail(format!("no TLS with {shown}: {e}")))
    }

    async fn encrypt(
        &self,
        authority: &str,
        tcp: TokioIo<TcpStream>,
    ) -> Result<Io, tower::BoxError> {
        let config = self.tls.get_or_try_init(|| load_tls(self.alpn)).await?;
        let uri: Uri = format!("https://{authority}/").parse()?;
        HttpsConnector::from((Connected(Some(tcp)), config.clone()))
            .call(uri)
            .await
    }
}

/// Reading the system's certificates takes tens of milliseconds of disk and CPU, so it happens off the runtime's threads.
async fn load_tls(alpn: &'static [&'static [u8]]) -> io::Result<Arc<ClientConfig>> {
    let load = move || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let mut config = builder.with_native_roots()?.with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    };
    tokio::task::spawn_blocking(load)
        .await
        .map_err(io::Error::other)?
}

/// Hands a connected socket to the TLS connector, which wants to connect itself.
struct Connected(Option<TokioIo<TcpStream>>);

impl Service<Uri> for Connected {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<TcpStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(
            self.0
                .take()
                .ok_or_else(|| io::ErrorKind::NotConnected.into()),
        )
    }
}

/// Why a call broke off.
pub(super) enum Cause {
    /// The other side closed the connection.
    Ended,
    /// The other side tore it down.
    Reset,
    /// It does not speak HTTP; why not.
    Invalid(String),
    /// Anything else, told.
    Other(String),
}

impl From<&io::Error> for Cause {
    fn from(error: &io::Error) -> Cause {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Cause::Reset,
            io::ErrorKind::UnexpectedEof => Cause::Ended,
            _ => Cause::Other(error.to_string()),
        }
    }
}

impl From<&hyper::Error> for Cause {
    fn from(error: &hyper::Error) -> Cause {
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            return Cause::Ended;
        }
        match cause.downcast_ref::<io::Error>() {
            Some(cause) => Cause::from(cause),
            None if error.is_parse() => Cause::Invalid(cause.to_string()),
            None => Cause::Other(cause.to_string()),
        }
    }
}

/// The text of a call that broke off.
pub(super) fn broken(host: &str, cause: impl Into<Cause>, answering: bool) -> Failed {
    let cause = cause.into();
    let when = if answering {
        "within its answer"
    } else {
        "before it answered"
    };
    let text = match &cause {
        Cause::Ended => format!("{host} closed the connection {when}"),
        Cause::Reset => format!("{host} reset the connection {when}"),
        Cause::Invalid(why) => format!("the answer of {host} is no valid HTTP: {why}"),
        Cause::Other(why) => format!("the call to {host} broke off {when}: {why}"),
    };
    Failed {
        text,
        unreachable: !answering && !matches!(cause, Cause::Invalid(_)),
    }
}

/// The text of a call that took too long.
pub(super) fn late(host: &str, limit: Duration, connecting: bool) -> Failed {
    let what = if connecting {
        "no connection to"
    } else {
        "no answer from"
    };
    let limit = if limit.subsec_millis() == 0 {
        format!("{} s", limit.as_secs())
    } else {
        format!("{} ms", limit.as_millis())
    };
    Failed {
        text: format!("{what} {host} within {limit}"),
        unreachable: true,
    }
}

/// From within a container, its host's own addresses lead out of it (dtm-server.md 1).
pub(super) fn leave_the_container(url: &str) -> String {
    const OUTSIDE: &str = "host.docker.internal";
    url.replacen("localhost", OUTSIDE, 1)
        .replacen("127.0.0.1", OUTSIDE, 1)
}
