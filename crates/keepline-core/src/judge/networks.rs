//! Who may reach a network's director, by the Engine's word: addresses of different networks may
//! overlap, and what one director has forgotten may be another's.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::snapshot::{Namespace, Snapshot, topology::Container};

/// The networks that namespaces lead into, and those that they are attached to.
#[derive(Debug, Default)]
pub(super) struct Networks {
    /// Of a director; the network that published ports come in through is reached from everywhere.
    led: FxHashMap<usize, usize>,
    /// Of a container. What is not known is left out, and rules nothing out.
    attached: FxHashMap<usize, FxHashSet<usize>>,
}

impl Networks {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let Some(topology) = &snapshot.topology else { return Self::default() };
        let numbers: FxHashMap<&str, usize> =
            topology.networks.iter().map(|it| it.id.as_str()).zip(0..).collect();
        let containers: FxHashMap<&str, &Container> =
            topology.containers.iter().map(|it| (it.id.as_str(), it)).collect();
        let attached = |namespace: &Namespace| -> Option<FxHashSet<usize>> {
            let container = namespace.container.as_ref()?;
            if container.nested {
                // Of an engine in a container: in none of the networks of this one.
                return Some(FxHashSet::default());
            }
            let container = containers.get(container.id.as_str())?;
            let networks = container.networks.iter();
            let networks = networks.map(|it| numbers.get(it.network.as_str()).copied());
            networks.collect::<Option<FxHashSet<usize>>>().filter(|it| !it.is_empty())
        };
        let led = |namespace: &Namespace| {
            let network = topology.network_of_director(namespace.file())?;
            (!network.ingress).then(|| numbers[network.id.as_str()])
        };
        let namespaces = || snapshot.namespaces.iter().enumerate();
        Self {
            led: namespaces().filter_map(|(at, it)| Some((at, led(it)?))).collect(),
            attached: namespaces().filter_map(|(at, it)| Some((at, attached(it)?))).collect(),
        }
    }

    /// Whether the namespace `here`, a client's or a backend's, may have sessions through `director`.
    pub(super) fn reach(&self, here: usize, director: usize) -> bool {
        match (self.led.get(&director), self.attached.get(&here)) {
            (Some(network), Some(attached)) => attached.contains(network),
            _ => true,
        }
    }
}
