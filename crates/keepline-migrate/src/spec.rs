//! Specs of services: raw JSON, so that nothing is lost that this version does not know.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// How clients reach a service's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Through a virtual address, which IPVS balances.
    Vip,
    /// By the addresses of its tasks, which the DNS gives: no load balancer between.
    Dnsrr,
}

impl Mode {
    /// As the Engine and the command line write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vip => "vip",
            Self::Dnsrr => "dnsrr",
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Vip => Self::Dnsrr,
            Self::Dnsrr => Self::Vip,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "vip" => Ok(Self::Vip),
            "dnsrr" => Ok(Self::Dnsrr),
            _ => Err(format!("`{text}` is no endpoint mode: vip or dnsrr")),
        }
    }
}

/// Longest name of a service (`maxNameLength`-like limit of swarmkit's controlapi: 63).
const NAME_LIMIT: usize = 63;
const SUFFIX: &str = "-keepline";

/// The name of a service's copy.
#[must_use]
pub fn copy_name(service: &str) -> String {
    let kept: String = service.chars().take(NAME_LIMIT - SUFFIX.len()).collect();
    // A name must not have two separators in a row.
    format!("{}{SUFFIX}", kept.trim_end_matches(['-', '_']))
}

/// The endpoint mode in a spec. A service that does not say has a VIP (Engine API, EndpointSpec).
#[must_use]
pub fn mode(spec: &Value) -> Mode {
    match spec["EndpointSpec"]["Mode"].as_str() {
        Some("dnsrr") => Mode::Dnsrr,
        _ => Mode::Vip,
    }
}

/// The same spec with another endpoint mode.
#[must_use]
pub fn with_mode(spec: &Value, mode: Mode) -> Value {
    let mut changed = spec.clone();
    let endpoint = member(&mut changed, "EndpointSpec");
    endpoint["Mode"] = json!(mode.name());
    changed
}

/// The same spec with `labels` beside or instead of the service's own.
///
/// That restarts no task: the Swarm compares the task template and the endpoint (`IsTaskDirty` in
/// swarmkit's manager/orchestrator/task.go), and both stay as they are.
#[must_use]
pub fn with_labels(spec: &Value, labels: &[(&str, String)]) -> Value {
    let mut changed = spec.clone();
    let all = member(&mut changed, "Labels");
    for (key, value) in labels {
        all[*key] = json!(value);
    }
    changed
}

/// The spec of the copy: everything as it is, but for its name, `labels` beside the others, and
/// the service's name as one more alias in each of the networks `resolving`, by id.
///
/// The copy is always dnsrr, and publishes nothing. While tasks of a VIP service stop, the Engine
/// resolves its names to the VIP for as long as one of them lives, although nobody stands behind
/// it any more (`deleteEndpointNameResolution` in moby's libnetwork drops the record with the last
/// backend only, `DisableService` takes the backends out before): a copy that goes must not do
/// that to the name. Names of dnsrr tasks go before the tasks do.
#[must_use]
pub fn copy(spec: &Value, labels: &[(&str, String)], resolving: &[&str]) -> Value {
    let service = spec["Name"].as_str().unwrap_or_default().to_owned();
    let mut copy = with_labels(spec, labels);
    copy["Name"] = json!(copy_name(&service));
    copy["EndpointSpec"] = json!({ "Mode": Mode::Dnsrr.name() });
    for list in ["/TaskTemplate/Networks", "/Networks"] {
        let networks = copy.pointer_mut(list).and_then(Value::as_array_mut);
        for network in networks.into_iter().flatten() {
            if network["Target"].as_str().is_some_and(|id| resolving.contains(&id)) {
                add_alias(network, &service);
            }
        }
    }
    copy
}

fn add_alias(network: &mut Value, alias: &str) {
    match network["Aliases"].as_array_mut() {
        Some(aliases) if aliases.iter().any(|it| it == alias) => {}
        Some(aliases) => aliases.push(json!(alias)),
        None => network["Aliases"] = json!([alias]),
    }
}

/// Ids of the networks that a spec names, in both places where it can.
#[must_use]
pub fn networks(spec: &Value) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    for list in [&spec["TaskTemplate"]["Networks"], &spec["Networks"]] {
        for id in list.as_array().into_iter().flatten().filter_map(|it| it["Target"].as_str()) {
            if !found.contains(&id) {
                found.push(id);
            }
        }
    }
    found
}

/// How many tasks a replicated service has; none for other kinds.
#[must_use]
pub fn replicas(spec: &Value) -> Option<u64> {
    let replicated = spec["Mode"].get("Replicated")?;
    // The default of swarmkit's controlapi.
    Some(replicated["Replicas"].as_u64().unwrap_or(1))
}

/// How long its tasks may take to stop (`StopGracePeriod`; 10 s is the Engine's default).
#[must_use]
pub fn stop_grace(spec: &Value) -> Duration {
    spec["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"]
        .as_u64()
        .map_or(Duration::from_secs(10), Duration::from_nanos)
}

/// How long new tasks must run before they count as good (`UpdateConfig.Monitor`; 5 s is the
/// Swarm's default, and time enough for the other nodes to hear of the tasks).
#[must_use]
pub fn monitor(spec: &Value) -> Duration {
    const DEFAULT: Duration = Duration::from_secs(5);
    spec["UpdateConfig"]["Monitor"].as_u64().map_or(DEFAULT, Duration::from_nanos).max(DEFAULT)
}

/// Whether two specs say the same, whatever the Engine writes out or leaves out.
#[must_use]
pub fn same(one: &Value, other: &Value) -> bool {
    squeezed(one) == squeezed(other)
}

/// Without what is null or empty.
fn squeezed(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => Some(Value::Array(
            // An empty thing in a list still counts as one.
            items.iter().map(|item| squeezed(item).unwrap_or(Value::Null)).collect(),
        )),
        Value::Object(members) => {
            let kept: Map<String, Value> = members
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), squeezed(value)?)))
                .collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        other => Some(other.clone()),
    }
}

/// A member that is an object, made where it is not.
fn member<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    if !value[key].is_object() {
        value[key] = json!({});
    }
    &mut value[key]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_everything_and_the_name_as_alias() {
        let spec = json!({
            "Name": "db", "Labels": {"a": "b"}, "Unknown": [1, {"x": null}],
            "TaskTemplate": {"Networks": [{"Target": "n1", "Aliases": ["data"]}, {"Target": "n2"},
                {"Target": "host"}], "ForceUpdate": 3},
            "EndpointSpec": {"Mode": "vip", "Ports": [{"PublishMode": "host"}]},
        });
        let copy = copy(&spec, &[("l", "v".to_owned())], &["n1", "n2"]);
        assert_eq!(
            copy,
            json!({
                "Name": "db-keepline", "Labels": {"a": "b", "l": "v"}, "Unknown": [1, {"x": null}],
                "TaskTemplate": {"Networks": [{"Target": "n1", "Aliases": ["data", "db"]},
                    {"Target": "n2", "Aliases": ["db"]}, {"Target": "host"}], "ForceUpdate": 3},
                "EndpointSpec": {"Mode": "dnsrr"},
            })
        );
        assert_eq!(super::copy(&copy, &[], &[])["Name"], "db-keepline-keepline");
    }

    #[test]
    fn a_name_stays_a_name() {
        assert_eq!(copy_name("db"), "db-keepline");
        let long = format!("{}-{}", "a".repeat(53), "b".repeat(9));
        assert_eq!(copy_name(&long), format!("{}-keepline", "a".repeat(53)));
    }

    #[test]
    fn only_the_mode_differs() {
        let spec = json!({"Name": "db", "EndpointSpec": {"Mode": "vip", "Ports": [{"a": 1}]}});
        let changed = with_mode(&spec, Mode::Dnsrr);
        assert_eq!(mode(&changed), Mode::Dnsrr);
        assert_eq!(with_mode(&changed, Mode::Vip), spec);
        assert_eq!(mode(&json!({})), Mode::Vip);
        assert!(same(&json!({"a": {"b": []}, "c": ""}), &json!({"d": null})));
        assert!(!same(&json!({"a": 0}), &json!({"a": 1})));
    }
}
