//! An ordinary client of the coordinator and of the banks.

use super::bank::{Account, Order};
use super::service::BankService;
use super::timeline::{Entry, Timeline, Tone};
use crate::cli::{Exit, Failure};
use crate::dispatch::GrpcTransport;
use amends::wire::grpc::GrpcCall;
use amends::wire::grpc::dtmgimp::DtmRequest;
use amends::{Millis, Outcome};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// How long a transaction of the demo may take to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at a transaction.
const PAUSE: Duration = Duration::from_millis(20);

/// Talks to one coordinator. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    name: &'static str,
    base: String,
    grpc_base: String,
    grpc: GrpcTransport,
    pool: Pool<HttpConnector, Full<Bytes>>,
    timeline: Timeline,
}

impl Client {
    /// A client of the coordinator with these addresses for HTTP and gRPC.
    pub(super) fn new(http: SocketAddr, grpc: SocketAddr, timeline: Timeline) -> Client {
        Client {
            name: "app",
            base: format!("http://{http}/api/dtmsvr"),
            grpc_base: format!("grpc://{grpc}/dtmgimp.Dtm"),
            grpc: GrpcTransport::new(false),
            pool: Pool::builder(TokioExecutor::new()).build_http(),
            timeline,
        }
    }

    /// The same client in the hands of somebody else than the app.
    pub(super) fn named(&self, name: &'static str) -> Client {
        Client {
            name,
            ..self.clone()
        }
    }

    /// POST of a route of the coordinator. Whether it was accepted.
    pub(super) async fn post(&self, route: &str, body: &Value) -> Result<bool, Failure> {
        let call = format!("POST /{route}");
        if matches!(route, "submit" | "abort") {
            let waits = body.get("wait_result") == Some(&true.into());
            let until = if waits { "the end" } else { "a receipt" };
            self.told(&call, &format!("... waits for {until}"), Tone::Plain);
        }
        let url = format!("{}/{route}", self.base);
        let (status, answer) = self.send(Method::POST, &url, body.to_string()).await?;
        let word = answer.get("dtm_result").or(answer.get("message"));
        let word = word.and_then(Value::as_str).unwrap_or_default();
        self.told(
            &call,
            &format!("{} {word}", status.as_u16()),
            tone_of(status),
        );
        Ok(status == StatusCode::OK)
    }

    /// Submits over gRPC, and waits for the end if the request says so.
    pub(super) async fn submit(&self, request: &DtmRequest) -> Result<(), Failure> {
        let call = "Dtm/Submit";
        self.told(call, "... waits for the end", Tone::Plain);
        let submit = GrpcCall {
            url: format!("{}/Submit", self.grpc_base),
            metadata: Vec::new(),
            message: request.encode_to_vec().into(),
            timeout: Millis::try_from(PATIENCE.as_millis()).unwrap_or(Millis::MAX),
        };
        let (answer, tone) = match self.grpc.call(submit).await.outcome {
            Outcome::Success => ("OK", Tone::Good),
            Outcome::Failure(_) => ("ABORTED", Tone::Bad),
            Outcome::Ongoing => ("FAILED_PRECONDITION", Tone::Wait),
            Outcome::Error(text) => {
                let text = format!("the demo's call of {}: {text}", self.grpc_base);
                return Err(Failure::new(Exit::Failed, text));
            }
        };
        self.told(call, answer, tone);
        Ok(())
    }

    /// Waits until a transaction has ended, and returns its status: the last one seen, if it takes too long.
    pub(super) async fn end_of(&self, gid: &str) -> Result<String, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let transaction = self.transaction(gid).await?;
            let text = |name| transaction.get(name).and_then(Value::as_str);
            let status = text("status").unwrap_or("unknown");
            let ended = matches!(status, "succeed" | "failed");
            if ended || Instant::now() > deadline {
                let tone = if ended { Tone::Plain } else { Tone::Bad };
                self.told("GET /query", &format!("200 {status}"), tone);
                return Ok(status.to_owned());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A transaction as the coordinator shows it.
    pub(super) async fn transaction(&self, gid: &str) -> Result<Value, Failure> {
        let url = format!("{}/query?gid={gid}", self.base);
        let (_, mut answer) = self.send(Method::GET, &url, String::new()).await?;
        Ok(answer["transaction"].take())
    }

    /// A try, which the app itself calls. Whether the bank agreed.
    pub(super) async fn try_branch(
        &self,
        url: &str,
        gid: &str,
        branch_id: &str,
        order: &Order,
    ) -> Result<bool, Failure> {
        let url = format!("{url}?branch_id={branch_id}&gid={gid}&op=try&trans_type=tcc");
        let body = json!(order).to_string();
        let (status, _) = self.send(Method::POST, &url, body).await?;
        Ok(status == StatusCode::OK)
    }

    /// The accounts of a bank.
    pub(super) async fn accounts(
        &self,
        bank: &BankService,
    ) -> Result<BTreeMap<String, Account>, Failure> {
        let url = bank.url("/accounts");
        let (_, answer) = self.send(Method::GET, &url, String::new()).await?;
        serde_json::from_value(answer).map_err(|error| broken(&url, &error))
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        body: String,
    ) -> Result<(StatusCode, Value), Failure> {
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| broken(url, &error))?;
        let answer = self.pool.request(request).await;
        let answer = answer.map_err(|error| broken(url, &error))?;
        let status = answer.status();
        let body = answer.into_body().collect().await;
        let body = body.map_err(|error| broken(url, &error))?.to_bytes();
        let body = serde_json::from_slice(&body).map_err(|error| broken(url, &error))?;
        Ok((status, body))
    }

    fn told(&self, call: &str, answer: &str, tone: Tone) {
        self.timeline.add(&Entry {
            from: self.name,
            to: "coordinator",
            call,
            branch: "",
            answer,
            tone,
        });
    }
}

fn tone_of(status: StatusCode) -> Tone {
    match status {
        StatusCode::OK => Tone::Good,
        StatusCode::TOO_EARLY => Tone::Wait,
        _ => Tone::Bad,
    }
}

fn broken(url: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, format!("the demo's call of {url}: {error}"))
}
