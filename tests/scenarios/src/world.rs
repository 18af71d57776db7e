//! One coordinator, one branch service and one client, with short forms of the requests that most tests send.

use crate::branches::Branches;
use crate::client::{Answer, Client};
use crate::grpc::GrpcClient;
use crate::server::{Server, Settings};
use crate::wait::{DEADLINE, eventually};
use serde_json::{Value, json};

/// What a test runs in. In the short forms a step or branch `a` has the URLs `/a` and `/a-undo` at the branch service.
#[derive(Debug)]
pub struct World {
    /// The coordinator.
    pub server: Server,
    /// The branch service.
    pub branches: Branches,
    /// A client of the coordinator.
    pub dtm: Client,
    /// The same over gRPC.
    pub grpc: GrpcClient,
    /// Whether [`World::url`] names gRPC targets.
    pub grpc_branches: bool,
}

impl World {
    /// A world with default settings.
    pub async fn start() -> World {
        World::with(&[]).await
    }

    /// A world whose coordinator has these settings.
    pub async fn with(settings: Settings<'_>) -> World {
        let branches = Branches::start().await;
        let server = Server::start(settings).await;
        let (dtm, grpc) = (server.client(), GrpcClient::new(server.grpc_addr()));
        World {
            server,
            branches,
            dtm,
            grpc,
            grpc_branches: false,
        }
    }

    /// A world whose branches are called over gRPC.
    pub async fn with_grpc_branches(settings: Settings<'_>) -> World {
        World {
            grpc_branches: true,
            ..World::with(settings).await
        }
    }

    /// kill -9 and a new start on the same folder.
    pub async fn crash(&mut self) {
        self.server.kill();
        self.server.restart().await;
    }

    /// Kicks a transaction until a path was called `n` times: a kick that comes before an answer has been taken in finds nothing due.
    ///
    /// # Panics
    ///
    /// When [`DEADLINE`] has passed.
    pub async fn kick_until(&self, gid: &str, path: &str, n: usize) {
        let kicked = async || {
            self.dtm.kick(gid).await;
            self.branches.count(path) >= n
        };
        eventually(&format!("{n} calls of {path}"), DEADLINE, kicked).await;
    }

    /// The URL of a path of the branch service.
    pub fn url(&self, path: &str) -> String {
        if self.grpc_branches {
            self.branches.grpc_url(path)
        } else {
            self.branches.url(path)
        }
    }

    /// A saga whose payloads name their steps.
    pub fn saga(&self, gid: &str, steps: &[&str], extra: Value) -> Value {
        let pair = |s: &&str| json!({"action": self.url(&format!("/{s}")), "compensate": self.url(&format!("/{s}-undo"))});
        let body = json!({
            "gid": gid,
            "trans_type": "saga",
            "steps": steps.iter().map(pair).collect::<Vec<_>>(),
            "payloads": payloads(steps),
        });
        merge(body, extra)
    }

    /// A message whose payloads name their steps, with the check-back `/check`.
    pub fn msg(&self, gid: &str, steps: &[&str], extra: Value) -> Value {
        let action = |s: &&str| json!({"action": self.url(&format!("/{s}"))});
        let body = json!({
            "gid": gid,
            "trans_type": "msg",
            "steps": steps.iter().map(action).collect::<Vec<_>>(),
            "payloads": payloads(steps),
            "query_prepared": self.url("/check"),
        });
        merge(body, extra)
    }

    /// registerBranch of a TCC branch with the URLs `/<id>-confirm` and `/<id>-cancel`.
    pub async fn register_tcc(&self, gid: &str, branch_id: &str) -> Answer {
        self.dtm
            .post(
                "registerBranch",
                &self.tcc_branch(gid, branch_id, json!({})),
            )
            .await
    }

    /// The body of [`World::register_tcc`].
    pub fn tcc_branch(&self, gid: &str, branch_id: &str, extra: Value) -> Value {
        let body = json!({
            "gid": gid,
            "trans_type": "tcc",
            "branch_id": branch_id,
            "data": format!("{{\"branch\":\"{branch_id}\"}}"),
            "confirm": self.url(&format!("/{branch_id}-confirm")),
            "cancel": self.url(&format!("/{branch_id}-cancel")),
        });
        merge(body, extra)
    }

    /// A workflow with the callback `/callback`, the name `wf` and the data `{"a":1}`.
    pub fn workflow(&self, gid: &str, extra: Value) -> Value {
        let body = json!({
            "gid": gid,
            "trans_type": "workflow",
            "protocol": "http",
            "query_prepared": self.url("/callback"),
            "custom_data": r#"{"name":"wf","data":"eyJhIjoxfQ=="}"#,
        });
        merge(body, extra)
    }
}

fn payloads(steps: &[&str]) -> Vec<String> {
    steps
        .iter()
        .map(|s| format!("{{\"step\":\"{s}\"}}"))
        .collect()
}

/// An object with the members of another one added or replaced.
pub fn merge(mut body: Value, extra: Value) -> Value {
    if let (Value::Object(body), Value::Object(extra)) = (&mut body, extra) {
        body.extend(extra);
    }
    body
}
