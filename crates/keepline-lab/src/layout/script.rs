//! The set-up of each layout as shell scripts, one a namespace, in the words of the field's own
//! tools. Nothing here runs anything.

use std::net::Ipv4Addr;

use super::{FWMARK, GATEWAY, Layout, OUTSIDE, PORTS, Plan, SERVICE, address};

/// Commands to run inside one namespace, a line each.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// The namespace.
    pub netns: String,
    /// The commands, for `sh -ex`.
    pub commands: String,
}

/// Room for many sessions: the default range holds 28,000 to one address and port, and sessions
/// that the client closes keep their port for a minute unless it may be taken again.
const CLIENT_PORTS: &str = "echo 10240 65000 >/proc/sys/net/ipv4/ip_local_port_range
echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse
";

/// The rules that the engine puts into every container for its name server
/// (moby, libnetwork/resolver_unix.go, setupNAT). They do nothing for the lab's sessions,
/// but they switch connection tracking on in the container's namespace.
const ENGINE_DNS: &str = "iptables -t nat -N DOCKER_OUTPUT
iptables -t nat -A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
iptables -t nat -A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp --dport 53 -j DNAT --to-destination 127.0.0.11:42511
iptables -t nat -A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp --dport 53 -j DNAT --to-destination 127.0.0.11:42512
";

impl Plan {
    /// Everything it takes, in the order in which it must run.
    pub fn scripts(&self) -> Vec<Script> {
        let mut scripts = Vec::new();
        let mut add = |role: &str, commands: String| {
            scripts.push(Script { netns: self.netns(role), commands });
        };
        let bridged: &[&str] = match self.layout {
            Layout::Swarm | Layout::Nat => &["client", "lb"],
            Layout::Classic => &["client"],
            Layout::Ingress => &["lb"],
        };
        let db: Vec<String> = (1..=self.backends).map(|n| format!("db{n}")).collect();
        let mut members: Vec<&str> = bridged.to_vec();
        members.extend(db.iter().map(String::as_str));
        add("net", self.bridge("br0", &members));

        let container = if self.layout.uses_ipvs() { ENGINE_DNS } else { "" };
        for (name, (_, backend)) in db.iter().zip(self.backends()) {
            add(name, format!("{}{container}", interface("eth0", &[(backend, 24)])));
        }
        let client = self.client_address();
        let lb = address(SERVICE, 3);
        match self.layout {
            Layout::Swarm => {
                add(
                    "client",
                    format!("{}{CLIENT_PORTS}{ENGINE_DNS}", interface("eth0", &[(client, 24)])),
                );
                add(
                    "lb",
                    format!(
                        "{}{}{}",
                        interface("eth0", &[(lb, 24), (self.vip(), 32)]),
                        self.ipvs(lb),
                        self.mark("INPUT", self.vip())
                    ),
                );
            }
            // The VIP is an address of nobody here: IPVS takes the packet before it leaves
            // (LOCAL_OUT). That is why a forgotten session hangs in this layout: the packet goes
            // to the network, where no one answers for the VIP.
            Layout::Classic => add(
                "client",
                format!(
                    "{}{CLIENT_PORTS}{ENGINE_DNS}{}{}",
                    interface("eth0", &[(client, 24)]),
                    self.ipvs(client),
                    self.mark("OUTPUT", self.vip())
                ),
            ),
            Layout::Ingress => {
                // The host first: it is the other end of the client's and the sandbox's cables.
                add("host", self.publishing_host());
                add("client", format!("{}{CLIENT_PORTS}", interface("eth0", &[(client, 24)])));
                add("lb", self.ingress_sandbox(lb));
            }
            Layout::Nat => {
                add("client", format!("{}{CLIENT_PORTS}", interface("eth0", &[(client, 24)])));
                add(
                    "lb",
                    format!("{}{}", interface("eth0", &[(lb, 24), (self.vip(), 32)]), self.nft()),
                );
            }
        }
        scripts
    }

    /// A bridge with a cable to `eth0` of each member. It lives in a namespace of its own, so
    /// that `br_netfilter` finds no rules to run over bridged packets.
    fn bridge(&self, bridge: &str, members: &[&str]) -> String {
        let mut script = format!("ip link add {bridge} type bridge\nip link set {bridge} up\n");
        for member in members {
            script += &format!(
                "ip link add {member} type veth peer name eth0 netns {}\nip link set {member} master {bridge} up\n",
                self.netns(member)
            );
        }
        script
    }

    /// IPVS as Swarm sets it up (moby, libnetwork/service_linux.go and osl/namespace_linux.go):
    /// a service by firewall mark, round robin, masquerading, its packets sent on from `source`.
    fn ipvs(&self, source: Ipv4Addr) -> String {
        let network = address(SERVICE, 0);
        // The service comes first: making it loads ip_vs, and only then are its settings there.
        let mut script = format!(
            "ipvsadm -A -f {FWMARK} -s rr
echo 0 >/proc/sys/net/ipv4/vs/conn_reuse_mode
echo 1 >/proc/sys/net/ipv4/vs/expire_nodest_conn
echo 1 >/proc/sys/net/ipv4/vs/expire_quiescent_template
echo 1 >/proc/sys/net/ipv4/vs/conntrack
echo 1 >/proc/sys/net/ipv4/ip_forward
iptables -t nat -A POSTROUTING -m ipvs --ipvs -d {network}/24 -j SNAT --to-source {source}
ipvsadm --set {} 0 0
",
            self.tcp_timeout.as_secs()
        );
        for (_, backend) in self.backends() {
            script += &format!("ipvsadm -a -f {FWMARK} -r {backend}:0 -m -w 1\n");
        }
        script
    }

    fn mark(&self, chain: &str, destination: Ipv4Addr) -> String {
        format!("iptables -t mangle -A {chain} -d {destination}/32 -j MARK --set-mark {FWMARK}\n")
    }

    /// A host that publishes the ports: Docker's DOCKER-INGRESS chain and masquerading, and
    /// `docker_gwbridge` towards the ingress sandbox.
    fn publishing_host(&self) -> String {
        let (gateway, sandbox) = (address(GATEWAY, 1), address(GATEWAY, 2));
        let network = address(GATEWAY, 0);
        let (first, last) = (PORTS.first, PORTS.last);
        format!(
            "ip link add outside type veth peer name eth0 netns {client}
ip link add docker_gwbridge type bridge
ip link add sandbox type veth peer name eth1 netns {lb}
ip link set sandbox master docker_gwbridge up
{}{}echo 1 >/proc/sys/net/ipv4/ip_forward
iptables -t nat -N DOCKER-INGRESS
iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER-INGRESS
iptables -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER-INGRESS
iptables -t nat -A DOCKER-INGRESS -p tcp --dport {first}:{last} -j DNAT --to-destination {sandbox}
iptables -t nat -A DOCKER-INGRESS -j RETURN
iptables -t nat -A POSTROUTING -m addrtype --src-type LOCAL -o docker_gwbridge -j MASQUERADE
iptables -t nat -A POSTROUTING -s {network}/24 ! -o docker_gwbridge -j MASQUERADE
",
            interface("outside", &[(address(OUTSIDE, 1), 24)]),
            interface("docker_gwbridge", &[(gateway, 24)]),
            client = self.client(),
            lb = self.netns("lb"),
        )
    }

    /// Docker's `ingress_sbox`: `eth0` in the ingress network, `eth1` towards the host.
    fn ingress_sandbox(&self, lb: Ipv4Addr) -> String {
        // The address that the service has inside the ingress network; nobody uses it here.
        let inner_vip = address(SERVICE, 2);
        format!(
            "{}{}ip route add default via {}\n{}iptables -t mangle -A PREROUTING -p tcp --dport {}:{} -j MARK --set-mark {FWMARK}\n{}",
            interface("eth0", &[(lb, 24), (inner_vip, 32)]),
            interface("eth1", &[(address(GATEWAY, 2), 24)]),
            address(GATEWAY, 1),
            self.ipvs(lb),
            PORTS.first,
            PORTS.last,
            self.mark("INPUT", inner_vip)
        )
    }

    /// Plain NAT. `tcp_loose=0` keeps conntrack from adopting a forgotten session in mid-stream:
    /// its next packet then reaches the director's own TCP, which resets it.
    fn nft(&self) -> String {
        let backends = self.backends();
        let target = match &backends[..] {
            [(_, only)] => only.to_string(),
            many => {
                let map: Vec<String> = many
                    .iter()
                    .enumerate()
                    .map(|(n, (_, backend))| format!("{n} : {backend}"))
                    .collect();
                format!("numgen inc mod {} map {{ {} }}", many.len(), map.join(", "))
            }
        };
        // Redirects off: the director sends packets back where they came from on purpose.
        format!(
            "echo 1 >/proc/sys/net/ipv4/ip_forward
echo 0 >/proc/sys/net/ipv4/conf/all/send_redirects
echo 0 >/proc/sys/net/ipv4/conf/eth0/send_redirects
nft -f - <<'END'
table ip keepline_lab {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {} tcp dport {PORTS} dnat to {target}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat masquerade
  }}
}}
END
echo {} >/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established
echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose
",
            self.vip(),
            self.tcp_timeout.as_secs()
        )
    }
}

/// Loopback and one interface up, with its addresses.
fn interface(name: &str, addresses: &[(Ipv4Addr, u8)]) -> String {
    let mut script = "ip link set lo up\n".to_owned();
    for (address, prefix) in addresses {
        script += &format!("ip addr add {address}/{prefix} dev {name}\n");
    }
    script + &format!("ip link set {name} up\n")
}

#[cfg(test)]
mod tests {
    use super::super::tests::plan;
    use super::*;

    fn script(layout: Layout, role: &str) -> String {
        let plan = plan(layout);
        let netns = plan.netns(role);
        plan.scripts().into_iter().find(|script| script.netns == netns).unwrap().commands
    }

    #[test]
    fn swarm_is_as_the_engine_sets_it_up() {
        let lb = script(Layout::Swarm, "lb");
        for line in [
            "ip addr add 10.213.1.2/32 dev eth0",
            "ipvsadm -A -f 256 -s rr",
            "ipvsadm -a -f 256 -r 10.213.1.11:0 -m -w 1",
            "ipvsadm -a -f 256 -r 10.213.1.12:0 -m -w 1",
            "ipvsadm --set 8 0 0",
            "echo 0 >/proc/sys/net/ipv4/vs/conn_reuse_mode",
            "echo 1 >/proc/sys/net/ipv4/vs/conntrack",
            "iptables -t mangle -A INPUT -d 10.213.1.2/32 -j MARK --set-mark 256",
            "iptables -t nat -A POSTROUTING -m ipvs --ipvs -d 10.213.1.0/24 -j SNAT --to-source 10.213.1.3",
        ] {
            assert!(lb.lines().any(|l| l == line), "{line} missing in:\n{lb}");
        }
        assert!(!script(Layout::Swarm, "client").contains("ipvs"));
    }

    #[test]
    fn the_old_layout_balances_in_the_client() {
        let client = script(Layout::Classic, "client");
        assert!(client.contains("iptables -t mangle -A OUTPUT -d 10.213.1.2/32 -j MARK"));
        assert!(client.contains("ipvsadm -A -f 256 -s rr"));
        assert!(client.contains("-j SNAT --to-source 10.213.1.10"));
    }

    #[test]
    fn a_published_port_goes_through_the_host() {
        assert!(script(Layout::Ingress, "host").contains(
            "iptables -t nat -A DOCKER-INGRESS -p tcp --dport 7000:7009 -j DNAT --to-destination 10.213.4.2"
        ));
        assert!(script(Layout::Ingress, "lb").contains(
            "iptables -t mangle -A PREROUTING -p tcp --dport 7000:7009 -j MARK --set-mark 256"
        ));
    }

    #[test]
    fn one_backend_needs_no_choice() {
        let mut plan = plan(Layout::Nat);
        assert!(
            plan.nft()
                .contains("dnat to numgen inc mod 2 map { 0 : 10.213.1.11, 1 : 10.213.1.12 }")
        );
        plan.backends = 1;
        assert!(plan.nft().contains("dnat to 10.213.1.11\n"));
    }

    #[test]
    fn no_conntrack_outside_the_director_of_plain_nat() {
        for role in ["client", "db1", "db2", "net"] {
            let script = script(Layout::Nat, role);
            assert!(!script.contains("iptables") && !script.contains("nft"), "{script}");
        }
    }
}
