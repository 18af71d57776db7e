//! What the bytes of an HTTP/1.1 answer mean: where its head and its body end (RFC 9112, sections 6, 7 and 9.3).

use super::connect::Cause;
use bytes::{Buf, BytesMut};
use http::StatusCode;
use httparse::{ParserConfig, Status};
use std::mem::MaybeUninit;

/// An answer has at most this many headers.
const HEADERS_MAX: usize = 128;

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// Where to, if it is a redirect to follow.
    pub(super) location: Option<String>,
    pub(super) body: Body,
    /// Whether the connection can carry another call once the body has ended.
    pub(super) reusable: bool,
}

/// What is still to come of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// This many bytes.
    Length(u64),
    Chunks(Chunk),
    /// Everything until the connection is closed.
    UntilClosed,
}

/// What comes next of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    /// The end of the line behind the data.
    Line,
    /// Headers behind the last chunk, which nobody wants, and an empty line.
    Trailer,
}

fn invalid(what: impl ToString) -> Cause {
    Cause::Invalid(what.to_string())
}

impl Head {
    /// Takes the head of an answer out of what has come; `None` while it is not whole. Informational answers before it are passed over.
    pub(super) fn take(read: &mut BytesMut, most: usize) -> Result<Option<Head>, Cause> {
        loop {
            let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
            let mut answer = httparse::Response::new(&mut []);
            let parsed = ParserConfig::default().parse_response_with_uninit_headers(
                &mut answer,
                read,
                &mut headers,
            );
            match parsed.map_err(invalid)? {
                Status::Complete(length) => {
                    let head = Head::of(&answer)?;
                    read.advance(length);
                    let informational = head.status.is_informational();
                    if !informational || head.status == StatusCode::SWITCHING_PROTOCOLS {
                        return Ok(Some(head));
                    }
                }
                Status::Partial if read.len() > most => {
                    return Err(invalid(format!("a head of more than {most} bytes")));
                }
                Status::Partial => return Ok(None),
            }
        }
    }

    fn of(answer: &httparse::Response<'_, '_>) -> Result<Head, Cause> {
        let status = StatusCode::from_u16(answer.code.unwrap_or_default()).map_err(invalid)?;
        let old = answer.version == Some(0);
        let (mut length, mut coding, mut location) = (None, None, None);
        let (mut close, mut keep_alive) = (false, false);
        for header in answer.headers.iter() {
            let (name, value) = (header.name, header.value);
            if name.eq_ignore_ascii_case("content-length") {
                for value in value.split(|b| *b == b',') {
                    let value =
                        number(value).ok_or_else(|| invalid("a content-length that is none"))?;
                    if length.replace(value).is_some_and(|other| other != value) {
                        return Err(invalid("two content-lengths"));
                    }
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                coding = tokens(value).last();
            } else if name.eq_ignore_ascii_case("connection") {
                close |= tokens(value).any(|t| t.eq_ignore_ascii_case(b"close"));
                keep_alive |= tokens(value).any(|t| t.eq_ignore_ascii_case(b"keep-alive"));
            } else if name.eq_ignore_ascii_case("location") {
                location = location.or(std::str::from_utf8(value).ok());
            }
        }
        let follow = matches!(
            status,
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
        );
        let without_body = matches!(
            status,
            StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
        if old && coding.is_some() {
            return Err(invalid("a transfer-encoding in HTTP/1.0"));
        }
        let body = match coding {
            _ if without_body => Body::Length(0),
            Some(coding) if coding.eq_ignore_ascii_case(b"chunked") => Body::Chunks(Chunk::Size),
            Some(_) => Body::UntilClosed,
            None => length.map_or(Body::UntilClosed, Body::Length),
        };
        // Something else may be hidden behind a body that ends in two ways, and a body behind a status that has none.
        let doubtful = length.is_some_and(|length| coding.is_some() || without_body && length > 0);
        let over = status == StatusCode::SWITCHING_PROTOCOLS;
        Ok(Head {
            status,
            location: location.filter(|_| follow).map(str::to_owned),
            body,
            reusable: !(close || (old && !keep_alive) || doubtful || over),
        })
    }
}

/// The elements of a list, without the space around them.
fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

/// Digits and nothing else, which `parse` alone would not demand.
fn number(value: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(value.trim_ascii()).ok()?;
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|_| digits)
}

impl Body {
    /// Moves what has come of it to `out`, which gets no longer than `most`; whether it has ended.
    pub(super) fn take(
        &mut self,
        read: &mut BytesMut,
        out: &mut BytesMut,
        most: usize,
    ) -> Result<bool, Cause> {
        match self {
            Body::UntilClosed => {
                let mut endless = u64::MAX;
                carry(&mut endless, read, out, most);
                Ok(false)
            }
            Body::Length(left) => {
                carry(left, read, out, most);
                Ok(*left == 0)
            }
            Body::Chunks(next) => next.take(read, out, most),
        }
    }
}

impl Chunk {
    fn take(
        &mut self,
        read: &mut BytesMut,
        out: &mut BytesMut,
        most: usize,
    ) -> Result<bool, Cause> {
        loop {
            match self {
                Chunk::Size => {
                    // The parser takes no digit at all for a zero.
                    if read.first().is_some_and(|b| !b.is_ascii_hexdigit()) {
                        return Err(invalid("a chunk without a size"));
                    }
                    let parsed = httparse::parse_chunk_size(read)
                        .map_err(|_| invalid("a chunk without a size"))?;
                    let Status::Complete((length, size)) = parsed else {
                        return Ok(false);
                    };
                    read.advance(length);
                    *self = match size {
                        0 => Chunk::Trailer,
                        size => Chunk::Data(size),
                    };
                }
                Chunk::Data(left) => {
                    carry(left, read, out, most);
                    if *left > 0 {
                        return Ok(false);
                    }
                    *self = Chunk::Line;
                }
                Chunk::Line => {
                    let Some(end) = read.get(..2) else {
                        return Ok(false);
                    };
                    if end != b"\r\n" {
                        return Err(invalid("a chunk that is longer than its size"));
                    }
                    read.advance(2);
                    *self = Chunk::Size;
                }
                Chunk::Trailer => {
                    let Some(end) = read.iter().position(|b| *b == b'\n') else {
                        return Ok(false);
                    };
                    let line = read.split_to(end + 1);
                    if line.trim_ascii().is_empty() {
                        return Ok(true);
                    }
                }
            }
        }
    }
}

/// Moves at most `left` bytes.
fn carry(left: &mut u64, read: &mut BytesMut, out: &mut BytesMut, most: usize) {
    let room = most.saturating_sub(out.len()).min(read.len());
    let room = usize::try_from(*left).map_or(room, |left| left.min(room));
    out.extend_from_slice(read.get(..room).unwrap_or_default());
    read.advance(room);
    *left -= room as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer in these bytes, however they are cut into two: its status, its body, whether the connection can be used again, and what
    /// is left.
    fn answer(bytes: &str) -> Result<Option<(u16, String, bool, String)>, String> {
        let whole = read(&[bytes.as_bytes()]);
        for at in 0..bytes.len() {
            let (one, two) = bytes.as_bytes().split_at(at);
            assert_eq!(read(&[one, two]), whole, "cut at {at}");
        }
        whole
    }

    fn read(pieces: &[&[u8]]) -> Result<Option<(u16, String, bool, String)>, String> {
        let (mut read, mut out) = (BytesMut::new(), BytesMut::new());
        let mut head: Option<Head> = None;
        let mut ended = false;
        let told = |cause| match cause {
            Cause::Invalid(why) => why,
            _ => "something else".to_owned(),
        };
        for piece in pieces {
            read.extend_from_slice(piece);
            if head.is_none() {
                head = Head::take(&mut read, 200).map_err(told)?;
            }
            if let Some(head) = &mut head
                && !ended
            {
                ended = head.body.take(&mut read, &mut out, 20).map_err(told)?;
            }
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(head
            .filter(|head| ended || head.body == Body::UntilClosed || out.len() == 20)
            .map(|head| (head.status.as_u16(), text(&out), head.reusable, text(&read))))
    }

    fn good(
        status: u16,
        body: &str,
        reusable: bool,
        rest: &str,
    ) -> Option<(u16, String, bool, String)> {
        Some((status, body.to_owned(), reusable, rest.to_owned()))
    }

    #[test]
    fn bodies_end_where_their_heads_say() {
        for (bytes, wanted) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokX",
                good(200, "ok", true, "X"),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
                good(200, "ok", true, ""),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                good(200, "", true, ""),
            ),
            (
                "HTTP/1.1 200\r\ncontent-length: 0\r\nconnection: Keep-Alive, Close\r\n\r\n",
                good(200, "", false, ""),
            ),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na",
                good(200, "a", false, ""),
            ),
            (
                "HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\na",
                good(200, "a", true, ""),
            ),
            (
                "HTTP/1.1 204 None\r\ncontent-length: 5\r\n\r\n",
                good(204, "", false, ""),
            ),
            (
                "HTTP/1.1 304 Same\r\ntransfer-encoding: chunked\r\n\r\n",
                good(304, "", true, ""),
            ),
            ("HTTP/1.1 200 OK\r\n\r\nall", good(200, "all", true, "")),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked\r\n\r\n2;x=y\r\nab\r\nA\r\n0123456789\r\n0\r\na: b\r\n\r\nX",
                good(200, "ab0123456789", true, "X"),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 9\r\n\r\n1\r\na\r\n0\r\n\r\n",
                good(200, "a", false, ""),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ncontent-length: 1\r\n\r\nab",
                good(200, "ab", false, ""),
            ),
            (
                "HTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 409 No\r\ncontent-length: 1\r\n\r\nn",
                good(409, "n", true, ""),
            ),
            (
                "HTTP/1.1 101 Other\r\nupgrade: x\r\n\r\nraw",
                good(101, "", false, "raw"),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n0123456789012345678901234",
                good(200, "01234567890123456789", true, "01234"),
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1E\r\n0123456789012345678901234",
                good(200, "01234567890123456789", true, "01234"),
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", None),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
                None,
            ),
            ("HTTP/1.1 200 OK\r\ncontent-le", None),
        ] {
            assert_eq!(answer(bytes), Ok(wanted), "{bytes}");
        }
    }

    #[test]
    fn what_says_no_end_is_refused() {
        for (bytes, why) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nok",
                "two content-lengths",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok",
                "two content-lengths",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
                "a content-length that is none",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nok",
                "a content-length that is none",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
                "a chunk without a size",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
                "a chunk without a size",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
                "a chunk that is longer than its size",
            ),
            ("HTTP/1.1 099 Low\r\n\r\n", "invalid status code"),
            (
                "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                "a transfer-encoding in HTTP/1.0",
            ),
            ("SSH-2.0-OpenSSH\r\n", "invalid HTTP version"),
        ] {
            assert_eq!(answer(bytes), Err(why.to_owned()), "{bytes}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(200));
        assert_eq!(
            answer(&long),
            Err("a head of more than 200 bytes".to_owned())
        );
    }

    #[test]
    fn only_a_redirect_that_keeps_the_method_has_a_location() {
        for (status, wanted) in [(307, Some("/there")), (308, Some("/there")), (302, None)] {
            let head = format!("HTTP/1.1 {status} R\r\nLocation: /there\r\n\r\n");
            let head = Head::take(&mut BytesMut::from(&*head), 200);
            let head = head.ok().flatten().expect("it is whole");
            assert_eq!(head.location.as_deref(), wanted);
        }
    }
}
