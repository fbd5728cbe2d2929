//! What is asked for, what is applied, what is possible.

use std::{net::IpAddr, path::PathBuf};

use super::table;
use crate::{Error, Hook, NetnsCookie, Support};

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A virtual address, as the sockets of one network namespace see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip {
    /// Namespace of the clients.
    pub netns: NetnsCookie,
    /// The address.
    pub address: IpAddr,
    /// The port. None: all that have no service of their own, as a fwmark service has it.
    pub port: Option<u16>,
    /// The protocol.
    pub protocol: Protocol,
}

/// One that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// Its address, of the VIP's family.
    pub address: IpAddr,
    /// Its port. None: the one that the client asked for.
    pub port: Option<u16>,
    /// Its part of new connections, as IPVS counts. 0: none, it is being drained.
    pub weight: u32,
}

/// A VIP and who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What clients ask for.
    pub vip: Vip,
    /// At most 256. None with a weight: connections are refused.
    pub backends: Vec<Backend>,
}

/// What is to be applied.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of Keepline's pins ([`crate::place::PINS`]); its parent is where the BPF file
    /// system is, or is mounted if nothing is there.
    pub bpffs: PathBuf,
    /// Control group whose processes are served ([`crate::place::cgroup_root`], or
    /// [`crate::place::PrivateCgroupRoot`]).
    pub cgroup: PathBuf,
    /// The services, each VIP once.
    pub services: Vec<Service>,
}

/// What is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Version of the Keepline that applied it.
    pub version: String,
    /// The services by VIP, their backends in order.
    pub services: Vec<Service>,
    /// The programs.
    pub hooks: Vec<Hook>,
}

/// What this kernel can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// connect(): kernel 5.10.
    pub connections: Support,
    /// The same from IPv6 sockets, also to IPv4 addresses.
    pub ipv6: Support,
    /// Datagrams of sockets that are not connected: kernel 5.10.
    pub datagrams: Support,
    /// getpeername() names the VIP: kernel 5.10.
    pub peer_name: Support,
    /// Without backends connect() fails with `ECONNREFUSED`: kernel 6.1. Before, with `EPERM`.
    pub refusal: Support,
}

impl Features {
    /// Whether a program is to be attached.
    pub(super) fn has(&self, program: &str) -> bool {
        let part = match program {
            "keepline_name4" | "keepline_name6" => &self.peer_name,
            // Answers that are not translated are worse than the way through the load balancer.
            "keepline_recv4" | "keepline_recv6" | "keepline_send4" | "keepline_send6" => {
                &self.datagrams
            }
            _ => &self.connections,
        };
        part.is_yes() && (program.ends_with('4') || self.ipv6.is_yes())
    }
}

impl Service {
    pub(super) fn check(&self) -> Result<(), Error> {
        let Vip { address, port, .. } = self.vip;
        let invalid = |what: &str| Err(Error::Invalid(format!("service {address}: {what}")));
        if address.is_unspecified() {
            return invalid("is no address to connect to");
        }
        // In the map it stands for any port.
        if port == Some(0) {
            return invalid("port 0 cannot be connected to");
        }
        if self.backends.len() > table::MOST_BACKENDS {
            return invalid(&format!("has more than {} backends", table::MOST_BACKENDS));
        }
        for backend in &self.backends {
            let to = backend.address.to_canonical();
            if to.is_unspecified() || to.is_ipv4() != address.to_canonical().is_ipv4() {
                return invalid(&format!("{to} cannot be its backend"));
            }
            if backend.port == Some(0) {
                return invalid("port 0 cannot be connected to");
            }
            if to == address.to_canonical() && (backend.port.is_none() || backend.port == port) {
                return invalid("is its own backend");
            }
        }
        Ok(())
    }
}

impl State {
    /// Whether connect() is answered: the program is at a control group that exists.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.hooks.iter().any(|hook| hook.name == super::CONNECT && hook.cgroup.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let service = |vip: &str, port, backend: &str, backend_port| Service {
            vip: Vip {
                netns: NetnsCookie(1),
                address: vip.parse().unwrap(),
                port,
                protocol: Protocol::Tcp,
            },
            backends: vec![Backend {
                address: backend.parse().unwrap(),
                port: backend_port,
                weight: 1,
            }],
        };
        service("10.0.1.2", None, "10.0.1.4", None).check().unwrap();
        service("::ffff:10.0.1.2", None, "10.0.1.4", None).check().unwrap();
        // The same host on another port is somebody else.
        service("10.0.1.2", Some(80), "10.0.1.2", Some(8080)).check().unwrap();
        for (service, words) in [
            (service("0.0.0.0", None, "10.0.1.4", None), "no address"),
            (service("10.0.1.2", None, "fd00::4", None), "cannot be its backend"),
            (service("10.0.1.2", None, "0.0.0.0", None), "cannot be its backend"),
            (service("10.0.1.2", Some(0), "10.0.1.4", None), "port 0"),
            (service("10.0.1.2", Some(80), "10.0.1.2", None), "its own backend"),
            (service("10.0.1.2", Some(80), "10.0.1.2", Some(80)), "its own backend"),
        ] {
            let error = service.check().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let mut many = service("10.0.1.2", None, "10.0.1.4", None);
        many.backends = vec![many.backends[0]; 257];
        assert!(many.check().unwrap_err().to_string().contains("more than 256"));
    }
}
