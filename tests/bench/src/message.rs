//! The messages of DTM's gRPC API, as far as a saga needs them.

use bytes::Bytes;

/// Path of the method that takes [`Submit`].
pub(crate) const SUBMIT: &str = "/dtmgimp.Dtm/Submit";
/// What stands before the bytes of a gid shorter than 128, its length aside.
pub(crate) const GID: u8 = 1 << 3 | 2;

/// `dtmgimp.DtmRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Submit {
    #[prost(string, tag = "1")]
    pub(crate) gid: String,
    #[prost(string, tag = "2")]
    pub(crate) trans_type: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) options: Option<Options>,
    /// One for each step.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub(crate) payloads: Vec<Bytes>,
    /// As JSON.
    #[prost(string, tag = "7")]
    pub(crate) steps: String,
}

/// `dtmgimp.DtmTransOptions`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Options {
    #[prost(bool, tag = "1")]
    pub(crate) wait_result: bool,
}
