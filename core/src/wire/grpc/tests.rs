use super::*;
use crate::branch::{Op, Protocol, TransType};
use crate::error::ErrorKind;
use crate::gid::Gid;
use crate::options::Compat;
use crate::outcome::{Outcome, Purpose};
use crate::wire::call::{BranchCall, Target};
use crate::wire::step::Step;
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;

fn call(url: &str, protocol: Protocol, purpose: Purpose, payload: &[u8]) -> GrpcCall {
    let gid = Gid::stored("gs1");
    let t = Target {
        gid: &gid,
        trans_type: TransType::Saga,
        protocol,
        branch_id: "01",
        op: &Op::ACTION,
        url,
        purpose,
    };
    let headers = BTreeMap::from(
        [
            ("Test_Header", "t1"),
            ("x-bin", "\u{1}raw"),
            ("dtm-gid", "another"),
            ("grpc-timeout", "1S"),
            ("Content-Type", "text/plain"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned())),
    );
    let payload = Bytes::copy_from_slice(payload);
    match BranchCall::new(&t, &payload, &headers, 3_000, &Compat::default()) {
        BranchCall::Grpc(call) => call,
        BranchCall::Http(call) => panic!("{url} is gRPC, not {call:?}"),
    }
}

#[test]
fn a_branch_call_carries_identity_and_headers() {
    let c = call(
        "h:1/busi.Busi/Out",
        Protocol::Grpc,
        Purpose::Branch,
        b"\x08\x1e",
    );
    let metadata: Vec<(&str, &str)> = c.metadata.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(
        metadata,
        [
            ("dtm-gid", "gs1"),
            ("dtm-trans_type", "saga"),
            ("dtm-branch_id", "01"),
            ("dtm-op", "action"),
            ("dtm-dtm", ""),
            ("test_header", "t1"),
            ("x-bin", "AXJhdw"),
        ]
    );
    assert_eq!((&c.message[..], c.timeout), (&b"\x08\x1e"[..], 3_000));
}

/// The calls that DTM's server was recorded making: ours have the same metadata and the same frame.
#[test]
fn branch_calls_are_as_recorded_from_dtm() {
    let recorded = include_str!("../../../../tests/vectors/branch-calls-grpc.txt");
    let (mut calls, mut one) = (0, BTreeMap::new());
    for line in recorded.lines() {
        if let Some(hex) = line.trim().strip_prefix("body=") {
            check_recorded(&std::mem::take(&mut one), hex);
            calls += 1;
        } else if let Some((key, value)) = line.trim().split_once(": [\"") {
            one.insert(key.to_lowercase(), value.trim_end_matches("\"]").to_owned());
        }
    }
    assert_eq!(calls, 9);
}

fn check_recorded(recorded: &BTreeMap<String, String>, body: &str) {
    let bytes: Vec<u8> = (0..body.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&body[i..i + 2], 16).expect("hex"))
        .collect();
    let (of_library, sent): (BTreeMap<_, _>, BTreeMap<_, _>) =
        recorded.clone().into_iter().partition(|(key, _)| {
            matches!(
                key.as_str(),
                "te" | "content-type" | "user-agent" | "grpc-timeout"
            )
        });
    assert_eq!(of_library["content-type"], "application/grpc");
    let trans_type = TransType::parse(&sent["dtm-trans_type"]).expect("a mode");
    let (purpose, payload) = if trans_type == TransType::Workflow {
        let data = workflow::WorkflowData::decode(&bytes[5..]).expect("WorkflowData");
        (Purpose::Callback, data.data)
    } else {
        (Purpose::Branch, Bytes::copy_from_slice(&bytes[5..]))
    };
    let (gid, op) = (Gid::stored(&sent["dtm-gid"]), Op::new(&sent["dtm-op"]));
    let t = Target {
        gid: &gid,
        trans_type,
        protocol: Protocol::Grpc,
        branch_id: &sent["dtm-branch_id"],
        op: &op,
        url: "h:1/busi.Busi/M",
        purpose,
    };
    let headers = sent
        .iter()
        .filter(|(key, _)| !key.starts_with("dtm-"))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let call = GrpcCall::new(&t, &payload, &headers, 3_000);
    let ours: BTreeMap<String, String> = call
        .metadata
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect();
    assert_eq!(ours, sent);
    assert_eq!(&call.message[..], &bytes[5..]);
}

#[test]
fn a_callback_wraps_its_data_as_recorded_from_dtm() {
    let url = "h:1/workflow.Workflow/Execute";
    let c = call(url, Protocol::Grpc, Purpose::Callback, &[0, 1, 2]);
    assert_eq!(&c.message[..], [0x0a, 3, 0, 1, 2]);
    let check_back = call("h:1/b.B/Q", Protocol::Grpc, Purpose::CheckBack, b"");
    assert!(check_back.message.is_empty());
}

#[test]
fn targets_are_taken_apart() {
    let t = GrpcTarget::parse("h:1/p.S/M").expect("a target");
    assert_eq!(
        (t.tls, t.authority, t.host, t.port, t.path),
        (false, "h:1", "h", 1, "/p.S/M")
    );
    let t = GrpcTarget::parse("grpcs://[::1]/p.S/M").expect("a target");
    assert_eq!(
        (t.tls, t.authority, t.host, t.port, t.path),
        (true, "[::1]", "::1", 443, "/p.S/M")
    );
    assert_eq!(
        GrpcTarget::parse("grpc://h/p.S/M").expect("a target").port,
        80
    );
    for bad in [
        "",
        "h:1",
        "h:1/",
        "h:1/p.S",
        "h:1/p.S/",
        "h:1//M",
        "h/p.S/M",
        "h:/p.S/M",
        "h:0/p.S/M",
        "h:65536/p.S/M",
        "h:+1/p.S/M",
        ":1/p.S/M",
        "h:1/p.S/M?x=1",
        "h:1/p.S/M x",
        "h:1/p.S/ü",
        "u:p@h:1/p.S/M",
        "etcd://h:1/p.S/M",
        "grpc:///p.S/M",
        "h:1/p.S/<M>",
        "h:1/p.S/M`",
        "h:1/p.S/{M}",
        "h%41:80/p.S/M",
        "[x_y]:80/p.S/M",
        "[:]:80/p.S/M",
        "[fe80::1%25eth0]:80/p.S/M",
        "%:1/p.S/M",
    ] {
        let e = GrpcTarget::parse(bad).expect_err(bad);
        assert_eq!(e.kind(), ErrorKind::Invalid, "{bad}");
        assert!(e.message().contains("host:port/package.Service/Method"));
    }
}

#[test]
fn what_cannot_be_metadata_is_refused() {
    let check = |gid: &str, headers: &[(&str, &str)]| {
        let headers = headers
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        check_metadata([("gid", gid)], &headers)
    };
    assert!(check("g 1~", &[("X-a_b.c", "v ~"), ("x-bin", "\u{1}ü")]).is_ok());
    for (gid, headers, part) in [
        ("gü", &[][..], "gid"),
        ("g", &[("x-a", "ü")], "x-a"),
        ("g", &[("x-a", "a\tb")], "x-a"),
        ("g", &[("a!b", "v")], "a!b"),
        ("g", &[("x$y", "v")], "x$y"),
    ] {
        let e = check(gid, headers).expect_err(part);
        assert!(
            e.kind() == ErrorKind::Invalid && e.message().contains(part),
            "{e}"
        );
    }
}

#[test]
fn answers_by_status_code() {
    for (code, message, want) in [
        (0, "", Outcome::Success),
        (10, "no money", Outcome::Failure("no money".to_owned())),
        (10, "ONGOING", Outcome::Ongoing),
        (9, "x", Outcome::Ongoing),
        (
            13,
            "boom FAILURE",
            Outcome::Error("answered INTERNAL: boom FAILURE".to_owned()),
        ),
        (14, "", Outcome::Error("answered UNAVAILABLE".to_owned())),
        (99, "", Outcome::Error("answered CODE 99".to_owned())),
    ] {
        assert_eq!(classify_grpc(Code(code), message), want, "{code} {message}");
    }
}

#[test]
fn requests_mean_what_their_http_bodies_mean() {
    let mut req = dtmgimp::DtmRequest {
        gid: "g".to_owned(),
        trans_type: "saga".to_owned(),
        steps: r#"[{"action":"h:1/p.S/A","compensate":null}]"#.to_owned(),
        bin_payloads: vec![Bytes::from_static(b"\xff")],
        trans_options: Some(dtmgimp::DtmTransOptions {
            wait_result: true,
            timeout_to_fail: 1,
            retry_interval: 2,
            request_timeout: 3,
            retry_limit: 4,
            concurrent: true,
            branch_headers: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        }),
        ..Default::default()
    };
    let global = super::global(req.clone()).expect("decodes");
    assert_eq!(
        (
            global.gid.as_str(),
            global.protocol.as_str(),
            global.wait_result,
            global.concurrent
        ),
        ("g", "grpc", true, true)
    );
    assert_eq!(global.steps, [Step::from([("action", "h:1/p.S/A")])]);
    assert_eq!(global.payloads, [Bytes::from_static(b"\xff")]);
    let t = global.times;
    assert_eq!(
        (
            t.timeout_to_fail,
            t.retry_interval,
            t.request_timeout,
            t.retry_limit
        ),
        (1, 2, 3, 4)
    );
    for (steps, count) in [("", 0), ("null", 0), ("[]", 0)] {
        req.steps = steps.to_owned();
        let global = super::global(req.clone()).expect(steps);
        assert_eq!(global.steps.len(), count);
    }
    for bad in ["{}", "[1]", "[", r#"[{"action":1}]"#] {
        req.steps = bad.to_owned();
        let e = super::global(req.clone()).expect_err(bad);
        assert!(
            e.kind() == ErrorKind::Invalid && e.message().contains("Steps"),
            "{e}"
        );
    }
}

#[test]
fn a_registration_belongs_to_the_gid_of_its_message() {
    let req = dtmgimp::DtmBranchRequest {
        gid: "g".to_owned(),
        trans_type: "tcc".to_owned(),
        branch_id: "01".to_owned(),
        data: BTreeMap::from(
            [("confirm", "h:1/p.S/C"), ("gid", "other"), ("data", "x")]
                .map(|(k, v)| (k.to_owned(), v.to_owned())),
        ),
        busi_payload: Bytes::from_static(b"\x00"),
        ..Default::default()
    };
    let reg = registration(req);
    assert_eq!(
        (reg.get("gid"), reg.get("confirm"), reg.get("data")),
        ("g", "h:1/p.S/C", "")
    );
    assert_eq!(
        (&reg.data[..], reg.protocol),
        (&b"\x00"[..], Protocol::Grpc)
    );
}

/// DTM's numbers, written down as bytes: what its published clients send must be read as they mean it.
#[test]
fn field_numbers_are_dtms() {
    let bytes = b"\x0a\x01g\x12\x03msg\x1a\x0a\x08\x01\x10\x02\x18\x03\x30\x04\x38\x05\x22\x01c\x2a\x01p\x32\x01q\x3a\x02[]\x42\x06\x0a\x01k\x12\x01v\x4a\x01r";
    let req = dtmgimp::DtmRequest::decode(&bytes[..]).expect("decodes");
    let o = req.trans_options.clone().expect("options");
    assert_eq!(
        (req.gid.as_str(), req.trans_type.as_str(), o.wait_result),
        ("g", "msg", true)
    );
    assert_eq!(
        (
            o.timeout_to_fail,
            o.retry_interval,
            o.request_timeout,
            o.retry_limit
        ),
        (2, 3, 4, 5)
    );
    assert_eq!(
        (req.customed_data.as_str(), req.query_prepared.as_str()),
        ("c", "q")
    );
    assert_eq!(
        (
            &req.bin_payloads[0][..],
            req.steps.as_str(),
            req.req_extra["k"].as_str()
        ),
        (&b"p"[..], "[]", "v")
    );
    assert_eq!(req.rollback_reason, "r");
    // Field 4 of the options, which the PHP client still sends, is skipped.
    let old = dtmgimp::DtmTransOptions::decode(&b"\x22\x01h\x08\x01"[..]).expect("decodes");
    assert!(old.wait_result);
}

#[test]
fn descriptors_hold_every_service() {
    let set = prost_types::FileDescriptorSet::decode(DESCRIPTORS).expect("decodes");
    let services: Vec<String> = set
        .file
        .iter()
        .flat_map(|f| {
            f.service
                .iter()
                .map(move |s| format!("{}.{}", f.package(), s.name()))
        })
        .collect();
    for service in ["dtmgimp.Dtm", "workflow.Workflow", "amends.v1.Operations"] {
        assert!(services.iter().any(|s| s == service), "{services:?}");
    }
}
