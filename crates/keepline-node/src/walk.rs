//! Sockets and entries of all namespaces in one walk over the kernel's tables, on machines with
//! very many. Where that is not possible netlink tells the same, namespace by namespace.

use std::{net::SocketAddrV4, sync::Mutex};

use keepline_bpf::tables::{
    self as programs, Connections, IpvsTable, KeepaliveSeen, SocketSeen, Tables, Walked,
};
use keepline_core::snapshot::{
    Entry, Ipvs, KeepaliveDefaults, KeepaliveSettings, Listing, Namespace, Socket, TcpState, Timer,
};
use keepline_kernel::{
    Error as KernelError,
    netlink::{Event, Protocol, Socket as Netlink},
    procfs,
    rights::Facts,
};
use keepline_wire::{conntrack, nl::WireError, proc::sockstat};
use rustc_hash::FxHashMap;

use crate::{
    parallel,
    place::Place,
    scan::Found,
    tables::{TCP, convert_conn, convert_seen},
};

/// From so many sockets on the whole machine a walk is worth the programs' loading, which takes as
/// long as netlink takes for these.
const WORTH_ONE_LOOK: u64 = 5_000;
/// From so many where they are loaded once for many looks: netlink walks the same tables again for
/// each namespace.
const WORTH_MANY: u64 = 500;
/// The tables are walked in so many parts, that threads may share them.
const PARTS: u32 = 16;
/// So many records are converted before the namespace they are for is locked.
const AT_ONCE: usize = 1024;
/// A walk that comes by fewer than one in so many of what the kernel counts has missed its table.
const MISSED: u64 = 2;

/// Whether walks were proven on this kernel. Older ones may be able to.
pub(crate) fn is_proven(facts: &Facts) -> bool {
    facts.at_least(6, 1)
}

/// Who walks, with the programs once they are loaded.
#[derive(Debug)]
pub(crate) struct Walker {
    programs: Programs,
    worth: u64,
}

#[derive(Debug)]
enum Programs {
    NotLoaded,
    Loaded(Tables),
    /// This machine will not have them: not to be tried again and again.
    Refused,
}

impl Walker {
    pub(crate) fn for_one_look() -> Self {
        Self { programs: Programs::NotLoaded, worth: WORTH_ONE_LOOK }
    }

    pub(crate) fn for_many_looks() -> Self {
        Self { programs: Programs::NotLoaded, worth: WORTH_MANY }
    }

    /// Whether there are so many sockets here that a walk pays.
    pub(crate) fn is_worth_it(&self) -> bool {
        if matches!(self.programs, Programs::Refused) {
            return false;
        }
        let text = procfs::net_file("sockstat").ok();
        let stat = text.and_then(|text| sockstat::parse(&text, "").ok());
        stat.is_some_and(|stat| stat.alloc >= self.worth)
    }

    /// Loads the programs, unless they are. None where the kernel refuses them.
    pub(crate) fn prepare(&mut self) -> Option<&Tables> {
        if matches!(self.programs, Programs::NotLoaded) {
            self.programs = Tables::load().map_or(Programs::Refused, Programs::Loaded);
        }
        match &self.programs {
            Programs::Loaded(tables) => Some(tables),
            Programs::NotLoaded | Programs::Refused => None,
        }
    }
}

/// Reads what `found` has left for later, in the order of its places. False where it could not be
/// done, or not be trusted: then it is left still.
pub(crate) fn read(
    tables: &Tables,
    places: &[&Place],
    found: &mut [Found],
    inodes: bool,
) -> Result<bool, keepline_bpf::Error> {
    let mut expected = Counts::default();
    for it in &*found {
        expected.sockets += it.sockets_left.unwrap_or_default();
        expected.entries += it.entries_left.unwrap_or_default();
    }
    let connections = match expected.entries {
        0 => None,
        _ => match locate(tables, places, found)? {
            None => return Ok(false),
            found => found,
        },
    };
    let gathered = Gathered::new(found);
    let parts = parts(tables, connections, expected)?;
    let walkers: Vec<programs::Walker<'_>> =
        (0..parallel::workers()).map(|at| tables.walker(at)).collect();
    let walkers = Mutex::new(walkers);
    let lock = || walkers.lock().expect("who holds this does not panic");
    let walked = parallel::map(&parts, |part| {
        let mut walker = { lock().pop() }.expect("there are as many as threads");
        let walked = gathered.walk(&mut walker, part, inodes);
        lock().push(walker);
        walked
    });
    let mut sum = Counts::default();
    let mut torn = Counts::default();
    for (part, walked) in parts.iter().zip(walked) {
        let Walked { seen, torn: more } = walked?;
        match part {
            Part::Sockets(_) => {
                (sum.sockets, torn.sockets) = (sum.sockets + seen, torn.sockets + more);
            }
            Part::Entries(..) => {
                (sum.entries, torn.entries) = (sum.entries + seen, torn.entries + more);
            }
        }
    }
    let buckets = connections.is_none_or(|it| buckets() == Some(it.buckets));
    if !buckets || torn.sockets + torn.entries > 0 || !sum.are_plausible(&expected) {
        return Ok(false);
    }
    gathered.into(found);
    Ok(true)
}

/// How many.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    sockets: u64,
    entries: u64,
}

impl Counts {
    fn are_plausible(&self, expected: &Self) -> bool {
        self.sockets >= expected.sockets / MISSED && self.entries >= expected.entries / MISSED
    }
}

/// Part of a table.
#[derive(Debug, Clone, Copy)]
enum Part {
    Sockets((u32, u32)),
    Entries(Connections, (u32, u32)),
}

fn parts(
    tables: &Tables,
    connections: Option<Connections>,
    expected: Counts,
) -> Result<Vec<Part>, keepline_bpf::Error> {
    let split = |buckets: u32| {
        let size = buckets.div_ceil(PARTS).max(1);
        (0..PARTS)
            .map(move |at| at * size)
            .filter(move |first| *first < buckets)
            .map(move |first| (first, first.saturating_add(size - 1).min(buckets - 1)))
    };
    let mut parts = Vec::new();
    if expected.sockets > 0 {
        parts.extend(split(tables.walker(0).socket_buckets()?).map(Part::Sockets));
    }
    if let Some(connections) = connections {
        let buckets = u32::try_from(connections.buckets).unwrap_or(u32::MAX);
        parts.extend(split(buckets).map(|range| Part::Entries(connections, range)));
    }
    Ok(parts)
}

fn buckets() -> Option<u64> {
    procfs::sysctl("net/netfilter/nf_conntrack_buckets")
}

/// The table of connections, found by one that a namespace has now.
fn locate(
    tables: &Tables,
    places: &[&Place],
    found: &[Found],
) -> Result<Option<Connections>, keepline_bpf::Error> {
    let Some(buckets) = buckets() else { return Ok(None) };
    for (place, found) in places.iter().zip(found) {
        if found.entries_left.is_none() {
            continue;
        }
        let located = place.enter(|| {
            for known in some_entries().unwrap_or_default() {
                if let Some(connections) = tables.connections(known, buckets)? {
                    return Ok(Some(connections));
                }
            }
            Ok(None)
        });
        if let Ok(located) = located
            && let Some(connections) = located?
        {
            return Ok(Some(connections));
        }
    }
    Ok(None)
}

/// Some TCP entries of the current namespace: what the first message of a dump has of them, the
/// rest is not waited for.
fn some_entries() -> Result<Vec<(SocketAddrV4, SocketAddrV4)>, KernelError> {
    /// One is enough, unless it goes away just now.
    const ENOUGH: usize = 8;
    let mut some = Vec::new();
    let request = conntrack::dump(&conntrack::DumpFilter::default(), 1);
    let dumped = Netlink::open(Protocol::Netfilter)?.dump("list some entries", &request, |event| {
        if some.len() >= ENOUGH {
            return Err(WireError::invalid("dump", "enough"));
        }
        if let Event::Message(message) = event {
            let entry = conntrack::parse(message.payload)?.original;
            if let (TCP, std::net::SocketAddr::V4(from), std::net::SocketAddr::V4(to)) =
                (entry.protocol, entry.source, entry.destination)
            {
                some.push((from, to));
            }
        }
        Ok(())
    });
    if some.is_empty() { dumped.map(|_| some) } else { Ok(some) }
}

/// What was gathered for the namespaces, by several threads.
struct Gathered {
    /// Where in the list a namespace is, by its inode.
    places: FxHashMap<u32, usize>,
    defaults: Vec<Option<KeepaliveDefaults>>,
    sockets: Vec<Option<Mutex<Vec<Socket>>>>,
    entries: Vec<Option<Mutex<Vec<Entry>>>>,
}

impl Gathered {
    fn new(found: &[Found]) -> Self {
        fn room<T>(left: Option<u64>) -> Option<Mutex<Vec<T>>> {
            // What is new since it was counted.
            let room = |left: u64| usize::try_from(left + left / 64).unwrap_or_default();
            left.map(|left| Mutex::new(Vec::with_capacity(room(left))))
        }
        let inode = |it: &Found| u32::try_from(it.namespace.inode).ok();
        let places = found.iter().enumerate().filter_map(|(at, it)| Some((inode(it)?, at)));
        Self {
            places: places.collect(),
            defaults: found.iter().map(|it| it.namespace.keepalive_defaults).collect(),
            sockets: found.iter().map(|it| room(it.sockets_left)).collect(),
            entries: found.iter().map(|it| room(it.entries_left)).collect(),
        }
    }

    fn walk(
        &self,
        walker: &mut programs::Walker<'_>,
        part: &Part,
        inodes: bool,
    ) -> Result<Walked, keepline_bpf::Error> {
        match part {
            Part::Sockets(range) => {
                let mut sockets = Sorter::new(&self.places, &self.sockets);
                walker.sockets(*range, inodes, |seen| {
                    sockets.put(seen.netns, |at| convert(&seen, self.defaults[at]));
                })
            }
            Part::Entries(connections, range) => {
                let mut entries = Sorter::new(&self.places, &self.entries);
                walker.entries(connections, *range, |seen| {
                    entries.put(seen.netns, |_| convert_seen(&seen));
                })
            }
        }
    }

    fn into(self, found: &mut [Found]) {
        fn take<T>(list: Option<Mutex<Vec<T>>>) -> Option<Vec<T>> {
            list.map(|list| list.into_inner().expect("who held this did not panic"))
        }
        for ((found, sockets), entries) in found.iter_mut().zip(self.sockets).zip(self.entries) {
            let Namespace { sockets: to, conntrack, .. } = &mut found.namespace;
            if let Some(sockets) = take(sockets) {
                *to = sockets;
            }
            if let (Some(entries), Some(conntrack)) = (take(entries), conntrack) {
                conntrack.entries = entries;
            }
            (found.sockets_left, found.entries_left) = (None, None);
        }
    }
}

/// Brings records to the lists of their namespaces, many at a time.
struct Sorter<'a, T> {
    places: &'a FxHashMap<u32, usize>,
    lists: &'a [Option<Mutex<Vec<T>>>],
    waiting: Vec<Vec<T>>,
    /// The namespace last met; mostly the next record is of the same.
    last: (u32, Option<usize>),
}

impl<'a, T> Sorter<'a, T> {
    fn new(places: &'a FxHashMap<u32, usize>, lists: &'a [Option<Mutex<Vec<T>>>]) -> Self {
        let waiting = lists.iter().map(|_| Vec::new()).collect();
        Self { places, lists, waiting, last: (0, None) }
    }

    fn put(&mut self, netns: u32, convert: impl FnOnce(usize) -> Option<T>) {
        if self.last.0 != netns || self.last.1.is_none() {
            let wanted = |at: &usize| self.lists[*at].is_some();
            self.last = (netns, self.places.get(&netns).copied().filter(wanted));
        }
        let Some(at) = self.last.1 else { return };
        let waiting = &mut self.waiting[at];
        waiting.extend(convert(at));
        if waiting.len() >= AT_ONCE {
            hand_over(waiting, self.lists[at].as_ref());
        }
    }
}

impl<T> Drop for Sorter<'_, T> {
    fn drop(&mut self) {
        for (waiting, list) in self.waiting.iter_mut().zip(self.lists) {
            hand_over(waiting, list.as_ref());
        }
    }
}

fn hand_over<T>(waiting: &mut Vec<T>, list: Option<&Mutex<Vec<T>>>) {
    if let Some(list) = list.filter(|_| !waiting.is_empty()) {
        list.lock().expect("who holds this does not panic").append(waiting);
    }
}

/// A socket as netlink would have told it, with its keepalive settings as well.
fn convert(seen: &SocketSeen, defaults: Option<KeepaliveDefaults>) -> Option<Socket> {
    let state = match seen.state {
        1 => TcpState::Established,
        5 => TcpState::FinWait2,
        8 => TcpState::CloseWait,
        _ => return None,
    };
    // Where the settings are known, the timer has nothing to tell.
    let (timer, keepalive) = match seen.keepalive {
        None => (Timer::Off, None),
        Some(keepalive) => (Timer::Hidden, settings(&keepalive, defaults).map(Box::new)),
    };
    Some(Socket {
        local: seen.local,
        remote: seen.remote,
        state,
        timer,
        idle: Some(seen.idle),
        heard: Some(seen.heard),
        cookie: seen.cookie,
        interface: seen.interface,
        inode: u32::try_from(seen.inode).unwrap_or_default(),
        keepalive,
    })
}

fn settings(
    seen: &KeepaliveSeen,
    defaults: Option<KeepaliveDefaults>,
) -> Option<KeepaliveSettings> {
    let seconds =
        |of: fn(KeepaliveDefaults) -> u64| defaults.map(of).map(std::time::Duration::from_secs);
    Some(KeepaliveSettings {
        enabled: true,
        idle: seen.idle.or(seconds(|it| it.time))?,
        interval: seen.interval.or(seconds(|it| it.intvl))?,
        probes: seen.probes.map(u32::from).or(defaults.and_then(|it| it.probes.try_into().ok()))?,
    })
}

/// IPVS entries of namespaces, by inode.
pub(crate) type Remembered = FxHashMap<u64, Vec<Entry>>;

/// The means to read IPVS tables without listing them; None where this kernel does not let anybody.
pub(crate) fn ipvs_table(facts: &Facts) -> Option<IpvsTable> {
    is_proven(facts).then(IpvsTable::load)?.ok()
}

/// Reads the IPVS tables that would be listed too slowly; the means to do it again. None where there
/// are none such, or this kernel does not let anybody: conntrack stands in for them then.
pub(crate) fn read_slow_ipvs(facts: &Facts, found: &mut [Found]) -> Option<IpvsTable> {
    let mut slow: Vec<(u64, &mut Ipvs)> = found
        .iter_mut()
        .filter_map(|it| Some((it.namespace.inode, it.namespace.ipvs.as_mut()?)))
        .filter(|(_, ipvs)| ipvs.listing == Listing::TooSlow)
        .collect();
    if slow.is_empty() {
        return None;
    }
    let mut table = ipvs_table(facts)?;
    let inodes: Vec<u64> = slow.iter().map(|(inode, _)| *inode).collect();
    let (mut entries, seen) = remembered_by_ipvs(&mut table, &inodes).ok()?;
    let expected: u64 = slow.iter().map(|(_, ipvs)| ipvs.remembered()).sum();
    if seen < expected / MISSED {
        return None;
    }
    for (inode, ipvs) in &mut slow {
        ipvs.entries = entries.remove(inode).unwrap_or_default();
        ipvs.listing = Listing::Read;
    }
    Some(table)
}

/// What IPVS remembers in these namespaces, and how much in all.
pub(crate) fn remembered_by_ipvs(
    table: &mut IpvsTable,
    inodes: &[u64],
) -> Result<(Remembered, u64), keepline_bpf::Error> {
    let mut entries: Remembered = inodes.iter().map(|inode| (*inode, Vec::new())).collect();
    let walked = table.entries(|seen| {
        if let Some(entries) = entries.get_mut(&u64::from(seen.netns)) {
            entries.push(convert_conn(&seen));
        }
    })?;
    Ok((entries, walked.seen))
}
