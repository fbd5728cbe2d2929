//! What one who stays asks more often than for a whole look.

use std::{collections::BTreeSet, net::SocketAddr, path::Path};

use keepline_core::snapshot::{ServiceId, Topology};
use keepline_kernel::rights::Facts;

use crate::{NodeError, engine, place, tables};

/// What the Engine of this machine tells; none where there is no Engine.
///
/// # Errors
/// Why it tells nothing, in words.
pub fn topology() -> Result<Option<Topology>, String> {
    engine::ask(&Facts::read(Path::new(place::PROC)).host)
}

/// A service, and its backends with their weights.
pub type Balanced = (ServiceId, Vec<(SocketAddr, u32)>);

/// What directors among the namespaces with these inodes balance: to be compared with an earlier
/// answer, much cheaper than a whole look. One that cannot be read now is left out.
///
/// # Errors
/// When no namespace can be found.
pub fn balanced(inodes: &BTreeSet<u64>) -> Result<Vec<(u64, Vec<Balanced>)>, NodeError> {
    let mut places = place::all()?;
    places.retain(|place| inodes.contains(&place.inode));
    let seen = places.iter().filter_map(|place| {
        let (_, services) = place.enter(tables::ipvs_of_here).ok()?.ok()??;
        let services = services.into_iter().map(|service| {
            let backends = service.destinations.iter().map(|it| (it.address, it.weight));
            (service.id, backends.collect())
        });
        Some((place.inode, services.collect()))
    });
    Ok(seen.collect())
}
