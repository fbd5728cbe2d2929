//! The rights that the guard keeps. Whatever it was started with, it goes on with these.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// What is needed, and for what.
pub(crate) fn needed() -> CapabilitySet {
    // Entering network namespaces (setns), cgroup2 and bpffs mounts.
    CapabilitySet::SYS_ADMIN
        // IPVS, conntrack, sock_diag's SOCK_DESTROY, sysctls of a namespace.
        | CapabilitySet::NET_ADMIN
        // A socket bound to `lo` of a director, for the sync receiver.
        | CapabilitySet::NET_RAW
        // /proc/PID/ns/net and /proc/PID/fd of others, pidfd_getfd.
        | CapabilitySet::SYS_PTRACE
        | CapabilitySet::DAC_READ_SEARCH
        // The folder and the control socket, where they are another's.
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::CHOWN
        // Programs in the kernel, and before 5.11 the memory they are charged for.
        | CapabilitySet::BPF
        | CapabilitySet::PERFMON
        | CapabilitySet::SYS_RESOURCE
}

/// Lets go of every right that is not needed, for all threads to come. That one is missing is not
/// decided here: what cannot be done without it says so itself.
pub(crate) fn drop_others() -> Result<(), rustix::io::Errno> {
    let mut sets = capabilities(None)?;
    sets.permitted &= needed();
    sets.effective &= needed();
    sets.inheritable = CapabilitySet::empty();
    set_capabilities(None, sets)
}
