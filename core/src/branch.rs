//! The words of a transaction: its type, its status, a branch's operation, the protocol of its calls.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }
        impl $name {
            /// Every value, in order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// The word on the wire and in the store.
            pub fn as_str(self) -> &'static str { match self { $($name::$variant => $text),+ } }
            /// The value of a word, if it is one.
            pub fn parse(word: &str) -> Option<$name> { match word { $($text => Some($name::$variant),)+ _ => None } }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

words! {
    /// How a global transaction reaches all-or-nothing.
    TransType {
        /// Two-phase message: deliver at least once if the local transaction committed.
        Msg = "msg",
        /// Actions, and compensations in reverse order if one is refused.
        Saga = "saga",
        /// Try, then confirm or cancel.
        Tcc = "tcc",
        /// Prepared database transactions, then commit or rollback.
        Xa = "xa",
        /// The client runs the steps; the coordinator stores its progress and calls it back.
        Workflow = "workflow",
    }
}

words! {
    /// Status of a global transaction.
    Status {
        /// Stored, nothing decided.
        Prepared = "prepared",
        /// Being driven forward.
        Submitted = "submitted",
        /// Being undone.
        Aborting = "aborting",
        /// Final: completed everywhere.
        Succeed = "succeed",
        /// Final: undone everywhere (or force-stopped).
        Failed = "failed",
    }
}

impl Status {
    /// Whether the transaction has ended; a final status never changes.
    pub fn is_final(self) -> bool {
        matches!(self, Status::Succeed | Status::Failed)
    }
}

words! {
    /// Status of one branch operation.
    BranchStatus {
        /// Not known to have succeeded or failed.
        Prepared = "prepared",
        /// Succeeded.
        Succeed = "succeed",
        /// Refused for good.
        Failed = "failed",
    }
}

words! {
    /// The protocol a transaction was submitted with; it chooses how branches without a scheme are called (dtm-server.md 7.1).
    Protocol {
        /// Plain HTTP.
        Http = "http",
        /// gRPC.
        Grpc = "grpc",
        /// JSON-RPC 2.0 over HTTP.
        JsonRpc = "json-rpc",
    }
}

/// A branch operation. The coordinator's own are constants; a workflow client may send any other word.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Op(Cow<'static, str>);

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $text:literal),+ $(,)?) => {
        impl Op {
            $($(#[$doc])* pub const $name: Op = Op(Cow::Borrowed($text));)+
            /// The operation of a word.
            pub fn new(word: &str) -> Op {
                match word { $($text => Op::$name,)+ other => Op(Cow::Owned(other.to_owned())) }
            }
        }
    };
}

ops! {
    /// A saga's or message's forward call.
    ACTION = "action",
    /// Undoes a saga's action.
    COMPENSATE = "compensate",
    /// TCC phase 1, called by the client.
    TRY = "try",
    /// TCC phase 2, forward.
    CONFIRM = "confirm",
    /// TCC phase 2, backward.
    CANCEL = "cancel",
    /// XA phase 2, forward.
    COMMIT = "commit",
    /// XA phase 2, backward.
    ROLLBACK = "rollback",
    /// A message's check-back (query-prepared), with branch id `00`.
    MSG = "msg",
    /// A workflow's local part inside XA.
    BUSINESS = "business",
    /// A workflow's decision row (rules.md 2.7), with branch id `00`.
    DECISION = "decision",
}

impl Op {
    /// The word on the wire and in the store.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The branch id reserved for check-backs, workflow callbacks and the decision row.
pub const ROOT_BRANCH: &str = "00";

/// The names of the four texts that say whose branch a call is.
pub(crate) const IDENTITY: [&str; 4] = ["gid", "trans_type", "branch_id", "op"];

/// The same names, in the same order, in gRPC's metadata.
pub(crate) const IDENTITY_METADATA: [&str; 4] =
    ["dtm-gid", "dtm-trans_type", "dtm-branch_id", "dtm-op"];

/// Whose branch a call is, as names and texts in the order of [`IDENTITY`]; sorted, they are in the order of DTM's queries.
pub(crate) fn identity<'a>(
    gid: &'a str,
    trans_type: TransType,
    branch_id: &'a str,
    op: &'a str,
) -> [(&'static str, &'a str); 4] {
    let [gid_name, trans_type_name, branch_id_name, op_name] = IDENTITY;
    [
        (gid_name, gid),
        (trans_type_name, trans_type.as_str()),
        (branch_id_name, branch_id),
        (op_name, op),
    ]
}

/// The branch id of the step with this 0-based index: two digits from `01`, three from the 100th.
pub fn step_branch_id(index: usize) -> Cow<'static, str> {
    // Every step of every transaction asks: the usual ones are there.
    match STEP_IDS.get(2 * index..2 * index + 2) {
        Some(id) => id.into(),
        None => (index + 1).to_string().into(),
    }
}

/// The numbers from 01 to 99, one after the other.
const STEP_IDS: &str = "\
    01020304050607080910\
    11121314151617181920\
    21222324252627282930\
    31323334353637383940\
    41424344454647484950\
    51525354555657585960\
    61626364656667686970\
    71727374757677787980\
    81828384858687888990\
    919293949596979899";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_two_digits_at_least() {
        for index in 0..1_100 {
            assert_eq!(step_branch_id(index), format!("{:02}", index + 1));
        }
    }

    #[test]
    fn words_round_trip() {
        for t in TransType::ALL {
            assert_eq!(TransType::parse(t.as_str()), Some(*t));
        }
        for s in Status::ALL {
            assert_eq!(Status::parse(s.as_str()), Some(*s));
        }
        assert_eq!(Status::parse("weird"), None);
        assert_eq!(Op::new("cancel"), Op::CANCEL);
        assert_eq!(Op::new("wf-step").as_str(), "wf-step");
    }
}
