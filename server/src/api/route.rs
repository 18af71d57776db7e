//! Which route a request takes: DTM's paths with their aliases (dtm-server.md 4.2), and those of ours: two for probes, one for tests.

use http::Method;

/// A route, with what its path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Submit,
    Prepare,
    Abort,
    RegisterBranch,
    PrepareWorkflow,
    NewGid,
    Query,
    All,
    JsonRpc,
    Ping,
    Version,
    ForceStop,
    ResetCronTime,
    ResetNextCronTime,
    Subscribe,
    Unsubscribe,
    DeleteTopic(&'a str),
    ScanKv,
    QueryKv,
    Metrics,
    Alive,
    Ready,
    Advance,
}

impl<'a> Route<'a> {
    /// The route of a request and its name in metrics; `None` is answered with 404, a wrong method too.
    pub(super) fn of(method: &Method, path: &'a str) -> Option<(Route<'a>, &'static str)> {
        let method = method.as_str();
        let Some(name) = path.strip_prefix("/api/dtmsvr/") else {
            return Some(match (method, path) {
                ("POST", "/api/amends/clock/advance") => (Route::Advance, "advance"),
                ("POST", "/api/json-rpc") => (Route::JsonRpc, "json-rpc"),
                (_, "/api/ping") => (Route::Ping, "ping"),
                ("GET", "/api/metrics") => (Route::Metrics, "metrics"),
                ("GET" | "HEAD", "/livez") => (Route::Alive, "livez"),
                ("GET" | "HEAD", "/readyz") => (Route::Ready, "readyz"),
                _ => return None,
            });
        };
        Some(match (method, name) {
            ("POST", "submit") => (Route::Submit, "submit"),
            ("POST", "prepare") => (Route::Prepare, "prepare"),
            ("POST", "abort") => (Route::Abort, "abort"),
            ("POST", "registerBranch") => (Route::RegisterBranch, "registerbranch"),
            ("POST", "registerXaBranch") => (Route::RegisterBranch, "registerxabranch"),
            ("POST", "registerTccBranch") => (Route::RegisterBranch, "registertccbranch"),
            ("POST", "prepareWorkflow") => (Route::PrepareWorkflow, "prepareworkflow"),
            ("POST", "forceStop") => (Route::ForceStop, "forcestop"),
            ("POST", "resetNextCronTime") => (Route::ResetNextCronTime, "resetnextcrontime"),
            ("GET", "newGid") => (Route::NewGid, "newgid"),
            ("GET", "query") => (Route::Query, "query"),
            ("GET", "all") => (Route::All, "all"),
            ("GET", "version") => (Route::Version, "version"),
            ("GET", "resetCronTime") => (Route::ResetCronTime, "resetcrontime"),
            ("GET", "subscribe") => (Route::Subscribe, "subscribe"),
            ("GET", "unsubscribe") => (Route::Unsubscribe, "unsubscribe"),
            ("GET", "scanKV") => (Route::ScanKv, "scankv"),
            ("GET", "queryKV") => (Route::QueryKv, "querykv"),
            ("DELETE", path) => match path.strip_prefix("topic/") {
                Some(name) if !name.is_empty() && !name.contains('/') => {
                    (Route::DeleteTopic(name), "topic")
                }
                _ => return None,
            },
            _ => return None,
        })
    }

    /// Whether only operators use it: it wants the token where one is configured (rules.md 6.3).
    pub(super) fn is_operators(self) -> bool {
        matches!(
            self,
            Route::ForceStop
                | Route::ResetCronTime
                | Route::ResetNextCronTime
                | Route::Subscribe
                | Route::Unsubscribe
                | Route::DeleteTopic(_)
                | Route::Advance
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_methods_are_exact() {
        let of = |method: &str, path| Route::of(&method.parse().expect("a method"), path);
        assert_eq!(
            of("POST", "/api/dtmsvr/registerTccBranch"),
            Some((Route::RegisterBranch, "registertccbranch"))
        );
        assert_eq!(of("PATCH", "/api/ping"), Some((Route::Ping, "ping")));
        assert_eq!(
            of("DELETE", "/api/dtmsvr/topic/a%2Fb"),
            Some((Route::DeleteTopic("a%2Fb"), "topic"))
        );
        for (method, path) in [
            ("POST", "/api/dtmsvr/newGid"),
            ("GET", "/api/dtmsvr/submit"),
            ("GET", "/api/json-rpc"),
            ("POST", "/api/dtmsvr/Submit"),
            ("POST", "/api/dtmsvr/submit/"),
            ("DELETE", "/api/dtmsvr/topic/"),
            ("DELETE", "/api/dtmsvr/topic/a/b"),
            ("GET", "/api/dtmsvr/topic/a"),
            ("GET", "/"),
            ("GET", "/nothing"),
        ] {
            assert_eq!(of(method, path), None, "{method} {path}");
        }
    }
}
