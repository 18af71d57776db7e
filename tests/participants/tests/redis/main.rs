//! Barriers on Redis: every order and overlap of calls, bodies that refuse or fail, check-backs, clusters, lost
//! answers. Each test starts its own server.

mod bodies;
mod client;
mod disorder;
mod faults;
