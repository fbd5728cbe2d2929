//! The doors to the kernel: netlink sockets, namespaces, other processes' sockets, `/proc`.
//!
//! Blocking, and without opinion: what the answers mean is for `keepline-node` and
//! `keepline-core`. Looking changes nothing: no module is loaded, no setting touched.

mod error;
pub mod iptables;
pub mod multicast;
pub mod namespaces;
pub mod netlink;
pub mod pidfd;
pub mod procfs;
pub mod rights;
mod sockopt;

pub use error::Error;
