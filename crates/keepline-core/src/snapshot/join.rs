//! What the Engine tells, joined to what was seen.

use super::{Container, Namespace, Snapshot, Topology};

impl Snapshot {
    /// Gives namespaces the names of their containers, and keeps the topology for the names of
    /// networks, services and tasks.
    pub fn join(&mut self, topology: Topology) {
        for namespace in &mut self.namespaces {
            let by_id = || {
                let id = &namespace.container.as_ref()?.id;
                topology.containers.iter().find(|container| container.id == *id)
            };
            let found = topology.container_of_namespace(namespace.file()).or_else(by_id);
            if let Some(container) = found.filter(|container| !container.host_network) {
                namespace.container = Some(Container {
                    id: container.id.clone(),
                    name: Some(container.name.clone()),
                    nested: false,
                });
            }
        }
        self.unnamed.extend(topology.incomplete.iter().cloned());
        self.topology = Some(topology);
    }
}

impl Namespace {
    /// File name of the namespace in the Engine's folder, where it has one: `lb_edja88p19`,
    /// `ingress_sbox`, `0123456789ab`.
    #[must_use]
    pub fn file(&self) -> &str {
        let path = self.path.as_deref().filter(|path| !path.starts_with("/proc/"));
        path.and_then(|path| path.rsplit('/').next()).unwrap_or(&self.name)
    }
}
