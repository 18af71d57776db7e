//! Properties of admission: no request panics, what is admitted is stored and read back as it was.

use crate::bodies::{Topics, global, saga, with};
use crate::driver::World;
use crate::properties::{Run, body, cases};
use amends::coordinator::admit::{define, register, topics};
use amends::wire::request::{BranchRequest, GlobalRequest};
use amends::{ErrorKind, Limits, Policy, Status, TransType};
use proptest::prelude::*;
use serde_json::{Value, json};

/// JSON of any shape; keys are often those that mean something.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop_oneof![
            Just("saga"),
            Just("msg"),
            Just("tcc"),
            Just("xa"),
            Just("workflow"),
            Just("http"),
            Just("json-rpc"),
            Just("http://a/b"),
            Just("topic://t"),
            Just("action"),
            Just("succeed"),
            Just("decision"),
            Just("00"),
            Just("{\"concurrent\":true,\"orders\":{\"1\":[0]}}"),
            Just("{\"delay\":-1}"),
            Just("{\"name\":\"w\",\"data\":\"AA==\"}"),
        ]
        .prop_map(Value::from),
    ];
    let key = prop_oneof![
        4 => prop_oneof![
            Just("gid"), Just("trans_type"), Just("steps"), Just("payloads"), Just("query_prepared"), Just("protocol"), Just("custom_data"),
            Just("branch_headers"), Just("timeout_to_fail"), Just("retry_limit"), Just("action"), Just("compensate"), Just("data"),
            Just("branch_id"), Just("op"), Just("status"), Just("url"), Just("confirm"), Just("orders"), Just("concurrent"),
        ].prop_map(str::to_owned),
        1 => "\\PC{0,6}",
    ];
    leaf.prop_recursive(3, 24, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..8)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Parses, and admits what parses; whatever is admitted can be stored and read back.
fn admit(body: &[u8]) {
    let limits = Limits::default();
    if let Ok(r) = GlobalRequest::from_json(body) {
        let names: Vec<String> = topics(&r).map(str::to_owned).collect();
        let subscribers: Topics = names
            .into_iter()
            .map(|n| (n, vec!["http://s/1".to_owned(), "http://s/2".to_owned()]))
            .collect();
        match define(&mut r.clone(), &subscribers, &limits) {
            Err(e) => assert!(
                !e.message().is_empty()
                    && matches!(e.kind(), ErrorKind::Invalid | ErrorKind::TopicNotFound)
            ),
            Ok(def) => {
                let status = if matches!(def.trans_type, TransType::Saga | TransType::Msg) {
                    Status::Submitted
                } else {
                    Status::Prepared
                };
                World::store(
                    &serde_json::from_slice(body).expect("it parsed"),
                    status,
                    Policy::default(),
                    &subscribers,
                    true,
                )
                .check_round_trip();
            }
        }
    }
    if let Ok(r) = BranchRequest::from_json(body)
        && let Ok(registered) = register(&r, &limits)
    {
        assert!(!registered.registration.part(1).keys.is_empty());
    }
}

proptest! {
    #![proptest_config(cases(1_500))]

    #[test]
    fn no_json_panics(shape in any_json(), more in any_json(), base in body()) {
        admit(shape.to_string().as_bytes());
        // A good request with some members replaced gets further.
        let mut changed = base.0;
        for part in [shape, more] {
            for (k, v) in part.as_object().into_iter().flatten() {
                changed[k.as_str()] = v.clone();
            }
        }
        admit(changed.to_string().as_bytes());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        admit(&bytes);
    }

    #[test]
    fn a_definition_is_read_back_as_it_was(
        (body, branches) in body(),
        payload in "\\PC{0,40}",
        header in "[a-z]{1,8}",
        gid in "[a-zA-Z0-9 '\"/é-]{1,40}",
    ) {
        let mut body = with(body, json!({"gid": gid, "branch_headers": {header: payload.replace(char::is_control, "")}}));
        for p in body["payloads"].as_array_mut().into_iter().flatten() {
            *p = Value::from(payload.clone());
        }
        let mut w = World::store(&body, Status::Prepared, Policy::default(), &Topics::new(), true);
        prop_assert_eq!(w.record.gid.as_str(), gid.as_str());
        w.check_round_trip();
        if w.tx.trans_type() != TransType::Saga && branches > 0 {
            let rows: Vec<Value> = (0..branches)
                .map(|k| json!({"gid": gid, "trans_type": w.tx.trans_type().as_str(), "branch_id": format!("{k}{gid}"), "data": payload,
                    "confirm": "http://b/f", "url": "http://b/x"}))
                .collect();
            for row in rows {
                w.register(row).expect("admitted");
            }
            prop_assert!(w.tx.rows().iter().all(|r| r.payload == payload.as_bytes()));
            w.check_round_trip();
        }
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn orders_are_refused_exactly_when_steps_wait_for_themselves(
        steps in 1..7usize,
        edges in proptest::collection::vec((0..7usize, 0..7usize), 0..9),
        concurrent in any::<bool>(),
    ) {
        let edges: Vec<(usize, usize)> = edges.into_iter().filter(|(a, b)| *a < steps && *b < steps).collect();
        let mut waits = vec![vec![false; steps]; steps];
        for (step, before) in edges.iter().copied().chain((1..steps).filter(|_| !concurrent).map(|k| (k, k - 1))) {
            waits[step][before] = true;
        }
        // Transitive closure: a cycle is a step that is reached from itself.
        for via in 0..steps {
            for from in 0..steps {
                for to in 0..steps {
                    waits[from][to] |= waits[from][via] && waits[via][to];
                }
            }
        }
        let cyclic = (0..steps).any(|k| waits[k][k]);
        let mut orders = serde_json::Map::new();
        for (step, before) in edges {
            let list = orders.entry(step.to_string()).or_insert_with(|| json!([]));
            list.as_array_mut().expect("a list").push(json!(before));
        }
        let custom = json!({"concurrent": concurrent, "orders": orders}).to_string();
        let body = with(saga(steps), json!({"custom_data": custom}));
        let admitted = define(&mut global(&body), &Topics::new(), &Limits::default());
        prop_assert_eq!(admitted.is_err(), cyclic, "{}", custom);
        if !cyclic {
            Run::new(&body, 0, true).calm();
        }
    }
}
