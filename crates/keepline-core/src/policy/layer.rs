//! One layer of policy: what one file or one object's labels say.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{Policy, Setting, Source, Strategy};
use crate::{
    duration::{self, human},
    plan::{LONGEST, TimeoutWish, check_timeout},
    report::text::{self, escape},
};

/// Labels begin with this; what follows is a key.
pub const LABEL: &str = "keepline.";

/// Every key there is, as it is written in the file and, after [`LABEL`], in a label.
pub const KEYS: [&str; 7] = [
    "strategy",
    "tcp-timeout",
    "keepalive-idle",
    "keepalive-interval",
    "keepalive-probes",
    "keepalive-enforce",
    "heal",
];

/// `MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPINTVL` (seconds) and `MAX_TCP_KEEPCNT`, `include/net/tcp.h`.
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(32_767);
const MOST_PROBES: u32 = 127;

/// What is spoken of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// Everything that nothing else is said of.
    Everything,
    /// A network, by name.
    Network(String),
    /// A service, by name.
    Service(String),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("everything"),
            Self::Network(name) => write!(f, "network {}", escape(name, text::NAME)),
            Self::Service(name) => write!(f, "service {}", escape(name, text::NAME)),
        }
    }
}

/// A value that says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Of what.
    pub object: Object,
    /// Whether a label said it; else the file.
    pub label: bool,
    /// Its key; untrusted.
    pub key: String,
    /// The value; untrusted.
    pub value: String,
    /// What is wrong, and what would be right.
    pub why: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, label, key, value, why } = self;
        let (key, value) = (escape(key, text::NAME), escape(value, text::NAME));
        let prefix = if *label { LABEL } else { "" };
        write!(f, "{object}: {prefix}{key} = `{value}`: {why}")
    }
}

/// What one file or one object's labels say; absent is not said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    strategy: Option<Strategy>,
    tcp_timeout: Option<Duration>,
    keepalive_idle: Option<Duration>,
    keepalive_interval: Option<Duration>,
    keepalive_probes: Option<u32>,
    keepalive_enforce: Option<bool>,
    heal: Option<bool>,
}

impl Layer {
    /// Takes over one key's value.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "strategy" => self.strategy = Some(value.parse()?),
            "tcp-timeout" => self.tcp_timeout = Some(timeout(value)?),
            "keepalive-idle" => self.keepalive_idle = Some(keepalive(value)?),
            "keepalive-interval" => self.keepalive_interval = Some(keepalive(value)?),
            "keepalive-probes" => self.keepalive_probes = Some(probes(value)?),
            "keepalive-enforce" => self.keepalive_enforce = Some(yes_or_no(value)?),
            "heal" => self.heal = Some(yes_or_no(value)?),
            _ => return Err(format!("there is no such key; there are {}", KEYS.join(", "))),
        }
        Ok(())
    }

    /// What labels say: all of it, or what is wrong with them.
    ///
    /// # Errors
    /// Every value that says nothing.
    pub fn of_labels(
        object: &Object,
        labels: &BTreeMap<String, String>,
    ) -> Result<Self, Vec<Invalid>> {
        let (mut layer, mut invalid) = (Self::default(), Vec::new());
        for (label, value) in labels {
            let Some(key) = label.strip_prefix(LABEL) else { continue };
            if let Err(why) = layer.set(key, value) {
                invalid.push(Invalid {
                    object: object.clone(),
                    label: true,
                    key: key.to_owned(),
                    value: value.clone(),
                    why,
                });
            }
        }
        if invalid.is_empty() { Ok(layer) } else { Err(invalid) }
    }

    /// Lays what is said here over `policy`.
    pub(super) fn over(&self, mut policy: Policy, source: Source) -> Policy {
        fn lay<T, U>(to: &mut Setting<U>, value: Option<T>, source: Source, into: fn(T) -> U) {
            if let Some(value) = value {
                *to = Setting { value: into(value), source };
            }
        }
        lay(&mut policy.strategy, self.strategy, source, |it| it);
        lay(&mut policy.tcp_timeout, self.tcp_timeout, source, |it| it);
        lay(&mut policy.keepalive_idle, self.keepalive_idle, source, Some);
        lay(&mut policy.keepalive_interval, self.keepalive_interval, source, Some);
        lay(&mut policy.keepalive_probes, self.keepalive_probes, source, Some);
        lay(&mut policy.keepalive_enforce, self.keepalive_enforce, source, |it| it);
        lay(&mut policy.heal, self.heal, source, |it| it);
        policy
    }
}

/// What is wrong with the labels of everything that the Engine told of.
#[must_use]
pub fn label_faults(topology: &crate::snapshot::Topology) -> Vec<Invalid> {
    let networks =
        topology.networks.iter().map(|it| (Object::Network(it.name.clone()), &it.labels));
    let services =
        topology.services.iter().map(|it| (Object::Service(it.name.clone()), &it.labels));
    let faults = networks
        .chain(services)
        .filter_map(|(object, labels)| Layer::of_labels(&object, labels).err());
    faults.flatten().collect()
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration::parse(text).map_err(|error| error.to_string())?;
    let wish = TimeoutWish { tcp: Some(timeout), ..TimeoutWish::default() };
    match check_timeout(wish) {
        Ok(()) => Ok(timeout),
        Err(_) => Err(format!("the kernel takes whole seconds from 1s to {}", human(LONGEST))),
    }
}

fn keepalive(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(1) || time > LONGEST_KEEPALIVE || time.subsec_nanos() != 0 {
        return Err(format!(
            "the kernel takes whole seconds from 1s to {}",
            human(LONGEST_KEEPALIVE)
        ));
    }
    Ok(time)
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "write true or false".to_owned())
}

fn probes(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=MOST_PROBES).contains(number));
    number.ok_or_else(|| format!("write a number from 1 to {MOST_PROBES}"))
}
