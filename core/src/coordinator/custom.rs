//! `custom_data`: JSON text whose meaning depends on the mode (dtm-server.md 9).

use super::saga::Orders;
use super::transaction::Custom;
use crate::branch::TransType;
use crate::error::Error;
use crate::gid::check_id;
use crate::time::seconds;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

#[derive(Deserialize, Default)]
struct SagaData {
    #[serde(default)]
    concurrent: Option<bool>,
    #[serde(default)]
    orders: Option<Value>,
}

#[derive(Deserialize, Default)]
struct MsgData {
    #[serde(default)]
    delay: Option<i64>,
}

#[derive(Deserialize, Default)]
struct WorkflowData {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    data: Option<String>,
}

/// Reads `custom_data` (dtm-server.md 9). Its size is the caller's affair: what is stored is read whatever the limits are today.
pub(crate) fn custom(trans_type: TransType, text: &str, steps: usize) -> Result<Custom, Error> {
    fn read<T: Default + for<'de> Deserialize<'de>>(text: &str) -> Result<T, Error> {
        // PHP encodes an empty map as a list.
        if matches!(text.trim(), "" | "null" | "[]") {
            return Ok(T::default());
        }
        if !text.trim_start().starts_with('{') {
            return Err(Error::invalid(
                "custom_data must be the text of a JSON object",
            ));
        }
        serde_json::from_str(text)
            .map_err(|e| Error::invalid(format!("custom_data is not as expected: {e}")))
    }
    Ok(match trans_type {
        TransType::Saga => {
            let d: SagaData = read(text)?;
            Custom::Saga(Arc::new(match (d.concurrent, d.orders) {
                (None | Some(false), None) => Orders::in_a_row(steps),
                (concurrent, named) => {
                    Orders::new(concurrent.unwrap_or(false), &orders(named, steps)?)?
                }
            }))
        }
        TransType::Msg => {
            let delay = read::<MsgData>(text)?.delay.unwrap_or(0);
            let s = u64::try_from(delay)
                .ok()
                .filter(|d| *d <= crate::options::MAX_SECONDS);
            let s = s.ok_or_else(|| {
                Error::invalid(format!(
                    "custom_data: delay is {delay}: it must be a number of seconds, 0 or more"
                ))
            })?;
            Custom::Msg { delay: seconds(s) }
        }
        TransType::Workflow => {
            let d: WorkflowData = read(text)?;
            let name = d.name.unwrap_or_default();
            check_id("name of the workflow in custom_data", &name, usize::MAX)?;
            let data = BASE64.decode(d.data.unwrap_or_default()).map_err(|e| {
                Error::invalid(format!(
                    "custom_data: data of a workflow must be base64: {e}"
                ))
            })?;
            Custom::Workflow {
                name,
                data: Bytes::from(data),
            }
        }
        TransType::Tcc | TransType::Xa => Custom::None,
    })
}

/// `orders` as a map of step to earlier steps, or as a list with one entry per step (PHP encodes contiguous keys so).
fn orders(value: Option<Value>, steps: usize) -> Result<Vec<Vec<usize>>, Error> {
    let mut all = vec![Vec::new(); steps];
    let bad = |why: String| {
        Error::invalid(format!(
            "custom_data: orders {why}; steps are counted from 0, there are {steps}"
        ))
    };
    let mut set = |step: usize, before: Value| -> Result<(), Error> {
        let before: Vec<usize> = match before {
            Value::Null => Vec::new(),
            v => serde_json::from_value(v)
                .map_err(|_| bad(format!("of step {step} must be a list of step numbers")))?,
        };
        if let Some(b) = before.iter().chain([&step]).find(|b| **b >= steps) {
            return Err(bad(format!("name step {b}, which does not exist")));
        }
        all[step] = before;
        Ok(())
    };
    match value {
        None | Some(Value::Null) => {}
        Some(Value::Object(map)) => {
            for (key, before) in map {
                let step = key
                    .parse()
                    .map_err(|_| bad(format!("have the key {key:?}")))?;
                set(step, before)?;
            }
        }
        Some(Value::Array(list)) => {
            for (step, before) in list.into_iter().enumerate() {
                set(step, before)?;
            }
        }
        Some(other) => return Err(bad(format!("are {other}, not a map"))),
    }
    Ok(all)
}
