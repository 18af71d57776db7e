//! The real engine on tokio's paused clock, between a store and a network that are both faulty on purpose.
//!
//! Time is virtual: a test may wait for minutes and takes milliseconds, and what it says about times is exact but for the jitter of
//! retries (0…10 %, rules.md 4.1).

mod net;
mod rng;
mod store;
mod world;

mod limits;
mod msg;
mod panics;
mod phase2;
mod races;
mod random;
mod restart;
mod retries;
mod saga;
mod shutdown;
mod storage;
mod threads;
mod waits;
mod workflow;
