//! The judge, on snapshots built by hand.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod build;
mod directors;
mod guarding;
mod lifetimes;
mod names;
mod passes;
mod plans;
mod policy;
mod properties;
