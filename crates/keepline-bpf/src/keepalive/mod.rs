//! TCP keepalive for every selected socket, whatever the application asked for.
//!
//! Three programs: connections get it when they are established, either end of them (`sockops`);
//! open ones by a sweep through their namespace (`iter/tcp`); and who sets longer times later is
//! held to the limit (`cgroup/setsockopt`). Times that an application has made shorter are kept,
//! longer ones and the system's default (7200 s) are brought down. `TCP_USER_TIMEOUT` stays as it
//! is: with it, fewer probes than asked for end a connection.
//!
//! Taking the programs off leaves sockets as they are: those that got keepalive keep it.

mod load;
mod model;
mod sweep;

use std::path::Path;

pub use model::{Config, Features, Rule, Selector, Settings, State};
pub use sweep::Swept;

use crate::{
    Changes, Error, Hook, hooks,
    place::{Cgroup, Pins, give_up},
};
use sweep::Sweeper;

/// Directory of the pins, below the one for all of Keepline.
const PART: &str = "keepalive";
/// The programs; those at hooks are pinned under the same name.
const NEW: &str = "keepline_new";
const OPEN: &str = "keepline_open";
const LATER: &str = "keepline_later";

/// Keepalive that is applied on this machine, and the means to give it to open sockets.
#[derive(Debug)]
pub struct Keepalive {
    features: Features,
    sweeper: Option<Sweeper>,
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
    /// Open sockets are for [`Keepalive::sweep`].
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
            let wanted = name == NEW || config.enforce && features.setsockopt.is_yes();
            match hooks::program(&object, name) {
                Some(program) if wanted => hooks::attach(&pins, name, &program, &cgroup)?,
                _ => hooks::detach(&pins, |pinned| pinned == name)?,
            }
        }
        let sweeper = Sweeper::new(&object, &features)?;
        Ok(Self { features, sweeper })
    }

    /// Makes these the rules and the settings of all other sockets, in the programs that run: for
    /// namespaces that come and go. Writes only what differs. Open sockets are for
    /// [`Keepalive::sweep`], of a `Keepalive` that is opened afterwards.
    ///
    /// # Errors
    /// Settings that no socket takes; nothing applied under `bpffs`; missing rights.
    pub fn update(
        bpffs: &Path,
        rules: &[Rule],
        others: Option<&Settings>,
    ) -> Result<Changes, Error> {
        model::check(rules, others)?;
        let nothing = || Error::Invalid(format!("no keepalive in {}", bpffs.display()));
        let pins = Pins::open(bpffs, PART)?.ok_or_else(nothing)?;
        let hooks = hooks::read(&pins)?;
        let (_, facts) = hooks.iter().find(|(hook, _)| hook.name == NEW).ok_or_else(nothing)?;
        let enforce = hooks.iter().any(|(hook, _)| hook.name == LATER);
        load::update(facts, rules, others, enforce)
    }

    /// What is applied under `bpffs`, as the means to sweep. None: nothing is.
    ///
    /// # Errors
    /// As of [`Keepalive::read`] and of loading.
    pub fn open(bpffs: &Path) -> Result<Option<Self>, Error> {
        let Some(state) = Self::read(bpffs)? else { return Ok(None) };
        let (object, features) = load::load(&state.config(bpffs))?;
        let sweeper = Sweeper::new(&object, &features)?;
        Ok(Some(Self { features, sweeper }))
    }

    /// What this kernel can do, each part with the reason if it cannot.
    #[must_use]
    pub fn supported(&self) -> &Features {
        &self.features
    }

    /// Gives keepalive to the open connections in the calling thread's network namespace that are
    /// in the selection: established ones and half-closed ones. May be called from threads in
    /// several namespaces at once.
    ///
    /// # Errors
    /// [`Error::Unsupported`] before kernel 5.15; what the kernel says.
    pub fn sweep(&self) -> Result<Swept, Error> {
        match (&self.sweeper, &self.features.open_sockets) {
            (Some(sweeper), _) => sweeper.sweep(),
            (None, crate::Support::No(why)) => {
                Err(Error::Unsupported { what: "keepalive for open sockets", why: why.clone() })
            }
            (None, crate::Support::Yes) => {
                Err(Error::Invalid("the program for open sockets was not loaded".to_owned()))
            }
        }
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
        let enforce = hooks.iter().any(|hook| hook.name == LATER);
        Ok(Some(State { version, rules, others, enforce, hooks }))
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
