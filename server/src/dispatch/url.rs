//! The parts of a branch URL that a connection and a request need, without a copy.

use amends::wire::url::authority;
use std::borrow::Cow;

/// A URL taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// Whether it is called over TLS.
    pub(super) https: bool,
    /// Scheme and authority as given: what connections are pooled by.
    pub(super) key: &'a str,
    /// `user:password`, percent-encoded, if the URL carries it.
    pub(super) userinfo: Option<&'a str>,
    /// Host and port as the `Host` header shows them.
    pub(super) authority: &'a str,
    /// Host to connect to, without brackets.
    pub(super) host: &'a str,
    /// Port to connect to.
    pub(super) port: u16,
    /// Path and query; starts with `/`, has no fragment.
    pub(super) path: Cow<'a, str>,
}

impl<'a> Target<'a> {
    /// Takes a URL apart; `None` if its authority is no host and port.
    pub(super) fn parse(url: &'a str) -> Option<Target<'a>> {
        let (https, rest) = match url.strip_prefix("http://") {
            Some(rest) => (false, rest),
            None => (true, url.strip_prefix("https://")?),
        };
        let authority = authority(rest);
        let end = url.len() - rest.len() + authority.len();
        // Bytes, for a search by char costs more than the rest of this.
        let (userinfo, authority) = match authority.bytes().rposition(|b| b == b'@') {
            Some(at) => (Some(&authority[..at]), &authority[at + 1..]),
            None => (None, authority),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => v6.split_once(']')?,
            None => {
                let colon = authority.bytes().position(|b| b == b':');
                authority.split_at(colon.unwrap_or(authority.len()))
            }
        };
        let port = match port.strip_prefix(':') {
            None | Some("") => {
                if https {
                    443
                } else {
                    80
                }
            }
            Some(digits) => digits.parse().ok()?,
        };
        if host.is_empty() {
            return None;
        }
        Some(Target {
            https,
            key: &url[..end],
            userinfo,
            authority,
            host,
            port,
            path: origin_form(&url[end..]),
        })
    }
}

impl Target<'_> {
    /// Scheme and authority without credentials: how texts name the called host.
    pub(super) fn shown(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }
}

/// The same of a URL.
pub(super) fn shown(url: &str) -> String {
    Target::parse(url).map_or_else(|| "this URL".to_owned(), |t| t.shown())
}

/// Whether a byte may stand in a request line; a fragment may not.
const fn legal(b: u8) -> bool {
    const NOT: [u8; 10] = *br##""#<>\^`{|}"##;
    let mut legal = (b > b' ') & (b < 0x7f);
    let mut i = 0;
    while i < NOT.len() {
        legal &= b != NOT[i];
        i += 1;
    }
    legal
}

/// The path as a request line takes it: a leading slash, no fragment, and bytes that may not stand there percent-encoded.
fn origin_form(path: &str) -> Cow<'_, str> {
    // Without a way out of the loop it looks at many bytes at once.
    let fit = path.bytes().fold(true, |fit, b| fit & legal(b));
    if fit && path.starts_with('/') {
        return Cow::Borrowed(path);
    }
    let path = &path[..path.bytes().position(|b| b == b'#').unwrap_or(path.len())];
    let mut out = String::with_capacity(path.len() + 16);
    if !path.starts_with('/') {
        out.push('/');
    }
    for b in path.bytes() {
        if legal(b) {
            out.push(b as char)
        } else {
            out.push_str(&format!("%{b:02X}"))
        }
    }
    Cow::Owned(out)
}

/// Where a redirect leads: `location` as seen from `base`.
pub(super) fn join(base: &str, location: &str) -> String {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.to_owned();
    }
    let root = amends::wire::url::host(base);
    if let Some(rest) = location.strip_prefix("//") {
        let scheme = base.split("://").next().unwrap_or("http");
        return format!("{scheme}://{rest}");
    }
    if location.starts_with('/') {
        return format!("{root}{location}");
    }
    let path = base[root.len()..]
        .split(['?', '#'])
        .next()
        .unwrap_or_default();
    if location.starts_with('?') {
        return format!("{root}{path}{location}");
    }
    let folder = path.rfind('/').map_or("/", |i| &path[..=i]);
    format!("{root}{folder}{location}")
}

/// The value of an `Authorization` header for a URL's credentials.
pub(super) fn basic_auth(userinfo: &str) -> String {
    // A plus is a plus here, unlike in a query.
    let mut plain = amends::wire::url::unescape(&userinfo.replace('+', "%2B"));
    if !userinfo.contains(':') {
        plain.push(':');
    }
    format!("Basic {}", base64(plain.as_bytes()))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * i)) as usize & 63] as char;
            out.push(if i <= chunk.len() { digit } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let t = Target::parse("http://u:p@h:81/a?b#c").expect("a URL");
        assert_eq!(
            (t.https, t.key, t.userinfo),
            (false, "http://u:p@h:81", Some("u:p"))
        );
        assert_eq!(
            (t.authority, t.host, t.port, &*t.path),
            ("h:81", "h", 81, "/a?b")
        );
        let t = Target::parse("https://[::1]?x").expect("a URL");
        assert_eq!(
            (t.https, t.authority, t.host, t.port, &*t.path),
            (true, "[::1]", "::1", 443, "/?x")
        );
        assert_eq!(
            Target::parse("http://[::1]:8080/").expect("a URL").port,
            8080
        );
        for bad in [
            "ftp://h/",
            "http://",
            "http://:80/",
            "http://h:99999/",
            "http://h:x/",
            "http://[::1/",
            "h:80",
        ] {
            assert_eq!(Target::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_a_request_line_cannot_hold_is_encoded() {
        for (given, sent) in [
            ("http://h", "/"),
            ("http://h/ü", "/%C3%BC"),
            ("http://h/a{b}\"", "/a%7Bb%7D%22"),
            ("http://h/a%20b", "/a%20b"),
        ] {
            assert_eq!(Target::parse(given).expect(given).path, sent);
        }
    }

    #[test]
    fn texts_show_no_credentials() {
        assert_eq!(shown("http://user:secret@h:1/x?token=1"), "http://h:1");
    }

    #[test]
    fn redirects_are_seen_from_where_they_came() {
        for (location, want) in [
            ("https://other/x", "https://other/x"),
            ("//other/x", "http://other/x"),
            ("/x?y", "http://h:1/x?y"),
            ("x", "http://h:1/a/x"),
            ("?z", "http://h:1/a/b?z"),
        ] {
            assert_eq!(join("http://h:1/a/b?q=/c", location), want);
        }
        assert_eq!(join("http://h", "x"), "http://h/x");
    }

    #[test]
    fn credentials_become_basic_authentication() {
        assert_eq!(
            basic_auth("Aladdin:open%20sesame"),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
        assert_eq!(base64(b"a+b:"), "YStiOg==");
        assert_eq!(basic_auth("a+b"), "Basic YStiOg==");
        assert_eq!(base64(b"abc"), "YWJj");
        assert_eq!(base64(b""), "");
    }
}
