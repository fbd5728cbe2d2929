//! What one who stays asks more often than for a whole look.

use std::{collections::BTreeSet, net::SocketAddr, path::Path};

use keepline_core::{
    Snapshot,
    snapshot::{Destination, Forwarding, ServiceId, Topology},
};
use keepline_kernel::rights::Facts;

use crate::{engine, place, tables};

/// What the Engine of this machine tells; none where there is no Engine.
///
/// # Errors
/// Why it tells nothing, in words.
pub fn topology() -> Result<Option<Topology>, String> {
    engine::ask(&Facts::read(Path::new(place::PROC)).host)
}

/// What the directors of a look balance, followed until the next: to ask for that costs much less.
#[derive(Debug, Default)]
pub struct Balance {
    /// The directors, by inode.
    directors: BTreeSet<u64>,
    told: Vec<(u64, Vec<Balanced>)>,
}

/// A service, and its backends with their weights.
type Balanced = (ServiceId, Vec<(SocketAddr, u32)>);

impl Balance {
    /// To be called before a look: what changes while it is looked is news afterwards.
    pub fn begin(&mut self) {
        self.told = self.ask();
    }

    /// To be called after it: whom to follow from now on.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        let directors = snapshot.namespaces.iter().filter(|it| it.ipvs.is_some());
        self.directors = directors.map(|it| it.inode).collect();
    }

    /// Whether the directors balance otherwise by now than when they were last asked.
    pub fn has_changed(&mut self) -> bool {
        let now = self.ask();
        let changed = now != self.told;
        self.told = now;
        changed
    }

    /// Gives the services of an earlier look the backends that they were last said to have. False
    /// where it has another director or service than were told: it takes a whole look to know that.
    #[must_use]
    pub fn bring_up_to_date(&self, snapshot: &mut Snapshot) -> bool {
        for namespace in &mut snapshot.namespaces {
            let Some(ipvs) = &mut namespace.ipvs else { continue };
            let told = self.told.iter().find(|(inode, _)| *inode == namespace.inode);
            let Some((_, told)) = told else { return false };
            if told.len() != ipvs.services.len() {
                return false;
            }
            for service in &mut ipvs.services {
                let Some((_, backends)) = told.iter().find(|(id, _)| *id == service.id) else {
                    return false;
                };
                let destination = |(address, weight): &(SocketAddr, u32)| Destination {
                    address: *address,
                    weight: *weight,
                    // Of no account here.
                    forwarding: Forwarding::Masquerade,
                    active: 0,
                    inactive: 0,
                };
                service.destinations = backends.iter().map(destination).collect();
            }
        }
        true
    }

    /// A director that cannot be read now is left out: that is a change, and looked at as a whole.
    fn ask(&self) -> Vec<(u64, Vec<Balanced>)> {
        if self.directors.is_empty() {
            return Vec::new();
        }
        let places = place::all().unwrap_or_default();
        let directors = places.iter().filter(|place| self.directors.contains(&place.inode));
        let told = directors.filter_map(|place| {
            let (_, services) = place.enter(tables::ipvs_of_here).ok()?.ok()??;
            let services = services.into_iter().map(|service| {
                let backends = service.destinations.iter().map(|it| (it.address, it.weight));
                (service.id, backends.collect())
            });
            Some((place.inode, services.collect()))
        });
        told.collect()
    }
}
