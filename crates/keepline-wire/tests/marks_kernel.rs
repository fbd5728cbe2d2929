//! nftables rules against the running kernel and the programs that write them, in a network
//! namespace of its own.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "common/unshared.rs"]
mod unshared;

use std::process::Command;

use keepline_wire::nftables::{NEW_RULE, Rule, dump_rules, parse_rule};
use keepline_wire::nl;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// What is printed where a program or the kernel is missing.
const UNABLE: &str = "cannot set rules";

/// What iptables-nft is given (`6`: ip6tables-nft), and what is to be read.
const IPTABLES: [(&str, &str); 10] = [
    ("-A INPUT -d 10.0.1.2/32 -j MARK --set-mark 256", "10.0.1.2/32 p0 [] 0x100"),
    ("-A PREROUTING -p tcp --dport 8080 -j MARK --set-mark 257", "any p6 [(8080, 8080)] 0x101"),
    (
        "-A PREROUTING -p tcp -d 10.9.0.1 -m multiport --dports 80,443,8000:8010 -j MARK --set-mark 1",
        "10.9.0.1/32 p6 [(80, 80), (443, 443), (8000, 8010)] 0x1",
    ),
    ("-A OUTPUT ! -d 10.0.1.3 -j MARK --set-mark 2", "none"),
    (
        "-A OUTPUT -d 10.0.1.4 -m conntrack --ctstate NEW -j MARK --or-mark 0x10",
        "10.0.1.4/32 p0 [] 0x10/0x10 partial",
    ),
    (
        "-A OUTPUT -d 10.2.0.0/15 -p udp --dport 53:60 -j MARK --set-mark 3",
        "10.2.0.0/15 p17 [(53, 60)] 0x3",
    ),
    ("-A OUTPUT -d 10.2.0.0/16 -p tcp ! --dport 53 -j MARK --set-mark 4", "none"),
    (
        "-A INPUT -i lo -s 10.0.0.1 -p tcp --dport 80 -j MARK --set-mark 5",
        "any p6 [(80, 80)] 0x5 partial",
    ),
    ("-A INPUT -d 10.0.1.2 -j ACCEPT", "none"),
    (
        "6 -A INPUT -d fd00::2 -p tcp --dport 80 -j MARK --set-mark 258",
        "fd00::2/128 p6 [(80, 80)] 0x102",
    ),
];

/// The same for nft: `ip` and `inet` name the table.
const NFT: [(&str, &str); 16] = [
    (
        "ip daddr 10.0.5.1 tcp dport 80 counter meta mark set 0x105",
        "10.0.5.1/32 p6 [(80, 80)] 0x105",
    ),
    (
        "ip saddr 10.0.5.7 ip daddr 10.0.5.2 tcp dport 80-90 meta mark set 6",
        "10.0.5.2/32 p6 [(80, 90)] 0x6 partial",
    ),
    (
        "ip daddr 10.0.6.0/23 tcp sport 7 tcp dport 80 meta mark set mark or 7",
        "10.0.6.0/23 p6 [(80, 80)] 0x7/0x7 partial",
    ),
    ("ip daddr 10.0.6.0/24 ip protocol tcp meta mark set 7", "10.0.6.0/24 p6 [] 0x7"),
    (
        "ip daddr 10.0.5.3 tcp dport { 80, 443 } meta mark set 8 ct mark set mark",
        "10.0.5.3/32 p6 [] 0x8 partial",
    ),
    ("ct mark set mark ip daddr 10.0.5.3 meta mark set 9", "10.0.5.3/32 p0 [] 0x9"),
    ("ip daddr 10.0.5.4 tcp dport != 80 meta mark set 9", "none"),
    ("ip daddr 10.0.5.4 tcp dport > 1023 meta mark set 10", "10.0.5.4/32 p6 [(1024, 65535)] 0xa"),
    ("ip daddr 10.0.5.4 limit rate 1/second meta mark set 11", "10.0.5.4/32 p0 [] 0xb partial"),
    ("meta mark set ct mark", "none"),
    ("inet ip6 daddr fd00::5 tcp dport 80 meta mark set 0x205", "fd00::5/128 p6 [(80, 80)] 0x205"),
    ("inet ip daddr 10.0.5.9 udp dport 80 meta mark set 0x206", "10.0.5.9/32 p17 [(80, 80)] 0x206"),
    (
        "inet ip daddr 10.0.5.10 ct state new meta mark set 0x207",
        "10.0.5.10/32 p0 [] 0x207 partial",
    ),
    ("inet ip daddr 10.0.5.11-10.0.5.20 meta mark set 0x208", "any p0 [] 0x208 partial"),
    (
        "inet tcp dport 8443 tcp flags syn meta mark set 0x209",
        "any p6 [(8443, 8443)] 0x209 partial",
    ),
    ("inet ip6 daddr fd00:1::/64 meta mark set 0x20a", "fd00:1::/64 p0 [] 0x20a"),
];

#[test]
fn rules_as_programs_write_them() {
    if !unshared::inside("rules_as_programs_write_them", UNABLE) {
        return;
    }
    for table in ["ip", "inet"] {
        let script = format!(
            "table {table} kl {{ chain c {{ type filter hook input priority -150; policy accept; }}; }}"
        );
        if let Err(why) = run("nft", &[&script]) {
            println!("{UNABLE}: {why}");
            return;
        }
    }
    for (arguments, expected) in IPTABLES {
        let (program, arguments) = match arguments.strip_prefix("6 ") {
            Some(arguments) => ("ip6tables-nft", arguments),
            None => ("iptables-nft", arguments),
        };
        let words = format!("-t mangle {arguments}");
        if let Err(why) = run(program, &words.split(' ').collect::<Vec<_>>()) {
            println!("{UNABLE}: {why}");
            return;
        }
        assert_eq!(newest(), expected, "{program} {arguments}");
    }
    for (rule, expected) in NFT {
        let (table, rule) = rule.strip_prefix("inet ").map_or(("ip", rule), |rule| ("inet", rule));
        run("nft", &[&format!("add rule {table} kl c {rule}")]).unwrap();
        assert_eq!(newest(), expected, "{table} {rule}");
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
    Err(format!("{program} {}: {text}", arguments.join(" ")))
}

/// What the only rule there is marks; it is deleted.
fn newest() -> String {
    let rules = rules();
    assert_eq!(rules.len(), 1, "{rules:?}");
    let Rule { family, table, chain, marks } = &rules[0];
    let family = match family {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        other => panic!("family {other}"),
    };
    run("nft", &[&format!("flush chain {family} {table} {chain}")]).unwrap();
    let Some(marks) = marks else { return "none".to_owned() };
    let destination = marks
        .destination
        .map_or("any".to_owned(), |(address, prefix)| format!("{address}/{prefix}"));
    let mut text = format!("{destination} p{} {:?} {:#x}", marks.protocol, marks.ports, marks.mark);
    if marks.mask != u32::MAX {
        text += &format!("/{:#x}", marks.mask);
    }
    if marks.partial {
        text += " partial";
    }
    text
}

fn rules() -> Vec<Rule> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )
    .unwrap();
    send(&socket, &dump_rules(1), SendFlags::empty()).unwrap();
    let mut buffer = vec![0; 1 << 17];
    let mut rules = Vec::new();
    loop {
        let (len, _) = recv(&socket, &mut buffer, RecvFlags::empty()).unwrap();
        for message in nl::messages(&buffer[..len]) {
            let message = message.unwrap();
            if let Some(status) = message.status().unwrap() {
                assert_eq!(status.errno, 0);
                return rules;
            }
            assert_eq!(message.kind, NEW_RULE);
            rules.push(parse_rule(message.payload).unwrap());
        }
    }
}
