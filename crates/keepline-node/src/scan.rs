//! One namespace: what is in it. Cheap questions first, so that an empty namespace costs next
//! to nothing even beside full ones (whose sockets and entries share the kernel's hash tables).

use std::{net::IpAddr, path::Path, sync::OnceLock};

use keepline_core::snapshot::{
    Incomplete, KeepaliveDefaults, LinkAddress, Namespace, Socket, TcpState, Timer,
};
use keepline_kernel::{
    Error, namespaces,
    netlink::{Consistency, Event, Protocol, Socket as Netlink},
    procfs,
};
use keepline_wire::{nftables, proc::sockstat, rtnl, sock_diag};

use crate::{marks, place::Place, tables};

/// What was found in one namespace.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub namespace: Namespace,
    pub incomplete: Vec<Incomplete>,
    /// About so many sockets are still to be read; None: all have been.
    pub sockets_left: Option<u64>,
    /// The same of entries.
    pub entries_left: Option<u64>,
}

/// When the two large tables of a namespace are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tables {
    /// With everything else, by netlink.
    Now,
    /// Afterwards, those of all namespaces together.
    Later,
}

impl Found {
    /// Notes that `what` could not be seen.
    pub(crate) fn missed(&mut self, what: &str, error: &Error) {
        let help = if error.is_permission() {
            Some("run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN".to_owned())
        } else {
            None
        };
        let what = format!("{what} of {}", self.namespace.name);
        self.incomplete.push(Incomplete { what, why: error.to_string(), help });
    }

    /// Notes that some of `what` may be missing.
    pub(crate) fn changed_meanwhile(&mut self, what: &str) {
        self.incomplete.push(Incomplete {
            what: format!("some {what} of {}", self.namespace.name),
            why: "the kernel's answers were lost or changed, several times".to_owned(),
            help: Some("keepline check".to_owned()),
        });
    }
}

/// Looks into one namespace. None where it vanished meanwhile.
pub(crate) fn scan(place: &Place, kernel_lists_fast: bool, tables: Tables) -> Option<Found> {
    match place.enter(|| look(place, kernel_lists_fast, tables)) {
        Ok(found) => Some(found),
        Err(error) if error.is_gone() => None,
        // A namespace whose mount was undone between listing and entering.
        Err(error) if error.errno() == Some(rustix::io::Errno::INVAL.raw_os_error()) => None,
        Err(error) => {
            let mut found = Found { namespace: bare(place), ..Found::default() };
            found.missed("everything", &error);
            Some(found)
        }
    }
}

fn bare(place: &Place) -> Namespace {
    Namespace {
        inode: place.inode,
        name: place.name.clone(),
        path: place.path.as_ref().map(|path| path.display().to_string()),
        container: place.container.clone(),
        ..Namespace::default()
    }
}

/// Runs in the namespace.
fn look(place: &Place, kernel_lists_fast: bool, tables: Tables) -> Found {
    let mut found = Found { namespace: bare(place), ..Found::default() };
    match addresses() {
        Ok(addresses) => found.namespace.addresses = addresses,
        Err(error) => found.missed("addresses", &error),
    }
    found.namespace.cookie = namespaces::cookie();
    let count = sockets_in_use();
    let has_sockets = count.is_none_or(|count| count > 0);
    let has_ipvs = Path::new("/proc/thread-self/net/ip_vs").exists();
    // Nothing comes by here: what would be done with it need not be known.
    if found.namespace.addresses.is_empty()
        && found.incomplete.is_empty()
        && !has_sockets
        && !has_ipvs
        && tables::entries_in_use().is_none_or(|count| count == 0)
    {
        return found;
    }
    found.namespace.translates = has_old_nat();
    match chains() {
        Ok(chains) => {
            found.namespace.translates |= chains.nat;
            found.namespace.nftables_balances = chains.balances;
        }
        Err(error) => found.missed("nat chains", &error),
    }
    // Of a director who it is on the link, of a client whom it talks to there.
    if has_ipvs || found.namespace.translates {
        match links() {
            Ok(links) => found.namespace.links = links,
            Err(error) => found.missed("links", &error),
        }
    }
    if has_sockets {
        found.namespace.keepalive_defaults = keepalive_defaults();
        match neighbours() {
            Ok(neighbours) => found.namespace.neighbours = neighbours,
            Err(error) => found.missed("neighbours", &error),
        }
    }
    // A namespace with a table of its own is not in the one that all others share.
    if has_sockets && tables == Tables::Later && (place.is_host() || !has_own_socket_table()) {
        match listeners() {
            Ok(listeners) => {
                found.namespace.listeners = listeners;
                found.sockets_left = count.or(Some(0));
            }
            Err(error) => found.missed("listeners", &error),
        }
    }
    // Two walks over large tables, side by side.
    std::thread::scope(|scope| {
        let now = has_sockets && found.sockets_left.is_none();
        let reading = now.then(|| scope.spawn(sockets));
        if has_ipvs {
            tables::read_ipvs(&mut found, kernel_lists_fast);
            if found.namespace.ipvs.is_some() {
                marks::read(&mut found);
            }
        }
        tables::read_conntrack(&mut found, tables);
        if let Some(thread) = reading {
            let sockets = thread.join().expect("reading sockets does not panic");
            take_sockets(&mut found, sockets);
        }
    });
    found
}

/// Reads by netlink what was left for later.
pub(crate) fn read_what_is_left(place: &Place, found: &mut Found) {
    let (sockets_left, entries_left) = (found.sockets_left.take(), found.entries_left.take());
    if sockets_left.is_none() && entries_left.is_none() {
        return;
    }
    let read = place.enter(|| {
        std::thread::scope(|scope| {
            let reading = sockets_left.map(|_| scope.spawn(sockets));
            let entries = entries_left.map(|_| tables::conntrack_entries());
            let sockets = reading.map(|thread| thread.join().expect("it does not panic"));
            (sockets, entries)
        })
    });
    match read {
        Ok((sockets, entries)) => {
            sockets.into_iter().for_each(|sockets| take_sockets(found, sockets));
            entries.into_iter().for_each(|entries| tables::take_entries(found, entries));
        }
        Err(error) => found.missed("sockets and entries", &error),
    }
}

fn take_sockets(found: &mut Found, sockets: Result<Sockets, Error>) {
    match sockets {
        Ok(sockets) => {
            found.namespace.sockets = sockets.connected;
            found.namespace.listeners = sockets.listeners;
            if sockets.interrupted {
                found.changed_meanwhile("sockets");
            }
        }
        Err(error) => found.missed("sockets", &error),
    }
}

fn keepalive_defaults() -> Option<KeepaliveDefaults> {
    let read = |name: &str| procfs::sysctl(&format!("net/ipv4/tcp_keepalive_{name}"));
    Some(KeepaliveDefaults { time: read("time")?, intvl: read("intvl")?, probes: read("probes")? })
}

fn addresses() -> Result<Vec<IpAddr>, Error> {
    let mut addresses = Vec::new();
    Netlink::open(Protocol::Route)?.dump("list addresses", &rtnl::dump_addresses(1), |event| {
        match event {
            Event::Start => addresses.clear(),
            Event::Message(message) if message.kind == rtnl::RTM_NEWADDR => {
                let address = rtnl::parse_address(message.payload)?.ip;
                if !address.is_loopback() {
                    addresses.push(address);
                }
            }
            Event::Message(_) => {}
        }
        Ok(())
    })?;
    Ok(addresses)
}

/// Ethernet addresses of the namespace's links; loopback's is zero and left out.
fn links() -> Result<Vec<LinkAddress>, Error> {
    let mut links = Vec::new();
    Netlink::open(Protocol::Route)?.dump("list links", &rtnl::dump_links(1), |event| {
        match event {
            Event::Start => links.clear(),
            Event::Message(message) if message.kind == rtnl::RTM_NEWLINK => {
                links.extend(rtnl::parse_link(message.payload)?.filter(|link| *link != [0; 6]));
            }
            Event::Message(_) => {}
        }
        Ok(())
    })?;
    Ok(links)
}

/// Who answers for which address on the namespace's links.
fn neighbours() -> Result<Vec<(IpAddr, LinkAddress)>, Error> {
    let mut neighbours = Vec::new();
    Netlink::open(Protocol::Route)?.dump(
        "list neighbours",
        &rtnl::dump_neighbours(1),
        |event| {
            match event {
                Event::Start => neighbours.clear(),
                Event::Message(message) if message.kind == rtnl::RTM_NEWNEIGH => {
                    neighbours.extend(rtnl::parse_neighbour(message.payload)?);
                }
                Event::Message(_) => {}
            }
            Ok(())
        },
    )?;
    Ok(neighbours)
}

/// Whether the old iptables has a nat table here.
fn has_old_nat() -> bool {
    ["ip_tables_names", "ip6_tables_names"].into_iter().any(|names| {
        procfs::net_file(names).unwrap_or_default().lines().any(|table| table == "nat")
    })
}

/// What the chains of nftables are for.
#[derive(Debug, Default)]
struct Chains {
    /// Some translate.
    nat: bool,
    /// Some are of an Engine that balances Swarm services with nftables.
    balances: bool,
}

/// How the tables of such an Engine are called begins so: `docker-lb-nat`, `docker-lb-dsr`
/// (moby pull 53125).
const NFTABLES_BALANCER: &str = "docker-lb-";

fn chains() -> Result<Chains, Error> {
    let mut found = Chains::default();
    // Asking would load the module where it is not: then there is nothing to be told.
    if !nftables_is_there() {
        return Ok(found);
    }
    Netlink::open(Protocol::Netfilter)?.dump(
        "list nftables chains",
        &nftables::dump_chains(1),
        |event| {
            match event {
                Event::Start => found = Chains::default(),
                Event::Message(message) if message.kind == nftables::NEW_CHAIN => {
                    let chain = nftables::parse_chain(message.payload)?;
                    found.nat |= chain.kind.as_deref() == Some("nat");
                    found.balances |= chain.table.starts_with(NFTABLES_BALANCER);
                }
                Event::Message(_) => {}
            }
            Ok(())
        },
    )?;
    Ok(found)
}

/// Loaded or built in; or a kernel without modules, which refuses without harm.
pub(crate) fn nftables_is_there() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let Ok(loaded) = std::fs::read_to_string("/proc/modules") else { return true };
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let builtin = std::fs::read_to_string(format!("/lib/modules/{release}/modules.builtin"));
        loaded.lines().any(|line| line.starts_with("nf_tables "))
            || builtin.is_ok_and(|list| list.lines().any(|line| line.ends_with("/nf_tables.ko")))
    })
}

/// `sockstat` counts the sockets of the namespace without walking them. None where it cannot be
/// read: the walk must tell.
fn sockets_in_use() -> Option<u64> {
    let v4 = procfs::net_file("sockstat").ok()?;
    // Not there on a kernel without IPv6.
    let v6 = procfs::net_file("sockstat6").unwrap_or_default();
    let stat = sockstat::parse(&v4, &v6).ok()?;
    Some(stat.tcp_inuse + stat.tcp6_inuse)
}

/// Whether this namespace does not share the machine's table of sockets: the setting is negative
/// where it does (`net.ipv4.tcp_ehash_entries`, since kernel 6.1).
fn has_own_socket_table() -> bool {
    procfs::sysctl("net/ipv4/tcp_ehash_entries").is_some()
}

/// Addresses and ports that are listened on; these have a small table of their own.
fn listeners() -> Result<Vec<std::net::SocketAddr>, Error> {
    let mut listeners = Vec::new();
    let request = sock_diag::dump(sock_diag::States::LISTEN, false, 1);
    Netlink::open(Protocol::SockDiag)?.dump("list listeners", &request, |event| {
        match event {
            Event::Start => listeners.clear(),
            Event::Message(message) => listeners.push(sock_diag::parse(message.payload)?.local),
        }
        Ok(())
    })?;
    Ok(listeners)
}

#[derive(Default)]
struct Sockets {
    connected: Vec<Socket>,
    listeners: Vec<std::net::SocketAddr>,
    interrupted: bool,
}

fn sockets() -> Result<Sockets, Error> {
    use sock_diag::TcpState as S;
    let states = sock_diag::States::of(&[S::Established, S::FinWait2, S::CloseWait, S::Listen]);
    let request = sock_diag::dump(states, true, 1);
    let mut sockets = Sockets::default();
    let netlink = Netlink::open(Protocol::SockDiag)?;
    let consistency = netlink.dump("list sockets", &request, |event| {
        match event {
            Event::Start => sockets = Sockets::default(),
            Event::Message(message) => {
                let socket = sock_diag::parse(message.payload)?;
                if socket.state == S::Listen {
                    sockets.listeners.push(socket.local);
                }
                sockets.connected.extend(convert(&socket));
            }
        }
        Ok(())
    })?;
    sockets.interrupted = consistency == Consistency::Interrupted;
    sockets.connected.shrink_to_fit();
    Ok(sockets)
}

/// None for sockets that carry no session: listeners, and those that no process holds any more.
fn convert(socket: &sock_diag::Socket) -> Option<Socket> {
    let state = match socket.state {
        sock_diag::TcpState::Established => TcpState::Established,
        sock_diag::TcpState::FinWait2 if socket.inode != 0 => TcpState::FinWait2,
        sock_diag::TcpState::CloseWait => TcpState::CloseWait,
        _ => return None,
    };
    Some(Socket {
        local: socket.local,
        remote: socket.remote,
        state,
        timer: match socket.timer {
            sock_diag::Timer::Off => Timer::Off,
            sock_diag::Timer::Keepalive => Timer::Keepalive { expires: socket.timer_expires },
            _ => Timer::Hidden,
        },
        idle: socket.info.map(|info| info.idle()),
        heard: socket.info.map(|info| info.last_data_recv.min(info.last_ack_recv)),
        cookie: socket.cookie,
        interface: socket.interface,
        inode: socket.inode,
        keepalive: None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Where a walk is not possible, or not to be trusted.
    #[test]
    fn what_was_left_for_a_walk_is_read_by_netlink() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let to = listener.local_addr().expect("its address");
        let client = TcpStream::connect(to).expect("a connection");
        let places = crate::place::all().expect("this namespace can be seen");
        let own = places.iter().find(|place| place.ways.is_empty()).expect("we are somewhere");
        let mut found = scan(own, true, Tables::Later).expect("it does not vanish");
        if found.sockets_left.is_some() {
            assert!(found.namespace.sockets.is_empty());
        }
        read_what_is_left(own, &mut found);
        assert_eq!((found.sockets_left, found.entries_left), (None, None));
        assert!(found.namespace.listeners.contains(&to));
        let seen = |socket: &Socket| socket.remote == to && socket.cookie != 0;
        assert!(found.namespace.sockets.iter().any(seen), "{:?}", found.namespace.sockets);
        drop(client);
    }
}
