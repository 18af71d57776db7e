//! XA on MariaDB and PostgreSQL, with the real coordinator. Build the binary first (`cargo build -p amends-server`).

mod crash;
mod lost_commit;
mod orders;
mod outcomes;
mod place;
mod support;
