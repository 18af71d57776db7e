//! Scenario 1: which keys `/query` and `/all` show, in which order.

use amends_scenarios::{World, elements, keys, member};

/// The keys of a transaction that DTM shows, in its order; the rest of `actual` are additions, which clients tolerate.
fn known(actual: &[String]) -> Vec<&str> {
    const ORDER: &str = "id create_time update_time gid trans_type steps payloads status query_prepared \
        protocol finish_time rollback_time result rollback_reason options custom_data next_cron_interval \
        next_cron_time owner ext_data wait_result timeout_to_fail request_timeout retry_interval \
        branch_headers concurrent retry_limit retry_count";
    actual
        .iter()
        .map(String::as_str)
        .filter(|k| ORDER.split_whitespace().any(|o| o == *k))
        .collect()
}

#[tokio::test]
async fn s01_query_shows_dtms_keys_in_dtms_order() {
    let w = World::start().await;
    let body = serde_json::json!({"branch_headers": {"X-Foo": "bar"}});
    let body = w.msg("m<1>&", &["a?x=1&y=2", "b"], body);
    w.dtm.post("prepare", &body).await.expect_success();
    let view = w.dtm.query("m<1>&").await;
    assert_eq!(keys(&view.text), ["branches", "transaction"]);
    assert!(
        view.text.contains(r#""gid":"m\u003c1\u003e\u0026""#),
        "{}",
        view.text
    );
    let transaction = view.transaction_text();
    assert_eq!(
        known(&keys(&transaction)),
        [
            "id",
            "create_time",
            "update_time",
            "gid",
            "trans_type",
            "steps",
            "payloads",
            "status",
            "query_prepared",
            "protocol",
            "options",
            "next_cron_interval",
            "next_cron_time",
            "branch_headers",
            "concurrent"
        ]
    );
    let options = r#"{"branch_headers":{"X-Foo":"bar"},"concurrent":false}"#;
    assert_eq!(view.field("options"), options);
    assert_eq!(
        (view.field("protocol"), view.status()),
        ("http", "prepared")
    );
    let rows = elements(&member(&view.text, "branches"));
    assert_eq!(
        keys(&rows[0]),
        [
            "id",
            "create_time",
            "update_time",
            "gid",
            "url",
            "bin_data",
            "branch_id",
            "op",
            "status"
        ]
    );
    assert_eq!(
        view.branches()[0]["bin_data"],
        "eyJzdGVwIjoiYT94PTEmeT0yIn0="
    );

    w.dtm.post("submit", &body).await.expect_success();
    let view = w.dtm.wait_status("m<1>&", "succeed").await;
    let shown = keys(&view.transaction_text());
    let shown = known(&shown)
        .into_iter()
        .filter(|k| !k.starts_with("next_cron"))
        .collect::<Vec<_>>();
    assert_eq!(
        shown,
        [
            "id",
            "create_time",
            "update_time",
            "gid",
            "trans_type",
            "steps",
            "payloads",
            "status",
            "query_prepared",
            "protocol",
            "finish_time",
            "options",
            "branch_headers",
            "concurrent"
        ]
    );
    let row = &elements(&member(&view.text, "branches"))[0];
    assert_eq!(keys(row).last().map(String::as_str), Some("finish_time"));
    // What C#'s client needs: ids that fit 32 bits, times that are there.
    for json in view.branches().iter().chain([&view.json["transaction"]]) {
        assert!(
            json["id"]
                .as_i64()
                .is_some_and(|id| i32::try_from(id).is_ok())
        );
        for time in ["create_time", "update_time", "finish_time"] {
            assert!(
                json[time].as_str().is_some_and(|t| t.contains('T')),
                "{time} in {json}"
            );
        }
    }
    let all = w
        .dtm
        .get("/api/dtmsvr/all?gid=m%3C1%3E%26")
        .await
        .expect_status(200)
        .text();
    assert_eq!(keys(&all), ["next_position", "transactions"]);
    let listed = &elements(&member(&all, "transactions"))[0];
    assert_eq!(keys(listed), keys(&view.transaction_text()));
}

#[tokio::test]
async fn s01_registered_rows_have_their_times() {
    let w = World::start().await;
    w.dtm
        .post(
            "prepare",
            &serde_json::json!({"gid": "t", "trans_type": "tcc"}),
        )
        .await
        .expect_success();
    w.register_tcc("t", "01").await.expect_success();
    let view = w.dtm.query("t").await;
    for row in view.branches() {
        assert!(
            row["create_time"].is_string() && row["update_time"].is_string(),
            "{row}"
        );
    }
    assert_eq!(view.branches()[0]["bin_data"], "eyJicmFuY2giOiIwMSJ9");
    let shown = keys(&view.transaction_text());
    assert_eq!(
        known(&shown),
        [
            "id",
            "create_time",
            "update_time",
            "gid",
            "trans_type",
            "status",
            "protocol",
            "options",
            "next_cron_interval",
            "next_cron_time",
            "concurrent"
        ]
    );
    assert_eq!(view.field("options"), r#"{"concurrent":false}"#);
}
