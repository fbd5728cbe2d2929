//! Timeouts and services of IPVS in the current namespace.

use keepline_core::{
    plan::Scheduling,
    snapshot::{ServiceId, Timeouts},
};
use keepline_kernel::{
    Error,
    netlink::{Event, Protocol, Socket as Netlink},
};
use keepline_wire::{genl, ipvs};

use super::{Obstacle, due, taken};

/// IPVS of the current namespace.
pub(super) fn open() -> Result<(Netlink, u16), Obstacle> {
    let netlink = Netlink::open(Protocol::Generic)?;
    let request = genl::get_family(ipvs::FAMILY_NAME, 1);
    let family = netlink.request("find IPVS", &request, genl::parse_family)?;
    let family = family.ok_or_else(|| Obstacle::Refused("this kernel has no IPVS".to_owned()))?;
    Ok((netlink, family.id))
}

/// Timeouts in words, for comparing and showing.
pub(super) fn words(timeouts: &Timeouts) -> String {
    let (tcp, fin, udp) = (timeouts.tcp, timeouts.tcp_fin, timeouts.udp);
    format!("{} {} {} s", tcp.as_secs(), fin.as_secs(), udp.as_secs())
}

/// The timeouts of the current namespace, in words.
pub(super) fn timeouts() -> Result<String, Obstacle> {
    let (netlink, family) = open()?;
    read(&netlink, family)
}

fn read(netlink: &Netlink, family: u16) -> Result<String, Obstacle> {
    let request = ipvs::get_config(family, 2);
    let read = netlink.request("read IPVS timeouts", &request, ipvs::parse_config)?;
    let read = read.ok_or_else(|| Obstacle::Refused("IPVS told no timeouts".to_owned()))?;
    Ok(words(&Timeouts { tcp: read.tcp, tcp_fin: read.tcp_fin, udp: read.udp }))
}

pub(super) fn set_timeouts(before: &Timeouts, after: &Timeouts) -> Result<(), Obstacle> {
    const OBJECT: &str = "IPVS timeouts (tcp tcpfin udp)";
    let (netlink, family) = open()?;
    let (before, wanted) = (words(before), words(after));
    if !due(OBJECT, &read(&netlink, family)?, &before, &wanted)? {
        return Ok(());
    }
    let new = ipvs::Timeouts { tcp: after.tcp, tcp_fin: after.tcp_fin, udp: after.udp };
    netlink.request("set IPVS timeouts", &ipvs::set_config(family, &new, 3), |_| Ok(()))?;
    taken(OBJECT, &read(&netlink, family)?, &wanted)
}

/// The services that `id` means: by a mark there may be one of IPv4 and one of IPv6.
fn services(netlink: &Netlink, family: u16, id: ServiceId) -> Result<Vec<ipvs::Service>, Error> {
    let mut services = Vec::new();
    netlink.dump("list IPVS services", &ipvs::dump_services(family, 4), |event| {
        match event {
            Event::Start => services.clear(),
            Event::Message(message) => {
                let service = ipvs::parse_service(message.payload)?;
                let is = match (service.id, id) {
                    (ipvs::ServiceId::Fwmark { mark, .. }, ServiceId::Fwmark(wanted)) => {
                        mark == wanted
                    }
                    (ipvs::ServiceId::Address { protocol, address }, ServiceId::Tcp(wanted)) => {
                        protocol == crate::tables::TCP && address == wanted
                    }
                    _ => false,
                };
                if is {
                    services.push(service);
                }
            }
        }
        Ok(())
    })?;
    Ok(services)
}

fn of(service: &ipvs::Service) -> String {
    format!("{:?}", Scheduling { scheduler: service.scheduler.clone(), flags: service.flags.0 })
}

/// Scheduler and flags of a service, in words.
pub(super) fn scheduling(id: ServiceId) -> Result<String, Obstacle> {
    let (netlink, family) = open()?;
    let services = services(&netlink, family, id)?;
    services.first().map(of).ok_or_else(|| Obstacle::Refused(format!("service {id} is gone")))
}

pub(super) fn set_scheduler(
    id: ServiceId,
    before: &Scheduling,
    after: &Scheduling,
) -> Result<(), Obstacle> {
    let object = format!("service {id}");
    let (netlink, family) = open()?;
    let found = services(&netlink, family, id)?;
    if found.is_empty() {
        // Removed with its settings; whoever makes it anew gives it its own.
        return Ok(());
    }
    let (before, wanted) = (format!("{before:?}"), format!("{after:?}"));
    // All are looked at before the first is changed.
    let mut to_change = Vec::new();
    for service in found {
        if due(&object, &of(&service), &before, &wanted)? {
            to_change.push(service);
        }
    }
    for mut service in to_change {
        service.scheduler.clone_from(&after.scheduler);
        service.flags = ipvs::ServiceFlags(after.flags);
        let request = ipvs::set_service(family, &service, 5);
        netlink.request("set the scheduler", &request, |_| Ok(())).map_err(|error| {
            if error.is_gone() {
                Obstacle::Refused(format!(
                    "this kernel has no scheduler {}: the module ip_vs_{0} is missing",
                    after.scheduler
                ))
            } else {
                error.into()
            }
        })?;
    }
    for service in services(&netlink, family, id)? {
        taken(&object, &of(&service), &wanted)?;
    }
    Ok(())
}
