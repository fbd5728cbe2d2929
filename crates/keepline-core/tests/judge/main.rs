//! The judge, on snapshots built by hand.

mod build;
mod directors;
mod lifetimes;
mod properties;
