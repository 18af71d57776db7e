//! Request bodies as DTM's Go client writes them, and gids that no other run uses.

use crate::grpc::SERVICE;
use crate::message::{self, Options, Submit};
use bytes::Bytes;
use prost::Message;
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is spoken with a coordinator, or with participants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1 and JSON.
    Http,
    /// gRPC.
    Grpc,
}

impl Protocol {
    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Protocol::Http => "HTTP",
            Protocol::Grpc => "gRPC",
        }
    }
}

/// A submit in which only the gid is still open.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    submits: Protocol,
    after_gid: Vec<u8>,
}

const BEFORE_GID: &[u8] = br#"{"gid":""#;
const PAYLOAD: &str = r#"{"amount":30}"#;

impl Template {
    /// A saga of two steps, submitted over `submits`, whose participants listen on `host` (`host:port`). What the
    /// branches speak is told by their URLs alone.
    pub(crate) fn saga(
        submits: Protocol,
        branches: Protocol,
        host: &str,
        wait_result: bool,
    ) -> Template {
        let (before, names) = match branches {
            Protocol::Http => (
                format!("http://{host}/busi/"),
                [["out", "outC"], ["in", "inC"]],
            ),
            Protocol::Grpc => (
                format!("grpc://{host}/{SERVICE}/"),
                [["Out", "OutC"], ["In", "InC"]],
            ),
        };
        let steps = names.map(|[action, compensate]| {
            format!(r#"{{"action":"{before}{action}","compensate":"{before}{compensate}"}}"#)
        });
        let steps = format!("[{}]", steps.join(","));
        match submits {
            Protocol::Http => {
                let wait = if wait_result {
                    r#""wait_result":true,"#
                } else {
                    ""
                };
                let payload = Value::from(PAYLOAD);
                Template::json(format!(
                    r#"","trans_type":"saga",{wait}"concurrent":false,"steps":{steps},"payloads":[{payload},{payload}],"protocol":""}}"#
                ))
            }
            Protocol::Grpc => {
                let submit = Submit {
                    gid: String::new(),
                    trans_type: "saga".to_owned(),
                    options: Some(Options { wait_result }),
                    payloads: vec![Bytes::from_static(PAYLOAD.as_bytes()); 2],
                    steps,
                };
                Template {
                    submits,
                    after_gid: submit.encode_to_vec(),
                }
            }
        }
    }

    /// A message that is not delivered before `delay_seconds` have passed.
    pub(crate) fn delayed_message(host: &str, delay_seconds: u64) -> Template {
        Template::json(format!(
            r#"","trans_type":"msg","custom_data":"{{\"delay\":{delay_seconds}}}","concurrent":false,"steps":[{{"action":"http://{host}/busi/in"}}],"payloads":["{{\"amount\":1}}"],"protocol":""}}"#
        ))
    }

    fn json(after_gid: String) -> Template {
        Template {
            submits: Protocol::Http,
            after_gid: after_gid.into_bytes(),
        }
    }

    /// The body for one gid, which is shorter than 128 bytes and must need no escape in JSON.
    pub(crate) fn body(&self, gid: &str) -> Bytes {
        let mut body = Vec::with_capacity(BEFORE_GID.len() + gid.len() + self.after_gid.len());
        match self.submits {
            Protocol::Http => body.extend_from_slice(BEFORE_GID),
            Protocol::Grpc => body.extend_from_slice(&[message::GID, gid.len() as u8]),
        }
        body.extend_from_slice(gid.as_bytes());
        body.extend_from_slice(&self.after_gid);
        Bytes::from(body)
    }
}

/// Gids of one run: as long as the 22 characters that DTM's servers make, and never used twice.
#[derive(Debug)]
pub(crate) struct Gids {
    prefix: u64,
    next: AtomicU64,
}

impl Gids {
    /// A fresh prefix from the clock and the process id.
    pub(crate) fn new() -> Gids {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let clock = now.as_micros() as u64;
        let prefix = clock.rotate_left(20) ^ (u64::from(std::process::id()) << 8) ^ run;
        Gids {
            prefix: prefix & 0xff_ffff_ffff_ffff,
            next: AtomicU64::new(0),
        }
    }

    /// The next number.
    pub(crate) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// How many numbers were given out.
    pub(crate) fn used(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// The gid with this number.
    pub(crate) fn gid(&self, number: u64) -> String {
        format!("{:014x}{number:08}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_saga_is_what_the_go_client_sends() {
        let body = Template::saga(Protocol::Http, Protocol::Http, "H", false).body("g1");
        let expected = concat!(
            r#"{"gid":"g1","trans_type":"saga","concurrent":false,"steps":[{"action":"http://H/busi/out","compensate":"http://H/busi/outC"},"#,
            r#"{"action":"http://H/busi/in","compensate":"http://H/busi/inC"}],"payloads":["{\"amount\":30}","{\"amount\":30}"],"protocol":""}"#
        );
        assert_eq!(body, expected);
        let waits = Template::saga(Protocol::Http, Protocol::Http, "H", true).body("g1");
        let value: serde_json::Value = serde_json::from_slice(&waits).unwrap();
        assert_eq!(value["wait_result"], true);
    }

    #[test]
    fn a_saga_with_grpc_branches_differs_in_its_urls_only() {
        let urls = |branches| {
            let body = Template::saga(Protocol::Http, branches, "H:1", true).body("g1");
            let mut value: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let steps = value.as_object_mut().unwrap().remove("steps").unwrap();
            (steps, value)
        };
        let (http, with_http) = urls(Protocol::Http);
        let (grpc, with_grpc) = urls(Protocol::Grpc);
        assert_eq!(with_http, with_grpc);
        assert_eq!(http[0]["action"], "http://H:1/busi/out");
        let step = |name: &str| {
            let url = format!("grpc://H:1/bench.Bench/{name}");
            serde_json::json!({ "action": url, "compensate": url.clone() + "C" })
        };
        assert_eq!(grpc, serde_json::json!([step("Out"), step("In")]));
    }

    #[test]
    fn a_saga_over_grpc_says_what_it_says_over_http() {
        let body = |submits| Template::saga(submits, Protocol::Grpc, "H:1", true).body("g1");
        let http: Value = serde_json::from_slice(&body(Protocol::Http)).unwrap();
        let grpc = Submit::decode(body(Protocol::Grpc)).unwrap();
        assert_eq!((&grpc.gid[..], &grpc.trans_type[..]), ("g1", "saga"));
        assert_eq!(grpc.options, Some(Options { wait_result: true }));
        assert_eq!(grpc.payloads, ["{\"amount\":30}"; 2]);
        assert_eq!(http["payloads"][1], "{\"amount\":30}");
        let steps: Value = serde_json::from_str(&grpc.steps).unwrap();
        assert_eq!(steps, http["steps"]);
    }

    #[test]
    fn a_delayed_message_is_what_the_go_client_sends() {
        let body = Template::delayed_message("H", 7).body("g3");
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["custom_data"], r#"{"delay":7}"#);
        assert_eq!(value["payloads"][0], r#"{"amount":1}"#);
    }

    #[test]
    fn gids_of_two_runs_differ_and_have_22_characters() {
        let (a, b) = (Gids::new(), Gids::new());
        let mut seen = HashSet::new();
        for gids in [&a, &b] {
            for _ in 0..100 {
                let gid = gids.gid(gids.next());
                assert_eq!(gid.len(), 22);
                assert!(seen.insert(gid));
            }
        }
    }
}
