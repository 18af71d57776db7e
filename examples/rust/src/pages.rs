//! The README and the pages of `docs`: what they show in Rust compiles.

#[doc = include_str!("../../../docs/barriers.md")]
struct Barriers;

#[doc = include_str!("../../../docs/choosing-a-mode.md")]
struct ChoosingAMode;

#[doc = include_str!("../../../docs/errors.md")]
struct Errors;

#[doc = include_str!("../../../docs/workflows.md")]
struct Workflows;

#[doc = include_str!("../../../README.md")]
struct Readme;
