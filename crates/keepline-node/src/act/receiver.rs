//! Entries of IPVS, by the kernel's own sync receiver.
//!
//! Directors tell each other of their entries; a backup daemon takes what it is told, and makes or
//! renews an entry for it (`ip_vs_process_message()`, `net/netfilter/ipvs/ip_vs_sync.c`). Here it
//! is told by Keepline: a daemon on `lo` runs for the moment that takes, and datagrams go with a
//! TTL of 0. Where a daemon runs already, it is that of somebody else (keepalived): it is used as
//! it is and stays.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use keepline_core::{
    plan::Remembered,
    snapshot::{Entry, EntryState},
};
use keepline_kernel::{
    Error,
    multicast::Sender,
    netlink::{Event, Socket as Netlink},
    procfs,
    rights::Facts,
};
use keepline_wire::{
    ipvs::{self, Daemon, DaemonState},
    ipvs_sync::{self, SyncConn},
    proc::{snmp, udp},
};

use super::Obstacle;
use crate::{
    place::{PROC, Place},
    tables::{self, TCP},
    walk,
};

/// The interface of a daemon of our own: reachable from nowhere else.
const OURS: &str = "lo";
/// Its sync id; any other message is ignored by it.
const SYNC_ID: u8 = 75;
/// Longest datagram: 255 entries of IPv4.
const LONGEST: usize = 8 + 255 * 36;
/// What every daemon takes: Ethernet's MTU less the headers.
const SHORTEST: usize = 1472;
/// Bytes that may wait in the daemon's socket, whose buffer holds some 200 KiB by default
/// (`net.core.rmem_default`).
const QUEUE: u64 = 64 * 1024;
/// How long the daemon may take for what waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gives entries their lifetime, and makes those that are gone. Runs in `place`.
pub(super) fn remember(place: &Place, entries: &[Remembered]) -> Result<Vec<String>, Obstacle> {
    let (netlink, family) = super::ipvs::open()?;
    let receiver = Receiver::ready(&netlink, family)?;
    let conns: Vec<SyncConn> = entries.iter().map(conn).collect();
    receiver.tell(&conns)?;
    drop(receiver);
    match listed(place)? {
        Some(listed) => read_back(entries, listed),
        None => Ok(Vec::new()),
    }
}

fn conn(entry: &Remembered) -> SyncConn {
    SyncConn {
        protocol: TCP,
        // The forwarding method follows from the backend (`ip_vs_bind_dest()`).
        flags: 0,
        state: state(entry.state),
        client: entry.client,
        vip: entry.server,
        backend: entry.backend,
        fwmark: entry.fwmark,
        timeout: entry.will,
    }
}

/// `IP_VS_TCP_S_*`, `include/net/ip_vs.h`.
fn state(state: EntryState) -> u16 {
    match state {
        EntryState::None | EntryState::Other => 0,
        EntryState::Established => 1,
        EntryState::SynSent => 2,
        EntryState::SynRecv => 3,
        EntryState::FinWait => 4,
        EntryState::TimeWait => 5,
        EntryState::Close => 6,
        EntryState::CloseWait => 7,
        EntryState::LastAck => 8,
        EntryState::Listen => 9,
        EntryState::Synack => 10,
    }
}

/// A daemon that takes messages.
#[derive(Debug)]
struct Receiver<'a> {
    netlink: &'a Netlink,
    family: u16,
    daemon: Daemon,
    group: Ipv4Addr,
    port: u16,
}

impl<'a> Receiver<'a> {
    fn ready(netlink: &'a Netlink, family: u16) -> Result<Self, Obstacle> {
        let daemon = match backup(netlink, family)? {
            Some(running) => running,
            None => start(netlink, family)?,
        };
        let group = match daemon.mcast_group {
            None => ipvs_sync::GROUP,
            Some(IpAddr::V4(group)) => group,
            Some(IpAddr::V6(group)) => {
                return Err(Obstacle::Refused(format!(
                    "a sync daemon runs on {} in group {group}: Keepline speaks IPv4 to it. Stop it, \
                     or let `keepline apply timeout` do",
                    daemon.interface
                )));
            }
        };
        let port = daemon.mcast_port.filter(|port| *port != 0).unwrap_or(ipvs_sync::PORT);
        Ok(Self { netlink, family, daemon, group, port })
    }

    /// Tells the daemon of `conns`, no faster than it takes them, and waits until it has taken
    /// them all.
    fn tell(&self, conns: &[SyncConn]) -> Result<(), Obstacle> {
        let sender = Sender::open(&self.daemon.interface, self.group, self.port)?;
        let sync_id = u8::try_from(self.daemon.sync_id).unwrap_or(SYNC_ID);
        let longest = if is_ours(&self.daemon) {
            LONGEST
        } else {
            self.daemon.sync_maxlen.map_or(SHORTEST, usize::from).min(LONGEST)
        };
        let dropped = self.queue().map_or(0, |(_, drops)| drops);
        let begun = datagrams_read()?;
        let (mut sent, mut waiting) = (0, 0);
        for datagram in ipvs_sync::encode(conns, sync_id, longest) {
            sender.send(&datagram)?;
            sent += 1;
            // What a datagram takes in the queue is more than its length.
            waiting += 2 * datagram.len() as u64 + 1024;
            if waiting > QUEUE {
                self.wait(begun + sent, dropped)?;
                waiting = 0;
            }
        }
        self.wait(begun + sent, dropped)
    }

    /// Waits until `read` datagrams were read in this namespace since it began, and none waits.
    ///
    /// That none waits is not enough: on a busy machine a datagram may be on its way to the
    /// daemon's socket still (`ksoftirqd`), and the thread of a daemon that has just started
    /// may not have run, which cannot be stopped without harm (`kthread_stop()`). Where other
    /// sockets read datagrams, too, they count as well; then it is as good as it gets.
    fn wait(&self, read: u64, dropped: u64) -> Result<(), Obstacle> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (waiting, drops) = self.queue().ok_or_else(|| {
                Obstacle::Refused("the sync receiver was stopped meanwhile: try again".to_owned())
            })?;
            if drops > dropped {
                return Err(Obstacle::Refused(format!(
                    "the sync receiver dropped {} datagrams: try again",
                    drops - dropped
                )));
            }
            if waiting == 0 && datagrams_read()? >= read {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Obstacle::Refused("the sync receiver takes nothing".to_owned()));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Bytes that wait in the daemon's socket, and datagrams that it dropped.
    fn queue(&self) -> Option<(u64, u64)> {
        let table = procfs::net_file("udp").ok()?;
        let sockets = table.lines().filter_map(|line| udp::parse_line(line).ok());
        let mut its = sockets
            .filter(|socket| *socket.local.ip() == self.group && socket.local.port() == self.port);
        its.next().map(|socket| (socket.receive_queue, socket.drops))
    }
}

impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        if is_ours(&self.daemon) {
            // It ends with the namespace at the latest, and hears nobody but root there. One whose
            // thread has not run is stopped, too, and that is not acknowledged.
            let _ = stop(self.netlink, self.family);
        }
    }
}

/// Whether a daemon was started by Keepline; one that was killed may have left it.
fn is_ours(daemon: &Daemon) -> bool {
    daemon.interface == OURS && daemon.sync_id == u32::from(SYNC_ID)
}

/// Whether a daemon of Keepline runs in the current namespace. Where that cannot be told, none does.
pub(super) fn is_left() -> bool {
    super::ipvs::open().and_then(|(netlink, family)| ours_runs(&netlink, family)).unwrap_or(false)
}

fn ours_runs(netlink: &Netlink, family: u16) -> Result<bool, Obstacle> {
    Ok(backup(netlink, family)?.is_some_and(|it| is_ours(&it)))
}

/// Stops the daemon of a Keepline that was killed.
pub(super) fn stop_left() -> Result<(), Obstacle> {
    let (netlink, family) = super::ipvs::open()?;
    if !ours_runs(&netlink, family)? {
        return Ok(());
    }
    let stopped = stop(&netlink, family);
    // What counts is that it is gone.
    if ours_runs(&netlink, family)? { Ok(stopped?) } else { Ok(()) }
}

/// How many datagrams were read from sockets in this namespace.
fn datagrams_read() -> Result<u64, Obstacle> {
    let table = procfs::net_file("snmp")?;
    snmp::udp_in_datagrams(&table).map_err(|error| Obstacle::Refused(error.to_string()))
}

/// The backup daemon that runs, if one does.
fn backup(netlink: &Netlink, family: u16) -> Result<Option<Daemon>, Obstacle> {
    let mut found = None;
    netlink.dump("list sync daemons", &ipvs::get_daemons(family, 6), |event| {
        match event {
            Event::Start => found = None,
            Event::Message(message) => {
                let daemon = ipvs::parse_daemon(message.payload)?;
                if daemon.state == DaemonState::Backup {
                    found = Some(daemon);
                }
            }
        }
        Ok(())
    })?;
    Ok(found)
}

fn start(netlink: &Netlink, family: u16) -> Result<Daemon, Obstacle> {
    let daemon = Daemon {
        state: DaemonState::Backup,
        interface: OURS.to_owned(),
        sync_id: SYNC_ID.into(),
        sync_maxlen: None,
        mcast_group: None,
        mcast_port: None,
        mcast_ttl: None,
    };
    let request = ipvs::new_daemon(family, &daemon, 7);
    netlink.request("start the sync receiver", &request, |_| Ok(()))?;
    Ok(daemon)
}

fn stop(netlink: &Netlink, family: u16) -> Result<(), Error> {
    let request = ipvs::del_daemon(family, DaemonState::Backup, 9);
    netlink.request("stop the sync receiver", &request, |_| Ok(())).map(drop)
}

/// What is remembered in `place` now; None where telling takes too long.
fn listed(place: &Place) -> Result<Option<Vec<Entry>>, Obstacle> {
    let facts = Facts::read(Path::new(PROC));
    if tables::is_listed_in_time(&facts)? {
        return Ok(Some(tables::ipvs_entries()?));
    }
    let Some(mut table) = walk::ipvs_table(&facts) else { return Ok(None) };
    let walked = walk::remembered_by_ipvs(&mut table, &[place.inode]).ok();
    Ok(walked.and_then(|(mut entries, _)| entries.remove(&place.inode)))
}

/// The kernel acknowledges nothing: what was told must be there.
fn read_back(entries: &[Remembered], listed: Vec<Entry>) -> Result<Vec<String>, Obstacle> {
    /// Since it was told, and for what the listing rounds off.
    const SLACK: Duration = Duration::from_secs(3);
    type Key = (SocketAddr, SocketAddr);
    let listed: HashMap<Key, (SocketAddr, Duration)> = listed
        .into_iter()
        .map(|entry| ((entry.client, entry.server), (entry.backend, entry.expires)))
        .collect();
    let mut missing = Vec::new();
    let mut ended = 0;
    for entry in entries {
        match listed.get(&(entry.client, entry.server)) {
            Some((backend, expires))
                if *backend == entry.backend && *expires + SLACK >= entry.will => {}
            // A packet has come since, and set its lifetime itself.
            Some((backend, _)) if *backend == entry.backend => {}
            None if entry.was.is_some() => ended += 1,
            _ => missing.push(entry),
        }
    }
    if let Some(first) = missing.first() {
        return Err(Obstacle::Refused(format!(
            "{} of {} entries did not take, first that of {} → {}",
            missing.len(),
            entries.len(),
            first.client,
            first.server
        )));
    }
    Ok((ended > 0).then(|| format!("{ended} had ended meanwhile")).into_iter().collect())
}
