//! The second look: every session that seems orphaned is looked at again, exactly.
//!
//! Dumps are not consistent, so a missing entry may be one that came, went or was skipped
//! meanwhile. The order here makes a proof of it: the socket was seen open (first look), then its
//! entry is asked for by name and is not there, and *after that* the same socket (by cookie) is
//! still open. So it was open while it had no entry.

use std::{borrow::Cow, collections::BTreeMap, net::SocketAddr};

use keepline_bpf::tables::IpvsTable;
use keepline_core::{
    Options, Snapshot,
    judge::{FirstJudgement, Suspect, first_judgement},
    session::Table,
    snapshot::{Entry, Incomplete, Listing, SecondLook, SecondLookResult, Socket},
};
use keepline_kernel::{
    Error,
    netlink::{Protocol, Socket as Netlink},
};
use keepline_wire::{
    conntrack::{self, Direction, Tuple},
    sock_diag,
};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    complete::{self, Incompletable},
    parallel,
    place::{NO_WAY, Place},
    tables::{TCP, convert_entry, ipvs_entries},
    walk,
};

/// The IPVS listing can skip entries; where conntrack cannot vouch for it, several must agree.
const LISTINGS: usize = 3;

/// How often sessions are looked at again that nobody has confirmed.
const LOOKS: usize = 3;

/// What the director says of one suspect.
enum Said {
    /// There is an entry after all.
    Remembers(Table, Entry),
    /// It holds the other end itself.
    IsTheServer,
    /// It knows nothing.
    Nothing,
}

/// Looks again at what seems orphaned; and at what only then does, since an entry that a second look
/// finds may lead elsewhere than what was thought of first, or since a look failed.
pub(crate) fn confirm(
    snapshot: &mut Snapshot,
    places: &[Place],
    mut suspects: Vec<Suspect>,
    (walked, mut ipvs, options): (bool, Option<IpvsTable>, &Options),
) -> FirstJudgement {
    let mut looks = 0;
    loop {
        let mut settled = Incompletable::default();
        if walked {
            let sockets = suspects.iter().map(|suspect| suspect.socket);
            settled = complete::complete(snapshot, places, sockets);
        }
        let mut missed = look(snapshot, places, &suspects, &settled, ipvs.as_mut());
        let judged = first_judgement(snapshot, options);
        suspects = judged.questions(snapshot).suspects;
        looks += 1;
        if suspects.is_empty() || looks == LOOKS {
            if missed.is_empty() && !suspects.is_empty() {
                missed.push(Incomplete {
                    what: format!("{} of the sessions", suspects.len()),
                    why: "each look at them found other entries than the one before".to_owned(),
                    help: Some("keepline check".to_owned()),
                });
            }
            snapshot.incomplete.extend(missed);
            return judged;
        }
    }
}

/// Looks again at all suspects and writes down what is so; tells what could not be looked at. Those
/// of which `settled` tells are not to be found again. `ipvs`: where its tables were walked, since
/// listing them takes too long.
fn look(
    snapshot: &mut Snapshot,
    places: &[Place],
    suspects: &[Suspect],
    settled: &Incompletable,
    ipvs: Option<&mut IpvsTable>,
) -> Vec<Incomplete> {
    let mut looks = Vec::with_capacity(suspects.len());
    let mut missed = Vec::new();
    let mut left = Vec::with_capacity(suspects.len());
    for suspect in suspects {
        let result = match settled.get(&suspect.socket) {
            None => {
                left.push(*suspect);
                continue;
            }
            Some(None) => SecondLookResult::SocketGone,
            Some(Some(why)) => {
                missed.push(at_second(snapshot, "sockets", suspect.socket.namespace, why.clone()));
                SecondLookResult::Failed
            }
        };
        looks.push(note(snapshot, suspect, result));
    }
    let suspects = left;
    let by_director = group(&suspects, |suspect| suspect.director);
    let inode = |director: usize| snapshot.namespaces[director].inode;
    let inodes: Vec<u64> = by_director.iter().map(|(director, _)| inode(*director)).collect();
    let walked = ipvs.map(|table| walk::remembered_by_ipvs(table, &inodes));
    let said = parallel::map(&by_director, |(director, suspects)| {
        let place = place(places, inode(*director)).ok_or(NO_WAY)?;
        let walked = match &walked {
            Some(Ok((entries, _))) => entries.get(&inode(*director)).map(Vec::as_slice),
            // Read once, and not again.
            Some(Err(error)) => return Err(error.to_string()),
            None => None,
        };
        let ask = || ask_director(snapshot, *director, suspects, walked);
        place.enter(ask).and_then(|said| said).map_err(|error| error.to_string())
    });
    let mut open = Vec::new();
    let mut remembered = Vec::new();
    for ((director, suspects), said) in by_director.iter().zip(said) {
        let said = match said {
            Ok(said) => said,
            Err(why) => {
                let failed = suspects.iter().map(|at| note(snapshot, at, SecondLookResult::Failed));
                looks.extend(failed);
                missed.push(at_second(snapshot, "entries", *director, why));
                continue;
            }
        };
        for (suspect, said) in suspects.iter().zip(said) {
            match said {
                Said::Remembers(table, entry) => remembered.push((*director, table, entry)),
                Said::IsTheServer => looks.push(note(snapshot, suspect, SecondLookResult::Local)),
                Said::Nothing => open.push(*suspect),
            }
        }
    }
    let by_client = group(&open, |suspect| suspect.socket.namespace);
    let results = parallel::map(&by_client, |(namespace, suspects)| {
        let place = place(places, snapshot.namespaces[*namespace].inode).ok_or(NO_WAY)?;
        match place.enter(|| ask_sockets(snapshot, suspects)).and_then(|results| results) {
            Ok(results) => Ok(results),
            // Its sockets went with it: a container that ended in the midst of the look.
            Err(error) if error.is_gone() => Ok(vec![SecondLookResult::SocketGone; suspects.len()]),
            Err(error) => Err(error.to_string()),
        }
    });
    for ((namespace, suspects), results) in by_client.iter().zip(results) {
        let results = results.unwrap_or_else(|why| {
            missed.push(at_second(snapshot, "sockets", *namespace, why));
            vec![SecondLookResult::Failed; suspects.len()]
        });
        looks.extend(suspects.iter().zip(results).map(|(at, result)| note(snapshot, at, result)));
    }
    let known: FxHashSet<(u64, u64)> = looks.iter().map(|it| (it.namespace, it.cookie)).collect();
    snapshot.second_look.retain(|it| !known.contains(&(it.namespace, it.cookie)));
    snapshot.second_look.append(&mut looks);
    for (director, table, entry) in remembered {
        add(snapshot, director, table, entry);
    }
    missed.sort_by(|one, other| one.what.cmp(&other.what));
    missed.dedup();
    missed
}

fn at_second(snapshot: &Snapshot, what: &str, namespace: usize, why: String) -> Incomplete {
    let name = &snapshot.namespaces[namespace].name;
    let what = format!("some {what} of {name}, the second time");
    Incomplete { what, why, help: Some("keepline check".to_owned()) }
}

fn group(suspects: &[Suspect], key: impl Fn(&Suspect) -> usize) -> Vec<(usize, Vec<Suspect>)> {
    let mut groups: BTreeMap<usize, Vec<Suspect>> = BTreeMap::new();
    for suspect in suspects {
        groups.entry(key(suspect)).or_default().push(*suspect);
    }
    groups.into_iter().collect()
}

fn place(places: &[Place], inode: u64) -> Option<&Place> {
    places.iter().find(|place| place.inode == inode)
}

fn socket<'a>(snapshot: &'a Snapshot, suspect: &Suspect) -> &'a Socket {
    &snapshot.namespaces[suspect.socket.namespace].sockets[suspect.socket.socket]
}

fn note(snapshot: &Snapshot, suspect: &Suspect, result: SecondLookResult) -> SecondLook {
    SecondLook {
        namespace: snapshot.namespaces[suspect.socket.namespace].inode,
        cookie: socket(snapshot, suspect).cookie,
        result,
    }
}

/// An entry that only the second look found takes its place among the others.
fn add(snapshot: &mut Snapshot, director: usize, table: Table, entry: Entry) {
    let namespace = &mut snapshot.namespaces[director];
    let entries = match table {
        Table::Conntrack => namespace.conntrack.as_mut().map(|it| &mut it.entries),
        Table::Ipvs => namespace.ipvs.as_mut().map(|it| &mut it.entries),
    };
    if let Some(entries) = entries {
        entries.push(entry);
    }
}

/// Runs in the director's namespace.
fn ask_director(
    snapshot: &Snapshot,
    director: usize,
    suspects: &[Suspect],
    walked: Option<&[Entry]>,
) -> Result<Vec<Said>, Error> {
    let namespace = &snapshot.namespaces[director];
    let netfilter = Netlink::open(Protocol::Netfilter)?;
    let diag = Netlink::open(Protocol::SockDiag)?;
    let listed = match (&namespace.ipvs, walked) {
        (Some(_), Some(walked)) => Cow::Borrowed(walked),
        (Some(ipvs), None) if ipvs.listing == Listing::Read => {
            let times = if ipvs.conntrack == Some(true) { 1 } else { LISTINGS };
            let mut listed = Vec::new();
            for _ in 0..times {
                listed.extend(ipvs_entries()?);
            }
            Cow::Owned(listed)
        }
        _ => Cow::default(),
    };
    let listed = Listed::of(&listed);
    let tracked = namespace.conntrack.is_some();
    let mut said = Vec::with_capacity(suspects.len());
    for (sequence, suspect) in (1..).zip(suspects) {
        if let Some(entry) = listed.find(suspect) {
            said.push(Said::Remembers(Table::Ipvs, entry));
        } else if let Some(entry) =
            tracked.then(|| in_conntrack(&netfilter, suspect, sequence)).transpose()?.flatten()
        {
            said.push(Said::Remembers(Table::Conntrack, entry));
        } else if is_the_server(&diag, suspect, sequence)? {
            said.push(Said::IsTheServer);
        } else {
            said.push(Said::Nothing);
        }
    }
    Ok(said)
}

/// Entries of IPVS by what is known of them from either end.
struct Listed<'a> {
    by_client: FxHashMap<(SocketAddr, SocketAddr), &'a Entry>,
    by_backend: FxHashMap<(SocketAddr, u16), &'a Entry>,
}

impl<'a> Listed<'a> {
    fn of(entries: &'a [Entry]) -> Self {
        Self {
            by_client: entries.iter().map(|it| ((it.client, it.server), it)).collect(),
            // SNAT leaves the port as it is where that is free.
            by_backend: entries.iter().map(|it| ((it.backend, it.client.port()), it)).collect(),
        }
    }

    /// IPVS does not tell whom a backend sees behind SNAT; of the one that asks it is known, and
    /// without it the entry would not be found from that end.
    fn find(&self, suspect: &Suspect) -> Option<Entry> {
        let (from, to) = suspect.pair;
        if suspect.backend_end {
            let entry = self.by_backend.get(&(from, to.port())).copied()?.clone();
            Some(Entry { seen_as: Some(to), ..entry })
        } else {
            self.by_client.get(&suspect.pair).copied().cloned()
        }
    }
}

fn in_conntrack(
    netfilter: &Netlink,
    suspect: &Suspect,
    sequence: u32,
) -> Result<Option<Entry>, Error> {
    let (source, destination) = suspect.pair;
    let tuple = Tuple { source, destination, protocol: TCP };
    let direction = if suspect.backend_end { Direction::Reply } else { Direction::Original };
    let request = conntrack::get(&tuple, direction, None, sequence);
    match netfilter.request("ask conntrack", &request, conntrack::parse) {
        Ok(entry) => Ok(entry.as_ref().and_then(convert_entry)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_the_server(diag: &Netlink, suspect: &Suspect, sequence: u32) -> Result<bool, Error> {
    let (from, to) = suspect.pair;
    let request = sock_diag::get(to, from, None, false, sequence);
    match diag.request("ask for a socket", &request, sock_diag::parse) {
        // Without a cookie a listener may answer for a connection that is not there.
        Ok(found) => Ok(found.is_some_and(|found| found.state != sock_diag::TcpState::Listen)),
        Err(error) if error.is_gone() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Runs in the sockets' namespace.
fn ask_sockets(snapshot: &Snapshot, suspects: &[Suspect]) -> Result<Vec<SecondLookResult>, Error> {
    use sock_diag::TcpState as S;
    let diag = Netlink::open(Protocol::SockDiag)?;
    let mut results = Vec::with_capacity(suspects.len());
    for (sequence, suspect) in (1..).zip(suspects) {
        let seen = socket(snapshot, suspect);
        let (local, remote) = (seen.local, seen.remote);
        let (interface, cookie) = (seen.interface, seen.cookie);
        let request = sock_diag::Exact { local, remote, interface, cookie }.get(sequence);
        results.push(match diag.request("ask for a socket", &request, sock_diag::parse) {
            Ok(Some(now)) if matches!(now.state, S::Established | S::CloseWait | S::FinWait2) => {
                SecondLookResult::Confirmed
            }
            Ok(_) => SecondLookResult::SocketGone,
            Err(error) if error.is_gone() => SecondLookResult::SocketGone,
            Err(_) => SecondLookResult::Failed,
        });
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keepline_core::{judge::Suspect, session::SocketRef, snapshot::EntryState};

    use super::*;

    #[test]
    fn what_a_backend_sees_stands_with_the_entry_that_is_found_for_it() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let entry = Entry {
            client: address("10.0.1.6:40000"),
            server: address("10.0.1.2:7000"),
            backend: address("10.0.1.4:7000"),
            seen_as: None,
            state: EntryState::Established,
            expires: Duration::from_secs(800),
        };
        let entries = [entry.clone()];
        let listed = Listed::of(&entries);
        let seen_as = address("10.0.1.3:40000");
        let suspect = |pair, backend_end| {
            let socket = SocketRef { namespace: 0, socket: 0 };
            Suspect { socket, director: 0, pair, backend_end }
        };
        let found = listed.find(&suspect((entry.backend, seen_as), true));
        assert_eq!(found, Some(Entry { seen_as: Some(seen_as), ..entry.clone() }));
        assert_eq!(listed.find(&suspect((entry.client, entry.server), false)), Some(entry.clone()));
        assert_eq!(listed.find(&suspect((entry.backend, entry.server), true)), None);
    }
}
