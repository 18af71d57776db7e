//! What an initiator does: the requests to the coordinator, in which order, and what each answer means (dtm-clients.md 2 and 4.6). Machines
//! behind the seam of [`crate::machine`]; no socket and no database here.

pub mod answers;
pub mod ask;
pub mod asking;
mod call;
pub mod msg;
pub mod saga;
pub mod server;
pub mod tcc;
pub mod workflow;
pub mod xa;

pub use asking::Asking;
pub use msg::Message;
pub use saga::Saga;
pub use server::Server;
pub use tcc::{Tcc, Try};
pub use workflow::{Work, Workflow};
pub use xa::Xa;
