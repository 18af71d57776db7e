//! One request and its answer over HTTP/1.1, within the call: no task drives the connection, and nothing is handed from one to another.
//!
//! Heads and chunk sizes are parsed by `httparse`; what frames a body is RFC 9112, sections 6 and 7. hyper's client was measured against it
//! (`examples/branch_client.rs`), and `ureq-proto` as well: each took more than twice the instructions of a call, which were a third of
//! what the coordinator does for a transaction.

use super::connect::Cause;
use super::framing::{Body, Head};
use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::task::unconstrained;

/// Up to this size in all, a body is copied behind its head: cheaper than a second system call. What is written first fits into one record
/// of TLS, of which either nothing or all can have arrived.
const COPIED: usize = 16 << 10;
/// Room for what is read at a time.
const ROOM: usize = 8 << 10;
/// The head of an answer, and a line within its body, are at most about this long.
const LINES_MAX: usize = 256 << 10;
/// A connection keeps buffers of at most this size.
const KEPT: usize = 64 << 10;

/// A connection between calls: what it reads into and writes from is kept.
pub(super) struct Line<S> {
    stream: S,
    read: BytesMut,
    written: Vec<u8>,
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Where to, if it is a redirect to follow.
    pub(super) location: Option<String>,
    /// At most as much of it as was wanted.
    pub(super) body: Bytes,
    /// Whether the connection can carry another call.
    pub(super) reusable: bool,
}

/// Why there is none.
pub(super) struct Broken {
    pub(super) cause: Cause,
    /// The head of an answer had come.
    pub(super) answering: bool,
    /// Nothing of the request was sent.
    pub(super) unsent: bool,
}

/// What is left to send.
struct Outgoing<'a> {
    parts: [&'a [u8]; 2],
    /// Some of it was sent.
    begun: bool,
    /// The stream holds nothing back.
    flushed: bool,
    /// The connection took no more.
    lost: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub(super) fn new(stream: S) -> Line<S> {
        Line {
            stream,
            read: BytesMut::new(),
            written: Vec::new(),
        }
    }

    /// Whether the other side has neither closed it nor said something unasked, as far as is known here.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let read = poll_fn(|cx| Pin::new(&mut self.stream).poll_read(cx, &mut byte));
        // A task that has done much would be told that nothing came.
        pin!(unconstrained(read))
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    }

    /// Where the head of the next request is to be written; it names the length of its body.
    pub(super) fn head(&mut self) -> &mut Vec<u8> {
        self.written.clear();
        &mut self.written
    }

    /// Sends the head that was written and its body, and reads the answer, at most `limit` bytes of its body. An answer that comes before
    /// the request is sent is one all the same.
    pub(super) async fn exchange(
        &mut self,
        outgoing: &[u8],
        limit: usize,
    ) -> Result<Answer, Broken> {
        let Line {
            stream,
            read,
            written,
        } = self;
        let copied = written.len() + outgoing.len() <= COPIED;
        if copied {
            written.extend_from_slice(outgoing);
        }
        let mut out = Outgoing {
            parts: [written, if copied { &[] } else { outgoing }],
            begun: false,
            flushed: true,
            lost: false,
        };
        let head = loop {
            let came = receive(stream, read, &mut out).await;
            let head = match came {
                Ok(0) => Err(Cause::Ended),
                Ok(_) => Head::take(read, LINES_MAX),
                Err(e) => Err(Cause::from(&e)),
            };
            match head {
                Ok(Some(head)) => break head,
                Ok(None) => {}
                Err(cause) => {
                    return Err(Broken {
                        cause,
                        answering: false,
                        unsent: !out.begun,
                    });
                }
            }
        };
        let body = body(stream, read, &mut out, head.body, limit).await;
        let (body, whole) = body.map_err(|cause| Broken {
            cause,
            answering: true,
            unsent: false,
        })?;
        let reusable = head.reusable && whole && out.is_sent() && read.is_empty();
        self.trim();
        Ok(Answer {
            status: head.status,
            location: head.location,
            body,
            reusable,
        })
    }

    /// Lets go of the memory that an unusual call needed.
    fn trim(&mut self) {
        if self.read.capacity() > KEPT {
            self.read = BytesMut::new();
        }
        if self.written.capacity() > KEPT {
            self.written = Vec::new();
        }
    }
}

/// At most `limit` bytes of a body, and whether that was all and something may follow it.
async fn body<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    read: &mut BytesMut,
    out: &mut Outgoing<'_>,
    mut framing: Body,
    limit: usize,
) -> Result<(Bytes, bool), Cause> {
    let mut body = BytesMut::new();
    // One more than is wanted tells whether there is more.
    let most = limit.saturating_add(1);
    loop {
        let ended = framing.take(read, &mut body, most)?;
        if body.len() > limit {
            body.truncate(limit);
            return Ok((body.freeze(), false));
        }
        if ended {
            return Ok((body.freeze(), true));
        }
        if read.len() > LINES_MAX {
            return Err(Cause::Invalid("a line without an end".to_owned()));
        }
        match receive(stream, read, out).await {
            Ok(0) if framing == Body::UntilClosed => return Ok((body.freeze(), false)),
            Ok(0) => return Err(Cause::Ended),
            Ok(_) => {}
            Err(e) => return Err(Cause::from(&e)),
        }
    }
}

/// Sends on, and waits until something comes; 0 is the end of what comes.
async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    read: &mut BytesMut,
    out: &mut Outgoing<'_>,
) -> io::Result<usize> {
    read.reserve(ROOM);
    poll_fn(|cx| {
        if let Poll::Ready(Err(e)) = out.poll(stream, cx) {
            if !out.begun {
                return Poll::Ready(Err(e));
            }
            // What was sent may have been answered.
            out.parts = [&[]; 2];
            (out.flushed, out.lost) = (true, true);
        }
        pin!(stream.read_buf(read)).poll(cx)
    })
    .await
}

impl Outgoing<'_> {
    /// Sends what the connection takes.
    fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        for part in &mut self.parts {
            while !part.is_empty() {
                let sent = ready!(Pin::new(&mut *stream).poll_write(cx, part))?;
                if sent == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                part.advance(sent);
                (self.begun, self.flushed) = (true, false);
            }
        }
        if !self.flushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn is_sent(&self) -> bool {
        self.flushed && !self.lost && self.parts.iter().all(|part| part.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    const HEAD: &[u8] = b"POST /p?q HTTP/1.1\r\n\r\n";

    /// A request with this body on this line.
    async fn post(line: &mut Line<DuplexStream>, body: &[u8]) -> Result<Answer, Broken> {
        line.head().extend_from_slice(HEAD);
        line.exchange(body, 1_000).await
    }

    /// A request with this body; the other side answers as told, and is given back with how the exchange ended.
    async fn exchange<F: Future<Output = DuplexStream>>(
        body: &[u8],
        other: impl FnOnce(DuplexStream) -> F,
    ) -> (Result<Answer, Broken>, Line<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(1_024);
        let mut line = Line::new(ours);
        let (ended, theirs) = tokio::join!(post(&mut line, body), other(theirs));
        (ended, line, theirs)
    }

    async fn read(stream: &mut DuplexStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await.expect("it is sent");
        bytes
    }

    #[tokio::test]
    async fn a_request_of_any_size_is_sent_whole_and_the_line_is_kept() {
        let most = COPIED - HEAD.len();
        for size in [0, 1, most, most + 1, 10 * COPIED] {
            let body = vec![b'x'; size];
            let (answer, mut line, _theirs) = exchange(&body, async |mut theirs| {
                let sent = read(&mut theirs, HEAD.len() + size).await;
                assert_eq!(sent, [HEAD, &body].concat(), "{size}");
                theirs.write_all(OK).await.expect("it is read");
                theirs
            })
            .await;
            let answer = answer.unwrap_or_else(|_| panic!("no answer, {size}"));
            assert_eq!((answer.status, &*answer.body), (StatusCode::OK, &b"ok"[..]));
            assert!(answer.reusable && line.is_quiet(), "{size}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_comes_before_the_request_is_sent_is_one() {
        let body = vec![b'x'; 100_000];
        let (answer, ..) = exchange(&body, async |mut theirs| {
            read(&mut theirs, 500).await;
            theirs.write_all(OK).await.expect("it is read");
            theirs
        })
        .await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer"));
        assert_eq!(&*answer.body, b"ok");
        assert!(
            !answer.reusable,
            "the rest of the request would be taken for the next"
        );
        // Who has answered need not take the rest.
        let (answer, ..) = exchange(&body, async |mut theirs| {
            read(&mut theirs, 500).await;
            theirs.write_all(OK).await.expect("there is room");
            drop(theirs);
            duplex(1).0
        })
        .await;
        assert!(answer.is_ok_and(|answer| !answer.reusable));
    }

    #[tokio::test]
    async fn what_never_left_is_told_from_what_may_have_arrived() {
        for taken in [0, 1, 50] {
            let (answer, ..) = exchange(&[b'x'; 50_000], async |mut theirs| {
                read(&mut theirs, taken).await;
                drop(theirs);
                duplex(1).0
            })
            .await;
            // There was room for its beginning.
            assert!(
                answer.is_err_and(|broken| !broken.unsent && !broken.answering),
                "{taken}"
            );
        }
        let (ours, theirs) = duplex(1_024);
        drop(theirs);
        let mut line = Line::new(ours);
        assert!(!line.is_quiet());
        let broken = post(&mut line, b"x").await;
        assert!(broken.is_err_and(|broken| broken.unsent));
    }

    #[tokio::test]
    async fn a_line_on_which_more_comes_than_an_answer_is_not_kept() {
        let (answer, mut line, mut theirs) = exchange(b"x", async |mut theirs| {
            theirs.write_all(OK).await.expect("it is read");
            theirs.write_all(b"HTTP").await.expect("it is read");
            theirs
        })
        .await;
        assert!(answer.is_ok_and(|answer| !answer.reusable));
        assert!(line.is_quiet());
        theirs.write_all(b"unasked").await.expect("there is room");
        assert!(!line.is_quiet());
    }

    #[tokio::test]
    async fn the_memory_of_an_unusual_call_is_let_go_of() {
        let (answer, mut line, mut theirs) = exchange(b"x", async |mut theirs| {
            let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n", "y".repeat(2 * KEPT));
            theirs.write_all(head.as_bytes()).await.expect("it is read");
            theirs
                .write_all(b"content-length: 0\r\n\r\n")
                .await
                .expect("it is read");
            theirs
        })
        .await;
        assert!(answer.is_ok_and(|answer| answer.reusable));
        assert!(line.read.capacity() <= KEPT);
        line.head().resize(2 * KEPT, b'y');
        let (answer, _) = tokio::join!(line.exchange(b"x", 1_000), async {
            read(&mut theirs, 2 * KEPT).await;
            theirs.write_all(OK).await.expect("it is read");
            read(&mut theirs, 1).await;
        });
        assert!(answer.is_ok());
        assert!(line.written.capacity() <= KEPT);
    }

    #[tokio::test]
    async fn what_has_no_end_is_given_up() {
        for start in [
            "HTTP/1.1 200 OK\r\nx: ",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
        ] {
            let (ours, mut theirs) = duplex(1_024);
            tokio::spawn(async move {
                theirs.write_all(start.as_bytes()).await.expect("room");
                while theirs.write_all(&[b'y'; 1_000]).await.is_ok() {}
            });
            let answer = post(&mut Line::new(ours), b"x").await;
            assert!(
                matches!(
                    answer,
                    Err(Broken {
                        cause: Cause::Invalid(_),
                        ..
                    })
                ),
                "{start}"
            );
        }
    }
}
