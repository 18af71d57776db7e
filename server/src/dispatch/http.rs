//! Branch calls over HTTP/1.1 with kept-alive connections (dtm-server.md 7.2).

use super::Reply;
use super::connect::{Connector, Failed, Place, broken, late, leave_the_container};
use super::pool::{Conn, Pool};
use super::url::{Target, basic_auth, join, shown};
use amends::Compat;
use amends::wire::call::HttpCall;
use amends::wire::http::of_the_connection;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Redirects followed in one call.
const REDIRECTS_MAX: usize = 10;

/// The built-in client for branch calls. Cheap to clone; clones share connections.
///
/// * 307 and 308 are followed up to ten times with the same method and body; to another host without `authorization` and `cookie`.
///   Every other status is classified as it is.
/// * `user:password@` in a URL becomes basic authentication, unless the transaction's headers have an `authorization`.
/// * `https` uses the system's root certificates, read at the first such call.
/// * A call that never left, because a kept-alive connection had been closed meanwhile, is made again on a fresh connection. Every other
///   broken call is an error: its effect is unknown.
/// * Headers that belong to the connection (`host`, `content-length`, `connection`, …) cannot be overridden.
#[derive(Clone)]
pub struct HttpTransport {
    shared: Arc<Shared>,
}

struct Shared {
    compat: Compat,
    answer_limit: usize,
    docker: bool,
    pool: Arc<Pool>,
    connector: Connector,
}

/// How far a call has come, for the text of a timeout.
struct Progress {
    /// The URL being called after a redirect.
    redirected: Option<String>,
    connecting: bool,
}

impl HttpTransport {
    /// A client that reads at most `answer_limit` bytes of an answer and classifies it with these switches.
    pub fn new(compat: Compat, answer_limit: usize) -> HttpTransport {
        HttpTransport::with_docker(compat, answer_limit, false)
    }

    /// The same; with `docker` the first `localhost` and the first `127.0.0.1` of a URL become `host.docker.internal`, as DTM does when
    /// `IS_DOCKER` is set (dtm-server.md 1).
    pub fn with_docker(compat: Compat, answer_limit: usize, docker: bool) -> HttpTransport {
        let shared = Shared {
            compat,
            answer_limit,
            docker,
            pool: Arc::default(),
            connector: Connector::default(),
        };
        HttpTransport {
            shared: Arc::new(shared),
        }
    }

    /// Makes a call, as [`super::Transport::call`] says.
    pub fn call(&self, mut call: HttpCall) -> BoxFuture<'static, Reply> {
        let shared = self.shared.clone();
        Box::pin(async move {
            if shared.docker {
                call.url = leave_the_container(&call.url);
            }
            let limit = Duration::from_millis(u64::try_from(call.timeout).unwrap_or(0));
            let mut progress = Progress {
                redirected: None,
                connecting: true,
            };
            let failed = match timeout(limit, shared.follow(&call, &mut progress)).await {
                Ok(Ok((status, body))) => {
                    let outcome = call.classify(status.as_u16(), &body, &shared.compat);
                    return Reply {
                        outcome,
                        unreachable: false,
                    };
                }
                Ok(Err(failed)) => failed,
                Err(_) => {
                    let host = shown(progress.redirected.as_deref().unwrap_or(&call.url));
                    late(&host, limit, progress.connecting)
                }
            };
            failed.into()
        })
    }
}

impl Shared {
    async fn follow(
        &self,
        call: &HttpCall,
        progress: &mut Progress,
    ) -> Result<(StatusCode, Bytes), Failed> {
        for _ in 0..=REDIRECTS_MAX {
            let url = progress.redirected.as_deref().unwrap_or(&call.url);
            let (status, location, body) = self.once(call, url, &mut progress.connecting).await?;
            match location {
                Some(location) => progress.redirected = Some(join(url, &location)),
                None => return Ok((status, body)),
            }
        }
        let text = format!(
            "{} redirected the call more than {REDIRECTS_MAX} times",
            shown(&call.url)
        );
        Err(Failed {
            text,
            unreachable: false,
        })
    }

    /// One request and its answer; the location if it is a redirect to follow.
    async fn once(
        &self,
        call: &HttpCall,
        url: &str,
        connecting: &mut bool,
    ) -> Result<(StatusCode, Option<String>, Bytes), Failed> {
        let Some(target) = Target::parse(url) else {
            return Err(Failed {
                text: format!(
                    "the called URL has no valid host and port: {}",
                    target_of(url)
                ),
                unreachable: false,
            });
        };
        *connecting = true;
        let mut conn = match self.pool.take(target.key) {
            Some(conn) => conn,
            // Boxed, or every call would carry the state of a connect about.
            None => Box::pin(self.connect(&target)).await?,
        };
        let same_host = url == call.url || amends::wire::url::host(&call.url) == target.key;
        let answer = loop {
            write_head(conn.line.head(), call, &target, same_host)?;
            *connecting = false;
            match conn.line.exchange(&call.body, self.answer_limit).await {
                Ok(answer) => break answer,
                Err(broken) if broken.unsent && conn.reused => {
                    *connecting = true;
                    conn = Box::pin(self.connect(&target)).await?;
                }
                Err(e) => return Err(broken(&shown(url), e.cause, e.answering)),
            }
        };
        if answer.reusable {
            self.pool.put(target.key, conn);
        }
        Ok((answer.status, answer.location, answer.body))
    }

    async fn connect(&self, target: &Target<'_>) -> Result<Box<Conn>, Failed> {
        let host = target.shown();
        let place = Place {
            tls: target.https,
            host: target.host,
            port: target.port,
            authority: target.authority,
            shown: &host,
        };
        let io = self.connector.connect(&place).await?;
        HeaderValue::from_str(target.authority).map_err(|e| Failed {
            text: format!("{host} is no valid host: {e}"),
            unreachable: true,
        })?;
        Ok(Conn::new(io))
    }
}

type Header = (Cow<'static, str>, Cow<'static, str>);

/// Writes the head of a request, each header once.
fn write_head(
    out: &mut Vec<u8>,
    call: &HttpCall,
    target: &Target<'_>,
    same_host: bool,
) -> Result<(), Failed> {
    let refused = |text: String| Failed {
        text,
        unreachable: false,
    };
    let mut put = |parts: &[&str]| {
        for part in parts {
            out.extend_from_slice(part.as_bytes());
        }
    };
    // They are few: looking through them costs less than a map.
    let named = |headers: &[Header], name: &str| {
        let mut names = headers.iter().map(|(name, _)| name);
        names.any(|other| other.eq_ignore_ascii_case(name))
    };
    put(&[if call.post { "POST " } else { "GET " }, &target.path]);
    put(&[" HTTP/1.1\r\nhost: ", target.authority, "\r\n"]);
    if call.post || !call.body.is_empty() {
        let mut length = itoa::Buffer::new();
        put(&["content-length: ", length.format(call.body.len()), "\r\n"]);
    }
    if !named(&call.headers, "user-agent") {
        put(&["user-agent: amends/", env!("CARGO_PKG_VERSION"), "\r\n"]);
    }
    if let Some(userinfo) = target.userinfo
        && !(same_host && named(&call.headers, "authorization"))
    {
        put(&["authorization: ", &basic_auth(userinfo), "\r\n"]);
    }
    for (i, (name, value)) in call.headers.iter().enumerate() {
        // Ours need no look at each letter, and the connection's are not among them.
        if !matches!(&**name, "content-type" | "accept") {
            let parsed = HeaderName::from_bytes(name.as_bytes())
                .map_err(|e| refused(format!("the branch header {name:?} cannot be sent: {e}")))?;
            if of_the_connection(parsed.as_str())
                || !same_host && (parsed == AUTHORIZATION || parsed == COOKIE)
            {
                continue;
            }
        }
        if value != "application/json" {
            HeaderValue::from_str(value).map_err(|e| {
                refused(format!(
                    "the value of branch header {name:?} cannot be sent: {e}"
                ))
            })?;
        }
        if !named(&call.headers[i + 1..], name) {
            put(&[name, ": ", value, "\r\n"]);
        }
    }
    put(&["\r\n"]);
    Ok(())
}

/// A URL without credentials and query, for the text that says it is unusable.
fn target_of(url: &str) -> &str {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    url[..end]
        .rsplit_once('@')
        .map_or(&url[..end], |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use amends::Purpose;

    /// The header lines of a call, but for those that each call has.
    fn lines(url: &str, headers: &[(&'static str, &'static str)], same_host: bool) -> Vec<String> {
        let call = HttpCall {
            post: false,
            url: String::new(),
            headers: headers
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            body: Bytes::new(),
            timeout: 1,
            purpose: Purpose::Branch,
            json_rpc: false,
        };
        let target = Target::parse(url).expect("a URL");
        let mut head = Vec::new();
        let written = write_head(&mut head, &call, &target, same_host);
        assert!(written.is_ok(), "{headers:?}");
        let head = String::from_utf8(head).expect("text");
        let head = head.strip_suffix("\r\n\r\n").expect("an end");
        let rest = head
            .strip_prefix("GET /p HTTP/1.1\r\nhost: h\r\n")
            .expect("a beginning");
        rest.split("\r\n").map(str::to_owned).collect()
    }

    const AGENT: &str = concat!("user-agent: amends/", env!("CARGO_PKG_VERSION"));
    const BASIC: &str = "authorization: Basic dTpw";

    #[test]
    fn each_header_is_sent_once() {
        assert_eq!(
            lines("http://u:p@h/p", &[("accept", "a")], true),
            [AGENT, BASIC, "accept: a"]
        );
        let own = [
            ("Authorization", "x"),
            ("user-agent", "mine"),
            ("accept", "a"),
            ("Accept", "b"),
            ("Host", "other"),
        ];
        assert_eq!(
            lines("http://u:p@h/p", &own, true),
            ["Authorization: x", "user-agent: mine", "Accept: b"]
        );
    }

    #[test]
    fn credentials_go_to_their_own_host_only() {
        let own = [("authorization", "x"), ("cookie", "c"), ("x-y", "z")];
        assert_eq!(lines("http://h/p", &own, false), [AGENT, "x-y: z"]);
        assert_eq!(
            lines("http://u:p@h/p", &own, false),
            [AGENT, BASIC, "x-y: z"]
        );
    }
}
