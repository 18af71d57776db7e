//! grpcs branch calls.

mod grpc_participant;
mod tls_child;

use amends::Outcome;
use amends::wire::grpc::GrpcCall;
use amends_scenarios::{certificate, within_tls};
use amends_server::dispatch::GrpcTransport;
use grpc_participant::{Seen, serve, status};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A gRPC server within TLS that offers these protocols.
async fn server(dir: &Path, alpn: &[&[u8]]) -> String {
    let serve = |stream| {
        let behaviour = |seen: Seen| status("10", &seen.path[1..]);
        serve(stream, Arc::new(behaviour))
    };
    within_tls(dir, alpn, serve).await.to_string()
}

/// The server runs on this thread, so that the child is waited for on another.
async fn outcome(url: String, certificates: Option<PathBuf>) -> String {
    let wait = move || tls_child::outcome(&url, certificates.as_deref());
    tokio::task::spawn_blocking(wait).await.expect("no panic")
}

#[tokio::test]
#[ignore = "the child of the other test"]
async fn one_call() {
    let call = GrpcCall {
        url: tls_child::url(),
        metadata: Vec::new(),
        message: Default::default(),
        timeout: 5_000,
    };
    match GrpcTransport::new(false).call(call).await.outcome {
        Outcome::Failure(text) => println!("outcome: failure {text}"),
        Outcome::Error(text) => println!("outcome: error {text}"),
        other => println!("outcome: {other:?}"),
    }
}

#[tokio::test]
async fn the_systems_certificates_decide_who_is_trusted() {
    let dir = tempfile::tempdir().expect("a folder");
    certificate(dir.path());
    let trusted = dir.path().join("cert.pem");
    // Some servers speak HTTP/2 without saying so in ALPN.
    for alpn in [&[b"h2".as_slice()][..], &[]] {
        let address = server(dir.path(), alpn).await;
        let url = format!("grpcs://{address}/p.S/M");
        assert_eq!(
            outcome(url.clone(), Some(trusted.clone())).await,
            "failure p.S/M",
            "{alpn:?}"
        );
        let text = outcome(url, None).await;
        assert!(
            text.starts_with(&format!("error no TLS with grpcs://{address}: ")),
            "{text}"
        );
        let text = outcome(format!("grpc://{address}/p.S/M"), Some(trusted.clone())).await;
        assert!(
            text.starts_with("error ") && text.ends_with("(does it speak gRPC, without TLS?)"),
            "{text}"
        );
    }
}
