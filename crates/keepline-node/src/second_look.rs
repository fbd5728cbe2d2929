//! The second look: every session that seems orphaned is looked at again, exactly.
//!
//! Dumps are not consistent, so a missing entry may be one that came, went or was skipped
//! meanwhile. The order here makes a proof of it: the socket was seen open (first look), then its
//! entry is asked for by name and is not there, and *after that* the same socket (by cookie) is
//! still open. So it was open while it had no entry.

use std::{borrow::Cow, collections::BTreeMap, net::SocketAddr};

use keepline_bpf::tables::IpvsTable;
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
use rustc_hash::FxHashMap;

use crate::{
    complete::Incompletable,
    parallel,
    place::Place,
    tables::{TCP, convert_entry, ipvs_entries},
    walk,
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
/// to be found again. `ipvs`: where its tables were walked, since listing them takes too long.
pub(crate) fn look(
    snapshot: &mut Snapshot,
    places: &[Place],
    suspects: &[Suspect],
    settled: &Incompletable,
    ipvs: Option<IpvsTable>,
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
    let inode = |director: usize| snapshot.namespaces[director].inode;
    let inodes: Vec<u64> = by_director.iter().map(|(director, _)| inode(*director)).collect();
    let walked = ipvs.map(|mut table| walk::remembered_by_ipvs(&mut table, &inodes));
    let said = parallel::map(&by_director, |(director, suspects)| {
        let place = place(places, inode(*director))?;
        let walked = match &walked {
            Some(Ok((entries, _))) => entries.get(&inode(*director)).map(Vec::as_slice),
            // Read once, and not again.
            Some(Err(_)) => return None,
            None => None,
        };
        let ask = || ask_director(snapshot, *director, suspects, walked);
        place.enter(ask).and_then(|said| said).ok()
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
        if let Some(entry) = listed.find(suspect).cloned() {
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

    fn find(&self, suspect: &Suspect) -> Option<&'a Entry> {
        let (from, to) = suspect.pair;
        if suspect.backend_end {
            self.by_backend.get(&(from, to.port())).copied()
        } else {
            self.by_client.get(&suspect.pair).copied()
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
