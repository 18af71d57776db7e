//! Behind layers of tower.

use crate::support::{Counter, Running, headers, name};
use amends::adapters::tower::{BoxError, CallLayer, IdentityLayer};
use amends::participant::Identity;
use amends::{Error, ErrorKind};
use amends_scenarios::{Branches, World};
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tower::{Layer, Service, ServiceExt};

type Http = Client<HttpConnector, Full<Bytes>>;

fn http() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

/// A request through a client; its status and body.
async fn send<S, E>(client: S, uri: &str) -> Result<(u16, String), E>
where
    S: Service<
            http::Request<Full<Bytes>>,
            Response = http::Response<hyper::body::Incoming>,
            Error = E,
        >,
{
    let request = http::Request::post(uri).header("x-own", "1");
    let request = request.body(Full::new(Bytes::from("{}"))).expect("legal");
    let response = client.oneshot(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a whole body");
    let body = String::from_utf8(body.to_bytes().to_vec()).expect("text");
    Ok((status, body))
}

async fn serve_http(counter: &Counter) -> Running {
    let bank = counter.clone();
    let take = move |Extension(who): Extension<Identity>| {
        let bank = bank.clone();
        async move { bank.take(who).await }
    };
    let whose = async |who: Option<Extension<Identity>>| match who {
        Some(Extension(who)) => name(&who),
        None => "nobody".to_owned(),
    };
    let routes = Router::new()
        .route("/move", get(take.clone()).post(take))
        .route("/whose", post(whose))
        .layer(IdentityLayer);
    Running::start(|socket| async move { axum::serve(socket, routes).await.expect("served") }).await
}

#[tokio::test]
async fn a_layer_in_front_of_a_router() {
    let counter = Counter::open().await;
    let bank = serve_http(&counter).await;
    let url = |rest: &str| format!("http://{}{rest}", bank.addr);

    for other in ["", "?op=add", "?gid=7", "?x=1&branch_id=12&y"] {
        let answered = send(http(), &url(&format!("/whose{other}"))).await;
        assert_eq!(answered.expect("answered"), (200, "nobody".to_owned()));
    }
    let good = "?gid=g&trans_type=saga&branch_id=01&op=action";
    let answered = send(http(), &url(&format!("/whose{good}"))).await;
    assert_eq!(answered.expect("answered"), (200, "01/action".to_owned()));

    for (bad, told) in [
        ("?gid=g&trans_type=saga&branch_id=01", "no op specified"),
        ("?gid=g&op=action", "trans_type"),
        ("?gid&op", "trans_type"),
        ("?%67id=g&op=action", "trans_type"),
        ("?gid=&trans_type=saga&branch_id=01&op=action", "no gid"),
        (
            "?gid=g&trans_type=FAILURE&branch_id=01&op=action",
            "FAILURE",
        ),
        (&format!("{good}&gid=h"), "twice"),
    ] {
        for path in ["/whose", "/move"] {
            let answered = send(http(), &url(&format!("{path}{bad}"))).await;
            let (status, body) = answered.expect("answered");
            assert_eq!(status, 500, "{bad}");
            let json: Value = serde_json::from_str(&body).expect("JSON");
            let message = json["message"].as_str().expect("a message");
            assert!(message.contains(told), "{body}");
            assert!(!body.contains("FAILURE"), "{body}");
        }
    }
    assert!(counter.calls.lock().expect("a lock").is_empty());

    let w = World::start().await;
    let (step, none) = (
        json!({"action": url("/move"), "compensate": url("/move")}),
        "",
    );
    for (gid, status, balance) in [("well", "succeed", -60), ("refused", "failed", -60)] {
        let body = json!({"gid": gid, "trans_type": "saga", "steps": [step, step], "payloads": [none, none]});
        w.dtm.post("submit", &body).await.expect_success();
        w.dtm.wait_status(gid, status).await;
        assert_eq!(counter.bank.balance().await, balance);
    }
}

#[tokio::test]
async fn calls_through_a_layer_are_a_branchs() {
    let branches = Branches::start().await;
    let who = Identity::new("tcc", "g 1/ü&=+", "0102", "try").expect("an identity");
    let own = [
        ("X-Tenant", "blue"),
        ("x-own", "2"),
        ("Content-Length", "9"),
    ];
    let layer = CallLayer::new(&who, "http://h:1/api/dtmsvr", &headers(&own)).expect("legal");
    let (status, _) = send(layer.layer(http()), &branches.url("/a?x=1"))
        .await
        .expect("answered");
    assert_eq!(status, 200);
    let arrived = &branches.calls("/a")[0];
    assert_eq!(
        arrived.query,
        "x=1&branch_id=0102&gid=g+1%2F%C3%BC%26%3D%2B&op=try&trans_type=tcc&dtm=http%3A%2F%2Fh%3A1%2Fapi%2Fdtmsvr"
    );
    assert_eq!(Identity::from_query(&arrived.query), Ok(who.clone()));
    assert_eq!(
        (arrived.header("x-tenant"), arrived.header("x-own")),
        ("blue", "2")
    );
    assert_eq!(arrived.text(), "{}");

    // A URL that says itself whose call it is, and one that is none.
    let long = format!("/a?x={}", "x".repeat(65_470));
    for bad in ["/a?gid=h", "/a?op", "/a?%64tm=h", &long] {
        let refused: Result<_, BoxError> = send(layer.layer(http()), &branches.url(bad)).await;
        let error = refused.expect_err(bad).downcast::<Error>();
        assert_eq!(error.expect("ours").kind(), ErrorKind::Invalid);
    }
    assert_eq!(branches.count("/a"), 1);
    for bad in [("x y", "1"), ("x", "a\nb")] {
        let error = CallLayer::new(&who, "", &headers(&[bad])).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    // What the called one answers, and that there is none, is the client's own.
    let nobody = format!("http://127.0.0.1:{}/a", amends_scenarios::free_port());
    let error = send(layer.layer(http()), &nobody)
        .await
        .expect_err("nobody");
    assert!(error.is::<hyper_util::client::legacy::Error>(), "{error}");

    // And the other side reads what this side wrote.
    let counter = Counter::open().await;
    let bank = serve_http(&counter).await;
    let quiet = CallLayer::new(&who, "", &BTreeMap::new()).expect("legal");
    let url = format!("http://{}/move", bank.addr);
    let (status, _) = send(quiet.layer(http()), &url).await.expect("answered");
    assert_eq!(status, 200);
    assert_eq!(counter.calls.lock().expect("a lock")[0].0, who);
}
