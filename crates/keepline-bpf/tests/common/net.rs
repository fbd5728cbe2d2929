//! A network for the tests of direct: VIPs that are traps, and backends.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails by panicking")]

use std::{collections::BTreeMap, path::Path};

use keepline_bpf::{
    Direct, NetnsCookie,
    direct::{Backend, Config, Protocol, Service, Vip},
};

use libbpf_rs::{
    MapCore, MapHandle,
    query::{ProgInfoIter, ProgInfoQueryOptions},
};

use super::{Language, Netns, Peer, Place};

pub const VIP: &str = "10.240.0.2";
pub const VIP6: &str = "fd00::2";

pub fn vip(netns: NetnsCookie, address: &str, port: Option<u16>, protocol: Protocol) -> Vip {
    Vip { netns, address: address.parse().unwrap(), port, protocol }
}

pub fn backends(of: &[(&str, u32)]) -> Vec<Backend> {
    of.iter()
        .map(|(address, weight)| Backend {
            address: address.parse().unwrap(),
            port: None,
            weight: *weight,
        })
        .collect()
}

pub fn service(netns: &Netns, of: &[(&str, u32)]) -> Service {
    Service { vip: vip(netns.cookie(), VIP, None, Protocol::Tcp), backends: backends(of) }
}

pub fn apply(place: &Place, services: Vec<Service>) -> Direct {
    let config = Config { bpffs: place.bpffs.clone(), cgroup: place.cgroup.clone(), services };
    Direct::apply(&config).unwrap()
}

/// A map of what is applied.
pub fn map_of(place: &Place, name: &str) -> MapHandle {
    let state = Direct::read(&place.bpffs).unwrap().unwrap();
    // It knows every map.
    let program = state.hooks.iter().find(|hook| hook.name == "keepline_send4").unwrap().program;
    let options = ProgInfoQueryOptions::default().include_map_ids(true);
    let mut programs = ProgInfoIter::with_query_opts(options);
    let maps = programs.find(|it| it.id == program).unwrap().map_ids.into_iter();
    let mut maps = maps.map(|id| MapHandle::from_map_id(id).unwrap());
    maps.find(|map| map.name() == name).unwrap()
}

/// A namespace with VIPs that are traps, and backends that say their own addresses.
#[derive(Debug)]
pub struct Net {
    pub netns: Netns,
    _servers: Vec<Peer>,
}

impl Net {
    pub fn new(hosts: &[&str]) -> Self {
        let traps = [VIP, VIP6];
        let addresses: Vec<String> = traps
            .iter()
            .chain(hosts)
            .map(|host| format!("{host}/{}", if host.contains(':') { 128 } else { 32 }))
            .collect();
        let netns = Netns::new(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
        // Outside of the control group, as processes of other containers may be.
        let root = keepline_bpf::place::cgroup_root(Path::new("/proc")).unwrap();
        let mut server = Peer::new(Language::Python, &netns, &root);
        for host in traps.iter().chain(hosts) {
            let name = if traps.contains(host) { "TRAP" } else { host };
            server.does(&format!("listen {host} 7000"));
            server.does(&format!("serve {name}"));
            server.does(&format!("serve-udp {host} 7000 {name}"));
        }
        Self { netns, _servers: vec![server] }
    }

    pub fn client(&self, language: Language, place: &Place) -> Peer {
        Peer::new(language, &self.netns, &place.cgroup)
    }
}

/// How often each answered.
pub fn spread(client: &mut Peer, host: &str, count: u32) -> BTreeMap<String, u32> {
    parse(&client.ask(&format!("spread {host} 7000 {count}")))
}

pub fn parse(answer: &str) -> BTreeMap<String, u32> {
    let pair = |pair: &str| {
        let (name, number) = pair.split_once('=').unwrap();
        (name.to_owned(), number.parse().unwrap())
    };
    answer.split_ascii_whitespace().map(pair).collect()
}
