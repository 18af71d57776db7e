use super::*;
use amends::ErrorKind;

#[test]
fn a_body_is_one_whole_message() {
    let body = |bytes: &'static [u8]| framed(Bytes::from_static(bytes), 10);
    assert!(body(b"\0\0\0\0\0").is_ok());
    assert!(body(b"\0\0\0\0\x02ab").is_ok());
    for (bytes, code) in [
        (&b""[..], Code::InvalidArgument),
        (b"\0\0\0", Code::InvalidArgument),
        (b"\0\0\0\0\x03ab", Code::InvalidArgument),
        (b"\0\0\0\0\x01ab", Code::InvalidArgument),
        (b"\x07\0\0\0\x02ab", Code::InvalidArgument),
        (b"\x01\0\0\0\x02ab", Code::Unimplemented),
        (b"\0\xff\xff\xff\xffab", Code::ResourceExhausted),
    ] {
        assert_eq!(body(bytes).expect_err("refused").code(), code, "{bytes:?}");
    }
}

#[test]
fn texts_of_statuses_fit_into_headers() {
    let of = |text: &str| status(&Error::new(ErrorKind::Failure, text));
    assert_eq!(of("no stock FAILURE").message(), "no stock FAILURE");
    for letter in ["x", "ü", "不", "%", "\n"] {
        let long = letter.repeat(10_000);
        let headers = of(&long).into_http::<Body>().headers().clone();
        let value = headers.get("grpc-message").expect("a message");
        assert!(value.len() < 4_200, "{letter}: {}", value.len());
        assert_eq!(headers.get("grpc-status").expect("a status"), "10");
    }
}

#[test]
fn only_grpc_is_grpc() {
    let of = |content_type: &str| {
        let request = Request::builder()
            .method("POST")
            .header(CONTENT_TYPE, content_type);
        is_grpc(&request.body(()).expect("a request"))
    };
    for good in [
        "application/grpc",
        "application/grpc+dtm_raw",
        "application/grpc+proto",
    ] {
        assert!(of(good), "{good}");
    }
    for bad in ["application/grpc-web+proto", "application/json", ""] {
        assert!(!of(bad), "{bad}");
    }
}
