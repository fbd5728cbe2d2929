//! What the service's name should be resolved to, and whether it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::{Mode, Service, Surroundings, Task};

/// The embedded resolver answers in one datagram; with more addresses than this, some may be
/// left out of it (512 bytes, 16 for each address).
const IN_ONE_ANSWER: usize = 24;

/// Addresses by network id: the VIP of a service in each, or the addresses of its tasks.
#[must_use]
pub fn expected(service: &Service, tasks: &[Task]) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let mut expected: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    match service.mode() {
        Mode::Vip => {
            for (network, vip) in &service.vips {
                expected.entry(network.clone()).or_default().insert(*vip);
            }
        }
        Mode::Dnsrr => {
            for task in tasks.iter().filter(|task| task.service == service.id && task.serves()) {
                for (network, address) in &task.addresses {
                    expected.entry(network.clone()).or_default().insert(*address);
                }
            }
        }
    }
    expected
}

/// Whether `answer` has what is `expected`.
#[must_use]
pub fn leads_to(answer: &BTreeSet<IpAddr>, expected: &BTreeSet<IpAddr>) -> bool {
    let found = expected.intersection(answer).count();
    found > 0 && (found == expected.len() || answer.len() >= IN_ONE_ANSWER)
}

/// What of `answer` belongs to nobody: addresses of services and tasks that are gone.
#[must_use]
pub fn stale(answer: &BTreeSet<IpAddr>, live: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    answer.difference(live).copied().collect()
}

/// Addresses of all services and tasks that are there. A container in several networks may be
/// answered from any of them.
#[must_use]
pub fn live(surroundings: &Surroundings) -> BTreeSet<IpAddr> {
    let vips = surroundings.services.iter().flat_map(|service| service.vips.values());
    let tasks = surroundings.tasks.iter().flat_map(|task| task.addresses.values());
    vips.chain(tasks).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(last: std::ops::Range<u8>) -> BTreeSet<IpAddr> {
        last.map(|last| IpAddr::from([10, 0, 1, last])).collect()
    }

    #[test]
    fn all_are_wanted_but_no_more_than_fit() {
        assert!(leads_to(&set(1..5), &set(2..4)));
        assert!(!leads_to(&set(1..3), &set(2..4)));
        assert!(!leads_to(&set(0..0), &set(0..0)));
        assert!(leads_to(&set(1..27), &set(1..50)));
        assert_eq!(stale(&set(1..5), &set(2..9)), set(1..2));
    }
}
