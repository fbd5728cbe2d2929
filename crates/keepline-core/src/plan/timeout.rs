//! `timeout`: IPVS remembers for longer, and so does conntrack below it.

use std::time::Duration;

use thiserror::Error;

use super::{
    Action, Change, Place, Plan, What, directors,
    entries::{Entries, open_sessions, renewed},
};
use crate::{
    duration::human,
    judge::Judgement,
    session::Table,
    snapshot::{EntryState, Ipvs, Namespace, Snapshot, Timeouts},
};

/// `INT_MAX / HZ` seconds at the highest `HZ` (1000) there is: the kernel refuses more
/// (`ip_vs_set_timeout()`, `net/netfilter/ipvs/ip_vs_ctl.c`).
pub const LONGEST: Duration = Duration::from_secs(2_147_483);

/// So much longer conntrack shall remember than IPVS: its clock is read in whole seconds.
const CONNTRACK_MARGIN: Duration = Duration::from_secs(60);

/// What is wished. Absent values stay as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeoutWish {
    /// Established TCP.
    pub tcp: Option<Duration>,
    /// TCP after a FIN.
    pub tcp_fin: Option<Duration>,
    /// UDP.
    pub udp: Option<Duration>,
}

/// A wish that no kernel fulfils.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TimeoutError {
    /// Nothing was wished.
    #[error("say which timeout: --tcp, --tcpfin or --udp")]
    Nothing,
    /// Above [`LONGEST`].
    #[error("{name} {wish}: the kernel takes no more than {longest} (INT_MAX / HZ)", wish = human(*.wish), longest = human(LONGEST))]
    TooLong {
        /// The option.
        name: &'static str,
        /// Its value.
        wish: Duration,
    },
    /// Zero keeps what is there; parts of a second are not known.
    #[error("{name} {wish}: the kernel counts whole seconds, from 1 on", wish = human(*.wish))]
    TooShort {
        /// The option.
        name: &'static str,
        /// Its value.
        wish: Duration,
    },
}

/// Plans longer (or shorter) timeouts for the directors that are meant.
///
/// # Errors
/// When the kernel would refuse, or nothing is wished.
pub fn timeout(
    snapshot: &Snapshot,
    judgement: &Judgement,
    wish: TimeoutWish,
) -> Result<Plan, TimeoutError> {
    check_timeout(wish)?;
    let mut plan = Plan::new(Action::Timeout);
    let mut entries = Entries::default();
    let directors = directors(snapshot, judgement);
    plan.note_wider(snapshot, &directors);
    for at in directors {
        let namespace = &snapshot.namespaces[at];
        match &namespace.ipvs {
            Some(ipvs) => of_ipvs(&mut plan, &mut entries, at, namespace, ipvs, wish),
            None => of_conntrack(&mut plan, &mut entries, at, namespace, wish),
        }
    }
    plan.changes.extend(entries.into_changes(&snapshot.namespaces));
    Ok(plan)
}

/// Whether a kernel fulfils a wish.
///
/// # Errors
/// What it would not take.
pub fn check_timeout(wish: TimeoutWish) -> Result<(), TimeoutError> {
    let wishes = [("--tcp", wish.tcp), ("--tcpfin", wish.tcp_fin), ("--udp", wish.udp)];
    if wishes.iter().all(|(_, wish)| wish.is_none()) {
        return Err(TimeoutError::Nothing);
    }
    for (name, wish) in wishes.into_iter().filter_map(|(name, wish)| Some((name, wish?))) {
        if wish > LONGEST {
            return Err(TimeoutError::TooLong { name, wish });
        }
        if wish < Duration::from_secs(1) || wish.subsec_nanos() != 0 {
            return Err(TimeoutError::TooShort { name, wish });
        }
    }
    Ok(())
}

fn of_ipvs(
    plan: &mut Plan,
    entries: &mut Entries,
    at: usize,
    namespace: &Namespace,
    ipvs: &Ipvs,
    wish: TimeoutWish,
) {
    let before = ipvs.timeouts;
    let after = Timeouts {
        tcp: wish.tcp.unwrap_or(before.tcp),
        tcp_fin: wish.tcp_fin.unwrap_or(before.tcp_fin),
        udp: wish.udp.unwrap_or(before.udp),
    };
    let mut add = |what| plan.changes.push(Change { place: Place::of(namespace), what });
    if after.tcp > before.tcp && ipvs.expire_nodest_conn == Some(false) {
        // Packets to a backend that was removed would vanish for as long as that.
        add(sysctl("net/ipv4/vs/expire_nodest_conn", 0, 1));
    }
    if let Some(conntrack) = namespace.conntrack.as_ref().and_then(|it| it.timeouts)
        && ipvs.conntrack != Some(false)
        && conntrack.established < after.tcp
    {
        let enough = after.tcp.saturating_add(CONNTRACK_MARGIN);
        add(sysctl(ESTABLISHED, conntrack.established.as_secs(), enough.as_secs()));
    }
    if after != before {
        add(What::Timeouts { before, after });
    }
    if after.tcp < before.tcp {
        plan.note(format!(
            "{}: less than the {} that it remembers for now: sessions are forgotten sooner",
            namespace.name,
            human(before.tcp)
        ));
    }
    if let Some(longer) = after.tcp.checked_sub(before.tcp).filter(|longer| !longer.is_zero()) {
        // The kernel gives an entry the new time at its next packet only.
        for (entry, mark, was) in open_sessions(namespace, ipvs) {
            let will = was.saturating_add(longer);
            entries.add(at, Table::Ipvs, renewed(entry, mark, was, will));
        }
    }
}

const ESTABLISHED: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";

fn of_conntrack(
    plan: &mut Plan,
    entries: &mut Entries,
    at: usize,
    namespace: &Namespace,
    wish: TimeoutWish,
) {
    if wish.tcp_fin.is_some() || wish.udp.is_some() {
        plan.note(format!(
            "{}: conntrack decides there; --tcpfin and --udp are of IPVS and change nothing",
            namespace.name
        ));
    }
    let (Some(tcp), Some(conntrack)) = (wish.tcp, &namespace.conntrack) else { return };
    let Some(timeouts) = conntrack.timeouts else { return };
    if timeouts.established >= tcp {
        if timeouts.established > tcp {
            plan.note(format!(
                "{}: conntrack decides there, and remembers for {} already: left as it is",
                namespace.name,
                human(timeouts.established)
            ));
        }
        return;
    }
    plan.changes.push(Change {
        place: Place::of(namespace),
        what: sysctl(ESTABLISHED, timeouts.established.as_secs(), tcp.as_secs()),
    });
    let Some(longer) = tcp.checked_sub(timeouts.established) else { return };
    for entry in conntrack.entries.iter().filter(|entry| entry.state == EntryState::Established) {
        let will = entry.expires.saturating_add(longer);
        entries.add(at, Table::Conntrack, renewed(entry, 0, entry.expires, will));
    }
}

/// A kernel setting that is a number.
pub(super) fn sysctl(path: &str, before: u64, after: u64) -> What {
    What::Sysctl { path: path.to_owned(), before: before.to_string(), after: after.to_string() }
}
