//! The service of the tests, and the nodes.

use keepline_migrate::Mode;
use serde_json::{Value, json};

/// The spec of the service, with a bit of everything.
pub fn db(mode: Mode) -> Value {
    json!({
        "Name": "db",
        "Labels": {"team": "storage"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "postgres:16@sha256:00", "Env": ["A=b"], "StopGracePeriod": 10_000_000_000_u64,
                "Healthcheck": {"Test": ["CMD", "true"]}, "Isolation": "default",
                "Secrets": [{"SecretID": "s1"}], "Configs": [{"ConfigID": "c1"}],
            },
            "Networks": [{"Target": "net1", "Aliases": ["data"]}, {"Target": "net2"}],
            "Placement": {"Constraints": ["node.hostname!=nowhere"]},
            "ForceUpdate": 3, "FromTheFuture": {"kept": true},
        },
        "Mode": {"Replicated": {"Replicas": 2}},
        "EndpointSpec": {"Mode": mode.name()},
    })
}

/// A node with room.
pub fn node(index: usize) -> Value {
    json!({
        "ID": format!("node{index}"),
        "Spec": {"Role": "manager", "Availability": "active"},
        "Description": {"Hostname": format!("host{index}"),
            "Resources": {"NanoCPUs": 4_000_000_000_u64, "MemoryBytes": 8_000_000_000_u64}},
        "Status": {"State": "ready"},
    })
}
