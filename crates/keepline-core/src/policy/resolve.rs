//! From what is said to what holds.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invalid, Layer, Object, Policy, Source, Strategy};
use crate::{
    names::Names,
    snapshot::{
        Scope, Topology,
        topology::{Network, NetworkService},
    },
};

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Of everything.
    pub everything: Layer,
    /// Of networks, by name.
    pub networks: BTreeMap<String, Layer>,
    /// Of services, by name.
    pub services: BTreeMap<String, Layer>,
}

/// What labels said when they last made sense: a value that says nothing leaves its object as it
/// was.
#[derive(Debug, Clone, Default)]
pub struct Remembered {
    good: BTreeMap<Object, Layer>,
}

impl Remembered {
    fn layer(
        &mut self,
        object: Object,
        labels: &BTreeMap<String, String>,
        invalid: &mut Vec<Invalid>,
    ) -> Layer {
        match Layer::of_labels(&object, labels) {
            Ok(layer) => {
                if layer == Layer::default() {
                    self.good.remove(&object);
                } else {
                    self.good.insert(object, layer.clone());
                }
                layer
            }
            Err(wrong) => {
                invalid.extend(wrong);
                self.good.get(&object).cloned().unwrap_or_default()
            }
        }
    }
}

/// What holds for each network and service that the Engine told of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    /// Of everything that nothing else is said of.
    pub everything: Policy,
    /// By network id and, in it, by name of the service.
    networks: BTreeMap<String, InNetwork>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct InNetwork {
    own: Policy,
    services: BTreeMap<String, Policy>,
}

impl Policies {
    /// What holds, and what of it could not be understood.
    #[must_use]
    pub fn of(
        rules: &Rules,
        topology: Option<&Topology>,
        remembered: &mut Remembered,
    ) -> (Self, Vec<Invalid>) {
        let mut invalid = Vec::new();
        let everything = rules.everything.over(Policy::default(), Source::File);
        let mut policies = Self { everything, networks: BTreeMap::new() };
        let Some(topology) = topology else { return (policies, invalid) };
        let labelled: BTreeMap<&str, Layer> = topology
            .services
            .iter()
            .map(|it| {
                let object = Object::Service(it.name.clone());
                (it.name.as_str(), remembered.layer(object, &it.labels, &mut invalid))
            })
            .collect();
        for network in &topology.networks {
            let object = Object::Network(network.name.clone());
            let label = remembered.layer(object, &network.labels, &mut invalid);
            let mut own = everything;
            if let Some(file) = rules.networks.get(&network.name) {
                own = file.over(own, Source::NetworkFile);
            }
            own = label.over(own, Source::NetworkLabel);
            let services = network.services.iter().map(|service| {
                let mut policy = own;
                if let Some(file) = rules.services.get(&service.name) {
                    policy = file.over(policy, Source::ServiceFile);
                }
                if let Some(label) = labelled.get(service.name.as_str()) {
                    policy = label.over(policy, Source::ServiceLabel);
                }
                (service.name.clone(), policy)
            });
            let services = services.collect();
            policies.networks.insert(network.id.clone(), InNetwork { own, services });
        }
        (policies, invalid)
    }

    /// What holds for a session with these names.
    #[must_use]
    pub fn session(&self, names: &Names<'_>) -> &Policy {
        let Some(network) = names.network else { return &self.everything };
        match names.service {
            Some(service) => self.named(network, service),
            None => self.network(network),
        }
    }

    /// What holds for a network.
    #[must_use]
    pub fn network(&self, network: &Network) -> &Policy {
        self.networks.get(&network.id).map_or(&self.everything, |it| &it.own)
    }

    /// What holds for a service in a network.
    #[must_use]
    pub fn service(&self, network: &Network, service: &NetworkService) -> &Policy {
        self.named(network, &service.name)
    }

    fn named(&self, network: &Network, service: &str) -> &Policy {
        let Some(known) = self.networks.get(&network.id) else { return &self.everything };
        known.services.get(service).unwrap_or(&known.own)
    }

    /// Which sessions are held.
    #[must_use]
    pub fn held(&self) -> Scope {
        let all = self.everything.strategy.value.holds();
        let mut scope = Scope { namespaces: (!all).then(BTreeSet::new), ..Scope::default() };
        let (mut services, mut left_out) = (BTreeSet::new(), BTreeSet::new());
        for (id, network) in &self.networks {
            let held = network.own.strategy.value.holds();
            if held != all {
                let list = if held { &mut scope.asked } else { &mut scope.except };
                list.networks.push(id.clone());
            }
            for (name, policy) in &network.services {
                if policy.strategy.source.is_of_service() {
                    let held = policy.strategy.value.holds();
                    if held { &mut services } else { &mut left_out }.insert(name.clone());
                }
            }
        }
        scope.asked.services.extend(services);
        scope.except.services.extend(left_out);
        scope
    }

    /// Whether a strategy holds somewhere.
    #[must_use]
    pub fn any(&self, strategy: Strategy) -> bool {
        self.all().any(|it| it.strategy.value == strategy)
    }

    /// Every policy that holds somewhere.
    pub fn all(&self) -> impl Iterator<Item = &Policy> {
        let networks = self.networks.values();
        let within = networks.flat_map(|it| std::iter::once(&it.own).chain(it.services.values()));
        std::iter::once(&self.everything).chain(within)
    }
}
