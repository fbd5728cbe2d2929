//! Switches a live Swarm service between the endpoint modes `vip` and `dnsrr`: a copy with the
//! original's name as network alias takes over while the original is removed and created again
//! in the other mode.
//!
//! One direction, as everywhere in Keepline: [`preflight`] looks and refuses, [`plan`] turns what
//! is there and the mode wanted into steps, [`Migration`] carries them out through the narrow
//! trait [`Engine`]. Nothing is remembered outside the Swarm: what is there (the service, its
//! mode, the copy) tells which step comes next, and the copy's labels ([`state`]) hold what the
//! service was. So a run that died is taken up by another one, on any manager.
#![forbid(unsafe_code)]

mod dns;
pub mod docker;
mod engine;
mod error;
pub mod names;
pub mod plan;
pub mod preflight;
mod run;
pub mod spec;
pub mod state;
mod wait;

pub use engine::{Engine, Names, Network, Node, Placed, Service, Surroundings, Task, TaskState};
pub use error::{EngineError, Stop};
pub use plan::Step;
pub use run::{Clock, Found, Interrupted, Migration, Outcome, Progress, Settings};
pub use spec::Mode;
