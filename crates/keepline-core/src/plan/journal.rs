//! What was done to this machine and by whom: records, and what of it still stands.
//!
//! A change is written down before it is made, so that whatever interrupts Keepline, `undo` knows
//! what to look at. The journal lives in memory (`/run`), like everything that it is about.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Action, Change, What};

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// The process.
    pub pid: u32,
    /// The user who asked: `SUDO_USER` where there is one.
    pub user: String,
    /// Its command line; untrusted.
    pub command: String,
    /// Whether it was the guard, by its policy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guard: bool,
}

/// One record; a line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// A plan is begun.
    Begin {
        /// Its number.
        id: u64,
        /// When.
        at: jiff::Timestamp,
        /// For what.
        action: Action,
        /// By whom.
        by: By,
    },
    /// A change will be made now.
    Change {
        /// Number of its plan.
        id: u64,
        /// Its place in that.
        step: usize,
        /// The change.
        change: Change,
    },
    /// It has been made, or not.
    Done {
        /// Number of its plan.
        id: u64,
        /// Its place in that.
        step: usize,
        /// Why it was not made.
        error: Option<String>,
    },
    /// It has been undone, or there is nothing left to undo.
    Undone {
        /// Number of its plan.
        id: u64,
        /// Its place in that.
        step: usize,
        /// When.
        at: jiff::Timestamp,
    },
}

/// A change that stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Number of its plan.
    pub id: u64,
    /// Its place in that.
    pub step: usize,
    /// When the plan was begun.
    pub at: jiff::Timestamp,
    /// For what.
    pub action: Action,
    /// By whom.
    pub by: By,
    /// The change.
    pub change: Change,
    /// Whether its end was written down; if not, it may have been made, or a part of it, or nothing.
    pub finished: bool,
}

/// The lasting changes that were made, or begun, and not undone: the oldest first.
#[must_use]
pub fn standing(records: &[Record]) -> Vec<Standing> {
    let mut plans: BTreeMap<u64, (jiff::Timestamp, Action, &By)> = BTreeMap::new();
    let mut changes: BTreeMap<(u64, usize), Standing> = BTreeMap::new();
    for record in records {
        match record {
            Record::Begin { id, at, action, by } => {
                plans.insert(*id, (*at, *action, by));
            }
            Record::Change { id, step, change } => {
                let Some((at, action, by)) = plans.get(id).filter(|_| change.what.lasts()) else {
                    continue;
                };
                changes.insert(
                    (*id, *step),
                    Standing {
                        id: *id,
                        step: *step,
                        at: *at,
                        action: *action,
                        by: (*by).clone(),
                        change: change.clone(),
                        finished: false,
                    },
                );
            }
            Record::Done { id, step, error: None } => {
                if let Some(standing) = changes.get_mut(&(*id, *step)) {
                    standing.finished = true;
                }
            }
            Record::Done { id, step, error: Some(_) } | Record::Undone { id, step, .. } => {
                changes.remove(&(*id, *step));
            }
        }
    }
    changes.into_values().collect()
}

/// The number of the next plan.
#[must_use]
pub fn next_id(records: &[Record]) -> u64 {
    let ids = records.iter().map(|record| match record {
        Record::Begin { id, .. }
        | Record::Change { id, .. }
        | Record::Done { id, .. }
        | Record::Undone { id, .. } => *id,
    });
    ids.max().map_or(1, |last| last.saturating_add(1))
}

/// The same with less: what one object was set to meanwhile is of no use once it is set to
/// something else by the same. Undoing leads to what was there at first either way.
#[must_use]
pub fn squashed(standing: Vec<Standing>) -> Vec<Standing> {
    let mut kept = Vec::with_capacity(standing.len());
    standing.into_iter().for_each(|it| add(&mut kept, it));
    kept
}

fn add(kept: &mut Vec<Standing>, it: Standing) {
    // Only the last word on an object may be joined: what lies between was said by another.
    let last = kept.iter().rposition(|known| same_object(&known.change, &it.change));
    let by_the_same = |known: &Standing| {
        it.finished && known.action == it.action && known.by.guard == it.by.guard
    };
    let Some(at) = last.filter(|at| by_the_same(&kept[*at])) else { return kept.push(it) };
    let known = &mut kept[at];
    if let Some(joined) = joined(&known.change.what, &it.change.what) {
        known.change.what = joined;
        if !known.finished {
            // What it left was found there: it was made to its end.
            let known = Standing { finished: true, ..kept.remove(at) };
            add(kept, known);
        }
    } else if !known.finished && found_the_same(&known.change.what, &it.change.what) {
        // It was interrupted before it had changed anything.
        kept.remove(at);
        add(kept, it);
    } else {
        kept.push(it);
    }
}

fn same_object(a: &Change, b: &Change) -> bool {
    let what = match (&a.what, &b.what) {
        (What::Timeouts { .. }, What::Timeouts { .. })
        | (What::NewSockets { .. }, What::NewSockets { .. })
        | (What::Direct { .. }, What::Direct { .. }) => true,
        (What::Sysctl { path: a, .. }, What::Sysctl { path: b, .. }) => a == b,
        (What::Scheduler { service: a, .. }, What::Scheduler { service: b, .. }) => a == b,
        _ => false,
    };
    what && a.place == b.place
}

/// One change that does what two did, where the second began at what the first left.
fn joined(first: &What, second: &What) -> Option<What> {
    Some(match (first.clone(), second.clone()) {
        (What::Timeouts { before, after: left }, What::Timeouts { before: found, after })
            if left == found =>
        {
            What::Timeouts { before, after }
        }
        (What::Sysctl { path, before, after: left }, What::Sysctl { before: found, after, .. })
            if left == found =>
        {
            What::Sysctl { path, before, after }
        }
        (
            What::Scheduler { service, before, after: left },
            What::Scheduler { before: found, after, .. },
        ) if left == found => What::Scheduler { service, before, after },
        (What::NewSockets { before, after: left }, What::NewSockets { before: found, after })
            if left == found =>
        {
            What::NewSockets { before, after }
        }
        (What::Direct { before, after: left }, What::Direct { before: found, after })
            if left == found =>
        {
            What::Direct { before, after }
        }
        _ => return None,
    })
}

/// Whether both began at the same.
fn found_the_same(first: &What, second: &What) -> bool {
    first.reversed().is_some_and(|back| joined(&back, second).is_some())
}
