//! Whether the Swarm has room for the copy: what its scheduler asks of a node, as far as that can
//! be told from outside. Where it cannot, there is room.

use serde_json::Value;

use crate::engine::{Node, Surroundings};
use crate::{Service, spec};

/// Why the copy has no room; nothing where it has.
pub(super) fn lacking(service: &Service, around: &Surroundings) -> Option<String> {
    let template = &service.spec["TaskTemplate"];
    let reserved = &template["Resources"]["Reservations"];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let (cpus, memory) = (number(&reserved["NanoCPUs"]), number(&reserved["MemoryBytes"]));
    let constraints: Vec<&str> = template["Placement"]["Constraints"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let most = match template["Placement"]["MaxReplicas"].as_u64() {
        None | Some(0) => u64::MAX,
        Some(most) => most,
    };
    let fitting: Vec<&Node> = around
        .nodes
        .iter()
        .filter(|node| node.is_ready() && node.is_active())
        .filter(|node| constraints.iter().all(|constraint| meets(node, constraint)))
        .collect();
    // A replicated copy needs so many places anywhere, a global one a place on each node.
    let places = |node: &Node| -> u64 {
        let resources = &node.value["Description"]["Resources"];
        let on_node = || around.tasks.iter().filter(|task| task.node == node.id());
        let left = |all: u64, taken: u64, each: u64| match each {
            0 => u64::MAX,
            each => all.saturating_sub(taken) / each,
        };
        let taken: u64 = on_node().map(|task| task.nano_cpus).sum();
        let by_cpu = left(number(&resources["NanoCPUs"]), taken, cpus);
        let taken: u64 = on_node().map(|task| task.memory).sum();
        let by_memory = left(number(&resources["MemoryBytes"]), taken, memory);
        by_cpu.min(by_memory).min(most)
    };
    let each = fitting.iter().map(|node| places(node));
    let name = service.name();
    match spec::replicas(&service.spec) {
        Some(wanted) => {
            let places = each.fold(0_u64, u64::saturating_add);
            (places < wanted).then(|| {
                format!(
                    "no room for the copy of {name}: {places} of its {wanted} tasks would find a \
                     node (constraints, reservations, replicas a node)"
                )
            })
        }
        None => {
            let full = each.filter(|places| *places == 0).count();
            (full > 0).then(|| {
                format!("no room for the copy of {name}: {full} nodes cannot take a second task")
            })
        }
    }
}

/// Whether a node meets a placement constraint (`constraint.NodeMatches` in swarmkit: without
/// regard to case). One that is not known is taken as met.
fn meets(node: &Node, constraint: &str) -> bool {
    let (key, wanted, equal) = match (constraint.split_once("=="), constraint.split_once("!=")) {
        (Some((key, wanted)), _) => (key.trim(), wanted.trim(), true),
        (None, Some((key, wanted))) => (key.trim(), wanted.trim(), false),
        (None, None) => return true,
    };
    let value = &node.value;
    let lower = key.to_ascii_lowercase();
    let actual = match lower.as_str() {
        "node.id" => &value["ID"],
        "node.hostname" => &value["Description"]["Hostname"],
        "node.role" => &value["Spec"]["Role"],
        "node.platform.os" => &value["Description"]["Platform"]["OS"],
        "node.platform.arch" => &value["Description"]["Platform"]["Architecture"],
        // Keys of labels keep their case.
        _ if lower.starts_with("node.labels.") => {
            &value["Spec"]["Labels"][&key["node.labels.".len()..]]
        }
        _ if lower.starts_with("engine.labels.") => {
            &value["Description"]["Engine"]["Labels"][&key["engine.labels.".len()..]]
        }
        _ => return true,
    };
    let actual = actual.as_str().unwrap_or_default();
    // x86_64 and amd64 are one (`normalizeArch` in swarmkit).
    let plain = |text: &str| match (lower.as_str(), text.to_lowercase().as_str()) {
        ("node.platform.arch", "x86_64") => "amd64".to_owned(),
        ("node.platform.arch", "aarch64") => "arm64".to_owned(),
        (_, text) => text.to_owned(),
    };
    (plain(actual) == plain(wanted)) == equal
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn constraints_as_the_scheduler_reads_them() {
        let node = Node {
            value: json!({
                "ID": "abc", "Spec": {"Role": "worker", "Labels": {"Disk": "SSD"}},
                "Description": {"Hostname": "node2",
                    "Platform": {"OS": "linux", "Architecture": "x86_64"}},
            }),
        };
        for (constraint, met) in [
            ("node.hostname==node2", true),
            ("node.hostname == NODE2", true),
            ("node.hostname!=node2", false),
            ("node.role==manager", false),
            ("node.labels.Disk==ssd", true),
            ("node.labels.zone!=a", true),
            ("node.labels.zone==a", false),
            ("node.platform.arch==amd64", true),
            ("node.ip==10.0.0.0/8", true),
            ("nonsense", true),
        ] {
            assert_eq!(meets(&node, constraint), met, "{constraint}");
        }
    }
}
