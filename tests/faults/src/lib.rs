//! Placeholder until this sitting fills it.
