//! Behind tonic.

use crate::support::{Counter, Running, headers};
use amends::ErrorKind;
use amends::adapters::tonic::{CallInterceptor, answer, identity};
use amends::adapters::tower::IdentityLayer;
use amends::participant::Identity;
use amends_scenarios::{Branches, Reply, World};
use futures_util::future::BoxFuture;
use http::uri::PathAndQuery;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::server::NamedService;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;

/// The bank as the gRPC service `busi.Bank`, all of whose methods are the same.
#[derive(Clone)]
struct BankService(Counter);

impl NamedService for BankService {
    const NAME: &'static str = "busi.Bank";
}

impl Service<http::Request<tonic::body::Body>> for BankService {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let counter = self.0.clone();
        let method = move |request: Request<()>| {
            let counter = counter.clone();
            async move {
                let who = match request.extensions().get::<Identity>() {
                    Some(who) => who.clone(),
                    None => Identity::from_tonic(&request)?,
                };
                answer(counter.take(who).await)
            }
        };
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<(), ()>::default());
            let method = tower::service_fn(method);
            Ok(grpc.unary(method, request).await)
        })
    }
}

async fn serve_grpc(counter: &Counter) -> Running {
    let service = InterceptedService::new(BankService(counter.clone()), identity);
    Running::start(|socket| async move {
        // The layer has nothing to do on gRPC, and is in nobody's way.
        let router = Server::builder().layer(IdentityLayer).add_service(service);
        let served = router.serve_with_incoming(TcpIncoming::from(socket)).await;
        served.expect("served");
    })
    .await
}

/// A saga of two branches at this bank.
fn saga(gid: &str, bank: SocketAddr) -> Value {
    let url = format!("{bank}/busi.Bank/Move");
    let step = json!({"action": url, "compensate": url});
    json!({
        "gid": gid,
        "trans_type": "saga",
        "steps": [step, step],
        "payloads": ["", ""],
        "retry_interval": 1,
    })
}

#[tokio::test]
async fn the_coordinator_calls_a_bank_behind_tonic() {
    let w = World::start().await;
    let counter = Counter::open().await;
    let bank = serve_grpc(&counter).await;
    let run = async |gid: &str, status: &str| {
        let submitted = w.grpc.dtm_json("Submit", &saga(gid, bank.addr)).await;
        submitted.expect("submitted");
        let view = w.dtm.wait_status(gid, status).await;
        view.field("rollback_reason").to_owned()
    };

    run("well", "succeed").await;
    assert_eq!(counter.seen("well"), ["01/action", "02/action"]);
    assert_eq!(counter.bank.balance().await, -60);

    // The change is made and its answer is lost: the second call is a duplicate.
    run("lost", "succeed").await;
    let twice = ["01/action", "01/action", "02/action", "02/action"];
    assert_eq!(counter.seen("lost"), twice);
    let internal = Some(ErrorKind::Internal);
    assert_eq!(counter.answers("lost"), [internal, None, internal, None]);
    assert_eq!(counter.bank.balance().await, -120);

    run("later", "succeed").await;
    assert_eq!(counter.seen("later"), twice);
    let ongoing = Some(ErrorKind::Ongoing);
    assert_eq!(counter.answers("later"), [ongoing, None, ongoing, None]);
    assert_eq!(counter.bank.balance().await, -180);

    for (gid, reason) in [("refused", "no such account"), ("old-word", "ongoing")] {
        let told = run(gid, "failed").await;
        assert!(told.contains(reason), "{told}");
        let undone = ["01/action", "02/action", "02/compensate", "01/compensate"];
        assert_eq!(counter.seen(gid), undone);
        let refused = Some(ErrorKind::Failure);
        assert_eq!(counter.answers(gid), [None, refused, None, None]);
        assert_eq!(counter.bank.balance().await, -180, "{gid}");
    }
}

/// A call of the bank through a client with this interceptor.
async fn call(url: &str, interceptor: impl Interceptor) -> Result<Response<()>, Status> {
    let (addr, path) = url.split_once('/').expect("a gRPC target");
    let http: Client<HttpConnector, tonic::body::Body> = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let origin = format!("http://{addr}").parse().expect("an origin");
    let service = InterceptedService::new(http, interceptor);
    let mut grpc = tonic::client::Grpc::with_origin(service, origin);
    grpc.ready().await.expect("ready");
    let path = PathAndQuery::try_from(format!("/{path}")).expect("a path");
    grpc.unary(Request::new(()), path, ProstCodec::<(), ()>::default())
        .await
}

#[tokio::test]
async fn metadata_that_names_no_branch_is_refused() {
    let counter = Counter::open().await;
    let bank = serve_grpc(&counter).await;
    let url = format!("{}/busi.Bank/Move", bank.addr);
    let send = async |pairs: &[(&'static str, &'static [u8])]| {
        let pairs = pairs.to_vec();
        let interceptor = move |mut request: Request<()>| {
            for (key, value) in &pairs {
                let value = AsciiMetadataValue::try_from(*value).expect("bytes that can be sent");
                let key = AsciiMetadataKey::from_static(key);
                request.metadata_mut().append(key, value);
            }
            Ok(request)
        };
        call(&url, interceptor).await
    };
    let good: [(&str, &[u8]); 4] = [
        ("dtm-gid", b"g"),
        ("dtm-trans_type", b"saga"),
        ("dtm-branch_id", b"01"),
        ("dtm-op", b"action"),
    ];
    send(&good).await.expect("a branch call");
    assert_eq!(counter.bank.balance().await, -30);

    let with = |at: usize, value: &'static [u8]| {
        let mut pairs = good.to_vec();
        pairs[at].1 = value;
        pairs
    };
    let mut twice = good.to_vec();
    twice.push(("dtm-gid", b"h"));
    for (pairs, told) in [
        (good[..3].to_vec(), "no op specified"),
        (good[..1].to_vec(), "trans_type"),
        (with(0, b""), "no gid specified"),
        (with(0, b"g;h"), "';'"),
        (with(0, b"g\xc3\xbc"), "printable ASCII"),
        (with(1, b"sega"), "sega"),
        (twice, "twice"),
        // It passes the interceptor, for it may be anybody's call; the method has no branch then.
        (Vec::new(), "no branch call"),
    ] {
        let status = send(&pairs).await.expect_err(told);
        assert_eq!(status.code(), Code::Internal, "{status}");
        assert!(status.message().contains(told), "{status}");
    }
    assert_eq!(counter.seen("g"), ["01/action"]);
    assert_eq!(counter.calls.lock().expect("a lock").len(), 1);
}

#[tokio::test]
async fn calls_through_an_interceptor_are_a_branchs() {
    let branches = Branches::start().await;
    let who = Identity::new("tcc", "g 1/%2F&", "0102", "try").expect("an identity");
    let own = [
        ("X-Tenant", "blue"),
        ("trace-bin", "ü"),
        ("content-type", "text/plain"),
        ("dtm-gid", "h"),
    ];
    let calls = CallInterceptor::new(&who, "127.0.0.1:36790", &headers(&own)).expect("legal");
    let url = branches.grpc_url("/a");
    call(&url, calls.clone()).await.expect("called");
    let arrived = &branches.calls("/a")[0];
    for (key, value) in [
        ("dtm-gid", "g 1/%2F&"),
        ("dtm-trans_type", "tcc"),
        ("dtm-branch_id", "0102"),
        ("dtm-op", "try"),
        ("dtm-dtm", "127.0.0.1:36790"),
        ("x-tenant", "blue"),
        ("trace-bin", "w7w"),
        ("content-type", "application/grpc"),
    ] {
        let values: Vec<_> = arrived.headers.get_all(key).iter().collect();
        assert_eq!(values, [value], "{key}");
    }

    branches.script("/no", [Reply::failure("no room")]);
    let status = call(&branches.grpc_url("/no"), calls).await;
    assert_eq!(status.expect_err("refused").code(), Code::Aborted);

    // The coordinator's field is there and empty, as in the coordinator's own calls.
    let quiet = CallInterceptor::new(&who, "", &BTreeMap::new()).expect("legal");
    call(&url, quiet.clone()).await.expect("called");
    assert_eq!(branches.calls("/a")[1].headers["dtm-dtm"], "");

    // And the other side reads what this side wrote.
    let counter = Counter::open().await;
    let bank = serve_grpc(&counter).await;
    let url = format!("{}/busi.Bank/Move", bank.addr);
    call(&url, quiet).await.expect("called");
    assert_eq!(counter.calls.lock().expect("a lock")[0].0, who);
}
