//! The second look: every session that seems orphaned is looked at again, exactly.
//!
//! Dumps are not consistent, so a missing entry may be one that came, went or was skipped
//! meanwhile. The order here makes a proof of it: the socket was seen open (first look), then its
//! entry is asked for by name and is not there, and *after that* the same socket (by cookie) is
//! still open. So it was open while it had no entry.

use std::collections::{BTreeMap, HashSet};

use keepline_core::{
    Snapshot,
    judge::Suspect,
    snapshot::{Entry, Listing, SecondLook, SecondLookResult, Socket},
};
use keepline_kernel::{
    Error,
    netlink::{Protocol, Socket as Netlink},
};
use keepline_wire::{
    conntrack::{self, Direction, Tuple},
    sock_diag,
};

use crate::{
    complete::Incompletable,
    parallel,
    place::Place,
    tables::{TCP, convert_entry, ipvs_entries},
};

/// The IPVS listing can skip entries; where conntrack cannot vouch for it, several must agree.
const LISTINGS: usize = 3;

/// What the director says of one suspect.
enum Said {
    /// There is an entry after all.
    Remembers(Entry),
    /// It holds the other end itself.
    IsTheServer,
    /// It knows nothing.
    Nothing,
}

/// Looks again at all suspects and writes down what is so. Those of which `settled` tells are not
/// to be found again.
pub(crate) fn look(
    snapshot: &mut Snapshot,
    places: &[Place],
    suspects: &[Suspect],
    settled: &Incompletable,
) {
    if suspects.is_empty() {
        return;
    }
    let result = |suspect: &Suspect| settled.get(&suspect.socket).copied();
    let mut looks: Vec<SecondLook> = suspects
        .iter()
        .filter_map(|suspect| Some(note(snapshot, suspect, result(suspect)?)))
        .collect();
    let suspects: Vec<Suspect> =
        suspects.iter().filter(|suspect| result(suspect).is_none()).copied().collect();
    let by_director = group(&suspects, |suspect| suspect.director);
    let said = parallel::map(&by_director, |(director, suspects)| {
        let place = place(places, snapshot.namespaces[*director].inode)?;
        place.enter(|| ask_director(snapshot, *director, suspects)).and_then(|said| said).ok()
    });
    let mut open = Vec::new();
    let mut remembered = Vec::new();
    for ((director, suspects), said) in by_director.iter().zip(said) {
        let Some(said) = said else {
            looks.extend(suspects.iter().map(|at| note(snapshot, at, SecondLookResult::Failed)));
            continue;
        };
        for (suspect, said) in suspects.iter().zip(said) {
            match said {
                Said::Remembers(entry) => remembered.push((*director, entry)),
                Said::IsTheServer => looks.push(note(snapshot, suspect, SecondLookResult::Local)),
                Said::Nothing => open.push(*suspect),
            }
        }
    }
    let by_client = group(&open, |suspect| suspect.socket.namespace);
    let results = parallel::map(&by_client, |(namespace, suspects)| {
        let place = place(places, snapshot.namespaces[*namespace].inode)?;
        match place.enter(|| ask_sockets(snapshot, suspects)).and_then(|results| results) {
            Ok(results) => Some(results),
            // Its sockets went with it: a container that ended in the midst of the look.
            Err(error) if error.is_gone() => {
                Some(vec![SecondLookResult::SocketGone; suspects.len()])
            }
            Err(_) => None,
        }
    });
    for ((_, suspects), results) in by_client.iter().zip(results) {
        let results = results.unwrap_or_else(|| vec![SecondLookResult::Failed; suspects.len()]);
        looks.extend(suspects.iter().zip(results).map(|(at, result)| note(snapshot, at, result)));
    }
    snapshot.second_look = looks;
    for (director, entry) in remembered {
        add(snapshot, director, entry);
    }
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
fn add(snapshot: &mut Snapshot, director: usize, entry: Entry) {
    let namespace = &mut snapshot.namespaces[director];
    match (&mut namespace.conntrack, &mut namespace.ipvs) {
        (Some(conntrack), _) if entry.seen_as.is_some() => conntrack.entries.push(entry),
        (_, Some(ipvs)) => ipvs.entries.push(entry),
        _ => {}
    }
}

/// Runs in the director's namespace.
fn ask_director(
    snapshot: &Snapshot,
    director: usize,
    suspects: &[Suspect],
) -> Result<Vec<Said>, Error> {
    let namespace = &snapshot.namespaces[director];
    let netfilter = Netlink::open(Protocol::Netfilter)?;
    let diag = Netlink::open(Protocol::SockDiag)?;
    let listed = match &namespace.ipvs {
        Some(ipvs) if ipvs.listing == Listing::Read => {
            let times = if ipvs.conntrack == Some(true) { 1 } else { LISTINGS };
            let mut listed = Vec::new();
            for _ in 0..times {
                listed.extend(ipvs_entries()?);
            }
            listed
        }
        _ => Vec::new(),
    };
    let clients: HashSet<_> = listed.iter().map(|entry| (entry.client, entry.server)).collect();
    let tracked = namespace.conntrack.is_some();
    let mut said = Vec::with_capacity(suspects.len());
    for (sequence, suspect) in (1..).zip(suspects) {
        if let Some(entry) = in_listing(&listed, &clients, suspect) {
            said.push(Said::Remembers(entry));
        } else if let Some(entry) =
            tracked.then(|| in_conntrack(&netfilter, suspect, sequence)).transpose()?.flatten()
        {
            said.push(Said::Remembers(entry));
        } else if is_the_server(&diag, suspect, sequence)? {
            said.push(Said::IsTheServer);
        } else {
            said.push(Said::Nothing);
        }
    }
    Ok(said)
}

fn in_listing(
    listed: &[Entry],
    clients: &HashSet<(std::net::SocketAddr, std::net::SocketAddr)>,
    suspect: &Suspect,
) -> Option<Entry> {
    let (from, to) = suspect.pair;
    let found = |entry: &&Entry| {
        if suspect.backend_end {
            entry.backend == from && entry.client.port() == to.port()
        } else {
            (entry.client, entry.server) == suspect.pair
        }
    };
    if !suspect.backend_end && !clients.contains(&suspect.pair) {
        return None;
    }
    listed.iter().find(found).cloned()
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
