//! The layouts: which namespaces there are, which addresses they have, and who remembers.

mod script;

pub(crate) use script::Script;

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::tools;
use crate::units::{PortRange, format_duration};

/// How the load balancer of a lab is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Docker Swarm since Engine 18.09: IPVS in a director namespace of the network's own
    Swarm,
    /// Docker Swarm 17.06 to 18.06: IPVS in the client's own namespace
    Classic,
    /// A published port of Docker Swarm: host DNAT, then IPVS in the ingress sandbox
    Ingress,
    /// nftables DNAT in a director namespace: needs no IPVS
    Nat,
}

impl Layout {
    /// The layout that this machine can do and that is nearest to Swarm: [`Layout::Swarm`] where
    /// the kernel has IPVS and its tools are installed, else [`Layout::Nat`].
    #[must_use]
    pub fn for_this_machine() -> Self {
        let ready = Self::Swarm.tools().iter().all(|tool| tools::find(tool).is_some());
        if ready && tools::kernel_has_ipvs() { Self::Swarm } else { Self::Nat }
    }

    /// Whether the load balancer is IPVS (otherwise it is conntrack alone).
    #[must_use]
    pub fn uses_ipvs(self) -> bool {
        self != Self::Nat
    }

    /// The tools that setting it up takes.
    pub(crate) fn tools(self) -> &'static [&'static str] {
        match self {
            Self::Swarm | Self::Classic | Self::Ingress => &["ip", "iptables", "ipvsadm"],
            Self::Nat => &["ip", "nft"],
        }
    }

    /// What the command line calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Swarm => "swarm",
            Self::Classic => "classic",
            Self::Ingress => "ingress",
            Self::Nat => "nat",
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Ports on which the backends serve and the VIP is balanced.
pub(crate) const PORTS: PortRange = PortRange { first: 7000, last: 7009 };
/// The firewall mark of the lab's service: Docker counts its marks from 256
/// (moby, libnetwork/controller.go).
const FWMARK: u32 = 256;
/// Most backends a lab can have.
pub(crate) const MAX_BACKENDS: u8 = 20;

/// Network of the service: client (but for ingress), director and backends.
const SERVICE: [u8; 3] = [10, 213, 1];
/// Network between an outside client and the host that publishes a port (ingress only).
const OUTSIDE: [u8; 3] = [10, 213, 3];
/// Network between that host and the ingress sandbox, Docker's `docker_gwbridge` (ingress only).
const GATEWAY: [u8; 3] = [10, 213, 4];

fn address(network: [u8; 3], host: u8) -> Ipv4Addr {
    Ipv4Addr::new(network[0], network[1], network[2], host)
}

/// A layout with everything decided: pure data, from which the set-up follows.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The lab's name.
    pub id: String,
    /// The layout.
    pub layout: Layout,
    /// How many backends.
    pub backends: u8,
    /// How long the director remembers a silent session; whole seconds.
    pub tcp_timeout: Duration,
}

impl Plan {
    /// Name of the namespace that plays a role.
    pub fn netns(&self, role: &str) -> String {
        format!("kl-{}-{role}", self.id)
    }

    /// Namespace of the clients.
    pub fn client(&self) -> String {
        self.netns("client")
    }

    /// Namespace that remembers the sessions.
    pub fn director(&self) -> String {
        match self.layout {
            Layout::Classic => self.client(),
            Layout::Swarm | Layout::Ingress | Layout::Nat => self.netns("lb"),
        }
    }

    /// Namespaces of the backends with their addresses.
    pub fn backends(&self) -> Vec<(String, Ipv4Addr)> {
        (1..=self.backends)
            .map(|n| (self.netns(&format!("db{n}")), address(SERVICE, 10 + n)))
            .collect()
    }

    /// Every namespace of the lab, in the order in which they are made.
    pub fn namespaces(&self) -> Vec<String> {
        let roles: &[&str] = match self.layout {
            Layout::Swarm | Layout::Nat => &["net", "client", "lb"],
            Layout::Classic => &["net", "client"],
            Layout::Ingress => &["net", "client", "host", "lb"],
        };
        let mut names: Vec<String> = roles.iter().map(|role| self.netns(role)).collect();
        names.extend(self.backends().into_iter().map(|(netns, _)| netns));
        names
    }

    /// Address to which the clients connect.
    pub fn vip(&self) -> Ipv4Addr {
        match self.layout {
            Layout::Ingress => address(OUTSIDE, 1),
            Layout::Swarm | Layout::Classic | Layout::Nat => address(SERVICE, 2),
        }
    }

    /// Address from which the clients connect.
    pub fn client_address(&self) -> Ipv4Addr {
        match self.layout {
            Layout::Ingress => address(OUTSIDE, 10),
            Layout::Swarm | Layout::Classic | Layout::Nat => address(SERVICE, 10),
        }
    }

    /// Four lines that show who talks to whom; ASCII, at most 78 columns.
    pub fn picture(&self) -> String {
        let middle = match self.layout {
            Layout::Swarm => "director (IPVS)",
            Layout::Classic => "IPVS, inside the client",
            Layout::Ingress => "published port, then IPVS",
            Layout::Nat => "director (NAT)",
        };
        let client = self.client_address().to_string();
        let vip = format!("VIP {}:{}", self.vip(), PORTS.first);
        let memory = format!("{} of silence", format_duration(self.tcp_timeout));
        let backends = self.backends();
        let backend = |n: usize, arrow: &str| {
            backends.get(n).map_or(String::new(), |(_, ip)| format!("{arrow}> db{} {ip}", n + 1))
        };
        let more = match backends.len() {
            0..=2 => String::new(),
            n => format!("      and {} more", n - 2),
        };
        let lines = [
            ["client", "", middle, "    backends"],
            [&client, "-->", &vip, &backend(0, "--+-")],
            ["\"app\"", "", "remembers a session for", &backend(1, "  +-")],
            ["", "", &memory, &more],
        ];
        let mut picture = String::new();
        for [from, arrow, through, to] in lines {
            let line = format!("  {from:<13} {arrow:<4}{through:<26} {to}");
            picture.push_str(line.trim_end());
            picture.push('\n');
        }
        picture
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn plan(layout: Layout) -> Plan {
        Plan { id: "t".to_owned(), layout, backends: 2, tcp_timeout: Duration::from_secs(8) }
    }

    const ALL: [Layout; 4] = [Layout::Swarm, Layout::Classic, Layout::Ingress, Layout::Nat];

    #[test]
    fn every_script_runs_in_a_namespace_of_the_lab_and_every_namespace_is_set_up() {
        for layout in ALL {
            let plan = plan(layout);
            let namespaces = plan.namespaces();
            let mut scripted: Vec<String> =
                plan.scripts().into_iter().map(|script| script.netns).collect();
            scripted.sort();
            scripted.dedup();
            let mut expected = namespaces.clone();
            expected.sort();
            assert_eq!(scripted, expected, "{layout}");
            assert!(namespaces.contains(&plan.director()), "{layout}");
        }
    }

    #[test]
    fn the_clients_namespace_remembers_only_in_the_old_layout() {
        for layout in ALL {
            let plan = plan(layout);
            assert_eq!(plan.director() == plan.client(), layout == Layout::Classic, "{layout}");
        }
    }

    #[test]
    fn pictures_fit_a_narrow_terminal() {
        for layout in ALL {
            for backends in [1, 2, MAX_BACKENDS] {
                let picture = Plan { backends, ..plan(layout) }.picture();
                assert_eq!(picture.lines().count(), 4, "{picture}");
                assert!(
                    picture.lines().all(|line| line.len() <= 78 && line.is_ascii()),
                    "{picture}"
                );
                assert!(picture.contains("8s of silence"), "{picture}");
            }
        }
    }
}
