//! Unary gRPC calls, as the HTTP/2 requests that they are: the client that is here already makes them, and no second stack is needed.

use super::{causes, no_answer};
use crate::initiator::Server;
use crate::limits::Limits;
use crate::machine::{Fact, Request};
use crate::wire::grpc::{Code, GrpcTarget};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Limited};
use std::time::Duration;

/// What stands before a message: whether it is compressed, and its length.
const FRAME: usize = 5;

/// Makes a call; a [`Fact::Answer`] holds the gRPC code and, if that is OK, the reply's message.
pub(super) async fn call(http: &reqwest::Client, request: Request, timeout: Duration) -> Fact {
    let target = match GrpcTarget::parse(&request.url) {
        Ok(target) => target,
        Err(e) => {
            return Fact::NoAnswer {
                sent: false,
                message: e.message().to_owned(),
            };
        }
    };
    let scheme = if target.tls { "https" } else { "http" };
    let mut call = http
        .post(format!("{scheme}://{}{}", target.authority, target.path))
        .timeout(timeout)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        // The protocol allows eight digits.
        .header(
            "grpc-timeout",
            format!("{}m", timeout.as_millis().min(99_999_999)),
        )
        .body(framed(&request.body));
    for (name, value) in &request.headers {
        call = call.header(name, value);
    }
    let answer: http::Response<reqwest::Body> = match call.send().await {
        Ok(answer) => answer.into(),
        Err(e) => return no_answer(e),
    };
    let lost = |message: String| Fact::NoAnswer {
        sent: true,
        message,
    };
    let (head, body) = answer.into_parts();
    let limits = Limits::default();
    let max = if Server::is_coordinators(&request.url) {
        limits.body
    } else {
        limits.answer
    };
    let body = match Limited::new(body, max + FRAME).collect().await {
        Ok(body) => body,
        Err(e) => return lost(causes(&*e)),
    };
    if head.status != http::StatusCode::OK {
        return Fact::Answer {
            status: code_of_http(head.status.as_u16()),
            body: Bytes::new(),
            message: format!("answered HTTP {}, which is no gRPC", head.status),
        };
    }
    // An answer without a message has its status among the headers.
    let in_trailers = body.trailers().and_then(tonic::Status::from_header_map);
    let Some(status) = in_trailers.or_else(|| tonic::Status::from_header_map(&head.headers)) else {
        return lost(format!(
            "the answer of {} has no grpc-status",
            target.authority
        ));
    };
    let ok = status.code() == tonic::Code::Ok;
    let body = match message(body.to_bytes()) {
        Some(message) if ok => message,
        None if ok => return lost(format!("the answer of {} is no message", target.authority)),
        _ => Bytes::new(),
    };
    Fact::Answer {
        status: u16::try_from(i32::from(status.code())).unwrap_or(u16::MAX),
        body,
        message: status.message().to_owned(),
    }
}

fn framed(message: &Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(message);
    frame.freeze()
}

/// The one message of an answer.
fn message(mut frame: Bytes) -> Option<Bytes> {
    if frame.len() < FRAME {
        return None;
    }
    let message = frame.split_off(FRAME);
    let length = u32::from_be_bytes(frame.get(1..FRAME)?.try_into().ok()?);
    (frame[0] == 0 && usize::try_from(length) == Ok(message.len())).then_some(message)
}

/// What an HTTP status of a proxy means, as gRPC's documents have it; but a proxy that gave up may have passed the call on.
fn code_of_http(status: u16) -> u16 {
    let code = match status {
        401 => Code::UNAUTHENTICATED,
        403 => Code::PERMISSION_DENIED,
        404 => Code::UNIMPLEMENTED,
        429 | 503 => Code::UNAVAILABLE,
        502 | 504 => Code::DEADLINE_EXCEEDED,
        _ => Code::INTERNAL,
    };
    u16::try_from(code.0).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let frame = framed(&Bytes::from_static(b"abc"));
        assert_eq!(&frame[..], b"\0\0\0\0\x03abc");
        assert_eq!(message(frame), Some(Bytes::from_static(b"abc")));
        assert_eq!(message(framed(&Bytes::new())), Some(Bytes::new()));
        for wrong in [
            &b""[..],
            b"\0\0\0\0",
            b"\0\0\0\0\x01",
            b"\x01\0\0\0\0",
            b"\0\0\0\0\0x",
        ] {
            assert_eq!(message(Bytes::from_static(wrong)), None);
        }
    }
}
