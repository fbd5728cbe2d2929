//! Programs in the kernel: keepalive for connections to come, direct connections.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use keepline_bpf::{
    Direct, Keepalive, NetnsCookie, direct, keepalive,
    place::{self, PINS, PrivateCgroupRoot},
};
use keepline_core::plan::{
    DirectBackend, DirectService, KeepaliveRule, KeepaliveRules, KeepaliveTimes, What,
};

use super::{Obstacle, Way};

/// Names an environment variable: another folder for the pins, for tests.
const PINS_VARIABLE: &str = "KEEPLINE_PINS";

/// Only Keepline writes these pins: what differs from what was to be made is what it had made until
/// something failed.
const HALF_WAY: Way = Way::Back { finished: false };

/// Whether the programs were taken off meanwhile, and what was made with them.
fn is_nothing_left(nothing_is: bool, something_was: bool, way: Way) -> bool {
    nothing_is && something_was && way != Way::There
}

fn pins() -> PathBuf {
    std::env::var_os(PINS_VARIABLE).map_or_else(|| PathBuf::from(PINS), PathBuf::from)
}

impl From<keepline_bpf::Error> for Obstacle {
    fn from(error: keepline_bpf::Error) -> Self {
        Self::Refused(error.to_string())
    }
}

/// What runs now, filled into a change that does not know it yet.
pub(super) fn prepare(what: &What) -> Result<Option<What>, Obstacle> {
    Ok(match what {
        What::NewSockets { after, .. } => {
            Some(What::NewSockets { before: rules()?, after: after.clone() })
        }
        What::Direct { after, .. } => {
            Some(What::Direct { before: services()?, after: after.clone() })
        }
        _ => None,
    })
}

/// Where programs are attached: the root of all control groups of version 2.
fn at_the_root<T>(
    apply: impl FnOnce(&Path) -> Result<T, keepline_bpf::Error>,
) -> Result<T, Obstacle> {
    if let Some(root) = place::cgroup_root(super::proc()) {
        return Ok(apply(&root)?);
    }
    let private = PrivateCgroupRoot::mount(super::proc())?;
    Ok(apply(&private.path())?)
}

/// Whether programs of a change are there, also without the one that their state is read from.
pub(super) fn are_left(what: &What) -> Result<bool, Obstacle> {
    Ok(match what {
        What::NewSockets { .. } => Keepalive::is_left(&pins())?,
        What::Direct { .. } => Direct::is_left(&pins())?,
        _ => false,
    })
}

/// The rules of keepalive that run.
pub(super) fn rules() -> Result<Option<KeepaliveRules>, Obstacle> {
    let Some(state) = Keepalive::read(&pins())? else { return Ok(None) };
    let times = |settings: keepalive::Settings| KeepaliveTimes {
        idle_seconds: settings.idle.as_secs(),
        interval_seconds: settings.interval.as_secs(),
        probes: settings.probes,
        enforce: settings.enforce,
    };
    let mut rules: Vec<KeepaliveRule> = state
        .rules
        .iter()
        .map(|rule| KeepaliveRule {
            netns: rule.selector.netns.0,
            peer: rule.selector.peer,
            times: rule.settings.map(times),
        })
        .collect();
    rules.sort_unstable_by_key(|rule| (rule.netns, rule.peer));
    Ok(Some(KeepaliveRules { rules, everybody: state.others.map(times) }))
}

/// Makes these the rules; absent: takes the programs off.
pub(super) fn set_rules(
    before: Option<&KeepaliveRules>,
    after: Option<&KeepaliveRules>,
    way: Way,
) -> Result<Vec<String>, Obstacle> {
    // Whatever is there: it may be half of it, which reads as nothing.
    let Some(after) = after else {
        Keepalive::remove(&pins())?;
        return Ok(Vec::new());
    };
    let is = rules()?;
    if is.as_ref() == Some(after) || is_nothing_left(is.is_none(), before.is_some(), way) {
        return Ok(Vec::new());
    }
    if is.as_ref() != before && way != HALF_WAY {
        return Err(drifted("keepalive for connections to come"));
    }
    let settings = |times: &KeepaliveTimes| keepalive::Settings {
        idle: Duration::from_secs(times.idle_seconds),
        interval: Duration::from_secs(times.interval_seconds),
        probes: times.probes,
        enforce: times.enforce,
    };
    let rules = after
        .rules
        .iter()
        .map(|rule| keepalive::Rule {
            selector: keepalive::Selector {
                netns: NetnsCookie(rule.netns),
                peer: rule.peer,
                port: None,
            },
            settings: rule.times.as_ref().map(settings),
        })
        .collect();
    let others = after.everybody.as_ref().map(settings);
    let features = at_the_root(|cgroup| {
        let config = keepalive::Config { bpffs: pins(), cgroup: cgroup.to_owned(), rules, others };
        Keepalive::apply(&config).map(|applied| applied.supported().clone())
    })?;
    let mut said = Vec::new();
    let enforce = after.times().any(|times| times.enforce);
    if let (true, keepline_bpf::Support::No(why)) = (enforce, features.setsockopt) {
        said.push(format!("programs that set longer times later keep them: {why}"));
    }
    Ok(said)
}

/// The services that are answered directly now.
pub(super) fn services() -> Result<Option<Vec<DirectService>>, Obstacle> {
    let Some(state) = Direct::read(&pins())? else { return Ok(None) };
    let mut services: Vec<DirectService> = state
        .services
        .iter()
        .map(|service| {
            let mut backends: Vec<DirectBackend> = service
                .backends
                .iter()
                .map(|it| DirectBackend { address: it.address, port: it.port, weight: it.weight })
                .collect();
            backends.sort_unstable();
            DirectService {
                netns: service.vip.netns.0,
                vip: service.vip.address,
                port: service.vip.port,
                udp: service.vip.protocol == direct::Protocol::Udp,
                backends,
            }
        })
        .collect();
    services.sort_unstable();
    Ok(Some(services))
}

/// Makes these the services that are answered directly; absent: takes the programs off.
pub(super) fn set_services(
    before: Option<&[DirectService]>,
    after: Option<&[DirectService]>,
    way: Way,
) -> Result<Vec<String>, Obstacle> {
    // Whatever is there: it may be half of it, which reads as nothing.
    let Some(after) = after else {
        Direct::remove(&pins())?;
        return Ok(Vec::new());
    };
    let is = services()?;
    if is.as_deref() == Some(after) || is_nothing_left(is.is_none(), before.is_some(), way) {
        return Ok(Vec::new());
    }
    if is.as_deref() != before && way != HALF_WAY {
        return Err(drifted("direct connections"));
    }
    let wanted: Vec<direct::Service> = after
        .iter()
        .map(|service| direct::Service {
            vip: direct::Vip {
                netns: NetnsCookie(service.netns),
                address: service.vip,
                port: service.port,
                protocol: if service.udp { direct::Protocol::Udp } else { direct::Protocol::Tcp },
            },
            backends: service
                .backends
                .iter()
                .map(|it| direct::Backend { address: it.address, port: it.port, weight: it.weight })
                .collect(),
        })
        .collect();
    // Programs of another version are replaced, with what is asked for: no moment is without one.
    let ours = |state: &direct::State| state.version == env!("CARGO_PKG_VERSION");
    if Direct::read(&pins())?.as_ref().is_some_and(ours) {
        Direct::update(&pins(), &wanted)?;
        return Ok(Vec::new());
    }
    at_the_root(|cgroup| {
        let config = direct::Config { bpffs: pins(), cgroup: cgroup.to_owned(), services: wanted };
        Direct::apply(&config).map(drop)
    })?;
    Ok(Vec::new())
}

fn drifted(object: &str) -> Obstacle {
    Obstacle::Drifted {
        object: object.to_owned(),
        is: "something else".to_owned(),
        was: "what was there when it was planned".to_owned(),
    }
}
