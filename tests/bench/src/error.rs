//! One error type: a measurement that could not be taken, and why.

use std::io;

/// Why a command could not do its work. A missed criterion is no error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, in words.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// An HTTP exchange or a gRPC call broke.
    #[error("{what}: {source}")]
    Http {
        /// What was tried, in words.
        what: String,
        /// hyper's answer.
        source: hyper::Error,
    },
    /// A branch did not say yes.
    #[error("{0}")]
    Refused(String),
    /// What was asked for cannot be done; the text says what to change.
    #[error("{0}")]
    Setup(String),
    /// A process or an answer did not come in time.
    #[error("{0}")]
    Late(String),
    /// Stopped by a signal.
    #[error("interrupted")]
    Interrupted,
}

impl BenchError {
    /// Wraps an I/O error with what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> BenchError {
        let what = what.into();
        move |source| BenchError::Io { what, source }
    }

    /// Wraps a hyper error with what was tried.
    pub(crate) fn http(what: impl Into<String>) -> impl FnOnce(hyper::Error) -> BenchError {
        let what = what.into();
        move |source| BenchError::Http { what, source }
    }
}
