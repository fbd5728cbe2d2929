//! What strategies that are in force make of a verdict.

use super::route::marked;
use crate::{
    names::Namer,
    session::{End, Session, Verdict, Why},
    snapshot::{Asked, Scope, ServiceId, Snapshot},
};

/// `IP_VS_SVC_F_SCHED_MH_PORT` (`SCHED2`): the client's port counts in the choice.
const MH_PORT: u32 = 1 << 4;

/// Takes into account what is held, and what its director will make anew.
pub(super) fn regard<'s>(snapshot: &Snapshot, judged: impl Iterator<Item = &'s mut Session>) {
    let namer = Namer::new(snapshot);
    for session in judged {
        if session.entry.is_some() && matches!(session.verdict, Verdict::AtRisk | Verdict::Safe) {
            let held = |scope: &Scope| within(snapshot, scope, &namer, session);
            if session.why != Why::KeptAlive && snapshot.held.iter().any(held) {
                (session.verdict, session.why) = (Verdict::Safe, Why::Held);
            } else if session.verdict == Verdict::AtRisk && is_rehashed(snapshot, session) {
                (session.verdict, session.why) = (Verdict::Safe, Why::Rehashed);
            }
        } else if matches!(session.why, Why::Forgotten | Why::NotConfirmed)
            && session.end == End::Client
            && is_rehashed(snapshot, session)
        {
            // Lost all the same if its backends are others than when it was opened.
            (session.verdict, session.why) = (Verdict::AtRisk, Why::Rehashed);
        }
    }
}

/// Whether a session is one of those that `scope` means.
pub(super) fn within(
    snapshot: &Snapshot,
    scope: &Scope,
    namer: &Namer<'_>,
    session: &Session,
) -> bool {
    if scope.within.as_ref().is_some_and(|outer| !within(snapshot, outer, namer, session)) {
        return false;
    }
    if let Some(named) = by_name(scope, namer, session) {
        return named;
    }
    let Some(chosen) = &scope.namespaces else { return true };
    let chosen = |namespace: usize| chosen.contains(&snapshot.namespaces[namespace].inode);
    chosen(session.socket.namespace)
        || session.director.is_some_and(chosen)
        || session.other_end.is_some_and(|end| chosen(end.namespace))
}

/// Whether its service or network is in a scope or left out of it, if either is named there.
fn by_name(scope: &Scope, namer: &Namer<'_>, session: &Session) -> Option<bool> {
    let Scope { asked, except, .. } = scope;
    if asked.is_empty() && except.is_empty() {
        return None;
    }
    let names = namer.of(session);
    let service =
        |list: &Asked| names.service.is_some_and(|it| list.services.iter().any(|s| s == it));
    let network = |list: &Asked| names.network.is_some_and(|it| list.networks.contains(&it.id));
    [
        (service(asked), true),
        (service(except), false),
        (network(asked), true),
        (network(except), false),
    ]
    .into_iter()
    .find_map(|(fits, within)| fits.then_some(within))
}

/// Whether the client's next packet is taken for the start of a session, and given to the backend
/// that the client's address and port have always led to.
fn is_rehashed(snapshot: &Snapshot, session: &Session) -> bool {
    let Some(director) = session.director else { return false };
    let Some(ipvs) = &snapshot.namespaces[director].ipvs else { return false };
    ipvs.sloppy_tcp == Some(true)
        && ipvs.services.iter().any(|service| {
            let its = match service.id {
                ServiceId::Tcp(address) => address == session.server,
                ServiceId::Fwmark(mark) => marked(&snapshot.namespaces[director], session.server)
                    .is_none_or(|found| found == mark),
                ServiceId::Udp(_) | ServiceId::Sctp(_) => false,
            };
            its && service.scheduler == "mh" && service.flags & MH_PORT != 0
        })
}
