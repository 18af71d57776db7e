use super::*;
use crate::store::{StoreError, store_error};
use std::time::Duration;
use tokio::sync::oneshot;

#[tokio::test]
async fn a_change_goes_on_when_its_client_is_gone() {
    let (go, wait) = oneshot::channel::<()>();
    let (done, carried_through) = oneshot::channel();
    let mut request = Box::pin(to_the_end(async move {
        let _ = wait.await;
        let _ = done.send(());
        Ok(())
    }));
    assert!((&mut request).now_or_never().is_none());
    drop(request);
    go.send(()).expect("the change waits");
    tokio::time::timeout(Duration::from_secs(10), carried_through)
        .await
        .expect("in time")
        .expect("carried through");
}

#[tokio::test]
async fn a_panic_is_an_internal_error_without_details() {
    async fn broken() -> Result<(), Error> {
        panic!("secret");
    }
    for error in [
        to_the_end(broken()).await.expect_err("panics"),
        caught(broken()).await.expect_err("panics"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(
            error.message().starts_with("internal error") && !error.message().contains("secret")
        );
        assert_eq!(refusal(&error).status(), 500);
    }
}

#[test]
fn store_errors_have_their_kind() {
    let full = store_error(StoreError::Full("1 MiB free".into()));
    assert_eq!(
        (full.kind(), full.message()),
        (ErrorKind::Unavailable, "disk_full: 1 MiB free")
    );
    assert_eq!(
        store_error(StoreError::Unavailable("gone".into())).kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(
        store_error(StoreError::Fatal("torn".into())).kind(),
        ErrorKind::Internal
    );
}

#[test]
fn tokens_are_compared_whole() {
    assert!(same(b"secret", b"secret"));
    assert!(!same(b"secreT", b"secret"));
    assert!(!same(b"secret1", b"secret"));
    assert!(!same(b"", b"secret"));
}

#[tokio::test]
async fn readiness_says_why_not() {
    let full = async { Err(StoreError::Full("1 MiB free".into())) };
    let error = ops::ready(full).await.expect_err("not ready");
    let answer = refusal(&error);
    assert_eq!(answer.status(), 503);
    assert!(error.message().starts_with("disk_full"), "{error}");
    let failed = async { Err(StoreError::Fatal("torn".into())) };
    assert_eq!(
        refusal(&ops::ready(failed).await.expect_err("not ready")).status(),
        503
    );
    assert_eq!(
        ops::ready(async { Ok(()) }).await.expect("ready").status(),
        200
    );
}
