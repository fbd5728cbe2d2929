//! Entries of conntrack in the current namespace: lifetimes, and those that are gone.

use keepline_core::plan::Remembered;
use keepline_kernel::netlink::{Protocol, Socket as Netlink};
use keepline_wire::conntrack::{self, NewEntry, TcpConntrackState, Tuple};

use super::Obstacle;
use crate::tables::TCP;

/// Gives entries their lifetime, and makes those that are gone.
pub(super) fn remember(entries: &[Remembered]) -> Result<Vec<String>, Obstacle> {
    let netlink = Netlink::open(Protocol::Netfilter)?;
    let requests: Vec<Vec<u8>> =
        (1..).zip(entries).map(|(sequence, entry)| request(entry, sequence)).collect();
    let results = netlink.batch("change conntrack entries", &requests)?;
    let mut gone = 0;
    let mut refused = Vec::new();
    for (entry, result) in entries.iter().zip(results) {
        match result {
            None => {}
            // Closed since it was seen.
            Some(error) if error.is_gone() && entry.was.is_some() => gone += 1,
            Some(error) => refused.push((entry, error)),
        }
    }
    if let Some((entry, error)) = refused.first() {
        return Err(Obstacle::Refused(format!(
            "{} of {} entries were refused, first that of {}: {error}",
            refused.len(),
            entries.len(),
            entry.client
        )));
    }
    for entry in entries.iter().filter(|entry| entry.was.is_none()) {
        read_back(&netlink, entry)?;
    }
    Ok((gone > 0).then(|| format!("{gone} had ended meanwhile")).into_iter().collect())
}

fn tuple(entry: &Remembered) -> Tuple {
    Tuple { source: entry.client, destination: entry.server, protocol: TCP }
}

fn request(entry: &Remembered, sequence: u32) -> Vec<u8> {
    let original = tuple(entry);
    if entry.was.is_some() {
        return conntrack::set_timeout(&original, entry.will, sequence);
    }
    let new = NewEntry {
        original,
        destination_nat: (entry.backend != entry.server).then_some(entry.backend),
        source_nat: entry.seen_as.filter(|seen_as| *seen_as != entry.client),
        timeout: entry.will,
        mark: 0,
        zone: 0,
        tcp_state: TcpConntrackState::Established,
    };
    conntrack::create(&new, sequence)
}

/// Where the wanted port was taken, the kernel has chosen another: the backend would not know it.
fn read_back(netlink: &Netlink, entry: &Remembered) -> Result<(), Obstacle> {
    let request = conntrack::get(&tuple(entry), conntrack::Direction::Original, None, u32::MAX);
    let made = netlink.request("read back a conntrack entry", &request, conntrack::parse)?;
    let wanted = (entry.backend, entry.seen_as.unwrap_or(entry.client));
    let is = made.map(|made| (made.reply.source, made.reply.destination));
    if is == Some(wanted) {
        return Ok(());
    }
    // Ours, and of no use: better none than one that leads astray.
    let _ = netlink.request(
        "remove a conntrack entry",
        &conntrack::delete(&tuple(entry), None, 0),
        |_| Ok(()),
    );
    Err(Obstacle::NotTaken {
        object: format!("the entry of {}", entry.client),
        is: format!("{is:?}"),
        should: format!("{wanted:?}"),
    })
}
