//! The tables of one namespace: IPVS and conntrack, into the snapshot's types.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    time::Duration,
};

use keepline_bpf::tables::{ConnSeen, EntrySeen};
use keepline_core::snapshot::{
    Conntrack, ConntrackTimeouts, Destination, Entry, EntryState, Forwarding, Ipvs, Listing,
    Service, ServiceId, Timeouts,
};
use keepline_kernel::{
    Error,
    netlink::{Event, Protocol, Socket as Netlink},
    procfs,
    rights::Facts,
};
use keepline_wire::{
    conntrack, genl, ipvs,
    nl::WireError,
    proc::{
        ip_vs_conn,
        nf_conntrack_stat::{self, ConntrackStat},
    },
};

use crate::scan::{Found, Tables};

/// `IPPROTO_TCP`.
pub(crate) const TCP: u8 = 6;

/// Before kernel 6.14 every read of `/proc/net/ip_vs_conn` walks the table from its start
/// (`ip_vs_conn_array`, `net/netfilter/ipvs/ip_vs_conn.c`): about a second for 35,000 entries. Longer
/// tables are walked instead, where the kernel allows it (`crate::walk`).
const SLOW_FROM: u64 = 20_000;

/// Lifetime shown for an entry that has none: `nf_flow_table` renews a day at a time
/// (`NF_FLOW_TIMEOUT`, `nf_ct_offload_timeout` in `include/net/netfilter/nf_conntrack.h`).
const OFFLOADED: Duration = Duration::from_secs(86_400);

/// Whether this kernel keeps its place in the listing of IPVS entries: since 6.14
/// (`net/netfilter/ipvs/ip_vs_conn.c`).
pub(crate) fn lists_fast(facts: &Facts) -> bool {
    facts.at_least(6, 14)
}

/// Reads IPVS of the current namespace, if it balances anything.
pub(crate) fn read_ipvs(found: &mut Found, kernel_lists_fast: bool) {
    match ipvs_of_here() {
        Ok(Some((timeouts, services))) => {
            let mut ipvs = Ipvs {
                timeouts,
                services,
                listing: Listing::TooSlow,
                entries: Vec::new(),
                conntrack: flag("conntrack"),
                expire_nodest_conn: flag("expire_nodest_conn"),
                sloppy_tcp: flag("sloppy_tcp"),
                conn_reuse_mode: number("conn_reuse_mode"),
            };
            if kernel_lists_fast || ipvs.remembered() <= SLOW_FROM {
                match ipvs_entries() {
                    Ok(entries) => (ipvs.listing, ipvs.entries) = (Listing::Read, entries),
                    Err(error) => {
                        ipvs.listing = Listing::Unreadable;
                        found.missed("IPVS entries", &error);
                    }
                }
            }
            found.namespace.ipvs = Some(ipvs);
        }
        Ok(None) => {}
        Err(error) => found.missed("IPVS", &error),
    }
}

/// Whether a listing of the current namespace's IPVS entries takes no longer than it should.
pub(crate) fn is_listed_in_time(facts: &Facts) -> Result<bool, Error> {
    if lists_fast(facts) {
        return Ok(true);
    }
    let services = ipvs_of_here()?.map(|(_, services)| services).unwrap_or_default();
    Ok(services.iter().map(Service::remembered).sum::<u64>() <= SLOW_FROM)
}

fn flag(name: &str) -> Option<bool> {
    number(name).map(|value| value != 0)
}

fn number(name: &str) -> Option<u32> {
    procfs::sysctl(&format!("net/ipv4/vs/{name}")).and_then(|value| value.try_into().ok())
}

/// Timeouts and services; None where nothing is balanced.
pub(crate) fn ipvs_of_here() -> Result<Option<(Timeouts, Vec<Service>)>, Error> {
    let netlink = Netlink::open(Protocol::Generic)?;
    let request = genl::get_family(ipvs::FAMILY_NAME, 1);
    let family = netlink.request("find IPVS", &request, genl::parse_family)?;
    let Some(family) = family.map(|family| family.id) else { return Ok(None) };
    let mut listed = Vec::new();
    let request = ipvs::dump_services(family, 2);
    list(&netlink, "list IPVS services", &request, &mut listed, ipvs::parse_service)?;
    if listed.is_empty() {
        return Ok(None);
    }
    let mut services = Vec::with_capacity(listed.len());
    for (number, service) in (4..).zip(listed) {
        let mut backends = Vec::new();
        let request = ipvs::dump_destinations(family, &service.id, number);
        list(&netlink, "list IPVS backends", &request, &mut backends, ipvs::parse_destination)?;
        services.extend(convert_service(&service, &backends));
    }
    let request = ipvs::get_config(family, 3);
    let timeouts = netlink.request("read IPVS timeouts", &request, ipvs::parse_config)?;
    let Some(timeouts) = timeouts else { return Ok(None) };
    let timeouts = Timeouts { tcp: timeouts.tcp, tcp_fin: timeouts.tcp_fin, udp: timeouts.udp };
    Ok(Some((timeouts, services)))
}

fn list<T>(
    netlink: &Netlink,
    operation: &'static str,
    request: &[u8],
    into: &mut Vec<T>,
    parse: impl Fn(&[u8]) -> Result<T, WireError>,
) -> Result<(), Error> {
    netlink.dump(operation, request, |event| {
        match event {
            Event::Start => into.clear(),
            Event::Message(message) => into.push(parse(message.payload)?),
        }
        Ok(())
    })?;
    Ok(())
}

/// None for protocols that Keepline does not know.
fn convert_service(service: &ipvs::Service, backends: &[ipvs::Destination]) -> Option<Service> {
    const UDP: u8 = 17;
    const SCTP: u8 = 132;
    let id = match service.id {
        ipvs::ServiceId::Address { protocol: TCP, address } => ServiceId::Tcp(address),
        ipvs::ServiceId::Address { protocol: UDP, address } => ServiceId::Udp(address),
        ipvs::ServiceId::Address { protocol: SCTP, address } => ServiceId::Sctp(address),
        ipvs::ServiceId::Address { .. } => return None,
        ipvs::ServiceId::Fwmark { mark, .. } => ServiceId::Fwmark(mark),
    };
    let persistent = service.flags.all(ipvs::ServiceFlags::PERSISTENT);
    Some(Service {
        id,
        scheduler: service.scheduler.clone(),
        flags: service.flags.0,
        persistent: persistent.then_some(service.persistence_timeout),
        destinations: backends
            .iter()
            .map(|backend| Destination {
                address: backend.address,
                weight: backend.weight,
                forwarding: match backend.forwarding {
                    ipvs::Forwarding::Local => Forwarding::Local,
                    ipvs::Forwarding::Tunnel => Forwarding::Tunnel,
                    ipvs::Forwarding::DirectRoute => Forwarding::DirectRoute,
                    ipvs::Forwarding::Bypass => Forwarding::Bypass,
                    ipvs::Forwarding::Masquerade | ipvs::Forwarding::Other(_) => {
                        Forwarding::Masquerade
                    }
                },
                active: backend.active,
                inactive: backend.inactive,
            })
            .collect(),
    })
}

/// The TCP entries of IPVS in the current namespace.
pub(crate) fn ipvs_entries() -> Result<Vec<Entry>, Error> {
    let path = "/proc/thread-self/net/ip_vs_conn";
    let call = |source| Error::call("read", path, source);
    let mut entries = Vec::new();
    let mut lines = BufReader::with_capacity(64 * 1024, File::open(path).map_err(call)?);
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line).map_err(call)? == 0 {
            return Ok(entries);
        }
        // Rows of other protocols and the heading are no entries of TCP.
        if let Ok(row) = ip_vs_conn::parse_line(line.trim_end())
            && row.protocol == TCP
            // Templates of persistent services have no client port: no session.
            && row.client.port() != 0
        {
            entries.push(Entry {
                client: row.client,
                server: row.vip,
                backend: row.backend,
                seen_as: None,
                state: ipvs_state(row.state),
                expires: row.expires,
            });
        }
    }
}

fn ipvs_state(state: ip_vs_conn::State) -> EntryState {
    use ip_vs_conn::State as S;
    match state {
        S::None => EntryState::None,
        S::Established => EntryState::Established,
        S::SynSent => EntryState::SynSent,
        S::SynRecv => EntryState::SynRecv,
        S::FinWait => EntryState::FinWait,
        S::TimeWait => EntryState::TimeWait,
        S::Close => EntryState::Close,
        S::CloseWait => EntryState::CloseWait,
        S::LastAck => EntryState::LastAck,
        S::Listen => EntryState::Listen,
        S::SynAck => EntryState::Synack,
        S::Udp | S::Assured | S::Other => EntryState::Other,
    }
}

/// The same of a connection that was seen in the kernel's table.
pub(crate) fn convert_conn(seen: &ConnSeen) -> Entry {
    Entry {
        client: seen.client,
        server: seen.vip,
        backend: seen.backend,
        seen_as: None,
        state: ipvs_state(ip_vs_conn::State::from_tcp(seen.state)),
        // As the listing tells it, in whole seconds.
        expires: Duration::from_secs(seen.expires.as_secs()),
    }
}

/// How many entries of every kind the current namespace has; None where there is no conntrack.
pub(crate) fn entries_in_use() -> Option<u64> {
    conntrack_stat().map(|stat| stat.entries)
}

/// Not by the sysctls where the table of statistics is there, too: the kernel looks a setting up among
/// those of all namespaces that anybody has asked for (`proc_sys_compare`), which for 10,000 of them
/// takes milliseconds.
fn conntrack_stat() -> Option<ConntrackStat> {
    let text = procfs::net_file("stat/nf_conntrack").ok();
    text.and_then(|text| nf_conntrack_stat::parse(&text).ok()).or_else(|| {
        let entries = procfs::sysctl("net/netfilter/nf_conntrack_count")?;
        Some(ConntrackStat { entries, ..ConntrackStat::default() })
    })
}

/// Reads conntrack of the current namespace, if it is active: it holds entries, or nat chains
/// have switched it on (its hooks are lazy, `nf_ct_netns_get`).
pub(crate) fn read_conntrack(found: &mut Found, tables: Tables) {
    let Some(stat) = conntrack_stat() else { return };
    let count = stat.entries;
    if count == 0 && !found.namespace.translates {
        return;
    }
    found.namespace.conntrack = Some(Conntrack {
        count,
        max: procfs::sysctl("net/netfilter/nf_conntrack_max"),
        early_drop: stat.early_drop,
        drop: stat.drop,
        timeouts: conntrack_timeouts(),
        readable: true,
        entries: Vec::new(),
    });
    if count > 0 && tables == Tables::Later {
        found.entries_left = Some(count);
    } else if count > 0 {
        take_entries(found, conntrack_entries());
    }
}

pub(crate) fn take_entries(found: &mut Found, entries: Result<Vec<Entry>, Error>) {
    let Some(conntrack) = &mut found.namespace.conntrack else { return };
    match entries {
        Ok(entries) => conntrack.entries = entries,
        Err(error) => {
            conntrack.readable = false;
            found.missed("conntrack entries", &error);
        }
    }
}

fn conntrack_timeouts() -> Option<ConntrackTimeouts> {
    let timeout = |state: &str| {
        procfs::sysctl(&format!("net/netfilter/nf_conntrack_tcp_timeout_{state}"))
            .map(Duration::from_secs)
    };
    Some(ConntrackTimeouts {
        established: timeout("established")?,
        close_wait: timeout("close_wait")?,
        fin_wait: timeout("fin_wait")?,
    })
}

/// The TCP entries that translate an address. An IPVS entry has no NAT bit in its status, so no
/// filter of the kernel can pick them: the tuples tell.
pub(crate) fn conntrack_entries() -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    let request = conntrack::dump(&conntrack::DumpFilter::default(), 1);
    Netlink::open(Protocol::Netfilter)?.dump("list conntrack entries", &request, |event| {
        match event {
            Event::Start => entries.clear(),
            Event::Message(message) => {
                entries.extend(convert_entry(&conntrack::parse(message.payload)?));
            }
        }
        Ok(())
    })?;
    entries.shrink_to_fit();
    Ok(entries)
}

/// None for entries that are not TCP or translate nothing.
pub(crate) fn convert_entry(entry: &conntrack::Entry) -> Option<Entry> {
    if entry.original.protocol != TCP || !entry.translated() {
        return None;
    }
    Some(Entry {
        client: entry.original.source,
        server: entry.original.destination,
        backend: entry.reply.source,
        seen_as: Some(entry.reply.destination),
        state: entry.tcp_state.map_or(EntryState::Other, conntrack_state),
        // Offloaded to a flow table: it has no clock of its own while packets flow.
        expires: entry.timeout.unwrap_or(OFFLOADED),
    })
}

/// The same of an entry that was seen in the kernel's table.
pub(crate) fn convert_seen(entry: &EntrySeen) -> Option<Entry> {
    let (client, server) = entry.original;
    let (backend, seen_as) = entry.reply;
    if (backend, seen_as) == (server, client) {
        return None;
    }
    let state = conntrack::TcpConntrackState::from_code(entry.state);
    let (state, expires) = if entry.offloaded {
        (EntryState::Other, OFFLOADED)
    } else {
        // As netlink tells it, in whole seconds.
        (conntrack_state(state), Duration::from_secs(entry.expires.as_secs()))
    };
    Some(Entry { client, server, backend, seen_as: Some(seen_as), state, expires })
}

fn conntrack_state(state: conntrack::TcpConntrackState) -> EntryState {
    use conntrack::TcpConntrackState as S;
    match state {
        S::SynSent | S::SynSent2 => EntryState::SynSent,
        S::SynRecv => EntryState::SynRecv,
        S::Established => EntryState::Established,
        S::FinWait => EntryState::FinWait,
        S::CloseWait => EntryState::CloseWait,
        S::LastAck => EntryState::LastAck,
        S::TimeWait => EntryState::TimeWait,
        S::Close => EntryState::Close,
        S::None => EntryState::None,
        S::Other(_) => EntryState::Other,
    }
}
