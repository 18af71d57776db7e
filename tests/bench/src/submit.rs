//! Request bodies as DTM's Go client writes them, and gids that no other run uses.

use crate::grpc::SERVICE;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What the branches of a saga speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Branches {
    /// HTTP/1.1.
    Http,
    /// gRPC.
    Grpc,
}

impl Branches {
    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Branches::Http => "HTTP",
            Branches::Grpc => "gRPC",
        }
    }
}

/// A submit in which only the gid is still open.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    after_gid: String,
}

const BEFORE_GID: &str = r#"{"gid":""#;

impl Template {
    /// A saga of two steps whose participants listen on `host` (`host:port`). Only its URLs tell what the branches speak.
    pub(crate) fn saga(host: &str, branches: Branches, wait_result: bool) -> Template {
        let wait = if wait_result {
            r#""wait_result":true,"#
        } else {
            ""
        };
        let (before, names) = match branches {
            Branches::Http => (
                format!("http://{host}/busi/"),
                [["out", "outC"], ["in", "inC"]],
            ),
            Branches::Grpc => (
                format!("grpc://{host}/{SERVICE}/"),
                [["Out", "OutC"], ["In", "InC"]],
            ),
        };
        let steps = names.map(|[action, compensate]| {
            format!(r#"{{"action":"{before}{action}","compensate":"{before}{compensate}"}}"#)
        });
        let steps = steps.join(",");
        let payload = r#""{\"amount\":30}""#;
        Template {
            after_gid: format!(
                r#"","trans_type":"saga",{wait}"concurrent":false,"steps":[{steps}],"payloads":[{payload},{payload}],"protocol":""}}"#
            ),
        }
    }

    /// A message that is not delivered before `delay_seconds` have passed.
    pub(crate) fn delayed_message(host: &str, delay_seconds: u64) -> Template {
        Template {
            after_gid: format!(
                r#"","trans_type":"msg","custom_data":"{{\"delay\":{delay_seconds}}}","concurrent":false,"steps":[{{"action":"http://{host}/busi/in"}}],"payloads":["{{\"amount\":1}}"],"protocol":""}}"#
            ),
        }
    }

    /// The body for one gid, which must need no escape in JSON.
    pub(crate) fn body(&self, gid: &str) -> Bytes {
        let mut body = Vec::with_capacity(BEFORE_GID.len() + gid.len() + self.after_gid.len());
        body.extend_from_slice(BEFORE_GID.as_bytes());
        body.extend_from_slice(gid.as_bytes());
        body.extend_from_slice(self.after_gid.as_bytes());
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
        let body = Template::saga("H", Branches::Http, false).body("g1");
        let expected = concat!(
            r#"{"gid":"g1","trans_type":"saga","concurrent":false,"steps":[{"action":"http://H/busi/out","compensate":"http://H/busi/outC"},"#,
            r#"{"action":"http://H/busi/in","compensate":"http://H/busi/inC"}],"payloads":["{\"amount\":30}","{\"amount\":30}"],"protocol":""}"#
        );
        assert_eq!(body, expected);
        let waits = Template::saga("H", Branches::Http, true).body("g1");
        let value: serde_json::Value = serde_json::from_slice(&waits).unwrap();
        assert_eq!(value["wait_result"], true);
    }

    #[test]
    fn a_saga_with_grpc_branches_differs_in_its_urls_only() {
        let urls = |branches| {
            let body = Template::saga("H:1", branches, true).body("g1");
            let mut value: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let steps = value.as_object_mut().unwrap().remove("steps").unwrap();
            (steps, value)
        };
        let (http, with_http) = urls(Branches::Http);
        let (grpc, with_grpc) = urls(Branches::Grpc);
        assert_eq!(with_http, with_grpc);
        assert_eq!(http[0]["action"], "http://H:1/busi/out");
        let step = |name: &str| {
            let url = format!("grpc://H:1/bench.Bench/{name}");
            serde_json::json!({ "action": url, "compensate": url.clone() + "C" })
        };
        assert_eq!(grpc, serde_json::json!([step("Out"), step("In")]));
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
