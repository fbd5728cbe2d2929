//! Issue 6: two hundred idle and two hundred busy sessions on both nodes, with the guard and without.
//!
//! | client | to | |
//! |---|---|---|
//! | a container on node1 | the VIP | |
//! | a container on node2 | the VIP | |
//! | node1 itself | the published port | |
//! | node2 itself | the published port of node1 | whose director sees neither end: `rehash` |
//!
//! The backends are on both nodes.

use std::time::{Duration, Instant};

use crate::crowd::{Crowd, Fate};
use crate::ground::Ground;
use crate::guards::Guards;
use crate::scenario;
use crate::session::From::{Container, Host};
use crate::strategies::{Scene, TIMEOUT};

/// Idle ones of each kind, and as many busy ones.
const EACH: u32 = 50;
const ASKS_EVERY: Duration = Duration::from_secs(2);
const KINDS: [(u8, &str); 4] =
    [(1, "trio 7000"), (2, "trio 7000"), (1, "192.168.77.1 8080"), (2, "192.168.77.1 8080")];

fn fate(survived: u32, lost: u32) -> Fate {
    Fate { survived, lost, strayed: 0 }
}

/// All of the load, in one process of each kind.
pub struct Load<'a> {
    crowds: Vec<Crowd<'a>>,
    begun: Instant,
}

impl<'a> Load<'a> {
    pub fn begin(ground: &'a Ground) -> Self {
        let begun = Instant::now();
        let open = |(node, target): (u8, &'static str)| {
            let from = match (target, node) {
                ("trio 7000", 1) => Container("app"),
                ("trio 7000", _) => Container("far"),
                _ => Host,
            };
            Crowd::open_mixed(ground, node, from, target, EACH, ASKS_EVERY)
        };
        let crowds = each(KINDS, open);
        assert!(crowds.iter().all(|it| it.backends >= 3), "backends on both nodes");
        println!(
            "{} idle and as many busy sessions after {:.0} s",
            EACH * 4,
            begun.elapsed().as_secs_f64()
        );
        Self { crowds, begun }
    }

    /// Over so many timeouts; `why` says more where it does.
    pub fn loses_nothing(&mut self, timeouts: u32, why: impl Fn() -> String) {
        silence_of_timeouts(timeouts);
        assert_eq!(self.idle_ones_write(), [fate(EACH, 0); 4], "{}", why());
        assert_eq!(self.busy_ones(), [fate(EACH, 0); 4], "{}", why());
    }

    fn idle_ones_write(&mut self) -> Vec<Fate> {
        each(&mut self.crowds, Crowd::write)
    }

    /// Of the busy ones; tells how busy they were.
    fn busy_ones(&mut self) -> Vec<Fate> {
        let all = each(&mut self.crowds, Crowd::busy);
        let asked: u32 = all.iter().map(|(_, asked)| asked).sum();
        let seconds = self.begun.elapsed().as_secs_f64();
        let every = seconds * f64::from(EACH) * 4.0 / f64::from(asked.max(1));
        println!("{asked} answers in {seconds:.0} s: each busy session one in {every:.1} s");
        all.into_iter().map(|(fate, _)| fate).collect()
    }
}

/// At once, for each: the guests are slow, and do not share a processor.
fn each<T: Send, R: Send>(
    all: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let work = &work;
    std::thread::scope(|scope| {
        let jobs: Vec<_> = all.into_iter().map(|it| scope.spawn(move || work(it))).collect();
        jobs.into_iter()
            .map(|job| job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

pub fn forget_soon(scene: &Scene<'_>) {
    for node in [1, 2] {
        scene.forget_within(node, TIMEOUT);
    }
}

fn silence_of_timeouts(number: u32) {
    println!("silent for {number} timeouts");
    std::thread::sleep(Duration::from_secs(u64::from(number * TIMEOUT)));
}

scenario! {
    fn a_mixed_load_loses_nothing_over_ten_timeouts(ground) {
        let scene = Scene::new(ground);
        forget_soon(&scene);
        let guards = Guards::start(ground);
        Load::begin(ground).loses_nothing(10, || guards.metrics());
        for node in [1, 2] {
            let told = guards.told(node);
            println!("node{node}: a look took {} s; {} entries held", told["took_seconds"], told["held"]);
            assert_eq!(told["troubles"], serde_json::json!([]), "{told:#}");
            println!("{}", ground.run(node, "grep renewed /run/guard.log | tail -n 4"));
        }
    }
}

scenario! {
    fn without_the_guard_a_mixed_load_loses_every_idle_session(ground) {
        let scene = Scene::new(ground);
        let mut load = Load::begin(ground);
        forget_soon(&scene);
        // From its next packet on an entry has the new time.
        assert_eq!(load.idle_ones_write(), [fate(EACH, 0); 4]);
        silence_of_timeouts(2);
        let busy = load.busy_ones();
        assert_eq!(load.idle_ones_write(), [fate(0, EACH); 4]);
        println!("busy ones: {busy:?}");
    }
}
