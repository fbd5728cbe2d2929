//! Plan: from a wish and a snapshot to a list of changes, each with what is there now and what
//! will be. Pure: a plan can be printed, compared and tested without a kernel.

mod change;
mod direct;
mod entries;
mod heal;
mod hold;
pub mod journal;
mod keepalive;
mod programs;
mod reconcile;
mod rehash;
mod sockets;
mod timeout;
mod undo;

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

pub use change::{Change, KeepaliveChange, Place, Remembered, Scheduling, SocketId, What};
pub use direct::{direct, follow, turn};
pub use heal::{Memory, Row, heal, rows};
pub use hold::{HoldWish, hold, pause as hold_pause};
pub use keepalive::{KeepaliveWish, keepalive};
pub use programs::{DirectBackend, DirectService, KeepaliveRule, KeepaliveRules, KeepaliveTimes};
pub use reconcile::{InForce, Pass, reconcile};
pub use rehash::rehash;
pub use sockets::{abort, touch};
pub use timeout::{LONGEST, TimeoutError, TimeoutWish, check_timeout, timeout};
pub use undo::{Selected, Undo, concerned, selected, undo};

use crate::{judge::Judgement, snapshot::Snapshot};

/// What Keepline can do to a machine: strategies last, remedies are done once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Strategy: entries are renewed for as long as their sockets live.
    Hold,
    /// Strategy: directors that find a session's backend again by themselves.
    Rehash,
    /// Strategy: keepalive on sockets that have none, or too late.
    Keepalive,
    /// Strategy: longer timeouts.
    Timeout,
    /// Strategy: connections that go straight to a backend.
    Direct,
    /// Remedy: entries that were lost are made anew.
    Heal,
    /// Remedy: a probe on every session.
    Touch,
    /// Remedy: sockets of lost sessions are closed.
    Abort,
}

impl Action {
    /// As it is typed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Rehash => "rehash",
            Self::Keepalive => "keepalive",
            Self::Timeout => "timeout",
            Self::Direct => "direct",
            Self::Heal => "heal",
            Self::Touch => "touch",
            Self::Abort => "abort",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Something that was wished and will not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What.
    pub what: String,
    /// The reason, and the way out where there is one.
    pub why: String,
}

/// What will be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// For what.
    pub action: Action,
    /// In this order.
    pub changes: Vec<Change>,
    /// What was wished and will not be done.
    pub refused: Vec<Refused>,
    /// What follows beyond what was asked for.
    pub notes: Vec<String>,
}

impl Plan {
    fn new(action: Action) -> Self {
        Self { action, changes: Vec::new(), refused: Vec::new(), notes: Vec::new() }
    }

    fn refuse(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.refused.push(Refused { what: what.into(), why: why.into() });
    }

    /// Notes that what is set for `directors` as a whole affects more than was asked for.
    fn note_wider(&mut self, snapshot: &Snapshot, directors: &BTreeSet<usize>) {
        if snapshot.scope().namespaces.is_none() {
            return;
        }
        for namespace in directors.iter().map(|at| &snapshot.namespaces[*at]) {
            if !namespace.selected && !asked_whole(snapshot, namespace.file()) {
                self.note(format!(
                    "{}: this is set for a director as a whole, and holds for every session \
                     through it, not only for those that were asked for",
                    namespace.name
                ));
            }
        }
    }

    fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// Directors that are meant: those that were asked for, and those that sessions which were asked
/// for go through.
fn directors(snapshot: &Snapshot, judgement: &Judgement) -> BTreeSet<usize> {
    let asked = (0..)
        .zip(&snapshot.namespaces)
        .filter(|(_, namespace)| namespace.ipvs.is_some() && snapshot.concerns(namespace))
        .map(|(at, _)| at);
    asked.chain(judgement.sessions.iter().filter_map(|session| session.director)).collect()
}

/// Whether a director's whole network was asked for.
fn asked_whole(snapshot: &Snapshot, file: &str) -> bool {
    let topology = snapshot.topology.as_ref();
    topology
        .and_then(|topology| topology.network_of_director(file))
        .is_some_and(|network| snapshot.asked.networks.contains(&network.id))
}
