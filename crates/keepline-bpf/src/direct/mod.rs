//! Virtual addresses without a load balancer on the way.
//!
//! connect() of TCP sockets and sendmsg() to a VIP are given the address of a backend, chosen by
//! weight, before the kernel looks for a route: no packet is rewritten, and there is no entry that
//! could be forgotten. The application sees the VIP, by getpeername() and as the origin of datagrams.
//! Where no backend takes connections, connect() fails at once with `ECONNREFUSED`; it never falls
//! back to the VIP.
//!
//! UDP sockets that are connected are left to the director: nothing would tell one that its backend is
//! gone, and the director's entry for it is made anew with its next datagram.
//!
//! Connections that exist are left alone, those through the load balancer as well as direct ones
//! whose backend has gone: whoever takes a backend away aborts its sessions. An unconnected UDP
//! socket stays with its backend as long as that is in the service, with whatever weight.

mod load;
mod model;
mod table;

use std::path::Path;

pub use model::{Backend, Config, Features, Protocol, Service, State, Vip};

use crate::{
    Changes, Error, Hook, Support, hooks,
    place::{Cgroup, Pins, give_up},
};

/// Directory of the pins, below the one for all of Keepline.
const PART: &str = "direct";
/// The programs, in the order in which they are attached: answers are translated before the first
/// question is. Pinned under the same names.
const PROGRAMS: [&str; 8] = [
    "keepline_name4",
    "keepline_name6",
    "keepline_recv4",
    "keepline_recv6",
    "keepline_send4",
    "keepline_send6",
    "keepline_conn4",
    "keepline_conn6",
];
/// The one that is always there.
const CONNECT: &str = "keepline_conn4";

/// Virtual addresses that are answered directly on this machine.
#[derive(Debug)]
pub struct Direct {
    features: Features,
}

impl Direct {
    /// What this kernel can do. Loads each program and attaches none.
    ///
    /// # Errors
    /// Missing rights.
    pub fn features() -> Result<Features, Error> {
        Ok(load::load(&[])?.features)
    }

    /// Answers the VIPs of these services directly from now on, in place of whatever was applied
    /// before under `config.bpffs`: no connect() meanwhile fails or goes to a VIP that is in both.
    /// It lasts until [`Direct::remove`] or a reboot, whether or not this process lives.
    ///
    /// # Errors
    /// Services that make no sense; missing rights; a kernel without the hooks; a program at the
    /// control group that tolerates no other (`EPERM`: attached without `BPF_F_ALLOW_MULTI`).
    pub fn apply(config: &Config) -> Result<Self, Error> {
        config.services.iter().try_for_each(Service::check)?;
        let cgroup = Cgroup::open(&config.cgroup)?;
        let pins = Pins::create(&config.bpffs, PART)?;
        hooks::detach_leftovers(&pins)?;
        let before = hooks::read(&pins)?;
        let loaded = load::load(&load::maps_of(before.iter().map(|(_, facts)| facts))?)?;
        if let Support::No(why) = &loaded.features.connections {
            let why = why.clone();
            return Err(Error::Unsupported { what: "direct connections", why });
        }
        load::write_services(&loaded.services()?, &config.services)?;
        for name in PROGRAMS {
            match hooks::program(&loaded.object, name) {
                Some(program) if loaded.features.has(name) => {
                    hooks::attach(&pins, name, &program, &cgroup)?;
                }
                _ => hooks::detach(&pins, |pinned| pinned == name)?,
            }
        }
        Ok(Self { features: loaded.features })
    }

    /// Makes these the services, each at once with all its backends; those that are not named are
    /// not answered any more. Writes only what differs.
    ///
    /// # Errors
    /// Services that make no sense; nothing applied under `bpffs`; missing rights.
    pub fn update(bpffs: &Path, services: &[Service]) -> Result<Changes, Error> {
        services.iter().try_for_each(Service::check)?;
        let nothing = || Error::Invalid(format!("nothing direct in {}", bpffs.display()));
        let pins = Pins::open(bpffs, PART)?.ok_or_else(nothing)?;
        let (_, facts) = running(&pins)?.ok_or_else(nothing)?;
        load::write_services(&load::services_of(&facts)?, services)
    }

    /// What this kernel can do, each part with the reason if it cannot.
    #[must_use]
    pub fn supported(&self) -> &Features {
        &self.features
    }

    /// What is applied under `bpffs`, by whichever version of Keepline. None: nothing is.
    ///
    /// # Errors
    /// Missing rights; pins that are no links.
    pub fn read(bpffs: &Path) -> Result<Option<State>, Error> {
        let Some(pins) = Pins::open(bpffs, PART)? else { return Ok(None) };
        let Some((_, facts)) = running(&pins)? else { return Ok(None) };
        let hooks = hooks::read(&pins)?.into_iter().map(|(hook, _)| hook).collect();
        Ok(Some(State {
            version: load::read_version(&facts)?,
            services: load::read_services(&load::services_of(&facts)?)?,
            hooks,
        }))
    }

    /// Whether anything is pinned under `bpffs`, also without the program that the state is read from:
    /// whoever attached or removed them was killed.
    ///
    /// # Errors
    /// Missing rights.
    pub fn is_left(bpffs: &Path) -> Result<bool, Error> {
        let Some(pins) = Pins::open(bpffs, PART)? else { return Ok(false) };
        Ok(!pins.names()?.is_empty())
    }

    /// Takes everything off that is applied under `bpffs`, and the directories that are empty then.
    /// Returns whether there was something. Sockets stay connected to their backends and from then
    /// on name them as their peers.
    ///
    /// # Errors
    /// Missing rights.
    pub fn remove(bpffs: &Path) -> Result<bool, Error> {
        let Some(pins) = Pins::open(bpffs, PART)? else { return Ok(false) };
        // No new connection or datagram without the way back.
        for name in PROGRAMS.iter().rev() {
            hooks::detach(&pins, |pinned| pinned == *name)?;
        }
        hooks::detach(&pins, |_| true)?;
        give_up(bpffs, pins)?;
        Ok(true)
    }
}

/// The program whose maps are the truth.
fn running(pins: &Pins) -> Result<Option<(Hook, crate::facts::ProgramFacts)>, Error> {
    Ok(hooks::read(pins)?.into_iter().find(|(hook, _)| hook.name == CONNECT))
}
