//! Policy: which strategy holds for which sessions, and who said so. Service over network over
//! everything; within each, Docker's label over the file. Pure: what is wished comes in as words,
//! what holds comes out, and what could not be understood.

mod layer;
mod resolve;

use std::{fmt, str::FromStr, time::Duration};

use serde::Serialize;

pub use layer::{Invalid, KEYS, LABEL, Layer, Object, label_faults};
pub use resolve::{Policies, Remembered, Rules};

use crate::{plan::KeepaliveWish, snapshot::topology::Network};

/// What is done about the sessions of a service, network or machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// `hold` where the client's socket is on this machine; the director of published ports, whose
    /// clients are elsewhere, gets `rehash`.
    Auto,
    /// Entries live as long as their sockets.
    Hold,
    /// The director finds a session's backend again by itself.
    Rehash,
    /// Keepalive on every socket, open or to come.
    Keepalive,
    /// The director remembers for longer.
    Timeout,
    /// No load balancer in the path.
    Direct,
    /// Nothing is done.
    Off,
}

impl Strategy {
    /// Every one, in the order in which they are explained.
    pub const ALL: [Self; 7] = [
        Self::Auto,
        Self::Hold,
        Self::Rehash,
        Self::Keepalive,
        Self::Timeout,
        Self::Direct,
        Self::Off,
    ];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Hold => "hold",
            Self::Rehash => "rehash",
            Self::Keepalive => "keepalive",
            Self::Timeout => "timeout",
            Self::Direct => "direct",
            Self::Off => "off",
        }
    }

    /// Whether entries are renewed: with `direct` those of sessions that were open before, with
    /// `rehash` those whose socket is here, as another scheduler may have placed them.
    #[must_use]
    pub fn holds(self) -> bool {
        matches!(self, Self::Auto | Self::Hold | Self::Rehash | Self::Direct)
    }

    /// Whether the director of `network` schedules anew what it has forgotten.
    #[must_use]
    pub fn rehashes(self, network: Option<&Network>) -> bool {
        match self {
            Self::Rehash => true,
            // Its clients are elsewhere. Other directors' schedulers are not ours to choose
            // unasked: kube-proxy and keepalived set their own.
            Self::Auto => network.is_some_and(|network| network.ingress),
            _ => false,
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|it| it.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            format!("write one of {}", names.join(", "))
        })
    }
}

/// Who said a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Nobody: it is built in.
    BuiltIn,
    /// The file, for everything.
    File,
    /// The file, for the network.
    NetworkFile,
    /// A label of the network.
    NetworkLabel,
    /// The file, for the service.
    ServiceFile,
    /// A label of the service.
    ServiceLabel,
}

impl Source {
    /// Whether it was said of a service, wherever that runs.
    #[must_use]
    pub fn is_of_service(self) -> bool {
        matches!(self, Self::ServiceFile | Self::ServiceLabel)
    }

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BuiltIn => "built in",
            Self::File => "file",
            Self::NetworkLabel => "network's label",
            Self::NetworkFile => "file, network",
            Self::ServiceLabel => "service's label",
            Self::ServiceFile => "file, service",
        }
    }
}

/// A value, and who said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Who said so.
    pub source: Source,
}

/// What holds for one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Policy {
    /// What is done.
    pub strategy: Setting<Strategy>,
    /// IPVS timeout of established sessions, for `timeout`.
    pub tcp_timeout: Setting<Duration>,
    /// Silence before the first probe, for `keepalive`; absent: from the director's timeout.
    pub keepalive_idle: Setting<Option<Duration>>,
    /// Between probes.
    pub keepalive_interval: Setting<Option<Duration>>,
    /// Unanswered probes before a connection is given up.
    pub keepalive_probes: Setting<Option<u32>>,
    /// Whether programs that set longer times later, or switch keepalive off, are held to these.
    pub keepalive_enforce: Setting<bool>,
    /// Whether forgotten sessions are brought back.
    pub heal: Setting<bool>,
}

impl Default for Policy {
    fn default() -> Self {
        fn built_in<T>(value: T) -> Setting<T> {
            Setting { value, source: Source::BuiltIn }
        }
        Self {
            strategy: built_in(Strategy::Auto),
            tcp_timeout: built_in(Duration::from_secs(7200)),
            keepalive_idle: built_in(None),
            keepalive_interval: built_in(None),
            keepalive_probes: built_in(None),
            keepalive_enforce: built_in(true),
            heal: built_in(true),
        }
    }
}

impl Policy {
    /// Keepalive as it is wished.
    #[must_use]
    pub fn keepalive(&self) -> KeepaliveWish {
        KeepaliveWish {
            idle: self.keepalive_idle.value,
            interval: self.keepalive_interval.value,
            probes: self.keepalive_probes.value,
            enforce: self.keepalive_enforce.value,
        }
    }

    /// Whether forgotten sessions are brought back.
    #[must_use]
    pub fn heals(&self) -> bool {
        self.heal.value && self.strategy.value != Strategy::Off
    }
}
