//! Messages and TCCs that are cut off anywhere (workflows: tests/workflow; XA: tests/xa). Build the binary first
//! (`cargo build -p amends-server`).

mod cut;
mod effects;
mod place;
