//! Making a client: where the coordinator is, what it is trusted by, how long its answers may take.

use super::{Client, causes};
use crate::error::{Error, ErrorKind};
use crate::initiator::Server;
use crate::time::{Millis, SECOND};
use reqwest::ClientBuilder as HttpBuilder;
use reqwest::dns::Resolve;
use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::time::Duration;

/// How long an answer of the coordinator may take, unless it waits for a result.
const TIMEOUT: Millis = 10 * SECOND;
/// How often a branch may send a call on to another place.
const REDIRECTS: usize = 10;

/// Makes a client with settings of your own; [`Client::builder`] begins one.
#[derive(Clone, Debug)]
#[must_use = "it makes nothing before `build`"]
pub struct ClientBuilder {
    url: String,
    timeout: Millis,
    roots: Vec<CertificateDer<'static>>,
    system_roots: bool,
}

impl ClientBuilder {
    pub(super) fn new(url: &str) -> ClientBuilder {
        ClientBuilder {
            url: url.to_owned(),
            timeout: TIMEOUT,
            roots: Vec::new(),
            system_roots: true,
        }
    }

    /// How long an answer of the coordinator may take, instead of 10 s; waiting for a result is not included.
    pub fn answers_within(mut self, timeout: Duration) -> ClientBuilder {
        self.timeout = millis(timeout);
        self
    }

    /// Trusts these certificates as well, in PEM: for an authority of your own. Error: `Invalid` if there is none in it, or one is broken.
    pub fn root_certificates(mut self, pem: &[u8]) -> Result<ClientBuilder, Error> {
        let broken = |e: &dyn std::fmt::Display| {
            Error::invalid(format!("these are no certificates in PEM: {e}"))
        };
        let before = self.roots.len();
        let mut checked = RootCertStore::empty();
        for found in CertificateDer::pem_slice_iter(pem) {
            let found = found.map_err(|e| broken(&e))?;
            checked.add(found.clone()).map_err(|e| broken(&e))?;
            self.roots.push(found);
        }
        if self.roots.len() == before {
            return Err(broken(&"there is no CERTIFICATE"));
        }
        Ok(self)
    }

    /// Trusts nothing but [`ClientBuilder::root_certificates`]: those of the system no longer.
    pub fn only_these_roots(mut self) -> ClientBuilder {
        self.system_roots = false;
        self
    }

    /// The client. Error: `Invalid` for an address that is none.
    pub fn build(self) -> Result<Client, Error> {
        self.parts()?.client(None)
    }

    /// The same for hosts that block and fork.
    #[cfg(feature = "blocking")]
    pub fn build_blocking(self) -> Result<super::blocking::Client, Error> {
        Ok(super::blocking::Client::of(self.parts()?))
    }

    fn parts(self) -> Result<Parts, Error> {
        check_address(&self.url)?;
        let mut roots = RootCertStore::empty();
        if self.system_roots {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        roots.add_parsable_certificates(self.roots);
        Ok(Parts {
            roots: Arc::new(roots),
            server: Server::new(&self.url, self.timeout),
        })
    }
}

/// What clients are made from. There is no lock in it: a process may fork at any moment.
#[derive(Clone)]
pub(super) struct Parts {
    roots: Arc<RootCertStore>,
    pub(super) server: Server,
}

impl Parts {
    /// A client with connections of its own.
    pub(super) fn client(&self, resolver: Option<Arc<dyn Resolve>>) -> Result<Client, Error> {
        let build = |tls: ClientConfig, more: fn(HttpBuilder) -> HttpBuilder| {
            // As the server: what HTTP_PROXY names is for calls to the outside.
            let builder = reqwest::Client::builder().no_proxy();
            let mut builder = more(builder.tls_backend_preconfigured(tls));
            if let Some(resolver) = &resolver {
                builder = builder.dns_resolver(resolver.clone());
            }
            let built = builder.build();
            built.map_err(|e| Error::new(ErrorKind::Internal, causes(&e)))
        };
        // TLS by rustls with ring. It installs nothing process-wide: the provider belongs to this client (rules.md 8.8).
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        #[cfg(feature = "grpc")]
        let http2 = {
            let mut tls = tls.clone();
            tls.alpn_protocols = vec![b"h2".to_vec()];
            build(tls, |b| b.http2_prior_knowledge().redirect(Policy::none()))?
        };
        Ok(Client {
            http: build(tls, |b| b.redirect(Policy::custom(redirect)))?,
            #[cfg(feature = "grpc")]
            http2,
            server: self.server.clone(),
            deadline: None,
        })
    }
}

/// Saturates.
pub(super) fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

pub(super) fn url_from_env() -> Result<String, Error> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let url = set("AMENDS_SERVER").or_else(|| set("DTM_URL"));
    url.ok_or_else(|| Error::invalid("neither AMENDS_SERVER nor DTM_URL is set"))
}

fn check_address(url: &str) -> Result<(), Error> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        Some("http" | "https") => Ok(()),
        #[cfg(feature = "grpc")]
        Some("grpc" | "grpcs") => {
            let any = format!("{}/a.B/C", url.trim_end_matches('/'));
            crate::wire::grpc::GrpcTarget::parse(&any).map(|_| ())
        }
        _ => Err(Error::invalid(format!(
            "{url:?} is no address of a coordinator: it begins with http:// or https://, or with feature grpc with grpc:// or grpcs://"
        ))),
    }
}

/// Only 307 and 308 of a branch are followed (rules.md 3); a coordinator sends nobody anywhere.
fn redirect(attempt: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    let first = attempt.previous().first();
    let of_branch = first.is_some_and(|url| !Server::is_coordinators(url.as_str()));
    let keeps_the_body = matches!(attempt.status().as_u16(), 307 | 308);
    if of_branch && keeps_the_body && attempt.previous().len() <= REDIRECTS {
        attempt.follow()
    } else {
        attempt.stop()
    }
}
