//! What this process may do and what this kernel is: facts first, so that what is missing can
//! be named before it is missed.

use std::{fs, path::Path};

/// Capabilities that matter, `include/uapi/linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Read and change tables of the network.
    NetAdmin = 12,
    /// Look into other users' processes.
    SysPtrace = 19,
    /// Enter namespaces.
    SysAdmin = 21,
}

impl Capability {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
        }
    }
}

/// What is so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Effective capabilities, a bit each.
    pub capabilities: u64,
    /// `uname -r`.
    pub release: String,
    /// Name of this machine.
    pub host: String,
}

impl Facts {
    /// Reads them. What cannot be read counts as missing.
    #[must_use]
    pub fn read(proc: &Path) -> Self {
        let status = fs::read_to_string(proc.join("self/status")).unwrap_or_default();
        let name = rustix::system::uname();
        Self {
            capabilities: capabilities(&status).unwrap_or(0),
            release: name.release().to_string_lossy().into_owned(),
            host: name.nodename().to_string_lossy().into_owned(),
        }
    }

    /// Whether this process has `capability`.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities & (1 << capability as u32) != 0
    }

    /// Whether the kernel is this version or later; a release that cannot be read counts as later.
    #[must_use]
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        version(&self.release).is_none_or(|version| version >= (major, minor))
    }
}

fn capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let facts = |release: &str| Facts {
            capabilities: 1 << 21,
            release: release.to_owned(),
            host: String::new(),
        };
        assert!(facts("6.14.0-rc1").at_least(6, 14));
        assert!(!facts("6.1.0-13-cloud-amd64").at_least(6, 14));
        assert!(!facts("5.4.0").at_least(6, 0));
        assert!(facts("10.0").at_least(6, 14));
        assert!(facts("strange").at_least(6, 14));
        assert!(facts("6.1").has(Capability::SysAdmin));
        assert!(!facts("6.1").has(Capability::NetAdmin));
    }

    #[test]
    fn own_status_has_capabilities() {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        assert!(capabilities(&status).is_some());
        assert_eq!(capabilities("CapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(capabilities("nothing"), None);
    }
}
