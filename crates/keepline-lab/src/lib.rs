//! The lab: load balancers, backends and clients in network namespaces, and the story of the
//! loss.
//!
//! It sets everything up with the field's own tools (`ip`, `nft`, `iptables`, `ipvsadm`) and
//! shares no code with the rest of Keepline, so that what Keepline sees in a lab is proof and not
//! an echo. A running lab is described by a small file under [`state::DIRECTORY`]; [`Lab::up`]
//! makes one and [`State::remove`] takes everything away again, even after the process that made
//! it was killed.

#![forbid(unsafe_code)]

pub mod cli;
mod demo;
mod error;
mod interrupt;
mod lab;
mod layout;
mod peer;
mod process;
mod program;
mod scenario;
pub mod state;
mod tools;
mod units;

pub use error::LabError;
pub use interrupt::Interrupt;
pub use lab::{ClientSpec, Lab, Spec};
pub use layout::Layout;
pub use peer::{Answer, WriteSummary};
pub use process::Process;
pub use state::State;
pub use units::{Keepalive, PortRange, format_duration, parse_duration};
