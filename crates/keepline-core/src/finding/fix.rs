//! Commands that help, ready to type.

use std::net::SocketAddr;

use crate::snapshot::{Namespace, Snapshot};

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

/// A command of Keepline for what goes through a director: by the name of its network where that
/// is known, else by its namespace.
pub(super) fn keepline(snapshot: &Snapshot, director: Option<usize>, command: &str) -> String {
    let Some(director) = director.map(|at| &snapshot.namespaces[at]) else {
        return format!("keepline {command}");
    };
    let topology = snapshot.topology.as_ref();
    if let Some(network) = topology.and_then(|it| it.network_of_director(director.file())) {
        return format!("keepline {command} --network {}", quoted(&network.name));
    }
    let name = match &director.path {
        // A name that only the kernel gives is none to type.
        Some(path) if director.name.starts_with("net:[") => path,
        _ => &director.name,
    };
    format!("keepline {command} --netns {}", quoted(name))
}

/// Sets a sysctl of IPVS.
pub(super) fn ipvs_sysctl(director: &Namespace, name: &str, value: u32) -> String {
    inside(director, &format!("sysctl -w net.ipv4.vs.{name}={value}"))
}

/// Shows which director answers for an address on the client's network.
pub(super) fn who_answers(client: &Namespace, server: SocketAddr) -> String {
    inside(client, &format!("ip neigh show {}", server.ip()))
}
