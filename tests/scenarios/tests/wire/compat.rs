//! The four switches of rules.md 3: DTM's own behaviour, for those who need it.

use amends_scenarios::{Reply, World};
use http::Method;
use serde_json::json;

#[tokio::test]
async fn s06_compat_body_text_searches_answers_for_words() {
    let w = World::with(&[("AMENDS_COMPAT_BODY_TEXT", "true")]).await;
    for (gid, reply, status) in [
        ("f200", Reply::new(200, "some FAILURE x"), "failed"),
        ("f500", Reply::new(500, "FAILURE"), "failed"),
        ("o500", Reply::new(500, "ONGOING"), "submitted"),
        ("o200", Reply::new(200, "ONGOING FAILURE"), "submitted"),
        ("ok", Reply::new(200, "fine"), "succeed"),
    ] {
        w.branches.script(&format!("/{gid}"), [reply]);
        let extra = json!({"wait_result": true, "retry_interval": 20});
        w.dtm.post("submit", &w.saga(gid, &[gid], extra)).await;
        let view = w.dtm.query(gid).await;
        assert_eq!(view.status(), status, "{gid}");
        if status == "submitted" {
            assert_eq!(view.json["transaction"]["next_cron_interval"], 20, "{gid}");
        }
    }
}

#[tokio::test]
async fn s06_compat_only_200_takes_other_2xx_for_errors() {
    let w = World::with(&[("AMENDS_COMPAT_ONLY_200", "true")]).await;
    for code in [201, 202, 204] {
        let gid = format!("s{code}");
        w.branches
            .script(&format!("/{gid}"), [Reply::new(code, "")]);
        let extra = json!({"wait_result": true, "retry_interval": 20});
        w.dtm
            .post("submit", &w.saga(&gid, &[&gid], extra))
            .await
            .expect_status(425);
        w.dtm.wait_interval(&gid, 40).await;
    }
}

#[tokio::test]
async fn s11_compat_wait_result_409_calls_what_is_open_a_failure() {
    let w = World::with(&[("AMENDS_COMPAT_WAIT_RESULT_409", "true")]).await;
    w.branches.script("/later", [Reply::ongoing()]);
    let extra = json!({"wait_result": true, "retry_interval": 20});
    for body in [
        w.saga("s", &["later"], extra.clone()),
        w.msg("m", &["later"], extra),
    ] {
        let answer = w.dtm.post("submit", &body).await.expect_status(409);
        assert_eq!(answer.message(), "wait result not return success: FAILURE");
    }
    assert_eq!(w.dtm.query("s").await.status(), "submitted");
}

#[tokio::test]
async fn s23_compat_callback_get_without_data() {
    let settings = [
        ("AMENDS_COMPAT_CALLBACK_GET", "true"),
        ("AMENDS_REQUEST_TIMEOUT", "1"),
    ];
    let w = World::with(&settings).await;
    for (gid, data, method) in [
        ("empty", r#"{"name":"wf","data":null}"#, Method::GET),
        (
            "full",
            r#"{"name":"wf","data":"eyJhIjoxfQ=="}"#,
            Method::POST,
        ),
    ] {
        let extra = json!({"custom_data": data, "retry_interval": 1, "query_prepared": w.url(&format!("/{gid}"))});
        w.dtm
            .post("prepareWorkflow", &w.workflow(gid, extra))
            .await
            .expect_status(200);
        assert_eq!(
            w.branches.wait(&format!("/{gid}"), 1).await[0].method,
            method,
            "{gid}"
        );
    }
}
