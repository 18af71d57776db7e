//! URLs as texts: their parts, and what their query holds.

/// What follows the scheme of an HTTP URL.
pub(super) fn http_rest(url: &str) -> Option<&str> {
    url.strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
}

/// The authority that stands at the beginning of what follows a scheme.
pub fn authority(rest: &str) -> &str {
    // Bytes, for a search by char costs a call what the rest of taking its URL apart does.
    let end = rest.bytes().position(ends_authority);
    &rest[..end.unwrap_or(rest.len())]
}

fn ends_authority(b: u8) -> bool {
    matches!(b, b'/' | b'?' | b'#')
}

/// The same, and its port: what stands after its last colon, but for the colons of credentials and within an IPv6 address.
pub(super) fn authority_and_port(rest: &str) -> (&str, &str) {
    let (mut end, mut colon) = (rest.len(), None);
    for (i, b) in rest.bytes().enumerate() {
        match b {
            b'@' | b']' => colon = None,
            b':' => colon = Some(i),
            _ if ends_authority(b) => {
                end = i;
                break;
            }
            _ => {}
        }
    }
    let authority = &rest[..end];
    (authority, colon.map_or("", |at| &authority[at + 1..]))
}

/// Scheme and authority of a URL: what limits and circuit breakers count by.
pub fn host(url: &str) -> &str {
    let start = url
        .bytes()
        .position(|b| b == b':')
        .filter(|at| url[*at..].starts_with("://"))
        .map_or(0, |at| at + 3);
    &url[..start + authority(&url[start..]).len()]
}

/// Adds parameters, escaped, to a URL without a fragment.
pub(crate) fn add_query<'a>(url: &mut String, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) {
    let mut separator = match url.bytes().position(|b| b == b'?') {
        None => "?",
        Some(at) if at + 1 == url.len() => "",
        Some(_) => "&",
    };
    for (key, value) in pairs {
        url.push_str(separator);
        url.push_str(key);
        url.push('=');
        escape(value, url);
        separator = "&";
    }
}

/// The bytes that stay as they are in a query. Looked up, for every call asks for each byte of its gid.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut b: u8 = 0;
    while b < 128 {
        plain[b as usize] = b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
        b += 1;
    }
    plain
};

/// Form-urlencoding, as Go's query encoder does it.
pub fn escape(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let plain = |b: u8| PLAIN[usize::from(b)];
    if text.bytes().all(plain) {
        out.push_str(text);
        return;
    }
    for b in text.bytes() {
        match b {
            _ if plain(b) => out.push(b as char),
            b' ' => out.push('+'),
            _ => {
                out.push('%');
                out.push(HEX[usize::from(b >> 4)] as char);
                out.push(HEX[usize::from(b & 15)] as char);
            }
        }
    }
}

/// Decodes form-urlencoding; broken escapes stay as they are.
pub fn unescape(raw: &str) -> String {
    let mut out = Vec::with_capacity(raw.len());
    let bytes = raw.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let hex = |b: u8| (b as char).to_digit(16);
        match bytes[i] {
            b'+' => out.push(b' '),
            b'%' if i + 2 < bytes.len() => match (hex(bytes[i + 1]), hex(bytes[i + 2])) {
                (Some(high), Some(low)) => {
                    out.push((high * 16 + low) as u8);
                    i += 2;
                }
                _ => out.push(b'%'),
            },
            b => out.push(b),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stand_after_the_last_colon() {
        for (rest, authority, port) in [
            ("h:80/a:1", "h:80", "80"),
            ("h?:1", "h", ""),
            ("u:p@h", "u:p@h", ""),
            ("u:p@h:8#", "u:p@h:8", "8"),
            ("[::1]", "[::1]", ""),
            ("[::1]:81", "[::1]:81", "81"),
            ("h:", "h:", ""),
        ] {
            assert_eq!(authority_and_port(rest), (authority, port), "{rest}");
        }
    }

    #[test]
    fn hosts_are_scheme_and_authority() {
        assert_eq!(host("http://h:80/a?b"), "http://h:80");
        assert_eq!(host("https://h"), "https://h");
        assert_eq!(host("h:80/p.S/M://x"), "h:80");
        assert_eq!(unescape("a%2Fb+c%zz"), "a/b c%zz");
    }
}
