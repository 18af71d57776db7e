//! Scenario 1, HTTP: every route with good, repeated, unknown and malformed input.

use amends_scenarios::{World, keys};
use http::Method;

/// What an answer must be.
enum Want {
    /// Exactly this body.
    Body(&'static str),
    /// `{"message":"…"}` and nothing else.
    Message(&'static str),
    /// A refusal for the stored status: text and status.
    State(&'static str, &'static str),
    /// A message that contains this.
    Names(&'static str),
}

use Want::{Body, Message, Names, State};

const OK: Want = Body(r#"{"dtm_result":"SUCCESS"}"#);
const NOT_FOUND: Want = Body("404 page not found");
const GET: Method = Method::GET;
const POST: Method = Method::POST;
const DELETE: Method = Method::DELETE;

type Row = (Method, &'static str, &'static str, u16, Want);

/// Sends the rows in order; `BR` in a body or path stands for the branch service.
async fn check(w: &World, rows: Vec<Row>) {
    for (method, path, body, status, want) in rows {
        let path = path.replace("BR", &w.url(""));
        let body = body.replace("BR", &w.url(""));
        let row = format!("{method} {path} {body}");
        let answer = w.dtm.send(method, &path, body).await.expect("an answer");
        let text = answer.text();
        assert_eq!(answer.status, status, "{row}: {text}");
        match want {
            Body(body) => assert_eq!(text, body, "{row}"),
            Message(message) => assert_eq!(text, format!(r#"{{"message":"{message}"}}"#), "{row}"),
            Names(part) => assert!(
                answer.message().contains(part),
                "{row}: {text} does not name {part}"
            ),
            State(message, stored) => {
                let want = format!(
                    r#"{{"dtm_result":"FAILURE","message":"{message}","status":"{stored}"}}"#
                );
                assert_eq!(text, want, "{row}");
            }
        }
        let json = if text.starts_with('{') {
            "application/json; charset=utf-8"
        } else {
            "text/plain"
        };
        assert!(
            answer.content_type.starts_with(json),
            "{row}: Content-Type {:?}",
            answer.content_type
        );
    }
}

#[tokio::test]
async fn s01_health_version_and_unknown_paths() {
    let w = World::start().await;
    check(
        &w,
        vec![
            (GET, "/api/ping", "", 200, Body(r#"{"msg":"pong"}"#)),
            (POST, "/api/ping", "", 200, Body(r#"{"msg":"pong"}"#)),
            (GET, "/nothing", "", 404, NOT_FOUND),
            (POST, "/api/dtmsvr/newGid", "", 404, NOT_FOUND),
            (GET, "/api/dtmsvr/submit", "", 404, NOT_FOUND),
            (DELETE, "/api/dtmsvr/query", "", 404, NOT_FOUND),
            (GET, "/api/json-rpc", "", 404, NOT_FOUND),
        ],
    )
    .await;
    let version = w.dtm.get("/api/dtmsvr/version").await.expect_status(200);
    assert_eq!(keys(&version.text()), ["version"]);
    assert!(
        version.json()["version"]
            .as_str()
            .is_some_and(|v| !v.is_empty())
    );
    let mut gids = Vec::new();
    for _ in 0..3 {
        let answer = w.dtm.get("/api/dtmsvr/newGid").await.expect_status(200);
        assert_eq!(keys(&answer.text()), ["dtm_result", "gid"]);
        assert_eq!(answer.json()["dtm_result"], "SUCCESS");
        gids.push(answer.json()["gid"].as_str().expect("a string").to_owned());
    }
    gids.dedup();
    assert_eq!(gids.len(), 3);
    assert!(
        gids.iter()
            .all(|g| g.len() == 22 && g.bytes().all(|b| b.is_ascii_alphanumeric()))
    );
}

#[tokio::test]
async fn s01_reading_routes() {
    let w = World::start().await;
    let nothing = Body(r#"{"branches":[],"transaction":null}"#);
    let kv = r#"{"kv":[],"next_position":""}"#;
    check(
        &w,
        vec![
            (
                GET,
                "/api/dtmsvr/query",
                "",
                400,
                Message("no gid specified"),
            ),
            (
                GET,
                "/api/dtmsvr/query?gid=",
                "",
                400,
                Message("no gid specified"),
            ),
            (GET, "/api/dtmsvr/query?gid=none", "", 200, nothing),
            (
                GET,
                "/api/dtmsvr/all",
                "",
                200,
                Body(r#"{"next_position":"","transactions":[]}"#),
            ),
            (
                GET,
                "/api/dtmsvr/all?gid=none",
                "",
                200,
                Body(r#"{"next_position":"","transactions":null}"#),
            ),
            (
                GET,
                "/api/dtmsvr/all?limit=abc",
                "",
                400,
                Message("convert to int error: abc"),
            ),
            (GET, "/api/dtmsvr/all?limit=0", "", 400, Names("limit")),
            (GET, "/api/dtmsvr/all?limit=-1", "", 400, Names("limit")),
            (
                GET,
                "/api/dtmsvr/all?createTimeStart=x",
                "",
                400,
                Message("convert to int error: x"),
            ),
            (
                GET,
                "/api/dtmsvr/all?createTimeEnd=1.5",
                "",
                400,
                Message("convert to int error: 1.5"),
            ),
            (GET, "/api/dtmsvr/scanKV", "", 200, Body(kv)),
            (
                GET,
                "/api/dtmsvr/scanKV?cat=topics&limit=abc",
                "",
                400,
                Message("convert to int error: abc"),
            ),
            (
                GET,
                "/api/dtmsvr/queryKV?cat=topics&key=none",
                "",
                200,
                Body(r#"{"kv":[]}"#),
            ),
            (
                GET,
                "/api/dtmsvr/resetCronTime",
                "",
                200,
                Body(r#"{"has_remaining":false,"succeed_count":0}"#),
            ),
            (
                GET,
                "/api/dtmsvr/resetCronTime?timeout=abc",
                "",
                400,
                Message("convert to int error: abc"),
            ),
            (
                GET,
                "/api/dtmsvr/resetCronTime?limit=abc",
                "",
                400,
                Message("convert to int error: abc"),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn s01_prepare_submit_abort() {
    const M1: &str = r#"{"gid":"m1","trans_type":"msg","steps":[{"action":"BR/a"}],"payloads":["{}"],"query_prepared":"BR/qp"}"#;
    const M1_WAIT: &str = r#"{"gid":"m1","trans_type":"msg","steps":[{"action":"BR/a"}],"payloads":["{}"],"wait_result":true}"#;
    const M2: &str = r#"{"gid":"m2","trans_type":"msg","steps":[{"action":"BR/a"}],"payloads":["{}"],"query_prepared":"BR/qp"}"#;
    const PREPARE: &str = "/api/dtmsvr/prepare";
    const SUBMIT: &str = "/api/dtmsvr/submit";
    const ABORT: &str = "/api/dtmsvr/abort";
    let m1 = r#"{"gid":"m1","trans_type":"msg"}"#;
    let m2 = r#"{"gid":"m2","trans_type":"msg"}"#;
    let unknown = |kind| match kind {
        "tcc" => r#"{"gid":"nope","trans_type":"tcc"}"#,
        "xa" => r#"{"gid":"nope","trans_type":"xa"}"#,
        "workflow" => r#"{"gid":"nope","trans_type":"workflow","req_extra":{"status":"succeed"}}"#,
        _ => r#"{"gid":"nope","trans_type":"msg"}"#,
    };
    let no_trans = || Message("no TransGlobal with gid: nope found");
    let w = World::start().await;
    check(
        &w,
        vec![
            (POST, PREPARE, M1, 200, OK),
            (POST, PREPARE, M1, 200, OK),
            (POST, SUBMIT, M1_WAIT, 200, OK),
            (
                POST,
                SUBMIT,
                m1,
                409,
                State(
                    "current status 'succeed', cannot sumbmit. FAILURE",
                    "succeed",
                ),
            ),
            (
                POST,
                PREPARE,
                m1,
                409,
                State(
                    "current status 'succeed', cannot prepare. FAILURE",
                    "succeed",
                ),
            ),
            (
                POST,
                ABORT,
                m1,
                409,
                State(
                    "trans type: 'msg' current status 'succeed', cannot abort. FAILURE",
                    "succeed",
                ),
            ),
            (POST, PREPARE, M2, 200, OK),
            (POST, ABORT, m2, 200, OK),
            (
                POST,
                SUBMIT,
                m2,
                409,
                State("current status 'failed', cannot sumbmit. FAILURE", "failed"),
            ),
            (POST, ABORT, unknown("msg"), 404, no_trans()),
            (POST, SUBMIT, unknown("tcc"), 404, no_trans()),
            (POST, SUBMIT, unknown("xa"), 404, no_trans()),
            (POST, SUBMIT, unknown("workflow"), 404, no_trans()),
        ],
    )
    .await;
}

#[tokio::test]
async fn s01_register_branch() {
    const REGISTER: &str = "/api/dtmsvr/registerBranch";
    const T1: &str = r#"{"gid":"t1","trans_type":"tcc","branch_id":"01","data":"{\"a\":1}","confirm":"BR/confirm","cancel":"BR/cancel"}"#;
    const T1_OTHER: &str = r#"{"gid":"t1","trans_type":"tcc","branch_id":"01","data":"{\"a\":2}","confirm":"BR/confirm","cancel":"BR/cancel"}"#;
    const X1: &str = r#"{"gid":"x1","trans_type":"xa","branch_id":"01","url":"BR/xa"}"#;
    let w = World::start().await;
    // A wrong state of something unknown: DTM's text, and no status to tell.
    for (trans_type, gid) in [("tcc", "none"), ("xa", "none")] {
        let body = serde_json::json!({"gid": gid, "trans_type": trans_type, "branch_id": "01",
            "confirm": w.url("/c"), "cancel": w.url("/c"), "url": w.url("/c")});
        let answer = w.dtm.post("registerBranch", &body).await.expect_status(409);
        assert_eq!(answer.json()["dtm_result"], "FAILURE");
        assert_eq!(
            answer.message(),
            "no trans with gid: none status: prepared found FAILURE"
        );
    }
    check(
        &w,
        vec![
            (
                POST,
                "/api/dtmsvr/prepare",
                r#"{"gid":"t1","trans_type":"tcc"}"#,
                200,
                OK,
            ),
            (POST, REGISTER, T1, 200, OK),
            (POST, REGISTER, T1, 200, OK),
            (POST, "/api/dtmsvr/registerTccBranch", T1, 200, OK),
            (POST, REGISTER, T1_OTHER, 409, Names("01")),
            (
                POST,
                "/api/dtmsvr/prepare",
                r#"{"gid":"x1","trans_type":"xa"}"#,
                200,
                OK,
            ),
            (POST, REGISTER, X1, 200, OK),
            (POST, "/api/dtmsvr/registerXaBranch", X1, 200, OK),
            (
                POST,
                REGISTER,
                r#"{"gid":"t1","trans_type":"zzz","branch_id":"01"}"#,
                400,
                Message("unknow trans type: zzz"),
            ),
            (POST, REGISTER, "hello", 400, Names("")),
            (POST, REGISTER, "", 400, Names("")),
            (POST, REGISTER, "[]", 400, Names("")),
            (
                POST,
                REGISTER,
                r#"{"gid":"t1","data":1}"#,
                400,
                Names("data"),
            ),
            (
                POST,
                REGISTER,
                r#"{"gid":"","trans_type":"tcc","branch_id":"01"}"#,
                400,
                Names("gid"),
            ),
            (
                POST,
                REGISTER,
                r#"{"gid":"t1","trans_type":"tcc","branch_id":""}"#,
                400,
                Names("branch_id"),
            ),
        ],
    )
    .await;
    assert_eq!(
        w.dtm.query("t1").await.row_names(),
        ["01/cancel", "01/confirm"]
    );
    assert_eq!(
        w.dtm.query("x1").await.row_names(),
        ["01/rollback", "01/commit"]
    );
}

#[tokio::test]
async fn s01_operator_routes() {
    const STOP: &str = "/api/dtmsvr/forceStop";
    const NEXT: &str = "/api/dtmsvr/resetNextCronTime";
    let no_trans = || Message("no TransGlobal with gid: nope found");
    let w = World::start().await;
    check(
        &w,
        vec![
            (
                POST,
                "/api/dtmsvr/prepare",
                r#"{"gid":"t1","trans_type":"tcc"}"#,
                200,
                OK,
            ),
            (POST, NEXT, r#"{"gid":"t1"}"#, 200, OK),
            (POST, STOP, r#"{"gid":"t1"}"#, 200, OK),
            (
                POST,
                STOP,
                r#"{"gid":"t1"}"#,
                409,
                State(
                    "global transaction force stop error. status: failed. error: FAILURE",
                    "failed",
                ),
            ),
            (POST, NEXT, r#"{"gid":"t1"}"#, 200, OK),
            (POST, STOP, r#"{"gid":"nope"}"#, 404, no_trans()),
            (POST, NEXT, r#"{"gid":"nope"}"#, 404, no_trans()),
            (POST, STOP, "hello", 400, Names("")),
            (POST, NEXT, "", 400, Names("")),
            (POST, STOP, "{}", 400, Names("gid")),
            (POST, NEXT, "{}", 400, Names("gid")),
        ],
    )
    .await;
}

#[tokio::test]
async fn s01_topic_routes() {
    let sub = "/api/dtmsvr/subscribe?topic=tp&url=BR/s1&remark=r";
    let w = World::start().await;
    check(
        &w,
        vec![
            (GET, sub, "", 200, OK),
            (GET, sub, "", 409, Message("this url exists")),
            (
                GET,
                "/api/dtmsvr/subscribe?topic=&url=BR/s1",
                "",
                400,
                Message("empty topic"),
            ),
            (
                GET,
                "/api/dtmsvr/subscribe?topic=tp&url=",
                "",
                400,
                Message("empty url"),
            ),
            (
                GET,
                "/api/dtmsvr/unsubscribe?topic=tp&url=zzz",
                "",
                404,
                Message("no such an url "),
            ),
            (
                GET,
                "/api/dtmsvr/unsubscribe?topic=&url=zzz",
                "",
                400,
                Message("empty topic"),
            ),
            (
                GET,
                "/api/dtmsvr/unsubscribe?topic=tp&url=",
                "",
                400,
                Message("empty url"),
            ),
            (
                GET,
                "/api/dtmsvr/unsubscribe?topic=tp&url=BR/s1",
                "",
                200,
                OK,
            ),
            (
                GET,
                "/api/dtmsvr/unsubscribe?topic=tp&url=BR/s1",
                "",
                404,
                Message("this topic is empty"),
            ),
            (
                GET,
                "/api/dtmsvr/unsubscribe?topic=none&url=BR/s1",
                "",
                404,
                Message("no such a topic"),
            ),
            (DELETE, "/api/dtmsvr/topic/tp", "", 200, OK),
            (
                DELETE,
                "/api/dtmsvr/topic/tp",
                "",
                404,
                Message("storage: NotFound"),
            ),
        ],
    )
    .await;
}
