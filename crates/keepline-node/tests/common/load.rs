//! Two networks with the same addresses, and clients in both.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::common::{Netns, run};

/// Backends of a network.
pub const HOSTS: usize = 6;
const PORT: u16 = 7000;
const VIP: &str = "10.233.0.9";
const VIP6: &str = "fd33::9";
const TRAP: &str = "TRAP";

/// A client's namespace and a backends'. A backend that dies takes its addresses along: what is
/// sent to it is lost, as after the end of a container.
pub struct World {
    client: Netns,
    server: Netns,
    cookie: u64,
    dead: Mutex<Vec<usize>>,
}

impl World {
    pub fn two() -> [Self; 2] {
        [Self::new(1), Self::new(2)]
    }

    fn new(number: usize) -> Self {
        let (client, server) = (Netns::new("client"), Netns::new("server"));
        let (c, s) = (&client.name, &server.name);
        for line in [
            format!("ip link add name servers netns {c} type veth peer name clients netns {s}"),
            format!("ip -n {c} addr add 10.234.0.1/30 dev servers"),
            format!("ip -n {s} addr add 10.234.0.2/30 dev clients"),
            format!("ip -n {c} addr add fd34::1/64 dev servers nodad"),
            format!("ip -n {s} addr add fd34::2/64 dev clients nodad"),
            format!("ip -n {c} link set servers up"),
            format!("ip -n {s} link set clients up"),
            format!("ip -n {c} route add 10.233.0.0/24 via 10.234.0.2"),
            format!("ip -n {c} -6 route add fd33::/64 via fd34::2"),
            format!("ip -n {s} addr add {VIP}/32 dev lo"),
            format!("ip -n {s} addr add {VIP6}/128 dev lo nodad"),
        ] {
            run(&line);
        }
        let cookie = client.inside(keepline_kernel::namespaces::cookie).unwrap();
        let world = Self { client, server, cookie, dead: Mutex::default() };
        for address in [VIP, VIP6] {
            world.serve(address.parse().unwrap(), TRAP.to_owned());
        }
        for host in 0..HOSTS {
            world.add(host);
            for six in [false, true] {
                // Whose it is, and of which network.
                world.serve(Self::address(host, six), format!("{number} {host}"));
            }
        }
        world
    }

    pub fn client(&self) -> String {
        self.client.name.clone()
    }

    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    pub fn vips(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [VIP, VIP6].into_iter().map(|vip| vip.parse().unwrap())
    }

    pub fn address(host: usize, six: bool) -> IpAddr {
        let last = 10 + host;
        let text = if six { format!("fd33::{last}") } else { format!("10.233.0.{last}") };
        text.parse().unwrap()
    }

    fn add(&self, host: usize) {
        let s = &self.server.name;
        run(&format!("ip -n {s} addr add {}/32 dev lo", Self::address(host, false)));
        run(&format!("ip -n {s} addr add {}/128 dev lo nodad", Self::address(host, true)));
    }

    pub fn kill(&self, host: usize) {
        let s = &self.server.name;
        run(&format!("ip -n {s} addr del {}/32 dev lo", Self::address(host, false)));
        run(&format!("ip -n {s} addr del {}/128 dev lo", Self::address(host, true)));
        self.dead.lock().unwrap().push(host);
    }

    pub fn revive(&self, host: usize) {
        let mut dead = self.dead.lock().unwrap();
        if let Some(at) = dead.iter().position(|it| *it == host) {
            dead.remove(at);
            self.add(host);
        }
    }

    pub fn assert_no_connection_to_the_dead(&self) {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.client.name, "ss", "-Htn", "state", "all"])
            .output()
            .unwrap();
        let sockets = String::from_utf8(output.stdout).unwrap();
        for host in self.dead.lock().unwrap().iter() {
            for address in [false, true].map(|six| Self::address(*host, six).to_string()) {
                let stuck: Vec<&str> = sockets
                    .lines()
                    .filter(|line| line.starts_with("ESTAB") || line.starts_with("SYN-SENT"))
                    .filter(|line| {
                        line.contains(&format!("{address}:"))
                            || line.contains(&format!("{address}]:"))
                    })
                    .collect();
                assert!(stuck.is_empty(), "{address} is dead: {stuck:#?}");
            }
        }
    }

    /// Says its name to everyone, then echoes.
    fn serve(&self, address: IpAddr, name: String) {
        let listener = self.server.inside(|| TcpListener::bind((address, PORT)).unwrap());
        thread::spawn(move || {
            for peer in listener.incoming() {
                let Ok(mut peer) = peer else { continue };
                let name = name.clone();
                thread::spawn(move || {
                    let _ = writeln!(peer, "{name}");
                    let mut bytes = [0; 64];
                    while let Ok(length @ 1..) = peer.read(&mut bytes) {
                        let _ = peer.write_all(&bytes[..length]);
                    }
                });
            }
        });
    }
}

/// What became of all.
#[derive(Debug, Default, Clone)]
pub struct Ended {
    /// Connections that were made.
    pub connected: u64,
    /// Those that were closed under their clients.
    pub aborted: u64,
    /// How long after the death of its backend the last of those was.
    pub latest: Duration,
    /// What must not happen.
    pub failed: Vec<String>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    connected: AtomicU64,
    ended: Mutex<Ended>,
    /// When a backend of a network died.
    deaths: Mutex<BTreeMap<(usize, usize), Instant>>,
}

/// Clients that connect, wait in silence, and connect again.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// So many in each network: IPv4, IPv4 from IPv6 sockets, and IPv6.
    pub fn start(worlds: &[World; 2], each: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        for (network, world) in worlds.iter().enumerate() {
            let mapped = VIP.parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped();
            let six: Ipv6Addr = VIP6.parse().unwrap();
            let vips: [IpAddr; 3] = [VIP.parse().unwrap(), mapped.into(), six.into()];
            // A thread that is made in a namespace is in it.
            threads.extend(world.client.inside(|| {
                let client = |number: usize| {
                    let (shared, vip) = (Arc::clone(&shared), vips[number % 3]);
                    thread::spawn(move || {
                        let mut visit = 0;
                        while !shared.stop.load(Ordering::Relaxed) {
                            visit += 1;
                            shared.visit(
                                network,
                                SocketAddr::new(vip, PORT),
                                number * 37 + visit * 101,
                            );
                        }
                    })
                };
                (0..each).map(client).collect::<Vec<_>>()
            }));
        }
        Self { shared, threads }
    }

    /// How many connections were ended under their clients until now.
    pub fn aborted(&self) -> u64 {
        self.shared.ended.lock().unwrap().aborted
    }

    /// Waits for so many connections more.
    pub fn wait_for(&self, count: u64) {
        let until = self.shared.connected.load(Ordering::Relaxed) + count;
        while self.shared.connected.load(Ordering::Relaxed) < until {
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn dies(&self, network: usize, host: usize) {
        self.shared.deaths.lock().unwrap().insert((network, host), Instant::now());
    }

    pub fn end(self) -> Ended {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let mut ended = self.shared.ended.lock().unwrap().clone();
        ended.connected = self.shared.connected.load(Ordering::Relaxed);
        ended
    }
}

impl Shared {
    fn visit(&self, network: usize, vip: SocketAddr, number: usize) {
        let begun = Instant::now();
        match self.connection(network, vip, number) {
            Ok(()) => {}
            Err(why) => {
                let why = format!("{vip} in network {network}, after {:?}: {why}", begun.elapsed());
                self.ended.lock().unwrap().failed.push(why);
                thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn connection(&self, network: usize, vip: SocketAddr, number: usize) -> Result<(), String> {
        let stream = TcpStream::connect_timeout(&vip, Duration::from_secs(60))
            .map_err(|error| format!("connect: {error}"))?;
        let told = |error: std::io::Error| error.to_string();
        stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(told)?;
        let peer = stream.peer_addr().map_err(told)?;
        if peer != vip {
            return Err(format!("its peer is called {peer}"));
        }
        let mut lines = BufReader::new(stream);
        let mut name = String::new();
        lines.read_line(&mut name).map_err(|error| format!("first answer: {error}"))?;
        let words: Vec<usize> = name.split_whitespace().filter_map(|it| it.parse().ok()).collect();
        let [own, host] = words[..] else { return Err(format!("{} answered", name.trim())) };
        if own != network + 1 {
            return Err(format!("answered by network {own}"));
        }
        self.connected.fetch_add(1, Ordering::Relaxed);
        // In silence: who is told nothing learns nothing.
        let silence = Duration::from_millis(100 + (number * 7919 % 5000) as u64);
        lines.get_ref().set_read_timeout(Some(silence)).map_err(told)?;
        match lines.read(&mut [0; 1]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {
                let death = self.deaths.lock().unwrap().get(&(network, host)).copied();
                let mut ended = self.ended.lock().unwrap();
                ended.aborted += 1;
                match death {
                    Some(death) => ended.latest = ended.latest.max(death.elapsed()),
                    None => ended.failed.push(format!("aborted, and {name} lives")),
                }
            }
            other => return Err(format!("in silence: {other:?}")),
        }
        Ok(())
    }
}
