//! `rehash`: directors that find a session's backend again by themselves.

use std::time::Duration;

use super::{
    Action, Change, Place, Plan, Scheduling, What, directors,
    entries::{Entries, open_sessions, renewed},
    timeout::sysctl,
};
use crate::{
    duration::human,
    judge::Judgement,
    session::Table,
    snapshot::{Service, ServiceId, Snapshot},
};

/// `IP_VS_SVC_F_SCHED_MH_FALLBACK`: another backend where the chosen one takes no more.
const FALLBACK: u32 = 1 << 3;
/// `IP_VS_SVC_F_SCHED_MH_PORT`: the client's port counts in the choice.
const PORT: u32 = 1 << 4;
/// `IP_VS_SVC_F_SCHED3`; of no use to mh.
const THIRD: u32 = 1 << 5;
/// `IP_VS_SVC_F_ONEPACKET`: of UDP.
const ONE_PACKET: u32 = 1 << 2;

/// Plans the scheduler mh, which chooses by the client's address and port, and `sloppy_tcp`, by
/// which a packet from the middle of a session is scheduled like its first. Entries that another
/// scheduler has placed get `carry` to live, since mh may choose otherwise for them.
#[must_use]
pub fn rehash(snapshot: &Snapshot, judgement: &Judgement, carry: Duration) -> Plan {
    let mut plan = Plan::new(Action::Rehash);
    let mut entries = Entries::default();
    let directors = directors(snapshot, judgement);
    plan.note_wider(snapshot, &directors);
    for at in directors {
        let namespace = &snapshot.namespaces[at];
        let Some(ipvs) = &namespace.ipvs else {
            plan.refuse(
                &namespace.name,
                "no IPVS there: conntrack does not schedule; use `keepline apply timeout` or hold",
            );
            continue;
        };
        let place = Place::of(namespace);
        let mut switched = false;
        for service in &ipvs.services {
            match wanted(service) {
                Ok(Some(what)) => {
                    plan.changes.push(Change { place: place.clone(), what });
                    switched = true;
                }
                Ok(None) => {}
                Err(why) => plan.refuse(format!("{} in {}", service.id, namespace.name), why),
            }
        }
        match ipvs.sloppy_tcp {
            Some(false) => plan.changes.push(Change {
                place: place.clone(),
                what: sysctl("net/ipv4/vs/sloppy_tcp", 0, 1),
            }),
            Some(true) => {}
            None => plan.refuse(&namespace.name, "this kernel has no net.ipv4.vs.sloppy_tcp"),
        }
        if !switched {
            continue;
        }
        let mut carried = 0;
        for (entry, mark, was) in open_sessions(namespace, ipvs).filter(|(.., was)| *was < carry) {
            entries.add(at, Table::Ipvs, renewed(entry, mark, was, carry));
            carried += 1;
        }
        if carried > 0 {
            plan.note(format!(
                "{}: sessions that are open now were placed by another scheduler. Their entries \
                 get {} once; after their next packet the director's timeout holds for them \
                 again: `keepline apply hold` looks after them until they close",
                namespace.name,
                human(carry)
            ));
        }
    }
    plan.changes.extend(entries.into_changes(&snapshot.namespaces));
    if !plan.changes.is_empty() {
        plan.note(
            "only a packet from the client brings a session back, and only if the backends are \
             the same as when it was opened: scaling a service moves some of the idle ones",
        );
    }
    plan
}

/// The change of one service; None where nothing is to do.
fn wanted(service: &Service) -> Result<Option<What>, &'static str> {
    match service.id {
        ServiceId::Udp(_) | ServiceId::Sctp(_) => return Ok(None),
        ServiceId::Tcp(_) | ServiceId::Fwmark(_) => {}
    }
    if service.persistent.is_some() {
        return Err("it is persistent: a client is kept with its backend by other means");
    }
    if service.flags & ONE_PACKET != 0 {
        return Ok(None);
    }
    let before = Scheduling { scheduler: service.scheduler.clone(), flags: service.flags };
    let flags = service.flags & !THIRD | FALLBACK | PORT;
    let after = Scheduling { scheduler: "mh".to_owned(), flags };
    Ok((before != after).then_some(What::Scheduler { service: service.id, before, after }))
}
