//! Small snapshots, built by hand: a client 10.0.1.6, a director with VIP 10.0.1.2 and its own
//! address 10.0.1.3, a backend 10.0.1.4, as on a Swarm node.

use std::{net::SocketAddr, time::Duration};

use keepline_core::snapshot::{
    Asked, Conntrack, ConntrackTimeouts, Destination, Entry, EntryState, Forwarding, Ipvs,
    KeepaliveSettings, Listing, Mark, Namespace, SCHEMA, SecondLook, SecondLookResult, Service,
    ServiceId, Snapshot, Socket, TcpState, Timeouts, Timer,
};

pub const CLIENT: usize = 0;
pub const DIRECTOR: usize = 1;
pub const BACKEND: usize = 2;

pub const VIP: &str = "10.0.1.2:7000";
pub const SEEN_AS: &str = "10.0.1.3:53028";
pub const CLIENT_ADDRESS: &str = "10.0.1.6:53028";
pub const BACKEND_ADDRESS: &str = "10.0.1.4:7000";

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn socket(local: &str, remote: &str, idle: u64) -> Socket {
    let local = address(local);
    Socket {
        local,
        remote: address(remote),
        state: TcpState::Established,
        timer: Timer::Off,
        idle: Some(seconds(idle)),
        heard: Some(seconds(idle)),
        cookie: u64::from(local.port()),
        interface: 0,
        inode: u32::from(local.port()),
        keepalive: None,
    }
}

pub fn entry(expires: u64) -> Entry {
    Entry {
        client: address(CLIENT_ADDRESS),
        server: address(VIP),
        backend: address(BACKEND_ADDRESS),
        seen_as: None,
        state: EntryState::Established,
        expires: seconds(expires),
    }
}

pub fn conntrack() -> Conntrack {
    Conntrack {
        count: 1,
        max: Some(262_144),
        early_drop: 0,
        drop: 0,
        timeouts: Some(ConntrackTimeouts {
            established: seconds(432_000),
            close_wait: seconds(60),
            fin_wait: seconds(120),
        }),
        readable: true,
        entries: Vec::new(),
    }
}

pub fn ipvs(id: ServiceId) -> Ipvs {
    let port = if matches!(id, ServiceId::Fwmark(_)) { 0 } else { 7000 };
    Ipvs {
        timeouts: Timeouts { tcp: seconds(900), tcp_fin: seconds(120), udp: seconds(300) },
        services: vec![Service {
            id,
            scheduler: "rr".to_owned(),
            flags: 2,
            persistent: None,
            destinations: vec![Destination {
                address: SocketAddr::new(address(BACKEND_ADDRESS).ip(), port),
                weight: 1,
                forwarding: Forwarding::Masquerade,
                active: 1,
                inactive: 0,
            }],
        }],
        listing: Listing::Read,
        entries: Vec::new(),
        conntrack: Some(true),
        expire_nodest_conn: Some(true),
        sloppy_tcp: Some(false),
        conn_reuse_mode: Some(0),
    }
}

pub fn namespace(inode: u64, name: &str, addresses: &[&str]) -> Namespace {
    Namespace {
        inode,
        name: name.to_owned(),
        path: Some(format!("/run/netns/{name}")),
        selected: true,
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        ..Namespace::default()
    }
}

pub fn snapshot(namespaces: Vec<Namespace>) -> Snapshot {
    Snapshot {
        schema: SCHEMA.to_owned(),
        host: "node1".to_owned(),
        started: jiff::Timestamp::UNIX_EPOCH,
        duration: Duration::from_millis(20),
        kernel: "6.1.0".to_owned(),
        namespaces,
        second_look: Vec::new(),
        topology: None,
        held: Vec::new(),
        unnamed: Vec::new(),
        asked: Asked::default(),
        incomplete: Vec::new(),
    }
}

/// A Swarm node with one session, silent for 100 s; `entry`: what the director remembers.
pub fn swarm(entry: Option<Entry>) -> Snapshot {
    let mut client = namespace(1, "client", &["10.0.1.6"]);
    client.sockets.push(socket(CLIENT_ADDRESS, VIP, 100));
    // The engine's DNS rules: they switch conntrack on, and translate nothing of this.
    client.translates = true;
    client.conntrack = Some(conntrack());
    let mut director = namespace(2, "lb_edja88p19", &["10.0.1.2", "10.0.1.3"]);
    director.translates = true;
    director.marks.push(Mark { address: Some(address(VIP).ip()), ports: None, mark: 256 });
    let mut tables = conntrack();
    tables
        .entries
        .extend(entry.clone().map(|entry| Entry { seen_as: Some(address(SEEN_AS)), ..entry }));
    director.conntrack = Some(tables);
    let mut balanced = ipvs(ServiceId::Fwmark(256));
    balanced.entries.extend(entry);
    director.ipvs = Some(balanced);
    let mut backend = namespace(3, "backend", &["10.0.1.4"]);
    backend.translates = true;
    backend.conntrack = Some(conntrack());
    backend.listeners.push(address("0.0.0.0:7000"));
    backend.sockets.push(Socket { cookie: 9, ..socket(BACKEND_ADDRESS, SEEN_AS, 100) });
    snapshot(vec![client, director, backend])
}

/// The same by nftables: no IPVS, the entry is conntrack's.
pub fn nat(entry: Option<Entry>) -> Snapshot {
    let mut snapshot = swarm(entry);
    snapshot.namespaces[DIRECTOR].ipvs = None;
    snapshot.namespaces[DIRECTOR].marks.clear();
    snapshot
}

pub fn client(snapshot: &mut Snapshot) -> &mut Socket {
    &mut snapshot.namespaces[CLIENT].sockets[0]
}

pub fn tables(snapshot: &mut Snapshot) -> &mut Ipvs {
    snapshot.namespaces[DIRECTOR].ipvs.as_mut().unwrap()
}

pub fn keepalive(idle: u64, interval: u64) -> Option<KeepaliveSettings> {
    Some(KeepaliveSettings {
        enabled: true,
        idle: seconds(idle),
        interval: seconds(interval),
        probes: 9,
    })
}

/// Answers every suspect of `snapshot` with `result`.
pub fn look_again(snapshot: &mut Snapshot, result: SecondLookResult) {
    for suspect in keepline_core::judge::suspects(snapshot) {
        let namespace = &snapshot.namespaces[suspect.socket.namespace];
        let cookie = namespace.sockets[suspect.socket.socket].cookie;
        let look = SecondLook { namespace: namespace.inode, cookie, result };
        snapshot.second_look.push(look);
    }
}
