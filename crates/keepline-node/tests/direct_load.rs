//! `direct` under load: a hundred clients in two networks with the same addresses, while backends
//! come and die, whoever follows them is killed, and the programs are replaced.
//!
//! This kernel need not have IPVS: a file stands for the directors' tables. What is made of it is
//! planned and carried out as `keepline apply direct` does. The same with real tables is in
//! tests/swarm (`direct_load`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/load.rs"]
mod load;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use keepline_bpf::{Direct, direct::Config, place::cgroup_root};
use keepline_core::plan::{self, DirectBackend, DirectService};
use keepline_node::{
    Observer, Owners, Select, act, answered_directly,
    run::{Exclusive, standing},
    undo,
};
use load::{Clients, HOSTS, World};

/// What a Swarm waits between taking a task out of its tables and ending it
/// (`defaultGossipConvergeDelay`, moby daemon/cluster/executor/container/controller.go).
const DRAIN: Duration = Duration::from_secs(2);
/// Within which a connection to a backend that is gone has to end.
const SOON: Duration = Duration::from_secs(2);

/// A place for the journal, pins and table of a test, and what runs for it.
struct Scene {
    folder: PathBuf,
    pins: PathBuf,
    worlds: [World; 2],
}

impl Scene {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("keepline-load-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        let scene =
            Self { folder, pins: Path::new("/sys/fs/bpf").join(name), worlds: World::two() };
        scene.set(&[(0, 1), (1, 1)]);
        scene
    }

    fn table(&self) -> PathBuf {
        self.folder.join("table")
    }

    /// Writes the table of both directors: backends by number, with their weights. The second
    /// network has them the other way round: who mixes the two up is found out.
    fn set(&self, backends: &[(usize, u32)]) {
        let services: Vec<DirectService> = self
            .worlds
            .iter()
            .enumerate()
            .flat_map(|(number, world)| {
                let of =
                    backends.iter().map(move |(host, weight)| (turned(number, *host), *weight));
                let of: Vec<(usize, u32)> = of.collect();
                world.vips().map(move |vip| {
                    let mut backends: Vec<DirectBackend> = of
                        .iter()
                        .map(|(host, weight)| DirectBackend {
                            address: World::address(*host, vip.is_ipv6()),
                            port: None,
                            weight: *weight,
                        })
                        .collect();
                    backends.sort_unstable();
                    DirectService { netns: world.cookie(), vip, port: None, udp: false, backends }
                })
            })
            .collect();
        let mut services = services;
        services.sort_unstable();
        let next = self.folder.join("table.next");
        std::fs::write(&next, serde_json::to_vec(&services).unwrap()).unwrap();
        std::fs::rename(next, self.table()).unwrap();
    }

    /// Starts this program as `role`.
    fn helper(&self, role: &str) -> Helper {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper", "--nocapture"])
            .env("KEEPLINE_TEST_ROLE", role)
            .env("KEEPLINE_TEST_TABLE", self.table())
            .env("KEEPLINE_TEST_NETNS", self.worlds.each_ref().map(World::client).join(" "))
            .env("KEEPLINE_RUN", self.folder.join("run"))
            .env("KEEPLINE_PINS", &self.pins)
            .stdout(Stdio::null())
            .spawn();
        Helper(child.unwrap())
    }

    /// What the programs answer for is the table, draining backends aside.
    fn is_followed(&self) -> bool {
        let table = read_table(&self.table());
        let Some(state) = Direct::read(&self.pins).unwrap() else { return false };
        let weights =
            |address: std::net::IpAddr, all: &mut dyn Iterator<Item = (std::net::IpAddr, u32)>| {
                all.filter(|(it, _)| *it == address).map(|(_, weight)| weight).sum::<u32>()
            };
        table.iter().all(|wanted| {
            let found = state
                .services
                .iter()
                .find(|it| (it.vip.netns.0, it.vip.address) == (wanted.netns, wanted.vip));
            found.is_some_and(|found| {
                wanted.backends.len() == found.backends.len()
                    && wanted.backends.iter().all(|it| {
                        let mut all = found.backends.iter().map(|it| (it.address, it.weight));
                        weights(it.address, &mut all) == it.weight
                    })
            })
        })
    }

    /// How long it takes until the programs have the table.
    fn followed(&self) -> Duration {
        let begun = Instant::now();
        while !self.is_followed() {
            assert!(begun.elapsed() < Duration::from_secs(120), "the table is not followed");
            sleep(Duration::from_millis(10));
        }
        begun.elapsed()
    }

    /// Backends leave as in a Swarm: first they get nothing new, then they are gone. Says how long
    /// after the first death the programs had the table without them.
    fn leave(&self, clients: &Clients, leave: &[usize], stay: &[usize]) -> Duration {
        let weights =
            |weight, hosts: &[usize]| hosts.iter().map(move |it| (*it, weight)).collect::<Vec<_>>();
        self.set(&[weights(0, leave), weights(1, stay)].concat());
        let took = self.followed();
        sleep(DRAIN.saturating_sub(took));
        let begun = Instant::now();
        for host in leave {
            for (number, world) in self.worlds.iter().enumerate() {
                clients.dies(number, turned(number, *host));
                world.kill(turned(number, *host));
            }
        }
        self.set(&weights(1, stay));
        let after = self.followed();
        println!("without {leave:?}: drained {took:?} after the table, gone {after:?} after it");
        begun.elapsed()
    }

    fn come(&self, hosts: &[usize], with: &[usize]) {
        for host in hosts {
            for (number, world) in self.worlds.iter().enumerate() {
                world.revive(turned(number, *host));
            }
        }
        self.set(&[hosts, with].concat().iter().map(|it| (*it, 1)).collect::<Vec<_>>());
        println!("with {hosts:?}: {:?} after the table", self.followed());
    }
}

/// This program in another role; killed when dropped.
struct Helper(Child);

impl Helper {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The number of a backend in the first network or the second.
fn turned(network: usize, host: usize) -> usize {
    if network == 0 { host } else { HOSTS - 1 - host }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.helper("undo").0.wait();
        let left = self.pins.exists();
        let _ = Direct::remove(&self.pins);
        let _ = std::fs::remove_dir_all(&self.folder);
        if !std::thread::panicking() {
            assert!(!left, "undo left {}", self.pins.display());
        }
    }
}

fn read_table(path: &Path) -> Vec<DirectService> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Not a test of its own: what the tests below start as another process, and kill.
#[test]
fn helper() {
    let Ok(role) = std::env::var("KEEPLINE_TEST_ROLE") else { return };
    match role.as_str() {
        "follow" => follow(),
        "replace" => replace(),
        _ => {
            let undos = plan::undo(&standing().unwrap());
            // However often its backends have changed: one, and one that was begun by whom was killed.
            assert!(undos.len() <= 2, "{} to take back", undos.len());
            let mut exclusive = Exclusive::acquire().unwrap();
            assert_eq!(exclusive.standing().len(), undos.len(), "the journal itself is no longer");
            let report = undo(&mut exclusive, &undos, &AtomicBool::new(false)).unwrap();
            assert!(report.complete(), "{report:?}");
        }
    }
}

/// As `keepline apply direct`, with a file for the directors' tables. Like that, it does not look at
/// everything when a table changes.
fn follow() -> ! {
    let variable = |name| std::env::var(name).unwrap();
    let table = PathBuf::from(variable("KEEPLINE_TEST_TABLE"));
    let netns = variable("KEEPLINE_TEST_NETNS").split(' ').map(str::to_owned).collect();
    let select = Select { netns, ..Select::default() };
    let snapshot = Observer::default().observe(&select, Owners::Nobody, None).unwrap();
    let mut known = answered_directly().unwrap();
    loop {
        let services = read_table(&table);
        if known.as_ref() != Some(&services) {
            let plan = plan::turn(&snapshot, known.as_deref().unwrap_or_default(), services);
            // The one before may have been killed as it held the lock: the kernel lets go of it.
            let mut exclusive = Exclusive::acquire().unwrap();
            let report = act(&mut exclusive, &plan, &AtomicBool::new(false)).unwrap();
            assert!(report.complete(), "{report:?}");
            known = answered_directly().unwrap();
        }
        sleep(Duration::from_millis(250));
    }
}

/// Puts new programs in the place of those that run, again and again, as an upgrade does once.
fn replace() -> ! {
    let pins = PathBuf::from(std::env::var("KEEPLINE_PINS").unwrap());
    loop {
        let exclusive = Exclusive::acquire().unwrap();
        if let Some(state) = Direct::read(&pins).unwrap() {
            let cgroup = cgroup_root(Path::new("/proc")).unwrap();
            let config = Config { bpffs: pins.clone(), cgroup, services: state.services };
            Direct::apply(&config).unwrap();
        }
        drop(exclusive);
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_hundred_clients_lose_no_connection_while_backends_come_and_die() {
    skip_if_impossible!();
    let scene = Scene::new();
    let mut follower = scene.helper("follow");
    scene.followed();
    let clients = Clients::start(&scene.worlds, 50);
    clients.wait_for(200);
    scene.come(&[2, 3, 4, 5], &[0, 1]);
    clients.wait_for(200);
    let mut gone = scene.leave(&clients, &[1, 2, 3, 4, 5], &[0]);
    clients.wait_for(200);
    // On a machine so busy that every connection to them had ended by itself: once more.
    for _ in 0..5 {
        if clients.aborted() > 0 {
            break;
        }
        scene.come(&[2, 3, 4, 5], &[0]);
        clients.wait_for(200);
        gone = gone.max(scene.leave(&clients, &[2, 3, 4, 5], &[0]));
        clients.wait_for(200);
    }
    sleep(SOON);
    for world in &scene.worlds {
        world.assert_no_connection_to_the_dead();
    }
    scene.come(&[1], &[0]);
    clients.wait_for(100);
    let ended = clients.end();
    follower.kill();
    println!("{ended:?}");
    assert_eq!(ended.failed, Vec::<String>::new());
    assert!(ended.aborted > 0, "{ended:?}");
    // On a machine with time to spare that is well below two seconds; what a busy one adds is the
    // follower's to wait for, and no connection's.
    println!("the last was closed {:?} after its backend's death", ended.latest);
    assert!(ended.latest < SOON.max(gone + Duration::from_millis(500)), "{gone:?}: {ended:?}");
}

#[test]
fn killed_followers_and_replaced_programs_cost_no_connection() {
    skip_if_impossible!();
    let scene = Scene::new();
    let mut follower = scene.helper("follow");
    scene.followed();
    let clients = Clients::start(&scene.worlds, 50);
    let (mut killed, mut replacer) = (0_u32, scene.helper("replace"));
    let mut again = |follower: &mut Helper, role: &str| {
        follower.kill();
        killed += 1;
        *follower = scene.helper(role);
    };
    for round in 0..2_u64 {
        clients.wait_for(100);
        again(&mut replacer, "replace");
        again(&mut follower, "follow");
        // In the midst of what follows, a little later each time.
        std::thread::scope(|scope| {
            let step = scope.spawn(|| {
                let (one, other) = if round % 2 == 0 { (2, 1) } else { (1, 2) };
                scene.come(&[one], &[0, other]);
                scene.leave(&clients, &[other], &[0, one]);
            });
            sleep(Duration::from_millis(450 + 60 * round));
            // Not for ever: a busy machine needs a second until one has begun.
            for _ in 0..3 {
                if !step.is_finished() {
                    again(&mut follower, "follow");
                    sleep(Duration::from_millis(900));
                }
            }
        });
    }
    scene.followed();
    sleep(SOON);
    for world in &scene.worlds {
        world.assert_no_connection_to_the_dead();
    }
    let ended = clients.end();
    for child in [&mut follower, &mut replacer] {
        child.kill();
    }
    println!("killed {killed} times; {ended:?}");
    assert_eq!(ended.failed, Vec::<String>::new());
}
