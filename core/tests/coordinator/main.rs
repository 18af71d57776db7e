//! Tests of the coordinator's decisions: tables per mode, one test per fault of `faults.md`, limits, durability order, properties.
//! They drive `amends::coordinator::step` with a virtual clock and a store in memory; see [`driver::World`].

mod bodies;
mod driver;
mod durability;
mod faults;
mod faults_liveness;
mod faults_validation;
mod invariants;
mod limits;
mod msg;
mod phase2;
mod properties;
mod properties_admission;
mod records;
mod requests;
mod reset;
mod saga;
mod saga_restart;
mod saga_retry;
mod wait;
mod workflow;
