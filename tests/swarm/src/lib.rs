//! The virtual-machine proving ground: boots Debian guests under QEMU, with IPVS, conntrack
//! and Docker Engine, and runs commands in them.
//!
//! ```no_run
//! # use keepline_swarm_tests::Guests;
//! # fn main() -> Result<(), keepline_swarm_tests::Error> {
//! let guests = Guests::boot(2, None)?;
//! guests.swarm()?;
//! print!("{}", guests.node(1).ok("docker node ls")?);
//! # Ok(())
//! # }
//! ```
//!
//! The guests end when [`Guests`] is dropped, and also when this process dies by any other
//! way (`vm.rs` says how), so a `static` may hold them for a whole test run.

#![forbid(unsafe_code)]

mod error;
mod guest;
mod hub;
pub mod oracle;
mod preflight;
mod qmp;
mod vm;

use std::path::Path;
use std::time::{Duration, Instant};

pub use error::Error;
pub use guest::{Guest, Output};
pub use preflight::skip;

/// How long a guest may take from power-on to its first answer. Some 20 s on a quiet machine
/// without hardware virtualisation; the rest is for busy ones.
const BOOT_TIMEOUT: Duration = Duration::from_secs(180);
/// How long the Engine may take to start in a guest and import the containers' image.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(240);

/// A set of guests on one Ethernet segment. Node `n` has the address 192.168.77.`n`.
#[derive(Debug)]
pub struct Guests {
    nodes: Vec<Guest>,
    // Held for as long as the guests live: it carries their frames.
    _hub: Option<hub::Hub>,
}

impl Guests {
    /// Boots `nodes` guests and waits until each answers. Files under `payload` are readable
    /// in every guest under `/payload`. Builds the guest image first where it is missing
    /// (`build-image.sh`, two or three minutes once).
    ///
    /// # Errors
    /// The image cannot be built, QEMU does not start, or a guest does not come up within
    /// three minutes; then the error carries the tail of its console.
    pub fn boot(nodes: u8, payload: Option<&Path>) -> Result<Self, Error> {
        let image = vm::image()?;
        // Sockets, logs and the payload's image: needed by name only until every guest is up.
        let dir = tempfile::Builder::new()
            .prefix("keepline-guests-")
            .tempdir()
            .map_err(|source| Error::io("create a directory for the guests", source))?;
        let payload = payload.map(|from| vm::payload_image(from, dir.path())).transpose()?;
        let hub = (nodes > 1).then(|| hub::Hub::start(nodes)).transpose()?;
        let started = Instant::now();
        let mut guests = Vec::new();
        for node in 1..=nodes {
            guests.push(Guest::start(&vm::Machine {
                node,
                image: &image,
                dir: dir.path(),
                payload: payload.as_deref(),
                network: hub.as_ref().map(hub::Hub::port),
            })?);
        }
        for guest in &guests {
            guest.wait_ready(started + BOOT_TIMEOUT)?;
        }
        Ok(Self { nodes: guests, _hub: hub })
    }

    /// Boots guests and makes of them what a test needs. Where one's machine ends by that, it is
    /// done once more, and said: nothing of Keepline may have run in them until then. Emulated
    /// processors have been seen to lock each other up for good within the kernel, where the Engine's
    /// helpers set up namespaces.
    ///
    /// # Errors
    /// As [`Guests::boot`], and those of `prepare`.
    pub fn prepared(
        nodes: u8,
        payload: Option<&Path>,
        prepare: impl Fn(&Self) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let attempt = || {
            let guests = Self::boot(nodes, payload)?;
            prepare(&guests)?;
            Ok(guests)
        };
        match attempt() {
            Err(error @ Error::Guest { ended: true, .. }) => {
                eprintln!("before the test began, {error}\n--- once more");
                attempt()
            }
            prepared => prepared,
        }
    }

    /// The guest with this number; the first is 1.
    ///
    /// # Panics
    /// There is no such guest.
    #[must_use]
    pub fn node(&self, number: u8) -> &Guest {
        &self.nodes[usize::from(number) - 1]
    }

    /// Starts Docker in every guest, imports the image `peer` (python3, busybox, `/peer.py`:
    /// see `guest/peer.py`) and makes one Swarm of all; node 1 is its manager.
    ///
    /// # Errors
    /// The Engine does not start in time or a guest cannot join; the message carries the
    /// Engine's own words.
    pub fn swarm(&self) -> Result<(), Error> {
        const START: &str = "\
            (setsid dockerd >/var/log/dockerd.log 2>&1 &)\n\
            for i in $(seq 200); do docker info >/dev/null 2>&1 && break; sleep 1; done\n\
            docker import - peer </image.tar || { tail -n 20 /var/log/dockerd.log >&2; exit 1; }";
        // At the same time in all guests: each is slow, and they do not share a processor.
        std::thread::scope(|scope| {
            let starts: Vec<_> = self
                .nodes
                .iter()
                .map(|guest| scope.spawn(|| guest.ok_within(START, ENGINE_TIMEOUT)))
                .collect();
            starts.into_iter().try_for_each(|start| {
                start.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map(drop)
            })
        })?;
        let manager = self.node(1);
        // The default of five seconds takes a guest on a busy machine for dead.
        manager.ok("docker swarm init --dispatcher-heartbeat 30s --advertise-addr 192.168.77.1")?;
        let token = manager.ok("docker swarm join-token -q worker")?;
        for worker in &self.nodes[1..] {
            worker.ok(&format!("docker swarm join --token {} 192.168.77.1:2377", token.trim()))?;
        }
        Ok(())
    }
}
