//! Talks to a running server over DTM's HTTP API, one call at a time.

use super::{Exit, Failure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::error::Error;
use std::time::Duration;

const DEFAULT_SERVER: &str = "http://127.0.0.1:36789";
const PATIENCE: Duration = Duration::from_secs(30);

/// Which server, and how to print.
#[derive(clap::Args)]
pub(super) struct Remote {
    /// URL of the server [default: AMENDS_SERVER, then DTM_URL, then http://127.0.0.1:36789]
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    /// Operator's token, if the server wants one [default: AMENDS_OPERATOR_TOKEN]
    #[arg(long, global = true, value_name = "TOKEN")]
    token: Option<String>,
    /// Print JSON, as the server answers it
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl Remote {
    /// A client for the server that flags and environment name.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let server = self
            .server
            .clone()
            .or_else(|| variable("AMENDS_SERVER"))
            .or_else(|| variable("DTM_URL"))
            .unwrap_or_else(|| DEFAULT_SERVER.to_owned());
        let token = self
            .token
            .clone()
            .or_else(|| variable("AMENDS_OPERATOR_TOKEN"));
        Client::new(&server, token)
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// One server's API.
pub(super) struct Client {
    base: String,
    token: Option<String>,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    fn new(server: &str, token: Option<String>) -> Result<Client, Failure> {
        // DTM's clients are configured with the API's prefix, so a copied URL may carry it.
        let base = server.trim_end_matches('/').trim_end_matches("/api/dtmsvr");
        let is_http = base.parse::<Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()
        });
        if !is_http {
            let message = format!("\"{server}\" is no server URL; an example is {DEFAULT_SERVER}");
            return Err(Failure::new(Exit::Usage, message));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        Ok(Client {
            base: base.to_owned(),
            token,
            runtime,
        })
    }

    /// GET of a route with query parameters.
    pub(super) fn get(&self, route: &str, query: &[(&str, &str)]) -> Result<Value, Failure> {
        let query: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", escape(value)))
            .collect();
        self.call(Method::GET, &format!("{route}?{}", query.join("&")), None)
    }

    /// POST of a JSON body.
    pub(super) fn post(&self, route: &str, body: &Value) -> Result<Value, Failure> {
        self.call(Method::POST, route, Some(body))
    }

    /// DELETE of a route that ends in a name.
    pub(super) fn delete(&self, route: &str, name: &str) -> Result<Value, Failure> {
        self.call(Method::DELETE, &format!("{route}/{}", escape(name)), None)
    }

    fn call(&self, method: Method, route: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/api/dtmsvr/{route}", self.base))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Failure::new(Exit::Usage, format!("cannot be sent: {error}")))?;
        let answer = async { tokio::time::timeout(PATIENCE, self.send(request)).await };
        let (status, body) = self.runtime.block_on(answer).unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            let message = format!("no answer from {} within {seconds} s", self.base);
            Err(Failure::new(Exit::Unreachable, message))
        })?;
        self.read(status, &body)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Failure> {
        let https = hyper_rustls::HttpsConnectorBuilder::new();
        let provider = rustls::crypto::ring::default_provider();
        let pool = Pool::builder(TokioExecutor::new());
        let answer = if self.base.starts_with("https:") {
            let https = https
                .with_provider_and_native_roots(provider)
                .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
            let connector = https.https_only().enable_http1().build();
            pool.build(connector).request(request).await
        } else {
            pool.build_http().request(request).await
        };
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let body = answer
            .into_body()
            .collect()
            .await
            .map_err(|error| self.unreachable(&error))?;
        Ok((status, body.to_bytes()))
    }

    fn unreachable(&self, error: &dyn Error) -> Failure {
        let mut cause = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let message = format!(
            "no server at {} ({cause}); start one with `amends serve`, or name it with --server or AMENDS_SERVER",
            self.base
        );
        Failure::new(Exit::Unreachable, message)
    }

    fn read(&self, status: StatusCode, body: &[u8]) -> Result<Value, Failure> {
        let parsed = serde_json::from_slice::<Value>(body);
        // A path that an Amends server does not have is answered in plain text, too.
        if matches!(status, StatusCode::OK | StatusCode::NOT_FOUND) && parsed.is_err() {
            let message = format!("{} answered no JSON; is it an Amends server?", self.base);
            return Err(Failure::new(Exit::Failed, message));
        }
        if status == StatusCode::OK {
            return Ok(parsed.unwrap_or_default());
        }
        let said = parsed
            .ok()
            .and_then(|value| Some(value.get("message")?.as_str()?.to_owned()));
        let said = said.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let remedy = "pass --token or set AMENDS_OPERATOR_TOKEN";
                Failure::new(
                    Exit::Refused,
                    format!("the server wants an operator's token ({said}): {remedy}"),
                )
            }
            StatusCode::NOT_FOUND => Failure::new(Exit::NotFound, said),
            StatusCode::CONFLICT => Failure::new(Exit::Refused, said),
            _ => Failure::new(
                Exit::Failed,
                format!("the server answered {}: {said}", status.as_u16()),
            ),
        })
    }
}

/// Percent-encoding of everything that is not unreserved.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(byte.into());
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_escaped() {
        assert_eq!(escape("a b&c=d/ü"), "a%20b%26c%3Dd%2F%C3%BC");
    }

    #[test]
    fn a_404_that_is_no_json_is_not_an_unknown_transaction() {
        let client = Client::new("http://h:1", None).unwrap_or_else(|_| panic!("legal"));
        let exit = |body: &[u8]| match client.read(StatusCode::NOT_FOUND, body) {
            Ok(_) => panic!("a refusal"),
            Err(failure) => failure.exit,
        };
        assert_eq!(exit(br#"{"message":"no such gid"}"#), Exit::NotFound);
        assert_eq!(exit(b"404 page not found"), Exit::Failed);
    }

    #[test]
    fn a_server_may_be_named_with_dtms_prefix() {
        let base = |server: &str| Client::new(server, None).map(|client| client.base).ok();
        let plain = Some("http://h:1".to_owned());
        assert_eq!(base("http://h:1"), plain);
        assert_eq!(base("http://h:1/"), plain);
        assert_eq!(base("http://h:1/api/dtmsvr/"), plain);
        assert_eq!(base("h:1"), None);
        assert_eq!(base("localhost"), None);
    }
}
