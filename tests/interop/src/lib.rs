//! Runs programs that use DTM's published clients, as ordinary packages, against the real binary and real databases.
//!
//! A test makes a [`World`]: one coordinator, one MariaDB, one PostgreSQL. It hands their addresses to a [`Program`] through the
//! environment ([`World::env`]); the program starts its own participants and asserts.

mod daemon;
mod databases;
mod mariadb;
mod postgres;
mod program;
mod redis;
mod world;
mod xa;

pub use databases::{Databases, Login};
pub use program::{Program, find};
pub use redis::Redis;
pub use world::World;
pub use xa::WithXa;
