//! Request bodies as DTM's clients send them (dtm-server.md 4.1): key names match in any case, unknown keys are ignored, `null` means
//! absent, an empty list stands for an empty map, wrong types are errors that name the field.

use crate::branch::Protocol;
use crate::error::Error;
use crate::limits::Limits;
use crate::options::{MAX_SECONDS, Options};
use crate::wire::step::Step;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// The global transaction as prepare, submit, abort, prepareWorkflow and the operator routes take it. Nothing is checked yet but types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GlobalRequest {
    /// Global transaction id.
    pub gid: String,
    /// Mode.
    pub trans_type: String,
    /// Steps as flat maps: `action`, `compensate`, and the legacy `data`.
    pub steps: Vec<Step>,
    /// One body per step.
    pub payloads: Vec<Bytes>,
    /// Check-back or callback URL.
    pub query_prepared: String,
    /// Protocol of the branch calls.
    pub protocol: String,
    /// JSON text whose meaning depends on the mode.
    pub custom_data: String,
    /// Why it is aborted.
    pub rollback_reason: String,
    /// A workflow's end: `status`, `rollback_reason`, `result`.
    pub req_extra: BTreeMap<String, String>,
    /// Who stops it by force, and why (ours).
    pub actor: String,
    /// See `actor`.
    pub reason: String,
    /// Seconds and counts as sent; negative ones are refused by [`GlobalRequest::options`].
    pub times: Times,
    /// See [`Options::wait_result`].
    pub wait_result: bool,
    /// See [`Options::concurrent`].
    pub concurrent: bool,
    /// See [`Options::branch_headers`].
    pub branch_headers: BTreeMap<String, String>,
}

/// The numeric options as sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// See [`Options::timeout_to_fail`].
    pub timeout_to_fail: i64,
    /// See [`Options::request_timeout`].
    pub request_timeout: i64,
    /// See [`Options::retry_interval`].
    pub retry_interval: i64,
    /// See [`Options::retry_limit`].
    pub retry_limit: i64,
}

impl GlobalRequest {
    /// Decodes an HTTP body.
    pub fn from_json(body: &[u8]) -> Result<GlobalRequest, Error> {
        // As text it need not be looked at string by string whether it is one; what is none is told where.
        match std::str::from_utf8(body) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(body),
        }
        .map_err(|e| Error::invalid(format!("malformed JSON: {e}")))
    }

    /// The options, checked: no negative or absurd times, headers that can be sent and are within the limits.
    pub fn options(&self, limits: &Limits) -> Result<Options, Error> {
        let number = |field: &str, n: i64| match u64::try_from(n) {
            Ok(n) if n <= MAX_SECONDS => Ok(n),
            _ => Err(Error::invalid(format!(
                "{field} is {n}: it must be between 0 and {MAX_SECONDS}"
            ))),
        };
        check_headers(&self.branch_headers, limits)?;
        Ok(Options {
            wait_result: self.wait_result,
            timeout_to_fail: number("timeout_to_fail", self.times.timeout_to_fail)?,
            request_timeout: number("request_timeout", self.times.request_timeout)?,
            retry_interval: number("retry_interval", self.times.retry_interval)?,
            branch_headers: self.branch_headers.clone(),
            concurrent: self.concurrent,
            retry_limit: number("retry_limit", self.times.retry_limit)?,
        })
    }
}

fn check_headers(headers: &BTreeMap<String, String>, limits: &Limits) -> Result<(), Error> {
    if headers.len() > limits.headers {
        return Err(Error::invalid(format!(
            "branch_headers has {} headers, the limit is {}",
            headers.len(),
            limits.headers
        )));
    }
    let bytes: usize = headers.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > limits.header_bytes {
        return Err(Error::invalid(format!(
            "branch_headers has {bytes} bytes, the limit is {}",
            limits.header_bytes
        )));
    }
    for (name, value) in headers {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(Error::invalid(format!(
                "branch_headers: {name:?} is no header name that can be sent"
            )));
        }
        if value.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
            return Err(Error::invalid(format!(
                "branch_headers: the value of {name:?} holds characters that cannot be sent"
            )));
        }
    }
    Ok(())
}

/// registerBranch's flat map of strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchRequest {
    /// All keys as sent; `data` is taken out.
    pub fields: BTreeMap<String, String>,
    /// The request body of later calls, or a workflow step's result.
    pub data: Bytes,
    /// The protocol it came by: URLs without a scheme are taken for gRPC targets only if that is gRPC.
    pub protocol: Protocol,
}

impl BranchRequest {
    /// Decodes an HTTP body.
    pub fn from_json(body: &[u8]) -> Result<BranchRequest, Error> {
        serde_json::from_slice(body).map_err(|e| {
            Error::invalid(format!(
                "malformed registerBranch, it takes a flat map of strings: {e}"
            ))
        })
    }

    /// A field, empty if it was not sent.
    pub fn get(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }
}

impl<'de> Deserialize<'de> for BranchRequest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let Strings(mut fields) = Strings::<BTreeMap<_, _>>::deserialize(d)?;
        let data = fields.remove("data").unwrap_or_default();
        Ok(BranchRequest {
            fields,
            data: Bytes::from(data),
            protocol: Protocol::Http,
        })
    }
}

/// Decodes the steps of a gRPC request, which come as JSON text; an empty one is no steps.
pub(crate) fn steps_from_json(text: &str) -> Result<Vec<Step>, Error> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let steps: Option<Vec<Step>> = serde_json::from_str(text).map_err(|e| {
        Error::invalid(format!(
            "Steps must be the JSON text of a list of maps: {e}"
        ))
    })?;
    Ok(steps.unwrap_or_default())
}

/// What pairs of texts are put into.
pub(super) trait Pairs: Default {
    fn put(&mut self, key: Cow<'_, str>, text: Cow<'_, str>);

    /// All have been put.
    fn done(&mut self) {}
}

impl Pairs for BTreeMap<String, String> {
    fn put(&mut self, key: Cow<'_, str>, text: Cow<'_, str>) {
        self.insert(key.into_owned(), text.into_owned());
    }
}

/// A map of strings; `null` values are absent, an empty list is an empty map.
pub(super) struct Strings<T>(pub(super) T);

impl<'de, T: Pairs> Deserialize<'de> for Strings<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V<T>(PhantomData<T>);
        impl<'de, T: Pairs> Visitor<'de> for V<T> {
            type Value = Strings<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strings<T>, A::Error> {
                let mut out = T::default();
                while let Some(Letters(key)) = map.next_key()? {
                    let value: Option<Letters<'de>> = map
                        .next_value()
                        .map_err(|e| A::Error::custom(format!("{key}: {e}")))?;
                    if let Some(Letters(value)) = value {
                        out.put(key, value);
                    }
                }
                out.done();
                Ok(Strings(out))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strings<T>, A::Error> {
                match seq.next_element::<IgnoredAny>()? {
                    None => Ok(Strings(T::default())),
                    Some(_) => Err(A::Error::custom(
                        "invalid type: list, expected a map of strings",
                    )),
                }
            }
        }
        d.deserialize_any(V(PhantomData))
    }
}

/// A key or text, which is not copied unless it has escapes in it.
#[derive(Deserialize)]
struct Letters<'a>(#[serde(borrow)] Cow<'a, str>);

/// A payload string, kept as bytes.
struct Text(Bytes);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Text(Bytes::from(
            Option::<String>::deserialize(d)?.unwrap_or_default(),
        )))
    }
}

/// `null` as the default value.
struct OrDefault<T>(T);

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for OrDefault<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for V<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or null")
            }
            fn visit_none<E>(self) -> Result<T, E> {
                Ok(T::default())
            }
            fn visit_unit<E>(self) -> Result<T, E> {
                Ok(T::default())
            }
            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<T, D::Error> {
                T::deserialize(d)
            }
        }
        d.deserialize_option(V(PhantomData)).map(OrDefault)
    }
}

impl<'de> Deserialize<'de> for GlobalRequest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = GlobalRequest;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<GlobalRequest, A::Error> {
                fn value<'de, A: MapAccess<'de>, T: Deserialize<'de> + Default>(
                    map: &mut A,
                    field: &str,
                ) -> Result<T, A::Error> {
                    map.next_value::<OrDefault<T>>()
                        .map(|v| v.0)
                        .map_err(|e| A::Error::custom(format!("{field}: {e}")))
                }
                fn strings<'de, A: MapAccess<'de>>(
                    map: &mut A,
                    field: &str,
                ) -> Result<BTreeMap<String, String>, A::Error> {
                    let v: Option<Strings<_>> = value(map, field)?;
                    Ok(v.map(|s| s.0).unwrap_or_default())
                }
                let mut r = GlobalRequest::default();
                while let Some(Letters(mut key)) = map.next_key()? {
                    if key.bytes().any(|b| b.is_ascii_uppercase()) {
                        key.to_mut().make_ascii_lowercase();
                    }
                    let k = &*key;
                    match k {
                        "gid" => r.gid = value(&mut map, k)?,
                        "trans_type" => r.trans_type = value(&mut map, k)?,
                        "steps" => r.steps = value(&mut map, k)?,
                        "payloads" => {
                            let payloads: Vec<Text> = value(&mut map, k)?;
                            r.payloads = payloads.into_iter().map(|t| t.0).collect();
                        }
                        "query_prepared" => r.query_prepared = value(&mut map, k)?,
                        "protocol" => r.protocol = value(&mut map, k)?,
                        "custom_data" => r.custom_data = value(&mut map, k)?,
                        "rollback_reason" => r.rollback_reason = value(&mut map, k)?,
                        "req_extra" => r.req_extra = strings(&mut map, k)?,
                        "branch_headers" => r.branch_headers = strings(&mut map, k)?,
                        "wait_result" => r.wait_result = value(&mut map, k)?,
                        "concurrent" => r.concurrent = value(&mut map, k)?,
                        "timeout_to_fail" => r.times.timeout_to_fail = value(&mut map, k)?,
                        "request_timeout" => r.times.request_timeout = value(&mut map, k)?,
                        "retry_interval" => r.times.retry_interval = value(&mut map, k)?,
                        "retry_limit" => r.times.retry_limit = value(&mut map, k)?,
                        "actor" => r.actor = value(&mut map, k)?,
                        "reason" => r.reason = value(&mut map, k)?,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(r)
            }
        }
        d.deserialize_map(V)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_any_case_nulls_and_unknown_fields() {
        let r = GlobalRequest::from_json(
            br#"{"GID":"g","Trans_Type":"saga","steps":[{"action":"http://a","compensate":null}],"payloads":["{}"],"subType":"x","passthrough_headers":[],"branch_headers":[],"wait_result":null,"rollback_reason":null,"retry_limit":2,"req_extra":null}"#,
        )
        .expect("decodes");
        assert_eq!(
            (r.gid.as_str(), r.trans_type.as_str(), r.times.retry_limit),
            ("g", "saga", 2)
        );
        assert_eq!(r.steps[0].get("compensate"), None);
        assert_eq!(r.payloads, vec![Bytes::from("{}")]);
        assert!(r.branch_headers.is_empty() && !r.wait_result);
    }

    #[test]
    fn wrong_types_name_the_field() {
        for (body, want) in [
            (r#"{"gid":1}"#, "gid"),
            (r#"{"payloads":[1]}"#, "payloads"),
            (r#"{"branch_headers":["x"]}"#, "branch_headers"),
            (r#"{"steps":{}}"#, "steps"),
            (r#"{"timeout_to_fail":"3"}"#, "timeout_to_fail"),
            ("hello", "malformed JSON"),
            ("", "malformed JSON"),
            ("[]", "malformed JSON"),
        ] {
            let e = GlobalRequest::from_json(body.as_bytes()).expect_err(body);
            assert!(e.message().contains(want), "{body}: {e}");
        }
    }

    #[test]
    fn negative_times_and_unsendable_headers_are_refused() {
        let limits = Limits::default();
        let refused = |body: &str| {
            GlobalRequest::from_json(body.as_bytes())
                .expect("types are right")
                .options(&limits)
                .expect_err(body)
        };
        assert!(
            refused(r#"{"retry_interval":-5}"#)
                .message()
                .contains("retry_interval is -5")
        );
        assert!(
            refused(r#"{"timeout_to_fail":2147483648}"#)
                .message()
                .contains("timeout_to_fail")
        );
        assert!(
            refused(r#"{"branch_headers":{"a b":"c"}}"#)
                .message()
                .contains("header name")
        );
        assert!(
            refused("{\"branch_headers\":{\"a\":\"x\\ny\"}}")
                .message()
                .contains("cannot be sent")
        );
        let many: Vec<String> = (0..=limits.headers)
            .map(|i| format!("\"h{i}\":\"v\""))
            .collect();
        assert!(
            refused(&format!("{{\"branch_headers\":{{{}}}}}", many.join(",")))
                .message()
                .contains("65 headers")
        );
        let at_limit: Vec<String> = (0..limits.headers)
            .map(|i| format!("\"h{i}\":\"v\""))
            .collect();
        let body = format!("{{\"branch_headers\":{{{}}}}}", at_limit.join(","));
        assert!(
            GlobalRequest::from_json(body.as_bytes())
                .expect("types")
                .options(&limits)
                .is_ok()
        );
        let fat = |n: usize| format!("{{\"branch_headers\":{{\"h\":\"{}\"}}}}", "v".repeat(n));
        assert!(
            refused(&fat(limits.header_bytes))
                .message()
                .contains("bytes")
        );
        assert!(
            GlobalRequest::from_json(fat(limits.header_bytes - 1).as_bytes())
                .expect("types")
                .options(&limits)
                .is_ok()
        );
    }

    #[test]
    fn register_branch_takes_strings_only() {
        let b =
            BranchRequest::from_json(br#"{"gid":"g","data":"{}","cancel":null}"#).expect("decodes");
        assert_eq!(
            (b.get("gid"), b.get("cancel"), &b.data[..]),
            ("g", "", &b"{}"[..])
        );
        assert!(
            BranchRequest::from_json(br#"{"gid":"g","data":1}"#)
                .expect_err("number")
                .message()
                .contains("data")
        );
    }
}
