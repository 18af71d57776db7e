//! All decisions of the coordinator, pure: what happened goes in, what to do comes out.

pub mod admit;
pub mod codec;
mod custom;
pub mod decision;
pub mod event;
mod msg;
mod phase2;
pub mod record;
mod request;
pub mod retry;
pub mod saga;
pub mod transaction;
pub mod wait;
mod workflow;

pub use decision::step;
pub use event::{Alert, Call, Effects, Env, Input, Request, When};
pub use request::refused;
pub use transaction::{CallId, Definition, Transaction};
pub use wait::{Wait, unended};
