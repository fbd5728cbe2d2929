//! The pure middle of Keepline: a [`Snapshot`] goes in, sessions with verdicts
//! and findings come out. No I/O, no clock: the same snapshot always gives the
//! same [`Judgement`].
#![forbid(unsafe_code)]

pub mod duration;
pub mod finding;
pub mod judge;
pub mod names;
pub mod parallel;
pub mod plan;
pub mod policy;
pub mod report;
pub mod session;
pub mod snapshot;

pub use finding::{Code, Finding, Severity};
pub use judge::{Judgement, Options, judge};
pub use plan::Plan;
pub use session::{Session, Verdict};
pub use snapshot::Snapshot;
