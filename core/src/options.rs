//! Options of a global transaction, and the policy of the coordinator they override.

use crate::limits::Limits;
use crate::time::{Millis, SECOND, seconds};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_false(b: &bool) -> bool {
    !*b
}

/// Options a client may set per transaction (dtm-server.md 3.2). Their JSON, in this order, is what DTM shows as `options`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// Answer only after processing. Belongs to a request; stored for an abort.
    #[serde(skip_serializing_if = "is_false")]
    pub wait_result: bool,
    /// Seconds after which a prepared (or, for a saga, submitted) transaction is given up. 0 = the coordinator's default.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout_to_fail: u64,
    /// Seconds a branch call may take. 0 = the coordinator's default.
    #[serde(skip_serializing_if = "is_zero")]
    pub request_timeout: u64,
    /// Base retry interval in seconds. 0 = the coordinator's default.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_interval: u64,
    /// Headers sent on every branch call.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub branch_headers: BTreeMap<String, String>,
    /// Call branches at the same time.
    pub concurrent: bool,
    /// How often a failing saga action is retried before the saga rolls back. 0 = without end.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_limit: u64,
}

/// Longest time in seconds that an option may name: about 68 years.
pub const MAX_SECONDS: u64 = i32::MAX as u64;

/// How the coordinator behaves where a transaction does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Base retry interval, ms.
    pub retry_interval: Millis,
    /// Timeout of a branch call, ms.
    pub request_timeout: Millis,
    /// Age at which a prepared message, tcc or xa is given up, ms.
    pub timeout_to_fail: Millis,
    /// Upper bound of the backoff, ms.
    pub retry_cap: Millis,
    /// Consecutive errors of a branch at which the alert is sent.
    pub alert_retry_limit: u32,
    /// Latest moment after a branch result at which its late write is queued, ms (rules.md 1.2).
    pub late_write: Millis,
    /// How often a saga that is only prepared, without a timeout, is looked at, ms (rules.md 2.6).
    pub idle_look: Millis,
    /// DTM's behaviour where ours differs.
    pub compat: Compat,
    /// Upper bounds.
    pub limits: Limits,
}

/// The four switches of rules.md 3, all off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compat {
    /// Search branch answers for the words FAILURE and ONGOING, whatever the status.
    pub body_text: bool,
    /// Only 200 is success; other 2xx are errors.
    pub only_200: bool,
    /// `wait_result` that did not end answers 409 instead of 425 for saga and message.
    pub wait_result_409: bool,
    /// A workflow's callback without data is a GET.
    pub callback_get: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            retry_interval: 10 * SECOND,
            request_timeout: 3 * SECOND,
            timeout_to_fail: 35 * SECOND,
            retry_cap: 600 * SECOND,
            alert_retry_limit: 3,
            late_write: 100,
            idle_look: 600 * SECOND,
            compat: Compat::default(),
            limits: Limits::default(),
        }
    }
}

impl Policy {
    /// Base retry interval of a transaction in ms (dtm-server.md 10.2).
    pub fn base_interval(&self, o: &Options) -> Millis {
        let timeout = seconds(o.timeout_to_fail);
        if o.retry_interval != 0 {
            seconds(o.retry_interval)
        } else if timeout != 0 && timeout < self.retry_interval {
            timeout
        } else {
            self.retry_interval
        }
    }

    /// Timeout of a branch call in ms.
    pub fn call_timeout(&self, o: &Options) -> Millis {
        if o.request_timeout != 0 {
            seconds(o.request_timeout)
        } else {
            self.request_timeout
        }
    }

    /// How long a workflow's client may be silent before it is called back, ms (rules.md 2.7).
    pub fn quiet(&self, o: &Options) -> Millis {
        self.base_interval(o).max(self.call_timeout(o))
    }

    /// How long a call issued by an earlier process may still be on its way, and the basis of wait_result, ms.
    pub fn longest_call(&self, o: &Options) -> Millis {
        self.request_timeout.max(seconds(o.request_timeout))
    }
}
