//! Back to what was there.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Change, What, direct, journal::Standing};
use crate::snapshot::Snapshot;

/// A change that leads back, and the one it leads back from.
#[derive(Debug, Clone, PartialEq)]
pub struct Undo {
    /// Number of the plan that made it, and its place in that; absent where the journal has no word
    /// of it.
    pub of: Option<(u64, usize)>,
    /// What leads back.
    pub change: Change,
}

/// Undoes changes: the last first, so that what was changed twice ends where it began. Before all
/// others the programs that hold sockets to their keepalive: they would hold these, too.
#[must_use]
pub fn undo(standing: &[Standing]) -> Vec<Undo> {
    let last_first = standing.iter().rev().filter_map(|it| {
        let change = Change { place: it.change.place.clone(), what: it.change.what.reversed()? };
        Some(Undo { of: Some((it.id, it.step)), change })
    });
    let mut undos: Vec<Undo> = last_first.collect();
    undos.sort_by_key(|it| !matches!(it.change.what, What::NewSockets { .. }));
    undos
}

/// What of changes that stand concerns a selection.
#[derive(Debug)]
pub struct Selected {
    /// What does.
    pub standing: Vec<Standing>,
    /// What concerns it, and others too: it cannot be taken back for it alone.
    pub shared: Vec<Standing>,
}

/// What of changes that were found, not written down, concerns what `snapshot` has selected.
#[must_use]
pub fn concerned(mut changes: Vec<Change>, snapshot: &Snapshot) -> Vec<Change> {
    let meant = Meant::of(snapshot);
    changes.retain(|change| meant.fit(change) == Fit::Whole);
    changes
}

/// Tells apart what `snapshot` has selected. Of a service or network are the settings of its director;
/// of sockets and programs those of its addresses; and what else the same plan has set there.
#[must_use]
pub fn selected(standing: Vec<Standing>, snapshot: &Snapshot) -> Selected {
    let meant = Meant::of(snapshot);
    let fits: Vec<Fit> = standing.iter().map(|it| meant.fit(&it.change)).collect();
    // The times of a namespace were lowered for its sockets.
    let plans = |which: Fit| -> BTreeSet<u64> {
        let of = standing.iter().zip(&fits).filter(|(_, fit)| **fit == which);
        of.map(|(it, _)| it.id).collect()
    };
    let (whole, in_part) = (plans(Fit::Whole), plans(Fit::InPart));
    let mut selected = Selected { standing: Vec::new(), shared: Vec::new() };
    for (it, fit) in standing.into_iter().zip(fits) {
        let follows = matches!(&it.change.what, What::Sysctl { path, .. } if path.contains("keepalive"))
            && whole.contains(&it.id)
            && !in_part.contains(&it.id);
        match fit {
            Fit::Whole => selected.standing.push(it),
            Fit::InPart => selected.shared.push(it),
            Fit::Not if follows => selected.standing.push(it),
            Fit::Not => {}
        }
    }
    selected
}

/// How much of a change concerns a selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Whole,
    InPart,
    Not,
}

struct Meant<'a> {
    snapshot: &'a Snapshot,
    /// Addresses of what was asked for by name.
    addresses: BTreeSet<IpAddr>,
    /// Namespaces that were selected themselves, by cookie.
    namespaces: BTreeSet<u64>,
}

impl<'a> Meant<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let topology = snapshot.topology.as_ref();
        let directors = snapshot.namespaces.iter().filter(|it| snapshot.concerns(it));
        let addresses = directors.flat_map(|director| {
            let network = topology.and_then(|it| it.network_of_director(director.file()));
            let vips = network.into_iter().flat_map(|it| &it.services).filter_map(|it| it.vip);
            let all = vips.chain(director.addresses.iter().copied());
            all.filter(|vip| direct::wanted(snapshot, director, *vip))
        });
        let selected = snapshot.namespaces.iter().filter(|it| it.selected);
        Self {
            snapshot,
            addresses: addresses.collect(),
            namespaces: selected.filter_map(|it| it.cookie).collect(),
        }
    }

    fn fit(&self, change: &Change) -> Fit {
        let of = |netns: Option<u64>, peer: Option<IpAddr>| {
            netns.is_some_and(|it| self.namespaces.contains(&it))
                || peer.is_some_and(|it| self.addresses.contains(&it.to_canonical()))
        };
        let here = change.place.cookie;
        let parts: Vec<bool> = match &change.what {
            What::NewSockets { before: None, after: Some(rules) } if rules.everybody.is_none() => {
                let rules = rules.rules.iter().filter(|it| it.times.is_some());
                rules.map(|it| of(Some(it.netns), it.peer)).collect()
            }
            What::Direct { before: None, after: Some(services) } => {
                services.iter().map(|it| of(Some(it.netns), Some(it.vip))).collect()
            }
            What::NewSockets { .. } | What::Direct { .. } => return Fit::InPart,
            What::Keepalive { sockets } => {
                sockets.iter().map(|it| of(here, Some(it.socket.remote.ip()))).collect()
            }
            _ => {
                let mut places = self.snapshot.namespaces.iter();
                let concerned = places
                    .any(|at| change.place.is(at.inode, at.cookie) && self.snapshot.concerns(at));
                vec![concerned]
            }
        };
        match (parts.contains(&true), parts.contains(&false)) {
            (true, false) => Fit::Whole,
            (true, true) => Fit::InPart,
            (false, _) => Fit::Not,
        }
    }
}
