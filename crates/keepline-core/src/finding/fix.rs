//! Commands that help, ready to type.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use crate::{
    session::{Session, Table},
    snapshot::{Namespace, Snapshot},
};

/// Above this many ports a filter for `ss` stops being something to look over before typing.
const MAX_PORTS: usize = 12;

/// A word for the shell, quoted where it must be.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._:@%+=-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// `command` inside a namespace; as it is where the namespace is the host's.
pub(super) fn inside(namespace: &Namespace, command: &str) -> String {
    match &namespace.path {
        Some(path) => format!("nsenter --net={} {command}", quoted(path)),
        None => command.to_owned(),
    }
}

/// Makes the application notice at once instead of at its next request.
pub(super) fn abort(snapshot: &Snapshot, sessions: &[&Session]) -> Option<String> {
    let first = sessions.first()?;
    let namespace = &snapshot.namespaces[first.socket.namespace];
    let ports: BTreeSet<u16> = sessions
        .iter()
        .filter(|session| session.socket.namespace == first.socket.namespace)
        .map(|session| {
            snapshot.namespaces[session.socket.namespace].sockets[session.socket.socket]
                .local
                .port()
        })
        .take(MAX_PORTS)
        .collect();
    let socket = &namespace.sockets[first.socket.socket];
    let ports: Vec<String> = ports.iter().map(|port| format!("sport = :{port}")).collect();
    let filter = format!("dst {} and ( {} )", address(socket.remote), ports.join(" or "));
    Some(inside(namespace, &format!("ss -tK '{filter}'")))
}

fn address(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.to_string(),
        SocketAddr::V6(address) => format!("[{}]:{}", address.ip(), address.port()),
    }
}

/// Lets the director remember for two hours: longer than most pools keep a session unused.
pub(super) fn remember_longer(director: &Namespace, table: Option<Table>) -> String {
    const TWO_HOURS: u64 = 7200;
    match (table, &director.ipvs) {
        (Some(Table::Ipvs), Some(ipvs)) => {
            // Zero keeps a value as it is (ip_vs_set_timeout, net/netfilter/ipvs/ip_vs_ctl.c).
            let tcp = ipvs.timeouts.tcp.as_secs().max(TWO_HOURS);
            inside(director, &format!("ipvsadm --set {tcp} 0 0"))
        }
        _ => conntrack_established(director, Duration::from_secs(TWO_HOURS)),
    }
}

/// Sets conntrack's lifetime of established sessions.
pub(super) fn conntrack_established(director: &Namespace, timeout: Duration) -> String {
    let setting = "net.netfilter.nf_conntrack_tcp_timeout_established";
    inside(director, &format!("sysctl -w {setting}={}", timeout.as_secs()))
}

/// Lets sockets that switch keepalive on, and leave its time to the system, send probes early
/// enough: a third of the timeout, so that lost probes are survived.
pub(super) fn keepalive_sooner(client: &Namespace, timeout: Duration) -> String {
    let idle = (timeout.as_secs() / 3).max(1);
    let interval = (idle / 4).clamp(1, 75);
    inside(
        client,
        &format!(
            "sysctl -w net.ipv4.tcp_keepalive_time={idle} net.ipv4.tcp_keepalive_intvl={interval}"
        ),
    )
}

/// Sets a sysctl of IPVS.
pub(super) fn ipvs_sysctl(director: &Namespace, name: &str, value: u32) -> String {
    inside(director, &format!("sysctl -w net.ipv4.vs.{name}={value}"))
}

/// Shows which director answers for an address on the client's network.
pub(super) fn who_answers(client: &Namespace, server: SocketAddr) -> String {
    inside(client, &format!("ip neigh show {}", server.ip()))
}
