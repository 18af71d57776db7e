//! Redirects and credentials of branch calls.

mod dispatch_participant;

use amends::Outcome;
use dispatch_participant::{Answer, call, error_of, header, ok, participant, transport};
use std::sync::atomic::Ordering::SeqCst;

#[tokio::test]
async fn redirects_307_and_308_keep_method_and_body() {
    for status in [307, 308] {
        let p = participant(move |_, _, seen| {
            if seen.head.starts_with("POST /b?y") {
                ok("")
            } else {
                Answer::Bytes(format!(
                    "HTTP/1.1 {status} R\r\nlocation: b?y\r\ncontent-length: 0\r\n\r\n"
                ))
            }
        });
        assert_eq!(
            transport()
                .call(call(&format!("{}/a", p.url), "{\"n\":1}"))
                .await
                .outcome,
            Outcome::Success
        );
        assert_eq!(p.requests.recv().expect("first").body, "{\"n\":1}");
        assert_eq!(p.requests.recv().expect("second").body, "{\"n\":1}");
        assert_eq!(p.connections.load(SeqCst), 1);
    }
}

#[tokio::test]
async fn a_redirect_loop_ends_after_ten() {
    let p = participant(|_, _, _| {
        Answer::Bytes("HTTP/1.1 307 R\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_owned())
    });
    let (text, unreachable) = error_of(transport().call(call(&p.url, "{}")).await);
    assert_eq!(
        text,
        format!("{} redirected the call more than 10 times", p.url)
    );
    assert!(!unreachable);
    assert_eq!(p.requests.try_iter().count(), 11);
}

#[tokio::test]
async fn a_redirect_to_another_host_carries_no_credentials() {
    let other = participant(|_, _, _| ok(""));
    let location = other.url.clone();
    let p = participant(move |_, _, _| {
        Answer::Bytes(format!(
            "HTTP/1.1 307 R\r\nlocation: {location}/x\r\ncontent-length: 0\r\n\r\n"
        ))
    });
    let mut c = call(&p.url, "{}");
    c.headers.push(("authorization".into(), "Bearer t".into()));
    c.headers.push(("x-tenant".into(), "one".into()));
    assert_eq!(transport().call(c).await.outcome, Outcome::Success);
    assert_eq!(
        header(&p.requests.recv().expect("first").head, "authorization"),
        Some("Bearer t")
    );
    let second = other.requests.recv().expect("second");
    assert_eq!(header(&second.head, "authorization"), None);
    assert_eq!(header(&second.head, "x-tenant"), Some("one"));
}

#[tokio::test]
async fn credentials_in_a_url_are_sent_and_never_shown() {
    let p = participant(|_, nth, _| {
        if nth == 0 {
            ok("")
        } else {
            Answer::Close(String::new())
        }
    });
    let url = p.url.replace("http://", "http://Aladdin:open%20sesame@");
    let t = transport();
    assert_eq!(t.call(call(&url, "{}")).await.outcome, Outcome::Success);
    assert_eq!(
        header(&p.requests.recv().expect("request").head, "authorization"),
        Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
    );
    let (text, _) = error_of(t.call(call(&url, "{}")).await);
    assert_eq!(
        text,
        format!("{} closed the connection before it answered", p.url)
    );
}
