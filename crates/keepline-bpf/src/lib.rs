//! Cures in the kernel: small programs that are attached once and serve every container.
//!
//! [`Keepalive`] gives TCP keepalive to every selected socket, whatever the application asked for.
//! [`Direct`] answers connect() to a virtual address with a backend's, so that no load balancer is
//! on the way.
//!
//! The programs are in `bpf/`, written in C for any kernel that describes itself
//! (`/sys/kernel/btf/vmlinux`). They are attached to a control group of version 2, normally the
//! root of all, with links that are pinned in a directory of the BPF file system: they outlive the
//! process that attached them. What is applied is read back from the kernel (link → program →
//! maps) and stands nowhere else, so that it is true after a crash at any point, too.
//!
//! Needs `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON`, or `CAP_SYS_ADMIN`.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod direct;
mod error;
pub mod exact;
mod facts;
mod features;
mod hooks;
pub mod keepalive;
mod layout;
mod object;
pub mod place;
pub mod tables;

pub use direct::Direct;
pub use error::Error;
pub use facts::{NetnsCookie, RunCost};
pub use features::{Changes, Support};
pub use hooks::Hook;
pub use keepalive::Keepalive;
