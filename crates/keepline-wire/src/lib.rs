//! Bytes ↔ types for the kernel interfaces that Keepline reads and writes.
//!
//! No I/O, no `unsafe`, no panic on any input. Sockets, files and namespaces
//! are the business of `keepline-kernel`; what the values mean is the business
//! of `keepline-core`.
#![forbid(unsafe_code)]

mod common;
pub mod conntrack;
pub mod genl;
pub mod iptables;
pub mod ipvs;
pub mod ipvs_sync;
pub mod nftables;
pub mod nl;
pub mod proc;
pub mod rtnl;
pub mod sock_diag;
