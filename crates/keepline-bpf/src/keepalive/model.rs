//! What is asked for, what is applied, what is possible.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use crate::{Error, Hook, NetnsCookie, Support};

/// Times of keepalive for a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Without traffic until the first probe (`TCP_KEEPIDLE`): whole seconds, 1 s to 32767 s.
    pub idle: Duration,
    /// Between probes (`TCP_KEEPINTVL`): whole seconds, 1 s to 32767 s.
    pub interval: Duration,
    /// Unanswered probes until the connection is given up (`TCP_KEEPCNT`), 1 to 127, where the
    /// application has not set its own. None: as the namespace has it (9).
    pub probes: Option<u8>,
    /// Whether applications that set longer times later, or switch keepalive off, are held to
    /// these. What they read back is the truth.
    pub enforce: bool,
}

/// Which sockets: by where they are and whom they talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// The network namespace of the socket.
    pub netns: NetnsCookie,
    /// Its peer's address: for a client the VIP, for a server the director's address. None: any.
    /// An IPv6 socket that talks IPv4 counts as IPv4.
    pub peer: Option<IpAddr>,
    /// Its peer's port, only together with `peer`. None: any.
    pub port: Option<u16>,
}

/// Settings for a selection. The most exact selector decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Which sockets.
    pub selector: Selector,
    /// What they get. None: they are left alone, whatever others get.
    pub settings: Option<Settings>,
}

/// What is to be applied.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of Keepline's pins ([`crate::place::PINS`]); its parent is where the BPF file
    /// system is, or is mounted if nothing is there.
    pub bpffs: PathBuf,
    /// Control group whose processes are served ([`crate::place::cgroup_root`], or
    /// [`crate::place::PrivateCgroupRoot`]).
    pub cgroup: PathBuf,
    /// Settings by selection.
    pub rules: Vec<Rule>,
    /// Settings of all sockets that no rule fits, loopback included. None: they are left alone.
    pub others: Option<Settings>,
}

/// What is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Version of the Keepline that applied it.
    pub version: String,
    /// Settings by selection, in the selectors' order.
    pub rules: Vec<Rule>,
    /// Settings of all other sockets.
    pub others: Option<Settings>,
    /// The programs.
    pub hooks: Vec<Hook>,
}

/// What this kernel can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// Keepalive for new connections: kernel 5.10 with BTF.
    pub new_sockets: Support,
    /// Holding applications to the limit: kernel 5.3, and 5.15 where rules select.
    pub setsockopt: Support,
    /// Selection by network namespace: kernel 5.14.
    pub selection: Support,
}

/// `MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPINTVL`, `MAX_TCP_KEEPCNT` in `include/net/tcp.h`.
const MOST_SECONDS: u64 = 32767;
const MOST_PROBES: u8 = 127;

impl Settings {
    fn check(&self) -> Result<(), Error> {
        for (name, time) in [("idle time", self.idle), ("interval", self.interval)] {
            if time.subsec_nanos() != 0 || !(1..=MOST_SECONDS).contains(&time.as_secs()) {
                return Err(Error::Invalid(format!(
                    "keepalive's {name} is whole seconds from 1 to {MOST_SECONDS}, not {time:?}"
                )));
            }
        }
        if self.probes.is_some_and(|probes| !(1..=MOST_PROBES).contains(&probes)) {
            return Err(Error::Invalid(format!("keepalive's probes are 1 to {MOST_PROBES}")));
        }
        Ok(())
    }
}

impl Selector {
    /// Whether it can fit any socket.
    fn check(&self) -> Result<(), Error> {
        let unspecified = self.peer.is_some_and(|peer| peer.is_unspecified());
        let port = match self.port {
            Some(port) => port != 0 && self.peer.is_some(),
            None => true,
        };
        if unspecified || !port {
            return Err(Error::Invalid(format!("no socket's peer is {self:?}")));
        }
        Ok(())
    }
}

impl Config {
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.rules.is_empty() && self.others.is_none() {
            return Err(Error::Invalid("keepalive for no socket at all".to_owned()));
        }
        self.settings().try_for_each(Settings::check)?;
        self.rules.iter().try_for_each(|rule| rule.selector.check())
    }

    fn settings(&self) -> impl Iterator<Item = &Settings> {
        self.rules.iter().filter_map(|rule| rule.settings.as_ref()).chain(&self.others)
    }

    /// Whether anybody is held to the settings.
    pub(super) fn enforces(&self) -> bool {
        self.settings().any(|settings| settings.enforce)
    }

    /// Something that uses every program, to see which of them work.
    pub(super) fn probe() -> Self {
        let settings = Settings {
            idle: Duration::from_secs(1),
            interval: Duration::from_secs(1),
            probes: None,
            enforce: true,
        };
        let selector = Selector { netns: NetnsCookie(0), peer: None, port: None };
        Self {
            bpffs: PathBuf::new(),
            cgroup: PathBuf::new(),
            rules: vec![Rule { selector, settings: Some(settings) }],
            others: None,
        }
    }
}

impl State {
    /// The settings that a socket of this namespace and with this peer gets.
    #[must_use]
    pub fn settings_for(&self, netns: NetnsCookie, peer: IpAddr, port: u16) -> Option<Settings> {
        let peer = peer.to_canonical();
        [(Some(peer), Some(port)), (Some(peer), None), (None, None)]
            .into_iter()
            .find_map(|(peer, port)| {
                let selector = Selector { netns, peer, port };
                self.rules.iter().find(|rule| rule.selector == selector)
            })
            .map_or(self.others, |rule| rule.settings)
    }

    /// Whether new connections get keepalive: the program is at a control group that exists.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.hooks.iter().any(|hook| hook.name == super::NEW && hook.cgroup.is_some())
    }
}

impl Features {
    pub(super) fn require(&self, config: &Config) -> Result<(), Error> {
        let need = |what, support: &Support| match support {
            Support::Yes => Ok(()),
            Support::No(why) => Err(Error::Unsupported { what, why: why.clone() }),
        };
        need("keepalive for new sockets", &self.new_sockets)?;
        if !config.rules.is_empty() {
            need("keepalive by network namespace", &self.selection)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_socket_takes_is_refused() {
        let good = Config::probe();
        good.check().unwrap();
        let refused = |change: &dyn Fn(&mut Selector, &mut Settings)| {
            let mut config = good.clone();
            for Rule { selector, settings } in &mut config.rules {
                change(selector, settings.as_mut().unwrap());
            }
            config.check().unwrap_err().to_string()
        };
        assert_eq!(
            refused(&|_, settings| settings.idle = Duration::from_millis(1500)),
            "keepalive's idle time is whole seconds from 1 to 32767, not 1.5s"
        );
        assert!(refused(&|_, settings| settings.interval = Duration::ZERO).contains("interval"));
        assert!(refused(&|_, settings| settings.probes = Some(128)).contains("127"));
        assert!(refused(&|selector, _| selector.port = Some(1)).contains("no socket"));
        assert!(
            Config { rules: Vec::new(), ..good }
                .check()
                .unwrap_err()
                .to_string()
                .contains("no socket")
        );
    }
}
