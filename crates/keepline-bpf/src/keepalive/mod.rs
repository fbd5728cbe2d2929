//! TCP keepalive for every selected connection to come, whatever the application asks for.
//!
//! Two programs: connections get it when they are established, either end of them (`sockops`); and
//! who sets longer times later is held to the limit (`cgroup/setsockopt`) where that is asked for.
//! Times that an application has made shorter are kept, longer ones and the system's default
//! (7200 s) are brought down. `TCP_USER_TIMEOUT` stays as it is: with it, fewer probes than asked for
//! end a connection. Sockets that are open already are for [`crate::exact`].
//!
//! Taking the programs off leaves sockets as they are: those that got keepalive keep it.

mod load;
mod model;

use std::path::Path;

pub use model::{Config, Features, Rule, Selector, Settings, State};

use crate::{
    Error, Hook, hooks,
    place::{Cgroup, Pins, give_up},
};

/// Directory of the pins, below the one for all of Keepline.
const PART: &str = "keepalive";
/// The programs; those at hooks are pinned under the same name.
const NEW: &str = "keepline_new";
const LATER: &str = "keepline_later";

/// Keepalive that is applied on this machine.
#[derive(Debug)]
pub struct Keepalive {
    features: Features,
}

impl Keepalive {
    /// What this kernel can do. Loads each program and attaches none.
    ///
    /// # Errors
    /// Missing rights.
    pub fn features() -> Result<Features, Error> {
        let probe = Config::probe();
        let (_, features) = load::load(&probe)?;
        Ok(features)
    }

    /// Gives keepalive to every new connection in the selection from now on, in place of whatever
    /// was applied before under `config.bpffs`: connections that are established meanwhile get the
    /// old settings or the new ones. It lasts until [`Keepalive::remove`] or a reboot, whether or not
    /// this process lives.
    ///
    /// # Errors
    /// Settings that no socket takes; missing rights; a kernel that cannot do it for new sockets;
    /// a program at the control group that tolerates no other (`EPERM`: attached without
    /// `BPF_F_ALLOW_MULTI`).
    pub fn apply(config: &Config) -> Result<Self, Error> {
        config.check()?;
        let cgroup = Cgroup::open(&config.cgroup)?;
        let (object, features) = load::load(config)?;
        features.require(config)?;
        let pins = Pins::create(&config.bpffs, PART)?;
        hooks::detach_leftovers(&pins)?;
        for name in [NEW, LATER] {
            let wanted = name == NEW || config.enforces() && features.setsockopt.is_yes();
            match hooks::program(&object, name) {
                Some(program) if wanted => hooks::attach(&pins, name, &program, &cgroup)?,
                _ => hooks::detach(&pins, |pinned| pinned == name)?,
            }
        }
        Ok(Self { features })
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
        let hooks = hooks::read(&pins)?;
        let Some((_, facts)) = hooks.iter().find(|(hook, _)| hook.name == NEW) else {
            return Ok(None);
        };
        let (version, others) = load::read_config(facts)?;
        let rules = load::read_rules(facts)?;
        let hooks: Vec<Hook> = hooks.into_iter().map(|(hook, _)| hook).collect();
        Ok(Some(State { version, rules, others, hooks }))
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
    /// Returns whether there was something.
    ///
    /// # Errors
    /// Missing rights.
    pub fn remove(bpffs: &Path) -> Result<bool, Error> {
        let Some(pins) = Pins::open(bpffs, PART)? else { return Ok(false) };
        hooks::detach(&pins, |_| true)?;
        give_up(bpffs, pins)?;
        Ok(true)
    }
}
