//! Migrations on a model of a Swarm: at every moment of every run the name must lead to a task
//! that runs.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod crash;
mod failures;
mod model;
mod refusals;
mod specs;
mod turns;
mod two;
mod ways;
