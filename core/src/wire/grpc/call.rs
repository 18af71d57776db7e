//! Branch calls over gRPC: where a URL leads, and what is sent there (dtm-server.md 7.4).

use super::workflow::WorkflowData;
use crate::branch::IDENTITY_METADATA;
use crate::error::Error;
use crate::outcome::Purpose;
use crate::time::Millis;
use crate::wire::call::Target;
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD as BASE64;
use bytes::Bytes;
use prost::Message;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::Ipv6Addr;

/// Where a gRPC URL leads: `host:port/package.Service/Method`, `grpc://…` (port 80) or `grpcs://…` (TLS, port 443).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcTarget<'a> {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// `host:port` as given, the port perhaps left out.
    pub authority: &'a str,
    /// The host alone, IPv6 without brackets.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// `/package.Service/Method`.
    pub path: &'a str,
}

impl<'a> GrpcTarget<'a> {
    /// Takes a URL apart, or says what is wrong with it.
    pub fn parse(url: &'a str) -> Result<GrpcTarget<'a>, Error> {
        let bad = |why: &str| {
            Err(Error::invalid(format!(
                "{url:?} is no gRPC target: {why}; it looks like host:port/package.Service/Method, with grpc:// or grpcs:// before it if you like"
            )))
        };
        let (tls, rest, default) = match url.split_once("://") {
            None => (false, url, None),
            Some(("grpc", rest)) => (false, rest, Some(80)),
            Some(("grpcs", rest)) => (true, rest, Some(443)),
            Some((scheme, _)) => {
                return bad(&format!("nothing here speaks {scheme:?}"));
            }
        };
        let Some(slash) = rest.find('/') else {
            return bad("it has no method");
        };
        let (authority, path) = rest.split_at(slash);
        let in_path = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&b);
        if !path.bytes().all(in_path)
            || path[1..].split('/').any(str::is_empty)
            || !path[1..].contains('/')
        {
            return bad("its path is not /package.Service/Method");
        }
        let bracketed = authority.strip_prefix('[').and_then(|a| a.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, port)) => (host, port),
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let in_host = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let legal = if bracketed.is_some() {
            host.parse::<Ipv6Addr>().is_ok()
        } else {
            !host.is_empty() && host.bytes().all(in_host)
        };
        if !legal {
            return bad("it has no valid host");
        }
        let port = match (port.strip_prefix(':'), default) {
            (None, Some(default)) if port.is_empty() => default,
            (Some(digits), _) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                match digits.parse() {
                    Ok(port) if port > 0 => port,
                    _ => return bad("its port is not a number from 1 to 65535"),
                }
            }
            (None, None) if port.is_empty() => return bad("it has no port"),
            _ => return bad("its port is not a number from 1 to 65535"),
        };
        Ok(GrpcTarget {
            tls,
            authority,
            host,
            port,
            path,
        })
    }
}

/// A unary gRPC call to make; the reply's message is of no interest, its status is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcCall {
    /// URL as the client gave it; [`GrpcTarget::parse`] takes it apart.
    pub url: String,
    /// Metadata, keys in lower case, binary values in base64.
    pub metadata: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// The message as bytes.
    pub message: Bytes,
    /// How long the whole call may take, ms.
    pub timeout: Millis,
}

impl GrpcCall {
    /// The call of a branch. A workflow is called back with its data in the message that its service takes, everything else with the
    /// payload as it was stored.
    pub fn new(
        t: &Target<'_>,
        payload: &Bytes,
        headers: &BTreeMap<String, String>,
        timeout: Millis,
    ) -> GrpcCall {
        let mut metadata = Vec::with_capacity(5 + headers.len());
        let texts = t.identity().map(|(_, text)| text);
        let own = IDENTITY_METADATA.into_iter().zip(texts);
        let own = own.chain([("dtm-dtm", "")]);
        metadata.extend(own.map(|(key, value)| (Cow::from(key), Cow::from(value.to_owned()))));
        let more = metadata_of(headers);
        metadata.extend(more.map(|(key, value)| (Cow::from(key), Cow::from(value))));
        let message = match t.purpose {
            Purpose::Callback => Bytes::from(
                WorkflowData {
                    data: payload.clone(),
                }
                .encode_to_vec(),
            ),
            Purpose::Branch | Purpose::CheckBack => payload.clone(),
        };
        GrpcCall {
            url: t.url.to_owned(),
            metadata,
            message,
            timeout,
        }
    }
}

/// A transaction's headers as metadata, without those that belong to the call itself.
pub fn metadata_of(headers: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> {
    headers.iter().filter_map(|(key, value)| {
        let key = key.to_ascii_lowercase();
        if of_the_call(&key) {
            return None;
        }
        let value = if key.ends_with("-bin") {
            BASE64.encode(value)
        } else {
            value.clone()
        };
        Some((key, value))
    })
}

/// Refuses what cannot be sent as metadata, where it is about to be stored for gRPC calls: values are printable ASCII, keys letters, digits
/// and `-_.` (the gRPC protocol over HTTP/2). Error: `Invalid`.
pub fn check_metadata<'a>(
    identity: impl IntoIterator<Item = (&'static str, &'a str)>,
    headers: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let printable = |text: &str| text.bytes().all(|b| matches!(b, 0x20..=0x7e));
    for (what, text) in identity {
        if !printable(text) {
            return Err(Error::invalid(format!(
                "{what} is {text:?}: gRPC branches take printable ASCII only"
            )));
        }
    }
    for (key, value) in headers {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if !key.bytes().all(legal) {
            return Err(Error::invalid(format!(
                "branch_headers: {key:?} cannot be sent to gRPC branches, whose keys are letters, digits, -, _ and ."
            )));
        }
        let binary = key.to_ascii_lowercase().ends_with("-bin");
        if !binary && !printable(value) {
            return Err(Error::invalid(format!(
                "branch_headers: the value of {key:?} is not printable ASCII, as gRPC branches take it; a key that ends with -bin takes any"
            )));
        }
    }
    Ok(())
}

/// Keys that belong to the call or the connection, which are not a transaction's to set.
fn of_the_call(key: &str) -> bool {
    key.starts_with("grpc-")
        || key.starts_with("dtm-")
        || matches!(
            key,
            "content-type"
                | "te"
                | "host"
                | "content-length"
                | "connection"
                | "transfer-encoding"
                | "upgrade"
                | "keep-alive"
                | "proxy-connection"
                | "user-agent"
        )
}
