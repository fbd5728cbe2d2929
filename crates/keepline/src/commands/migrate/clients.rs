//! Who on this node has sessions to a service that goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use keepline_core::report::{counted, text};
use keepline_core::session::End;
use keepline_core::{Options, judge};
use keepline_migrate::{Service, Task};
use keepline_node::{Owners, Select};

/// More than this is read by nobody.
const SHOWN: usize = 20;

/// The addresses by which clients know a service: its virtual ones and those of its tasks.
pub fn addresses(service: &Service, tasks: &[Task]) -> BTreeSet<IpAddr> {
    let own = tasks.iter().filter(|task| task.service == service.id && task.serves());
    service.vips.values().chain(own.flat_map(|task| task.addresses.values())).copied().collect()
}

/// Clients with sessions to `addresses`, one a line; none where this node cannot be looked at,
/// for the migration does not depend on it.
pub fn of(addresses: &BTreeSet<IpAddr>) -> Vec<String> {
    if addresses.is_empty() {
        return Vec::new();
    }
    let Ok(snapshot) = keepline_node::observe(&Select::default(), Owners::MostUrgent(0)) else {
        return Vec::new();
    };
    let judgement = judge(&snapshot, &Options::default());
    let mut clients: BTreeMap<String, usize> = BTreeMap::new();
    for session in judgement.sessions {
        if session.end == End::Client && addresses.contains(&session.server.ip()) {
            let namespace = &snapshot.namespaces[session.socket.namespace];
            let container = namespace.container.as_ref();
            let name = container
                .map(|container| container.name.as_ref().unwrap_or(&container.id))
                .unwrap_or(&namespace.name);
            *clients.entry(text::escape(name, text::NAME)).or_default() += 1;
        }
    }
    let more = clients.len().saturating_sub(SHOWN);
    let mut lines: Vec<String> = clients
        .into_iter()
        .take(SHOWN)
        .map(|(client, sessions)| format!("{client}: {}", counted(sessions, "session", "sessions")))
        .collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}
