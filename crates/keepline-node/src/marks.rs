//! Which packets netfilter marks in a namespace: by its mark IPVS knows what a packet belongs to.

use keepline_core::snapshot::Mark;
use keepline_kernel::{
    Error,
    iptables::{self as door, Family},
    netlink::{Event, Protocol, Socket as Netlink},
};
use keepline_wire::{
    iptables::{self, MarkRule},
    nftables,
};

use crate::{
    scan::{Found, nftables_is_there},
    tables::TCP,
};

/// Reads the marks of the current namespace, from both kinds of iptables and from nftables.
pub(crate) fn read(found: &mut Found) {
    for (what, rules) in
        [("iptables marks", iptables_rules()), ("nftables marks", nftables_rules())]
    {
        match rules {
            Ok(rules) => found.namespace.marks.extend(rules.iter().flat_map(convert)),
            Err(error) => found.missed(what, &error),
        }
    }
}

fn iptables_rules() -> Result<Vec<MarkRule>, Error> {
    let parse = |source| Error::Answer { operation: "read iptables rules", source };
    let mut rules = Vec::new();
    if let Some(table) = door::mangle(Family::V4)? {
        rules.extend(iptables::parse(&table).map_err(parse)?);
    }
    if let Some(table) = door::mangle(Family::V6)? {
        rules.extend(iptables::parse_v6(&table).map_err(parse)?);
    }
    Ok(rules)
}

fn nftables_rules() -> Result<Vec<MarkRule>, Error> {
    let mut rules = Vec::new();
    // Asking would load the module where it is not: then there are no rules.
    if !nftables_is_there() {
        return Ok(rules);
    }
    let request = nftables::dump_rules(1);
    Netlink::open(Protocol::Netfilter)?.dump("list nftables rules", &request, |event| {
        match event {
            Event::Start => rules.clear(),
            Event::Message(message) if message.kind == nftables::NEW_RULE => {
                rules.extend(nftables::parse_rule(message.payload)?.marks);
            }
            Event::Message(_) => {}
        }
        Ok(())
    })?;
    Ok(rules)
}

/// One mark a range of ports. None for rules that are not about TCP, name a whole network (no
/// virtual address), or take marks away.
fn convert(rule: &MarkRule) -> Vec<Mark> {
    let address = match rule.destination {
        None => None,
        Some((address, prefix)) if prefix == (if address.is_ipv4() { 32 } else { 128 }) => {
            Some(address)
        }
        Some(_) => return Vec::new(),
    };
    if ![0, TCP].contains(&rule.protocol) || rule.mark == 0 {
        return Vec::new();
    }
    let mark = |ports| Mark { address, ports, mark: rule.mark };
    if rule.ports.is_empty() {
        return vec![mark(None)];
    }
    rule.ports.iter().map(|ports| mark(Some(*ports))).collect()
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use keepline_kernel::namespaces;

    use super::*;

    fn rule() -> MarkRule {
        MarkRule {
            destination: Some(("10.0.1.2".parse().unwrap(), 32)),
            protocol: 0,
            ports: Vec::new(),
            mark: 256,
            mask: u32::MAX,
            partial: false,
        }
    }

    #[test]
    fn only_marks_of_tcp_to_one_address_or_any() {
        let mark = Mark { address: Some("10.0.1.2".parse().unwrap()), ports: None, mark: 256 };
        assert_eq!(convert(&rule()), [mark]);
        assert_eq!(convert(&MarkRule { protocol: TCP, partial: true, ..rule() }), [mark]);
        let any = MarkRule { destination: None, ports: vec![(80, 80), (8000, 8010)], ..rule() };
        let ports = [(80, 80), (8000, 8010)];
        assert_eq!(
            convert(&any),
            ports.map(|ports| Mark { address: None, ports: Some(ports), ..mark })
        );
        let six = ("fd00::2".parse().unwrap(), 128);
        let found = convert(&MarkRule { destination: Some(six), ..rule() });
        assert_eq!(found, [Mark { address: Some(six.0), ..mark }]);
        for none in [
            MarkRule { protocol: 17, ..rule() },
            MarkRule { mark: 0, ..rule() },
            MarkRule { destination: Some(("10.0.1.0".parse().unwrap(), 24)), ..rule() },
            MarkRule { destination: Some(("fd00::".parse().unwrap(), 32)), ..rule() },
        ] {
            assert_eq!(convert(&none), [], "{none:?}");
        }
    }

    /// A namespace of `ip netns`, removed in the end.
    struct Netns(String);

    impl Drop for Netns {
        fn drop(&mut self) {
            let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
        }
    }

    fn run(command: &str) -> Result<(), String> {
        let words: Vec<&str> = command.split(' ').collect();
        match Command::new(words[0]).args(&words[1..]).output() {
            Err(error) => Err(format!("{command}: {error}")),
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    #[test]
    fn all_who_set_marks_are_heard() {
        let netns = Netns(format!("kl-marks-{}", std::process::id()));
        let inside = format!("ip netns exec {}", netns.0);
        let legacy = format!("{inside} iptables-legacy -w -t mangle -A INPUT");
        let nft = format!("{inside} iptables-nft -t mangle -A PREROUTING");
        let set_up = [
            format!("ip netns add {}", netns.0),
            format!("{legacy} -d 10.0.1.2 -j MARK --set-mark 256"),
            format!("{legacy} -d 10.0.1.3 -p udp -j MARK --set-mark 257"),
            format!("{nft} -p tcp --dport 8080 -j MARK --set-mark 258"),
            format!(
                "{inside} ip6tables-legacy -w -t mangle -A INPUT -d fd00::2 -j MARK --set-mark 259"
            ),
        ];
        if let Some(why) = set_up.iter().find_map(|command| run(command).err()) {
            eprintln!("SKIP: {why}");
            assert!(std::env::var_os("CI").is_none(), "skipped in CI: {why}");
            return;
        }
        let path = Path::new("/run/netns").join(&netns.0);
        let inode = namespaces::identify(&path).unwrap();
        let found = namespaces::enter(&path, inode, || {
            let mut found = Found::default();
            read(&mut found);
            found
        })
        .unwrap();
        assert!(found.incomplete.is_empty(), "{:?}", found.incomplete);
        let mark = |address: Option<&str>, ports, mark| Mark {
            address: address.map(|address| address.parse().unwrap()),
            ports,
            mark,
        };
        let expected = [
            mark(Some("10.0.1.2"), None, 256),
            mark(Some("fd00::2"), None, 259),
            mark(None, Some((8080, 8080)), 258),
        ];
        assert_eq!(found.namespace.marks, expected);
    }
}
