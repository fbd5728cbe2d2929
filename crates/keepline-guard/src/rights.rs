//! The rights that the guard keeps. Whatever it was started with, it goes on with these.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// What is needed, and for what: as in `packaging/systemd/keepline.service`.
fn needed() -> CapabilitySet {
    // Entering network namespaces (setns), programs in the kernel and where they are pinned.
    CapabilitySet::SYS_ADMIN
        // IPVS, conntrack, closing sockets, sysctls of a namespace.
        | CapabilitySet::NET_ADMIN
        // /proc/PID/ns/net and /proc/PID/fd of others, pidfd_getfd.
        | CapabilitySet::SYS_PTRACE
        | CapabilitySet::DAC_READ_SEARCH
        // Where IPVS has its table, by /proc/kallsyms.
        | CapabilitySet::SYSLOG
        // The control socket is given to its group.
        | CapabilitySet::CHOWN
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
