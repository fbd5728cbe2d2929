//! What holds where, and who said so, for people and for programs (`keepline.policy/v1`).

use std::{
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use super::{
    Style, json,
    text::{self, escape},
};
use crate::{
    duration::{human, seconds::rounded},
    policy::{Invalid, Policies, Policy, Setting, Strategy},
    snapshot::{Topology, topology::Network},
};

/// Name and version of the JSON form, documented in `docs/commands/policy.md`.
pub const SCHEMA: &str = "keepline.policy/v1";

/// Networks in which something is balanced.
fn balanced(topology: Option<&Topology>) -> impl Iterator<Item = &Network> {
    let networks = topology.into_iter().flat_map(|it| &it.networks);
    networks.filter(|network| network.lb_namespace.is_some())
}

/// What holds as text, each line ended.
#[must_use]
pub fn human_text(
    policies: &Policies,
    topology: Option<&Topology>,
    invalid: &[Invalid],
    style: Style,
) -> String {
    let mut rows = vec![row("everything", &policies.everything, None)];
    for network in balanced(topology) {
        let own = policies.network(network);
        let name = format!("network {}", escape(&network.name, text::NAME));
        rows.push(row(&name, own, Some(network)));
        for service in &network.services {
            let policy = policies.service(network, service);
            let name = format!("  service {}", escape(&service.name, text::NAME));
            rows.push(row(&name, policy, Some(network)));
        }
    }
    let widest = |column: usize| rows.iter().map(|it| text::width(&it[column])).max().unwrap_or(0);
    let (what, strategy, source) = (widest(0), widest(1), widest(2));
    let mut out = String::new();
    for [name, holds, by, more] in rows {
        let line = format!(
            "{}  {}  {}  {more}",
            text::pad(&name, what),
            style.paint("1", &text::pad(&holds, strategy)),
            text::pad(&by, source),
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
    for invalid in invalid {
        let line = format!("not understood: {invalid}");
        let lines = text::wrap(&line, style.width.saturating_sub(2));
        out.push_str(&format!("{}\n", style.paint("1;33", &lines.join("\n  "))));
    }
    out
}

/// Name, strategy, who said so, and the values that count with it.
fn row(name: &str, policy: &Policy, network: Option<&Network>) -> [String; 4] {
    let strategy = policy.strategy.value;
    let mut more = Vec::new();
    if strategy == Strategy::Auto && strategy.rehashes(network) {
        more.push("rehash, hold".to_owned());
    }
    let mut time = |wanted: bool, name: &str, time: Option<Duration>| {
        if let Some(time) = time.filter(|_| wanted) {
            more.push(format!("{name} {}", human(time)));
        }
    };
    time(strategy == Strategy::Timeout, "tcp-timeout", Some(policy.tcp_timeout.value));
    let keepalive = strategy == Strategy::Keepalive;
    time(keepalive, "keepalive-idle", policy.keepalive_idle.value);
    time(keepalive, "keepalive-interval", policy.keepalive_interval.value);
    if let Some(probes) = policy.keepalive_probes.value.filter(|_| keepalive) {
        more.push(format!("keepalive-probes {probes}"));
    }
    if keepalive && !policy.keepalive_enforce.value {
        more.push("keepalive-enforce false".to_owned());
    }
    if !policy.heal.value {
        more.push("heal false".to_owned());
    }
    [
        name.to_owned(),
        strategy.name().to_owned(),
        policy.strategy.source.name().to_owned(),
        more.join(", "),
    ]
}

/// Writes what holds as one line of JSON.
///
/// # Errors
/// Those of `out`.
pub fn json(
    out: impl Write,
    policies: &Policies,
    topology: Option<&Topology>,
    invalid: &[Invalid],
) -> io::Result<()> {
    let networks = balanced(topology).map(|network| NetworkView {
        id: &network.id,
        name: &network.name,
        director: network.lb_namespace.as_deref(),
        policy: View::of(policies.network(network), Some(network)),
        services: network
            .services
            .iter()
            .map(|service| ServiceView {
                name: &service.name,
                policy: View::of(policies.service(network, service), Some(network)),
            })
            .collect(),
    });
    let invalid = invalid.iter().map(|it| InvalidView {
        object: it.object.to_string(),
        from: if it.label { "label" } else { "file" },
        key: &it.key,
        value: &it.value,
        why: &it.why,
    });
    let document = Document {
        schema: SCHEMA,
        everything: View::of(&policies.everything, None),
        networks: networks.collect(),
        invalid: invalid.collect(),
    };
    json::write(out, &document)
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    everything: View,
    networks: Vec<NetworkView<'a>>,
    invalid: Vec<InvalidView<'a>>,
}

#[derive(Serialize)]
struct NetworkView<'a> {
    id: &'a str,
    name: &'a str,
    director: Option<&'a str>,
    #[serde(flatten)]
    policy: View,
    services: Vec<ServiceView<'a>>,
}

#[derive(Serialize)]
struct ServiceView<'a> {
    name: &'a str,
    #[serde(flatten)]
    policy: View,
}

#[derive(Serialize)]
struct InvalidView<'a> {
    object: String,
    from: &'static str,
    key: &'a str,
    value: &'a str,
    why: &'a str,
}

#[derive(Serialize)]
struct View {
    strategy: Said<&'static str>,
    /// What that comes to here.
    acts: Vec<&'static str>,
    tcp_timeout_seconds: Said<f64>,
    keepalive_idle_seconds: Said<Option<f64>>,
    keepalive_interval_seconds: Said<Option<f64>>,
    keepalive_probes: Said<Option<u32>>,
    keepalive_enforce: Said<bool>,
    heal: Said<bool>,
}

#[derive(Serialize)]
struct Said<T> {
    value: T,
    source: &'static str,
}

fn said<T, U>(setting: Setting<T>, into: impl FnOnce(T) -> U) -> Said<U> {
    Said { value: into(setting.value), source: setting.source.name() }
}

impl View {
    fn of(policy: &Policy, network: Option<&Network>) -> Self {
        let seconds = |time: Option<Duration>| time.map(rounded);
        let strategy = policy.strategy.value;
        let mut acts = Vec::new();
        match strategy {
            Strategy::Auto => {
                acts.extend(strategy.rehashes(network).then_some("rehash"));
                acts.push("hold");
            }
            Strategy::Off => {}
            // What was open before is held until it ends.
            Strategy::Direct => acts.extend(["direct", "hold"]),
            Strategy::Rehash => acts.extend(["rehash", "hold"]),
            other => acts.push(other.name()),
        }
        acts.extend(policy.heals().then_some("heal"));
        Self {
            strategy: said(policy.strategy, Strategy::name),
            acts,
            tcp_timeout_seconds: said(policy.tcp_timeout, rounded),
            keepalive_idle_seconds: said(policy.keepalive_idle, seconds),
            keepalive_interval_seconds: said(policy.keepalive_interval, seconds),
            keepalive_probes: said(policy.keepalive_probes, |it| it),
            keepalive_enforce: said(policy.keepalive_enforce, |it| it),
            heal: said(policy.heal, |it| it),
        }
    }
}
